//! How a mount comes and goes: by hand and by mount(8), killed, taken over, and while its cluster is away.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::mounted::{Mounted, can_mount, is_mounted, shell, tool};
use crate::program::{Cluster, Running, eventually, finish, signal};

/// A number that owns nothing.
const NOBODY: u32 = 65_534;

/// Ends what a command left mounted, also if the test fails.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        while is_mounted(self.0) {
            let lazily = Command::new("umount").arg("-l").arg(self.0).output();
            if !lazily.is_ok_and(|done| done.status.success()) {
                break;
            }
        }
    }
}

#[test]
fn it_returns_when_the_folder_can_be_used_and_umount_ends_it() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let folder = work.path().join("mnt");
    fs::create_dir(&folder).expect("make the mount point");
    let _unmount = Unmount(&folder);
    let log = work.path().join("log");
    let run = |extra: &[&str]| {
        let mut command = cluster.command(["mount", "mnt", "--log", "log"]);
        finish(command.args(extra).current_dir(&work), b"")
    };
    run(&["-o", "noexec,timeout=20s,x-of.others"]).ok();
    fs::write(folder.join("file"), "abc").expect("use it");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the table of mounts");
    let shown = folder.to_str().expect("text");
    let line = mounts.lines().find(|line| line.contains(shown));
    let line = line.expect("it is mounted");
    assert!(
        line.contains(" fuse.cairn rw,nosuid,nodev,noexec"),
        "{line}"
    );
    assert!(line.starts_with(&cluster.address), "{line}");
    run(&[]).fails(1, "is mounted already; unmount it with");
    run(&["-o", "remount,ro"]).ok();
    let refused = fs::write(folder.join("other"), "abc").expect_err("it is read-only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    run(&["-o", "remount,rw"]).ok();
    fs::write(folder.join("other"), "abc").expect("it is writable");
    tool("umount", &[&folder]).ok();
    assert_eq!(cluster.run(["cat", "/file"]).text(), "abc");
    assert_eq!(fs::read_to_string(log).expect("a log"), "");
}

#[test]
fn what_cannot_be_mounted_is_said_in_a_sentence() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let path = |name: &str| work.path().join(name).into_os_string();
    fs::write(path("file"), "").expect("make a file");
    fs::create_dir(path("empty")).expect("make a directory");
    let mount = |name: &str, options: &[&str]| {
        finish(
            cluster.command(["mount"]).args(options).arg(path(name)),
            b"",
        )
    };
    mount("none", &[]).fails(1, "does not exist; make it with `mkdir -p");
    mount("file", &[]).fails(1, "is not a directory; name an empty directory");
    mount("cluster", &[]).fails(1, "is not empty, and a mount would hide what is in it");
    mount("empty", &["-o", "bogus"]).fails(1, "mount option `bogus` is not known");
    let nobody = ["--cluster", "127.0.0.1:9"];
    mount("empty", &nobody).fails(1, "no namenode answers at 127.0.0.1:9");
    assert!(!is_mounted(Path::new(&path("empty"))));
}

#[test]
fn who_cannot_mount_is_told_why_and_what_to_do() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let folder = work.path().join("mnt");
    fs::create_dir(&folder).expect("make the mount point");
    let dfs = cluster.command(["mount"]).get_program().to_owned();

    // A machine, or a container, without the device.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount -t tmpfs none /dev && exec \"$0\" mount -f \"$1\"");
    command.arg(&dfs).arg(&folder);
    command.env("CAIRN_CLUSTER", &cluster.address);
    finish(&mut command, b"").fails(1, "this machine has no /dev/fuse: load the kernel's module");

    // Somebody who may not, on a machine without the program that may. They reach neither our program nor the folder by themselves.
    let program = work.path().join("dfs");
    fs::copy(&dfs, &program).expect("copy the program");
    for path in [work.path(), &program, &folder] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("open it for all");
    }
    chown(&folder, Some(NOBODY), Some(NOBODY)).expect("give it away");
    let mut command = Command::new("setpriv");
    let id = NOBODY.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    command.arg(&program).args(["mount", "-f"]).arg(&folder);
    command
        .env("CAIRN_CLUSTER", &cluster.address)
        .env("PATH", "/nowhere:/usr/bin");
    let refused = finish(&mut command, b"");
    if !Path::new("/usr/bin/fusermount3").exists() {
        refused.fails(1, "only root may mount; run it as root, or install fuse3");
    }
    assert!(!is_mounted(&folder));
}

