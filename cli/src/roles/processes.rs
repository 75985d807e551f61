//! Roles as child processes: started, watched, and stopped together.
//!
//! Each is in a process group of its own, so that Ctrl-C reaches only us, and has a pipe from us as its standard input, whose
//! end tells it that we are gone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::layout::Role;

/// Before a process that ended is started again. It doubles for one that soon ends again.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A process that ran for so long was all right.
const STEADY: Duration = Duration::from_secs(60);

/// All child processes.
pub(crate) struct Processes {
    folder: PathBuf,
    restart: bool,
    running: BTreeMap<String, Running>,
    /// Those that ended and are started again.
    resting: BTreeMap<String, Resting>,
    /// One waiting task per process; each reports its end here.
    watchers: JoinSet<()>,
    ended: mpsc::Sender<Ended>,
    ends: mpsc::Receiver<Ended>,
}

struct Running {
    role: Role,
    pid: u32,
    since: Instant,
    /// How long it rested before; zero if it did not.
    rested: Duration,
    /// Held open for as long as it should run.
    _stdin: Option<ChildStdin>,
}

struct Resting {
    role: Role,
    pause: Duration,
    until: Instant,
}

/// A process that has ended.
pub(crate) struct Ended {
    name: String,
    pid: u32,
    how: String,
    log: PathBuf,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name,
            pid,
            how,
            log,
        } = self;
        write!(
            f,
            "{name} (process {pid}) ended: {how}; see {}",
            log.display()
        )
    }
}

