//! Times of access, as `relatime` has them: set by a read after a change, shown at once, and told to the cluster without haste.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::mounted::{Mounted, can_mount, shell};
use crate::program::{Cluster, eventually};

/// Long ago: whatever is read then counts.
const LONG_AGO: &str = "2001-02-03T04:05:06.789Z";

fn setting(options: &[&str]) -> Option<(TempDir, Cluster, Mounted)> {
    if !can_mount() {
        return None;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let mounted = Mounted::on(&cluster, work.path().join("mnt"), options);
    Some((work, cluster, mounted))
}

/// Times of access, of content and of change, in nanoseconds.
fn times(folder: &Path, name: &str) -> [u128; 3] {
    let line = format!("stat -c '%.9X %.9Y %.9Z' '{name}'");
    let told = shell(folder, &line).replace('.', "");
    let mut numbers = told.split_whitespace().map(|number| number.parse());
    [(); 3].map(|()| numbers.next().expect("three").expect("a number"))
}

#[test]
fn a_read_after_a_change_sets_it_and_no_other_read() {
    let Some((work, cluster, mounted)) = setting(&[]) else {
        return;
    };
    let folder = mounted.path().to_owned();
    // In a directory that is delegated, and in the root, which is not.
    shell(
        &folder,
        "mkdir own && echo text | tee file > own/file && ln -s file link && ln -s file own/link",
    );
    for (name, read) in [
        ("file", "cat file"),
        ("own/file", "cat own/file"),
        ("own", "ls own"),
        (".", "ls"),
        ("link", "readlink link"),
        ("own/link", "readlink own/link"),
    ] {
        let [atime, mtime, ctime] = times(&folder, name);
        assert!(atime <= mtime.max(ctime), "{name} is new: {atime}");
        shell(&folder, read);
        let once = times(&folder, name);
        assert!(once[0] > mtime.max(ctime), "{name} is read: {once:?}");
        assert_eq!(once[1..], [mtime, ctime], "{name}: a read is no change");
        shell(&folder, read);
        assert_eq!(times(&folder, name), once, "{name} is read again");
    }
    // Each kind of change makes the next read count.
    for change in [
        "echo more >> own/file",
        "chmod 600 own/file",
        "truncate -s 3 own/file",
    ] {
        let before = times(&folder, "own/file")[0];
        shell(&folder, change);
        assert_eq!(times(&folder, "own/file")[0], before, "{change}");
        shell(&folder, "cat own/file");
        let after = times(&folder, "own/file");
        assert!(after[0] > after[1].max(after[2]), "{change}: {after:?}");
    }
    // Through a handle that stays open, and through a map.
    shell(
        &folder,
        "python3 -c '
import mmap, os
file = open(\"open\", \"w+b\")
file.write(b\"x\" * 10000)
file.flush()
os.fsync(file.fileno())
before = os.fstat(file.fileno())
assert before.st_atime_ns <= before.st_mtime_ns, before
assert os.pread(file.fileno(), 3, 7) == b\"xxx\"
read = os.fstat(file.fileno())
assert read.st_mtime_ns == before.st_mtime_ns
other = open(\"mapped\", \"w+b\")
other.write(b\"x\" * 10000)
other.close()
other = open(\"mapped\", \"r+b\")
assert mmap.mmap(other.fileno(), 10000)[5000] == ord(\"x\")
'",
    );
    let mapped = times(&folder, "mapped");
    assert!(mapped[0] > mapped[1], "{mapped:?}");
    // All of it is there later, and elsewhere.
    let names = ["file", "own/file", "own", "link", "own/link", "mapped"];
    let seen = names.map(|name| times(&folder, name));
    assert_eq!(mounted.log(), "");
    mounted.unmount();
    let other = Mounted::on(&cluster, work.path().join("other"), &[]);
    assert_eq!(names.map(|name| times(other.path(), name)), seen);
    other.unmount();
}

#[test]
fn many_reads_are_told_together_and_heard_by_others() {
    let Some((work, cluster, mounted)) = setting(&["-o", "wsync"]) else {
        return;
    };
    let other = Mounted::on(&cluster, work.path().join("other"), &[]);
    shell(
        mounted.path(),
        "mkdir many; for i in $(seq 400); do echo $i > many/$i; done",
    );
    let before = times(other.path(), "many/7")[0];
    let entry = || cluster.status()["applied_index"].as_u64();
    let began = entry().expect("a number");
    shell(mounted.path(), "cat many/* > /dev/null");
    let read = times(mounted.path(), "many/7")[0];
    assert!(read > before);
    eventually("the other mount hears of it", || {
        times(other.path(), "many/7")[0] == read
    });
    let entries = entry().expect("a number") - began;
    assert!(entries < 100, "{entries} entries of the log for 400 reads");
    for mounted in [mounted, other] {
        assert_eq!(mounted.log(), "");
        mounted.unmount();
    }
}

#[test]
fn a_time_that_is_set_stays_whatever_was_read_before() {
    let Some((work, cluster, mounted)) = setting(&[]) else {
        return;
    };
    let folder = mounted.path().to_owned();
    shell(&folder, "mkdir own && echo text | tee file > own/file");
    let expected = 981_173_106_789_000_000;
    for name in ["file", "own/file"] {
        shell(
            &folder,
            &format!("cat {name} && touch -a -d {LONG_AGO} {name}"),
        );
        assert_eq!(times(&folder, name)[0], expected);
    }
    mounted.unmount();
    let again = Mounted::on(&cluster, work.path().join("mnt"), &[]);
    for name in ["file", "own/file"] {
        assert_eq!(times(&folder, name)[0], expected, "{name}");
        shell(&folder, &format!("cat {name}"));
        assert!(times(&folder, name)[0] > expected, "{name}");
    }
    again.unmount();
}

#[test]
fn options_say_which_reads_count() {
    let Some((work, cluster, first)) = setting(&[]) else {
        return;
    };
    shell(first.path(), "mkdir dir && echo text > dir/file");
    let before = ["dir", "dir/file"].map(|name| times(first.path(), name));
    first.unmount();
    for (options, directories, files) in [
        ("ro", false, false),
        ("noatime", false, false),
        ("nodiratime", false, true),
    ] {
        let mounted = Mounted::on(&cluster, work.path().join("mnt"), &["-o", options]);
        shell(mounted.path(), "ls dir && cat dir/file");
        let after = ["dir", "dir/file"].map(|name| times(mounted.path(), name));
        assert_eq!(after[0] != before[0], directories, "{options}");
        assert_eq!(after[1] != before[1], files, "{options}");
        mounted.unmount();
    }
    assert!(fs::exists(work.path().join("mnt")).expect("look"));
}