#[test]
fn mount_8_finds_it_by_its_name() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let folder = work.path().join("mnt");
    fs::create_dir(&folder).expect("make the mount point");
    let _unmount = Unmount(&folder);
    let helper = work.path().join("mount.cairn");
    let program = cluster.command(["mount"]).get_program().to_owned();
    symlink(&program, &helper).expect("make the helper");
    let helper = |arguments: &[&str]| {
        let mut command = Command::new(&helper);
        command.arg(&cluster.address).arg(&folder);
        finish(command.args(arguments).env_remove("CAIRN_CLUSTER"), b"")
    };
    helper(&["-f", "-n", "-o", "rw"]).ok();
    assert!(!is_mounted(&folder), "-f pretends");
    helper(&["-o", "rw,bogus"]).fails(1, "`bogus`");
    helper(&["-s", "-n", "-o", "rw,_netdev,bogus", "-t", "cairn"]).ok();
    shell(&folder, "echo abc > file && mkdir dir && mv file dir/");
    tool("umount", &[&folder]).ok();
    assert_eq!(cluster.run(["cat", "/dir/file"]).text(), "abc\n");
}

#[test]
fn a_killed_mount_is_taken_over_and_what_was_synced_is_there() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let folder = work.path().join("mnt");
    let mut first = Mounted::on(&cluster, folder.clone(), &[]);
    shell(
        &folder,
        "dd if=/dev/urandom of=file bs=1M count=9 conv=fsync status=none; cp file ../copy",
    );
    // Somebody is in it.
    let inside = fs::File::open(folder.join("file")).expect("open it");
    first.kill();
    let dead = fs::read_dir(&folder).expect_err("nobody serves it");
    assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
    let second = Mounted::on(&cluster, folder.clone(), &[]);
    shell(work.path(), "cmp mnt/file copy");
    drop(inside);
    second.unmount();
}

#[test]
fn a_signal_unmounts_and_waits_for_those_who_are_in() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let folder = work.path().join("mnt");
    let mounted = Mounted::on(&cluster, folder.clone(), &[]);
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "exec > mnt/late; echo opened >&2; read line; echo \"$line\"",
        ])
        .current_dir(&work);
    let mut inside = Running::start(&mut command);
    eventually("it is open", || folder.join("late").exists());
    signal("TERM", mounted.pid());
    eventually("the folder is taken away", || !is_mounted(&folder));
    signal("TERM", mounted.pid());
    inside.feed(b"written after the signal\n");
    assert_eq!(inside.finish().status, Some(0));
    drop(mounted);
    let late = cluster.run(["cat", "/late"]).text();
    assert_eq!(late, "written after the signal\n");
}

#[test]
fn programs_wait_for_a_cluster_that_comes_back_and_fail_if_it_does_not() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let soft = Mounted::on(&cluster, work.path().join("soft"), &["--timeout", "2s"]);
    let hard = Mounted::on(&cluster, work.path().join("hard"), &["--hard"]);
    shell(work.path(), "echo kept > hard/kept && sync hard/kept");
    assert_eq!(cluster.stop(), Some(0));
    let late = fs::read(soft.path().join("kept")).expect_err("the cluster is away");
    assert_eq!(late.raw_os_error(), Some(libc::EIO));
    let mut command = Command::new("sh");
    command
        .args(["-c", "echo later > hard/later && cat hard/kept"])
        .current_dir(&work);
    let waiting = Running::start(&mut command);
    // It is at it: the failure above took as long as the soft mount is patient.
    let cluster = Cluster::up(&work, &[]);
    let waited = waiting.finish();
    assert_eq!((waited.status, waited.out), (Some(0), b"kept\n".to_vec()));
    assert_eq!(cluster.run(["cat", "/later"]).text(), "later\n");
    let kept = fs::read_to_string(soft.path().join("kept"));
    assert_eq!(kept.expect("it is back"), "kept\n");
    hard.unmount();
    soft.unmount();
}