impl Processes {
    /// Starts one process per role.
    pub(crate) fn start(folder: &Path, roles: Vec<Role>, restart: bool) -> anyhow::Result<Self> {
        for directory in ["logs", "pids"] {
            let directory = folder.join(directory);
            fs::create_dir_all(&directory)
                .with_context(|| format!("make {}", directory.display()))?;
        }
        let (ended, ends) = mpsc::channel(16);
        let mut all = Self {
            folder: folder.to_path_buf(),
            restart,
            running: BTreeMap::new(),
            resting: BTreeMap::new(),
            watchers: JoinSet::new(),
            ended,
            ends,
        };
        for role in roles {
            all.spawn(role)?;
        }
        Ok(all)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    /// Starts one more.
    pub(crate) fn spawn(&mut self, role: Role) -> anyhow::Result<()> {
        self.spawn_after(role, Duration::ZERO).map(|_| ())
    }

    /// Its process.
    fn spawn_after(&mut self, role: Role, rested: Duration) -> anyhow::Result<u32> {
        let log = self.log(&role.name);
        let output = File::options().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("open {}", log.display()))?;
        let program = std::env::current_exe().context("find this program")?;
        let mut child = Command::new(program)
            .arg(role.kind)
            .arg("--config")
            .arg(&role.config)
            .arg("--follow-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", role.name))?;
        let pid = child.id().context("a process has a number")?;
        let path = self.folder.join("pids").join(&role.name);
        fs::write(&path, format!("{pid}\n"))
            .with_context(|| format!("write {}", path.display()))?;
        let stdin = child.stdin.take();
        let name = role.name.clone();
        self.watchers
            .spawn(watch(child, name.clone(), pid, log, self.ended.clone()));
        self.running.insert(
            name,
            Running {
                role,
                pid,
                since: Instant::now(),
                rested,
                _stdin: stdin,
            },
        );
        Ok(pid)
    }

    /// The next process that ends. Cancel-safe.
    pub(crate) async fn next_end(&mut self) -> Ended {
        match self.ends.recv().await {
            Some(ended) => ended,
            // We hold a sender ourselves.
            None => std::future::pending().await,
        }
    }

    /// Waits until a process ends, or until one that ended is started again if that was asked for. What to tell people. Cancel-safe.
    pub(crate) async fn go_on(&mut self) -> String {
        let next = self.resting.values().map(|resting| resting.until).min();
        let pause = async {
            match next {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            biased;
            ended = self.next_end() => Some(ended),
            () = pause => None,
        };
        match ended {
            Some(ended) => self.ended(&ended),
            None => self.start_rested(),
        }
    }

    fn ended(&mut self, ended: &Ended) -> String {
        let _ = fs::remove_file(self.folder.join("pids").join(&ended.name));
        let Some(running) = self.running.remove(&ended.name) else {
            return ended.to_string();
        };
        if !self.restart {
            return ended.to_string();
        }
        let pause = next_pause(running.rested, running.since.elapsed());
        self.rest(running.role, pause);
        format!("{ended}; it is started again in {pause:?}")
    }

    fn rest(&mut self, role: Role, pause: Duration) {
        let resting = Resting {
            until: Instant::now() + pause,
            pause,
            role,
        };
        self.resting.insert(resting.role.name.clone(), resting);
    }

    /// Starts those again whose pause is over.
    fn start_rested(&mut self) -> String {
        let now = Instant::now();
        let mut news = Vec::new();
        let due = self
            .resting
            .extract_if(.., |_, resting| resting.until <= now);
        for (name, Resting { role, pause, .. }) in due.collect::<Vec<_>>() {
            news.push(match self.spawn_after(role.clone(), pause) {
                Ok(pid) => format!("{name} started again as process {pid}"),
                Err(error) => {
                    let pause = next_pause(pause, Duration::ZERO);
                    self.rest(role, pause);
                    format!("{name} not started again: {error:#}; tried again in {pause:?}")
                }
            });
        }
        news.join("\n")
    }

    /// One line for each.
    pub(crate) fn list(&self) -> Vec<String> {
        let line =
            |(name, running): (&String, &Running)| format!("{name:<12} process {}", running.pid);
        self.running.iter().map(line).collect()
    }

    /// Ends all, datanodes and namenodes alike; after `patience` without asking.
    pub(crate) async fn stop(mut self, patience: Duration) {
        while let Ok(ended) = self.ends.try_recv() {
            self.running.remove(&ended.name);
        }
        for running in self.running.values() {
            let pid = i32::try_from(running.pid).ok().and_then(Pid::from_raw);
            // Those whose end was reported are gone from the map, so the number is still ours.
            if let Some(pid) = pid {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let all_ended = async { while self.watchers.join_next().await.is_some() {} };
        if timeout(patience, all_ended).await.is_err() {
            // Dropping a watcher kills its process.
            self.watchers.shutdown().await;
        }
        for name in self.running.keys() {
            let _ = fs::remove_file(self.folder.join("pids").join(name));
        }
    }
}

async fn watch(mut child: Child, name: String, pid: u32, log: PathBuf, ended: mpsc::Sender<Ended>) {
    let how = match child.wait().await {
        Ok(status) => how_it_ended(status),
        Err(error) => error.to_string(),
    };
    // Nobody listens while all are being stopped.
    let _ = ended.try_send(Ended {
        name,
        pid,
        how,
        log,
    });
}

/// How long a process rests that ended, if it rested so long before it `ran`.
fn next_pause(rested: Duration, ran: Duration) -> Duration {
    if ran >= STEADY {
        return PAUSE_MIN;
    }
    (rested * 2).clamp(PAUSE_MIN, PAUSE_MAX)
}

fn how_it_ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(9)) => "killed (signal 9)".to_owned(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "for an unknown reason".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Ended, Processes, Role, Running, next_pause};

    #[test]
    fn what_ends_again_and_again_rests_longer_and_longer() {
        let seconds = Duration::from_secs;
        let mut pause = Duration::ZERO;
        let pauses: Vec<u64> = (0..8)
            .map(|_| {
                pause = next_pause(pause, seconds(2));
                pause.as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(next_pause(pause, seconds(61)), seconds(1));
    }

    #[tokio::test]
    async fn one_that_rests_does_not_keep_others_from_being_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let mut processes = Processes::start(directory.path(), Vec::new(), true).unwrap();
        for (pid, name) in [(1, "datanode-1"), (2, "datanode-2")] {
            let role = Role {
                name: name.to_owned(),
                kind: "datanode",
                address: String::new(),
                config: PathBuf::new(),
            };
            let running = Running {
                role,
                pid,
                since: Instant::now(),
                rested: Duration::ZERO,
                _stdin: None,
            };
            processes.running.insert(name.to_owned(), running);
            let ended = Ended {
                name: name.to_owned(),
                pid,
                how: "exit status 1".to_owned(),
                log: PathBuf::from("log"),
            };
            processes.ended.try_send(ended).unwrap();
        }
        for name in ["datanode-1", "datanode-2"] {
            let said = processes.go_on().await;
            assert!(
                said.starts_with(name) && said.ends_with("started again in 1s"),
                "{said}"
            );
        }
        assert_eq!(processes.resting.len(), 2);
    }
}
