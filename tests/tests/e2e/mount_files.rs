//! What files on a mount do, through the kernel, where the suites of others do not look.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{RenameFlags, XattrFlags, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::mounted::{Mounted, can_mount, shell};
use crate::program::{Cluster, content, finish};

fn setting() -> Option<(TempDir, Cluster, Mounted)> {
    if !can_mount() {
        return None;
    }
    let work = tempfile::tempdir().expect("a directory");
    // Others than root come here.
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let cluster = Cluster::up(&work, &[]);
    let mounted = Mounted::on(&cluster, work.path().join("mnt"), &[]);
    Some((work, cluster, mounted))
}

fn open(path: impl AsRef<std::path::Path>) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    options.open(path).expect("open")
}

#[test]
fn handles_that_append_and_handles_that_do_not_see_the_same_bytes() {
    let Some((_work, cluster, mounted)) = setting() else {
        return;
    };
    let path = mounted.path().join("log");
    let cached = open(&path);
    cached.write_all_at(b"0123456789", 0).expect("write");
    let mut appending = OpenOptions::new()
        .append(true)
        .read(true)
        .open(&path)
        .expect("open");
    let mut read = [0; 100];
    assert_eq!(cached.read_at(&mut read, 0).expect("read"), 10);
    appending.write_all(b"here ").expect("append");
    // Elsewhere: the kernel does not know that the end has moved.
    finish(&mut cluster.command(["append", "-", "/log"]), b"elsewhere ").ok();
    appending.write_all(b"here again").expect("append");
    let expected = b"0123456789here elsewhere here again";
    for file in [&cached, &appending, &open(&path)] {
        let count = file.read_at(&mut read, 0).expect("read");
        assert_eq!(
            read[..count].escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
        assert_eq!(file.metadata().expect("stat").len(), expected.len() as u64);
    }
    drop((cached, appending));
    // Many at once, none lost.
    shell(
        mounted.path(),
        "for w in 1 2 3 4; do (for i in $(seq 40); do echo $w-$i >> many; done) & done; wait",
    );
    assert_eq!(
        shell(mounted.path(), "sort -u many | wc -l; wc -l < many"),
        "160\n160\n"
    );
    mounted.unmount();
}

#[test]
fn a_file_without_a_name_lives_as_long_as_it_is_open() {
    let Some((_work, cluster, mounted)) = setting() else {
        return;
    };
    let path = |name: &str| mounted.path().join(name);
    let files = ["unlinked", "replaced", "removed elsewhere"].map(|name| {
        let file = open(path(name));
        file.write_all_at(name.as_bytes(), 0).expect("write");
        file.sync_all().expect("fsync");
        (name, file)
    });
    fs::remove_file(path("unlinked")).expect("unlink");
    fs::write(path("other"), "other").expect("write");
    fs::rename(path("other"), path("replaced")).expect("rename");
    cluster.run(["rm", "/removed elsewhere"]).ok();
    for (name, file) in &files {
        file.write_all_at(b"!", name.len() as u64).expect("write");
        file.sync_all().expect("fsync");
        let mut text = String::new();
        (&mut &*file).seek(SeekFrom::Start(0)).expect("seek");
        (&mut &*file).read_to_string(&mut text).expect("read");
        assert_eq!(text, format!("{name}!"));
    }
    drop(files);
    assert_eq!(fs::read(path("replaced")).expect("read"), b"other");
    mounted.unmount();
}

#[test]
fn holes_copies_and_sizes_beyond_a_terabyte() {
    let Some((_work, cluster, mounted)) = setting() else {
        return;
    };
    let path = |name: &str| mounted.path().join(name);
    let far = 3_u64 << 40;
    let mut file = open(path("sparse"));
    let bytes = content(1, 300_000);
    file.write_all_at(&bytes, 5 << 20).expect("write");
    file.write_all_at(b"end", far).expect("write");
    file.sync_all().expect("fsync");
    let metadata = file.metadata().expect("stat");
    assert_eq!(metadata.len(), far + 3);
    assert!(metadata.blocks() * 512 < 1 << 20, "{}", metadata.blocks());
    let seek = |from, data: bool| {
        let from = if data {
            rustix::fs::SeekFrom::Data(from)
        } else {
            rustix::fs::SeekFrom::Hole(from)
        };
        rustix::fs::seek(&file, from)
    };
    assert_eq!(seek(0, true), Ok(5 << 20));
    assert_eq!(seek(5 << 20, false), Ok((5 << 20) + 300_000));
    assert_eq!(seek(6 << 20, true), Ok(far));
    assert_eq!(seek(far, false), Ok(far + 3));
    assert_eq!(seek(far + 3, true), Err(rustix::io::Errno::NXIO));
    file.seek(SeekFrom::Start(0)).expect("seek");
    // A copy shares what is there: no byte is read or written.
    let copy = open(path("copy"));
    let (mut from, mut to) = (5 << 20, 10);
    let copied = rustix::fs::copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), 300_000);
    assert_eq!(copied, Ok(300_000));
    let mut read = vec![0; 300_000];
    copy.read_exact_at(&mut read, 10).expect("read");
    assert!(read == bytes);
    rustix::fs::fallocate(
        &copy,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        100,
        1000,
    )
    .expect("punch");
    copy.read_exact_at(&mut read, 10).expect("read");
    assert!(
        read[..90] == bytes[..90]
            && read[90..1090].iter().all(|&b| b == 0)
            && read[1090..] == bytes[1090..]
    );
    file.set_len(1 << 20).expect("truncate");
    file.set_len(6 << 20).expect("truncate");
    file.read_exact_at(&mut read, 5 << 20).expect("read");
    assert!(
        read.iter().all(|&byte| byte == 0),
        "what was cut off is gone"
    );
    drop((file, copy));
    let sizes = cluster.run(["stat", "-c", "%s", "/sparse", "/copy"]);
    assert_eq!(sizes.text(), format!("{}\n300010\n", 6 << 20));
    mounted.unmount();
}

