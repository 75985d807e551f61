//! A mounted folder, as a test uses it: it is unmounted and its process ended when the test is over, however it ends.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{Cluster, Finished, eventually, finish, signal};

/// How long the process of a mount may take to end by itself.
const ENDING: Duration = Duration::from_secs(20);

/// False, with a word about it, where nothing can be mounted: not root, or no `/dev/fuse`.
pub(crate) fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    let possible = root && Path::new("/dev/fuse").exists();
    if !possible {
        eprintln!("not tested: a mount needs root and /dev/fuse");
    }
    possible
}

/// Names, kinds, modes, sizes, link targets and contents below a directory, whatever file system it is on.
pub(crate) const LISTING: &str = "find . -mindepth 1 -not -path './.git/*' -printf '%P %y %m %l\\n' | sort; \
    find . -type f -not -path './.git/*' -exec sha256sum {} + | sort -k 2";

/// False, with a word about it, where a program is not installed.
pub(crate) fn has(program: &str) -> bool {
    let found = tool("sh", &["-c", &format!("command -v {program}")]).status == Some(0);
    if !found {
        eprintln!("not tested: there is no {program} here");
    }
    found
}

/// A mount by `dfs mount -f`.
pub(crate) struct Mounted {
    process: Option<Child>,
    folder: PathBuf,
}

impl Mounted {
    /// Mounts on `folder`, which is made if it is not there.
    pub(crate) fn on(cluster: &Cluster, folder: PathBuf, options: &[&str]) -> Self {
        Self::start(cluster.command(["mount", "-f"]), folder, options)
    }

    /// The same by somebody who has nothing but `options` to prove who it is.
    pub(crate) fn on_as_stranger(cluster: &Cluster, folder: PathBuf, options: &[&str]) -> Self {
        Self::start(cluster.stranger(["mount", "-f"]), folder, options)
    }

    fn start(mut command: Command, folder: PathBuf, options: &[&str]) -> Self {
        fs::create_dir_all(&folder).expect("make the mount point");
        let log = folder.with_extension("log");
        let log = fs::File::create(log).expect("make a log");
        command.args(options).arg(&folder);
        let process = command
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start dfs mount");
        let mut mounted = Self {
            process: Some(process),
            folder,
        };
        eventually("the folder is mounted", || {
            assert!(!mounted.has_ended(), "{}", mounted.log());
            // One that is dead may still be in the table.
            is_mounted(&mounted.folder) && rustix::fs::statfs(&mounted.folder).is_ok()
        });
        mounted
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// What its process said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.with_extension("log")).unwrap_or_default()
    }

    fn has_ended(&mut self) -> bool {
        let ended = |process: &mut Child| process.try_wait().is_ok_and(|ended| ended.is_some());
        self.process.as_mut().is_none_or(ended)
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// `umount`, as people do it; the process then ends by itself, well.
    pub(crate) fn unmount(mut self) {
        tool("umount", &[self.folder.as_os_str()]).ok();
        let mut process = self.process.take().expect("it runs");
        let mut status = None;
        eventually("the process of the mount ends", || {
            status = process.try_wait().expect("wait for it");
            status.is_some()
        });
        assert!(status.expect("it has ended").success(), "{}", self.log());
    }

    /// `kill -9`. The folder stays behind, dead.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("kill it");
            process.wait().expect("wait for it");
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Also where a new one has taken its place: the test is over.
        while is_mounted(&self.folder) {
            let lazily = Command::new("umount").arg("-l").arg(&self.folder).output();
            if !lazily.is_ok_and(|done| done.status.success()) {
                break;
            }
        }
        let Some(mut process) = self.process.take() else {
            return;
        };
        let pid = process.id();
        if process.try_wait().is_ok_and(|ended| ended.is_none()) {
            signal("TERM", pid);
        }
        let deadline = Instant::now() + ENDING;
        while process.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                let _ = process.kill();
                let _ = process.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether something is mounted there, without asking whoever serves it.
pub(crate) fn is_mounted(folder: &Path) -> bool {
    let mut table = String::new();
    let file = fs::File::open("/proc/self/mounts");
    let read = file.and_then(|mut file| file.read_to_string(&mut table));
    let shown = folder.to_str().expect("text");
    read.is_ok()
        && table
            .lines()
            .any(|line| line.split(' ').nth(1) == Some(shown))
}

/// Runs a program of this machine to its end.
pub(crate) fn tool<A: AsRef<std::ffi::OsStr>>(name: &str, arguments: &[A]) -> Finished {
    finish(Command::new(name).args(arguments), b"")
}

/// Runs a line of shell in a directory.
#[track_caller]
pub(crate) fn shell(directory: &Path, line: &str) -> String {
    let mut command = Command::new("bash");
    command
        .args(["-c", &format!("set -euo pipefail; {line}")])
        .current_dir(directory)
        .env("LC_ALL", "C");
    // A `make` of a test is not one of the `make test` that runs it.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
        command.env_remove(variable);
    }
    let done = finish(&mut command, b"");
    assert_eq!(
        done.status,
        Some(0),
        "{line}\nstderr: {}\nstdout: {}",
        done.err,
        done.out.escape_ascii()
    );
    String::from_utf8(done.out).expect("text")
}
