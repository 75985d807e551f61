//! What others have written to find out whether a file system is one: pjdfstest and fsx, on a mount.
//!
//! `scripts/test-tools` installs them; `make test` calls it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use crate::mounted::{Mounted, can_mount};
use crate::program::{Cluster, Finished, Running, finish};

/// Tests of pjdfstest that cannot run, and why. Those of other systems (flags and ACLs of BSD) are not counted.
const SKIPPED: [(&str, &str); 1] = [(
    "link::link_count_max",
    "makes as many links as pathconf(_PC_LINK_MAX) says, and glibc knows no number for FUSE",
)];

/// Operations of each fsx in a test run. `CAIRN_FSX_OPERATIONS` asks for more.
const OPERATIONS: &str = "6000";

/// More than fsx takes to start, and for an operation, on a machine that is busy with other tests.
const STARTING: Duration = Duration::from_secs(120);
const OPERATION: Duration = Duration::from_millis(20);

fn installed(name: &str) -> PathBuf {
    let cache = std::env::var_os("CAIRN_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(home?.join(".cache/cairn")));
    let path = cache.expect("a home").join("tools/bin").join(name);
    assert!(
        path.is_file(),
        "{} is not there: run scripts/test-tools first (`make test` does)",
        path.display()
    );
    path
}

fn pjdfstest(work: &TempDir, on: &Path, remounts: bool, patterns: &[&str]) -> Finished {
    let config = work.path().join("pjdfstest.toml");
    let text = format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutime_now = {{}}\nutimensat = {{}}\n\
         secondary_fs = \"/dev/shm\"\n\
         [settings]\nnaptime = 0.02\nallow_remount = {remounts}\n\
         [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n"
    );
    fs::write(&config, text).expect("write its settings");
    let mut command = Command::new(installed("pjdfstest"));
    command.arg("-c").arg(&config).arg("-p").arg(on);
    finish(command.args(patterns).env("NO_COLOR", "1"), b"")
}

#[test]
fn pjdfstest_finds_nothing() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let mounted = Mounted::on(&cluster, work.path().join("mnt"), &[]);
    // Tests that make the mount read-only go by themselves: some of the others leave files open, on any file system.
    for (remounts, patterns) in [(false, &[][..]), (true, &["erofs_"])] {
        let done = pjdfstest(&work, mounted.path(), remounts, patterns);
        let out = String::from_utf8_lossy(&done.out).into_owned();
        assert_eq!(done.status, Some(0), "{out}\n{}", done.err);
        let summary = out.lines().find(|line| line.starts_with("Summary"));
        eprintln!("pjdfstest {patterns:?}: {}", summary.expect("a summary"));
        let skipped = out.lines().filter(|line| line.ends_with("skipped"));
        for test in skipped.filter_map(|line| line.split_whitespace().next()) {
            let known = SKIPPED.iter().any(|(name, _)| *name == test);
            let later = !remounts && test.contains("erofs_");
            assert!(known || later, "{test} is skipped");
        }
    }
}

fn fsx(work: &TempDir, file: &Path, seed: &str) {
    let config = work.path().join(format!("fsx-{seed}.toml"));
    let text = "flen = 1048576\n[opsize]\nmax = 131072\n[weights]\nclose_open = 2\nread = 10\nwrite = 10\n\
        mapread = 10\nmapwrite = 10\ninvalidate = 1\ntruncate = 8\nfsync = 1\nfdatasync = 1\nposix_fallocate = 3\n\
        punch_hole = 5\nsendfile = 3\nposix_fadvise = 3\ncopy_file_range = 5\n";
    fs::write(&config, text).expect("write its settings");
    let operations = std::env::var("CAIRN_FSX_OPERATIONS");
    let operations = operations.unwrap_or_else(|_| OPERATIONS.to_owned());
    let mut command = Command::new(installed("fsx"));
    command.arg("-f").arg(&config).args(["-N", &operations]);
    command.args(["-S", seed, "-P"]).arg(work.path()).arg(file);
    let count: u32 = operations.parse().expect("a number of operations");
    let done = Running::start(&mut command).finish_within(STARTING + OPERATION * count);
    let out = String::from_utf8_lossy(&done.out).into_owned();
    assert_eq!(done.status, Some(0), "seed {seed}: {out}\n{}", done.err);
}

#[test]
fn fsx_finds_no_difference() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let mounted = Mounted::on(&cluster, work.path().join("mnt"), &[]);
    std::thread::scope(|scope| {
        for seed in ["7", "8"] {
            let (work, file) = (&work, mounted.path().join(seed));
            scope.spawn(move || fsx(work, &file, seed));
        }
    });
    assert_eq!(mounted.log(), "");
    mounted.unmount();
}

/// Points a symbolic link at one file and the other by turns, until it is dropped.
struct Turns {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Turns {
    fn take(link: &Path, files: [PathBuf; 2]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (seen, link) = (over.clone(), link.to_owned());
        let next = link.with_extension("next");
        let turn = move |file: &PathBuf| {
            symlink(file, &next).expect("make a link");
            fs::rename(&next, &link).expect("turn the link");
        };
        turn(&files[0]);
        let thread = thread::spawn(move || {
            for file in files.iter().cycle() {
                if seen.load(Ordering::Relaxed) {
                    return;
                }
                turn(file);
                // As long as some operations take.
                thread::sleep(Duration::from_millis(3));
            }
        });
        Self {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn fsx_finds_no_difference_when_two_mounts_take_turns() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let mounts = ["first", "second"].map(|name| Mounted::on(&cluster, work.path().join(name), &[]));
    let files = [mounts[0].path().join("file"), mounts[1].path().join("file")];
    fs::write(&files[0], "").expect("make the file");
    // fsx opens it anew again and again, through whichever mount has the turn.
    let link = work.path().join("turns");
    let turns = Turns::take(&link, files);
    fsx(&work, &link, "9");
    drop(turns);
    for mounted in mounts {
        assert_eq!(mounted.log(), "");
        mounted.unmount();
    }
}