#[test]
fn what_cannot_be_had_is_refused_so_that_programs_do_without() {
    let Some((_work, _cluster, mounted)) = setting() else {
        return;
    };
    // The library that speaks with the kernel knows no such request, and the kernel remembers that.
    for _ in 0..2 {
        let unnamed = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .open(mounted.path());
        let refused = unnamed.expect_err("a file without a name");
        assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP));
    }
    // The kernel does not ask a file system in user space.
    let bytes = content(3, 100_000);
    fs::write(mounted.path().join("file"), &bytes).expect("write");
    let (file, clone) = (
        open(mounted.path().join("file")),
        open(mounted.path().join("clone")),
    );
    assert_eq!(
        rustix::fs::ioctl_ficlone(&clone, &file),
        Err(Errno::OPNOTSUPP)
    );
    drop((file, clone));
    let cp = |how: &str| {
        let mut command = Command::new("cp");
        command
            .args([how, "file", "clone"])
            .current_dir(mounted.path());
        finish(command.env("LC_ALL", "C"), b"")
    };
    cp("--reflink=always").fails(1, "Operation not supported");
    cp("--reflink=auto").ok();
    assert!(fs::read(mounted.path().join("clone")).expect("read") == bytes);
    assert_eq!(mounted.log(), "");
    mounted.unmount();
}

#[test]
fn names_move_as_rename_2_says() {
    let Some((_work, _cluster, mounted)) = setting() else {
        return;
    };
    let directory = File::open(mounted.path()).expect("open");
    let rename = |from: &str, to: &str, flags| {
        renameat_with(directory.as_fd(), from, directory.as_fd(), to, flags)
    };
    let read = |name: &str| fs::read_to_string(mounted.path().join(name)).expect("read");
    fs::write(mounted.path().join("a"), "a").expect("write");
    fs::write(mounted.path().join("b"), "b").expect("write");
    let exists = rename("a", "b", RenameFlags::NOREPLACE);
    assert_eq!(exists, Err(rustix::io::Errno::EXIST));
    assert_eq!(rename("a", "b", RenameFlags::EXCHANGE), Ok(()));
    assert_eq!((read("a"), read("b")), ("b".to_owned(), "a".to_owned()));
    assert_eq!(rename("a", "c", RenameFlags::NOREPLACE), Ok(()));
    assert_eq!(
        rename("a", "c", RenameFlags::EXCHANGE),
        Err(rustix::io::Errno::NOENT)
    );
    let long = "n".repeat(255);
    assert_eq!(rename("c", &long, RenameFlags::empty()), Ok(()));
    assert_eq!(read(&long), "b");
    let too_long = rename(&long, &"n".repeat(256), RenameFlags::empty());
    assert_eq!(too_long, Err(rustix::io::Errno::NAMETOOLONG));
    drop(directory);
    mounted.unmount();
}

