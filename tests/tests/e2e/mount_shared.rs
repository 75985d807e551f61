//! Two mounts of one cluster: each keeps names, attributes and pages for long, and sees what the other changes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::mounted::{Mounted, can_mount};
use crate::program::{Cluster, Running, eventually, finish};

fn setting() -> Option<(TempDir, Cluster, Mounted, Mounted)> {
    if !can_mount() {
        return None;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let one = Mounted::on(&cluster, work.path().join("one"), &[]);
    let two = Mounted::on(&cluster, work.path().join("two"), &[]);
    Some((work, cluster, one, two))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("list");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("text");
    let mut names: Vec<String> = entries.map(|entry| name(entry.expect("list"))).collect();
    names.sort();
    names
}

#[test]
fn what_one_mount_changes_the_other_one_forgets() {
    let Some((_work, cluster, one, two)) = setting() else {
        return;
    };
    let here = |name: &str| one.path().join(name);
    let there = |name: &str| two.path().join(name);
    let mode = |name: &str| {
        fs::metadata(there(name))
            .map(|found| found.mode() & 0o7777)
            .ok()
    };

    // A name that means nothing, and the directory without it.
    assert_eq!(mode("dir"), None);
    assert!(names(two.path()).is_empty());
    fs::create_dir(here("dir")).expect("make");
    eventually("the name means something", || mode("dir") == Some(0o755));
    assert_eq!(names(two.path()), ["dir"]);
    assert_eq!(mode("dir/file"), None);
    fs::write(here("dir/file"), "one").expect("write");
    eventually("the file is there", || mode("dir/file") == Some(0o644));

    // Attributes.
    fs::set_permissions(here("dir/file"), fs::Permissions::from_mode(0o600)).expect("chmod");
    eventually("the mode is another one", || {
        mode("dir/file") == Some(0o600)
    });
    let links = || {
        fs::metadata(there("dir/file"))
            .map(|found| found.nlink())
            .ok()
    };
    assert_eq!(links(), Some(1));
    fs::hard_link(here("dir/file"), here("link")).expect("link");
    eventually("it has another name", || links() == Some(2));

    // Names that come to mean something else, or nothing; whole directories, too.
    fs::write(here("dir/new"), "another").expect("write");
    fs::rename(here("dir/new"), here("dir/file")).expect("rename");
    let text = |name: &str| fs::read_to_string(there(name)).ok();
    eventually("the name means the new one", || {
        text("dir/file").as_deref() == Some("another")
    });
    assert_eq!(text("link").as_deref(), Some("one"));
    eventually("one name is left of the old one", || {
        fs::metadata(there("link")).is_ok_and(|found| found.nlink() == 1)
    });
    fs::rename(here("dir"), here("moved")).expect("rename");
    eventually("the directory has moved", || {
        mode("dir").is_none() && text("moved/file").as_deref() == Some("another")
    });
    fs::remove_file(here("moved/file")).expect("remove");
    eventually("the file is gone", || mode("moved/file").is_none());

    // Neither of them, but the program.
    cluster.run(["mkdir", "/by-hand"]).ok();
    eventually("both see it", || {
        names(one.path()) == ["by-hand", "link", "moved"]
            && names(two.path()) == ["by-hand", "link", "moved"]
    });
    one.unmount();
    two.unmount();
}

#[test]
fn an_open_after_a_close_elsewhere_sees_what_was_written() {
    let Some((_work, cluster, one, two)) = setting() else {
        return;
    };
    let paths = [one.path().join("file"), two.path().join("file")];
    fs::write(&paths[0], "").expect("write");
    eventually("both see the file", || paths[1].exists());
    for round in 0..60_usize {
        let (writer, reader) = (&paths[round % 2], &paths[(round + 1) % 2]);
        // Of the same size every other time, so that nothing but the pages tells.
        let text = format!("round {:03}{}", round, "x".repeat(round / 2 * 100));
        let mut file = OpenOptions::new().write(true).open(writer).expect("open");
        file.write_all(text.as_bytes()).expect("write");
        drop(file);
        assert_eq!(fs::read_to_string(reader).expect("read"), text);
        assert_eq!(fs::read_to_string(writer).expect("read"), text);
    }
    finish(
        &mut cluster.command(["put", "-f", "-", "/file"]),
        b"by hand",
    )
    .ok();
    eventually("both see what the program wrote", || {
        paths
            .iter()
            .all(|path| fs::read_to_string(path).is_ok_and(|text| text == "by hand"))
    });
    one.unmount();
    two.unmount();
}

#[test]
fn a_file_that_is_open_and_in_the_page_cache_follows_what_others_write() {
    let Some((_work, _cluster, one, two)) = setting() else {
        return;
    };
    let path = one.path().join("file");
    let pages = 50 * 4096;
    fs::write(&path, vec![b'a'; pages]).expect("write");
    eventually("the other mount sees it", || {
        two.path().join("file").exists()
    });
    let reader = File::open(two.path().join("file")).expect("open");
    let read = |offset: u64| {
        let mut byte = [0];
        reader
            .read_at(&mut byte, offset)
            .map(|count| (count, byte[0]))
            .expect("read")
    };
    for page in 0..50 {
        assert_eq!(read(page * 4096), (1, b'a'));
    }
    let writer = OpenOptions::new().write(true).open(&path).expect("open");
    writer.write_all_at(b"b", 7 * 4096).expect("write");
    writer.sync_all().expect("sync");
    eventually("the page is another one", || read(7 * 4096) == (1, b'b'));
    assert_eq!(read(8 * 4096), (1, b'a'));
    writer.write_all_at(b"c", pages as u64).expect("write");
    writer.sync_all().expect("sync");
    eventually("the file is longer", || read(pages as u64) == (1, b'c'));
    writer.set_len(4096).expect("truncate");
    eventually("the file is shorter", || read(7 * 4096) == (0, 0));
    assert_eq!(reader.metadata().expect("stat").len(), 4096);
    drop((reader, writer));
    one.unmount();
    two.unmount();
}

#[test]
fn what_is_made_or_appended_at_once_through_two_mounts_is_made_once_and_whole() {
    let Some((_work, cluster, one, two)) = setting() else {
        return;
    };
    // A lock file, as mail programs make it: nobody has it twice. And a log that both append to.
    let work = |mount: &Mounted, who: &str| {
        let mut command = Command::new("bash");
        let line = format!(
            "for i in $(seq 60); do (set -C; echo {who} > lock-$i) 2>/dev/null && echo $i; \
             echo {who} $i >> log; mkdir dir-$i 2>/dev/null && echo d$i; ln lock-1 name-$i 2>/dev/null && echo n$i; done; true"
        );
        command.args(["-c", &line]).current_dir(mount.path());
        Running::start(&mut command)
    };
    let running = [work(&one, "one"), work(&two, "two")];
    let won = running.map(|running| running.finish().text());
    let mut all: Vec<&str> = won.iter().flat_map(|won| won.lines()).collect();
    all.sort_unstable();
    all.dedup();
    let count: usize = won.iter().map(|won| won.lines().count()).sum();
    assert_eq!((count, all.len()), (180, 180), "{won:?}");
    for mount in [&one, &two] {
        let lock = |name: &str| fs::read_to_string(mount.path().join(name)).expect("read");
        for (won, who) in won.iter().zip(["one", "two"]) {
            for number in won.lines().filter(|line| line.parse::<u32>().is_ok()) {
                let name = format!("lock-{number}");
                assert_eq!(
                    lock(&name),
                    format!("{who}\n"),
                    "{name} at {}",
                    mount.path().display()
                );
            }
        }
        let log = lock("log");
        for who in ["one", "two"] {
            let its: Vec<&str> = log.lines().filter(|line| line.starts_with(who)).collect();
            let expected: Vec<String> = (1..=60).map(|i| format!("{who} {i}")).collect();
            assert_eq!(its, expected);
        }
    }
    // Of the same space.
    let space = |mount: &Mounted| rustix::fs::statvfs(mount.path()).expect("statvfs");
    let (first, second) = (space(&one), space(&two));
    assert_eq!((first.f_bsize, first.f_namemax), (4096, 255));
    assert!(first.f_bavail > 0 && first.f_bavail <= first.f_blocks);
    assert_eq!(first.f_files, second.f_files);
    cluster.run(["fsck"]).ok();
    one.unmount();
    two.unmount();
}
