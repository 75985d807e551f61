//! Ordinary work on a mount, beside the same on a local directory.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::mounted::{LISTING, Mounted, can_mount, has, shell, tool};
use crate::program::Cluster;

/// A tree with what trees have: many small files, some large ones, links, modes, odd names.
const TREE: &str = "mkdir -p tree/deep/er tree/many && cd tree && \
    for i in $(seq 150); do echo \"content $i\" > many/file-$i; done && \
    head -c 3000000 /dev/urandom > deep/large && head -c 70000 /dev/zero > deep/er/zeros && : > empty && \
    ln -s deep/large link && ln deep/large deep/hard && chmod 750 deep && chmod 4755 many/file-1 && \
    chmod 444 many/file-2 && echo x > 'name with spaces and ümläute' && mkfifo pipe && touch -d 2001-02-03T04:05:06.789 many/file-3";

#[test]
fn trees_survive_copies_tar_and_rsync() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let mounted = Mounted::on(&cluster, work.path().join("mnt"), &[]);
    let (local, mnt) = (work.path(), mounted.path());
    shell(local, TREE);
    let expected = shell(&local.join("tree"), LISTING);
    shell(
        local,
        "cp -a tree mnt/copied && tar --format=posix -c tree | tar -x -p -C mnt",
    );
    for tree in ["copied", "tree"] {
        assert_eq!(shell(&mnt.join(tree), LISTING), expected, "{tree}");
        let same = "test deep/large -ef deep/hard && stat -c %Y.%y many/file-3";
        let times = shell(&local.join("tree"), same);
        assert_eq!(shell(&mnt.join(tree), same), times, "{tree}");
    }
    // Packed inside, unpacked outside, and looked at twice: nothing changes by being told.
    shell(
        local,
        "tar --format=posix -c -C mnt tree | tar -x -p --one-top-level=back",
    );
    assert_eq!(shell(&local.join("back/tree"), LISTING), expected);
    shell(
        local,
        "diff -r --no-dereference -x pipe tree mnt/tree && tar -d -f <(tar --format=posix -c tree) -C mnt",
    );
    if has("rsync") {
        shell(
            local,
            "rsync -aHX tree/ mnt/synced/ && rsync -aHX mnt/synced/ returned/",
        );
        for tree in ["mnt/synced", "returned"] {
            assert_eq!(shell(&local.join(tree), LISTING), expected, "{tree}");
        }
        let again = shell(
            local,
            "rsync -aHXi --checksum tree/ mnt/synced/; rsync -aHXi mnt/synced/ tree/",
        );
        assert_eq!(again, "", "nothing is left to do");
        shell(
            local,
            "echo more >> tree/many/file-7; rm tree/many/file-8; rsync -aHX --delete tree/ mnt/synced/",
        );
        assert_eq!(
            shell(&mnt.join("synced"), LISTING),
            shell(&local.join("tree"), LISTING)
        );
    }
    shell(
        mnt,
        "rm -r copied tree && test -z \"$(ls -A | grep -v synced)\"",
    );
    assert_eq!(mounted.log(), "");
    mounted.unmount();
}

const GIT: &str = "export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org \
    GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org GIT_AUTHOR_DATE=2001-02-03T04:05:06Z \
    GIT_COMMITTER_DATE=2001-02-03T04:05:06Z";

#[test]
fn git_works_as_on_a_local_disk() {
    if !can_mount() || !has("git") {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let mounted = Mounted::on(&cluster, work.path().join("mnt"), &[]);
    let (local, mnt) = (work.path(), mounted.path());
    shell(local, TREE);
    shell(
        local,
        "rm tree/pipe && mkdir here && cp -a tree here/repo && cp -a tree mnt/repo",
    );
    let steps = format!(
        "{GIT}; cd repo && git init -q -b main && git add -A && git commit -qm one && \
         for i in 1 2 3 4 5; do echo $i >> many/file-$i; git commit -qam \"change $i\"; done && \
         git checkout -qb side HEAD~3 && echo side > side && git add side && git commit -qm side && \
         git merge -q -m merge main && git rm -q empty && git commit -qm gone && git tag -a -m tag v1 && \
         git gc -q && git fsck --strict --no-progress 2>&1 && git status --porcelain && \
         git log --format='%H %s' && cd .. && git clone -q repo clone && cd clone && git fsck --no-progress 2>&1 && \
         git status --porcelain && git ls-tree -r HEAD"
    );
    let expected = shell(&local.join("here"), &steps);
    assert_eq!(shell(mnt, &steps), expected);
    let (mine, theirs) = (mnt.join("clone"), local.join("here/clone"));
    assert_eq!(shell(&mine, LISTING), shell(&theirs, LISTING));
    // Across, both ways.
    shell(
        local,
        "git clone -q mnt/repo across && git clone -q across mnt/again && git -C mnt/again fsck --no-progress",
    );
    assert_eq!(mounted.log(), "");
    mounted.unmount();
}

/// Adds rows, one transaction after the other, and says which are committed.
const WRITER: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('pragma journal_mode=' + sys.argv[2])
db.execute('create table if not exists rows (number integer primary key, text text)')
number = db.execute('select coalesce(max(number), 0) from rows').fetchone()[0]
while True:
    db.execute('begin')
    for _ in range(3):
        number += 1
        db.execute('insert into rows values (?, ?)', (number, 'x' * (number % 3000)))
    db.execute('commit')
    print(number, flush=True)
";

const CHECK: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute('pragma integrity_check').fetchall() == [('ok',)]
print(db.execute('select count(*), max(number) from rows where length(text) = number % 3000').fetchone())
";

#[test]
fn sqlite_keeps_what_it_committed_when_its_process_is_killed() {
    if !can_mount() || !has("python3") {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let mounted = Mounted::on(&cluster, work.path().join("mnt"), &[]);
    for journal in ["delete", "truncate", "wal"] {
        let file = mounted.path().join(journal);
        let mut committed = 0;
        for round in 1..=3 {
            committed = killed_writer(&file, journal, committed + round * 12);
            let checked = tool(
                "python3",
                &["-c".as_ref(), CHECK.as_ref(), file.as_os_str()],
            )
            .text();
            let numbers = checked.trim().trim_matches(['(', ')']).split(", ");
            let numbers: Vec<u64> = numbers.map(|n| n.parse().expect("a number")).collect();
            // The last transaction may have been committed and not yet told.
            assert!(
                numbers[0] == numbers[1] && numbers[0].is_multiple_of(3),
                "{numbers:?}"
            );
            assert!(numbers[0] >= committed, "{numbers:?} of {committed}");
            committed = numbers[0];
        }
    }
    assert_eq!(mounted.log(), "");
    mounted.unmount();
}

/// Kills the writer when it has said this number; returns the last that it said.
fn killed_writer(file: &Path, journal: &str, until: u64) -> u64 {
    let mut writer = Command::new("python3")
        .args(["-c", WRITER])
        .arg(file)
        .arg(journal)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the writer");
    let mut lines = BufReader::new(writer.stdout.take().expect("a pipe")).lines();
    let mut said = 0;
    while said < until {
        let line = lines.next().expect("it goes on").expect("text");
        said = line.parse().expect("a number");
    }
    writer.kill().expect("kill it");
    writer.wait().expect("wait for it");
    lines
        .map_while(Result::ok)
        .fold(said, |_, line| line.parse().expect("a number"))
}