#[test]
fn attributes_and_rights_hold_for_others_than_root() {
    let Some((_work, _cluster, mounted)) = setting() else {
        return;
    };
    let root = mounted.path();
    shell(
        root,
        "mkdir -m 1777 tmp; mkdir -m 2775 team; chgrp 1234 team; echo x > program; chmod 6777 program",
    );
    let somebody = |line: &str| {
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .current_dir(root)
            .uid(2000)
            .gid(2000);
        finish(&mut command, b"")
    };
    // Set-group-id directories give their group on.
    shell(root, "mkdir team/dir; : > team/file; chmod 777 team");
    assert_eq!(
        shell(root, "stat -c '%a %g' team/dir team/file"),
        "2755 1234\n644 1234\n"
    );
    // Writing takes set-ids away.
    somebody("echo y >> program").ok();
    assert_eq!(
        shell(root, "stat -c %a program; chmod 6777 program"),
        "777\n"
    );
    somebody("printf z | dd of=program conv=notrunc status=none").ok();
    assert_eq!(
        shell(root, "stat -c %a program; chmod 6777 program"),
        "777\n"
    );
    somebody(": > program").ok();
    assert_eq!(shell(root, "stat -c %a program"), "777\n");
    // Sticky directories.
    somebody("echo mine > tmp/mine").ok();
    shell(root, "echo theirs > tmp/theirs; chmod 666 tmp/theirs");
    assert_eq!(shell(root, "stat -c '%u %g' tmp/mine"), "2000 2000\n");
    assert_ne!(somebody("rm -f tmp/theirs").status, Some(0));
    assert_ne!(somebody("mv tmp/theirs tmp/stolen").status, Some(0));
    somebody("rm tmp/mine").ok();
    // A file that its owner may not write is written through the handle that made it.
    somebody("umask 777; exec 3> tmp/secret; echo secret >&3; exec 3>&-; test ! -r tmp/secret")
        .ok();
    assert_eq!(shell(root, "cat tmp/secret"), "secret\n");
    // Extended attributes.
    let file = open(root.join("attributes"));
    let set = |name: &str, flags| rustix::fs::fsetxattr(&file, name, b"value", flags);
    assert_eq!(set("user.a", XattrFlags::CREATE), Ok(()));
    assert_eq!(
        set("user.a", XattrFlags::CREATE),
        Err(rustix::io::Errno::EXIST)
    );
    assert_eq!(
        set("user.b", XattrFlags::REPLACE),
        Err(rustix::io::Errno::NODATA)
    );
    assert_eq!(set("trusted.c", XattrFlags::empty()), Ok(()));
    let mut list = vec![0; 100];
    let length = rustix::fs::flistxattr(&file, &mut list).expect("list");
    assert_eq!(&list[..length], b"trusted.c\0user.a\0");
    drop(file);
    mounted.unmount();
}

#[test]
fn a_directory_of_thousands_is_emptied_while_it_is_read() {
    let Some((_work, _cluster, mounted)) = setting() else {
        return;
    };
    let root = mounted.path();
    shell(
        root,
        "mkdir many; cd many; seq 1500 | xargs touch; seq 1501 2500 | xargs mkdir",
    );
    assert_eq!(
        shell(
            root,
            "ls many | sort -u | wc -l; ls -l many | wc -l; find many | wc -l"
        ),
        "2500\n2501\n2501\n"
    );
    let mut count = 0;
    for entry in fs::read_dir(root.join("many")).expect("open") {
        let entry = entry.expect("read");
        if entry.file_type().expect("a kind").is_dir() {
            fs::remove_dir(entry.path()).expect("rmdir");
        } else {
            fs::remove_file(entry.path()).expect("unlink");
        }
        count += 1;
    }
    assert_eq!(count, 2500);
    fs::remove_dir(root.join("many")).expect("it is empty");
    mounted.unmount();
}

#[test]
fn a_file_that_is_run_is_not_written_and_one_that_is_synced_stays() {
    let Some((_work, cluster, mounted)) = setting() else {
        return;
    };
    let root = mounted.path();
    shell(
        root,
        "cp \"$(command -v sleep)\" sleeper; chmod 755 sleeper",
    );
    let mut running = Command::new(root.join("sleeper"))
        .arg("1000")
        .spawn()
        .expect("run it");
    let busy = OpenOptions::new().write(true).open(root.join("sleeper"));
    running.kill().expect("kill it");
    running.wait().expect("wait for it");
    assert_eq!(
        busy.expect_err("it runs").raw_os_error(),
        Some(libc::ETXTBSY)
    );
    // O_SYNC is as good as fsync.
    let mut options = OpenOptions::new();
    options.write(true).create(true).custom_flags(libc::O_DSYNC);
    let mut file = options.open(root.join("synced")).expect("open");
    file.write_all(b"abc").expect("write");
    assert_eq!(cluster.run(["cat", "/synced"]).text(), "abc");
    drop(file);
    mounted.unmount();
}

/// An access control list as Linux has it: user::7, user:2000, group::0, mask::7, other::0.
fn list(user: u8) -> Vec<u8> {
    let entries = [
        (1, 7, u32::MAX),
        (2, user, 2000),
        (4, 0, u32::MAX),
        (16, 7, u32::MAX),
        (32, 0, u32::MAX),
    ];
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        bytes.extend([tag, 0, permissions, 0]);
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn access_control_lists_are_obeyed_and_inherited() {
    let Some((_work, _cluster, mounted)) = setting() else {
        return;
    };
    let root = mounted.path();
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join(path), name, value, XattrFlags::empty())
    };
    let may = |uid: u32, line: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(root).uid(uid);
        finish(command.gid(uid), b"").status == Some(0)
    };
    let (access, default) = ("system.posix_acl_access", "system.posix_acl_default");
    shell(root, "umask 077; mkdir dir; echo x > dir/file");
    assert!(!may(2000, "cat dir/file"));
    assert_eq!(set("dir", access, &list(5)), Ok(()));
    assert_eq!(set("dir/file", access, &list(4)), Ok(()));
    assert!(may(2000, "cat dir/file") && !may(2000, "echo y >> dir/file"));
    assert!(!may(2001, "cat dir/file"));
    assert_eq!(shell(root, "stat -c %a dir dir/file"), "770\n770\n");
    // chmod moves the mask.
    shell(root, "chmod 700 dir/file");
    assert!(!may(2000, "cat dir/file"));
    shell(root, "chmod 750 dir/file");
    assert!(may(2000, "cat dir/file"));
    // What is made in it belongs to the named user, too, whatever the umask.
    assert_eq!(set("dir", default, &list(6)), Ok(()));
    shell(
        root,
        "umask 077; echo x > dir/new; mkdir dir/sub; : > dir/sub/deep",
    );
    assert_eq!(
        shell(root, "stat -c %a dir/new dir/sub dir/sub/deep"),
        "660\n770\n660\n"
    );
    assert!(may(2000, "echo y >> dir/new") && !may(2001, "cat dir/new"));
    assert!(!may(2000, "ls dir/sub/deep"), "rw- is no right to search");
    let mut value = vec![0; 100];
    let length = rustix::fs::getxattr(root.join("dir/sub"), default, &mut value);
    assert_eq!(value[..length.expect("inherited")], list(6));
    // Without the lists the modes count again.
    rustix::fs::removexattr(root.join("dir"), default).expect("remove");
    rustix::fs::removexattr(root.join("dir/new"), access).expect("remove");
    shell(root, "umask 027; : > dir/plain");
    assert_eq!(shell(root, "stat -c %a dir/plain"), "640\n");
    assert!(!may(2000, "echo z >> dir/new"));
    assert_eq!(
        set("dir/file", access, &list(4)[..11]),
        Err(rustix::io::Errno::INVAL)
    );
    assert_eq!(mounted.log(), "");
    mounted.unmount();
}
