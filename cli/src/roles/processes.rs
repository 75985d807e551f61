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
use tokio::time::{sleep, timeout};

use super::layout::Role;

/// Before a process that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// All child processes.
pub(crate) struct Processes {
    folder: PathBuf,
    restart: bool,
    running: BTreeMap<String, Running>,
    /// One waiting task per process; each reports its end here.
    watchers: JoinSet<()>,
    ended: mpsc::Sender<Ended>,
    ends: mpsc::Receiver<Ended>,
}

struct Running {
    role: Role,
    pid: u32,
    /// Held open for as long as it should run.
    _stdin: Option<ChildStdin>,
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
        let (running, watchers) = (BTreeMap::new(), JoinSet::new());
        let mut all = Self {
            folder: folder.to_path_buf(),
            restart,
            running,
            watchers,
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
                _stdin: stdin,
            },
        );
        Ok(())
    }

    /// The next process that ends. Cancel-safe.
    pub(crate) async fn next_end(&mut self) -> Ended {
        match self.ends.recv().await {
            Some(ended) => ended,
            // We hold a sender ourselves.
            None => std::future::pending().await,
        }
    }

    /// After a process has ended: starts it again if that was asked for. What to tell people.
    pub(crate) async fn go_on(&mut self, ended: Ended) -> String {
        let _ = fs::remove_file(self.folder.join("pids").join(&ended.name));
        let Some(running) = self.running.remove(&ended.name) else {
            return ended.to_string();
        };
        if !self.restart {
            return ended.to_string();
        }
        sleep(RESTART_PAUSE).await;
        let name = ended.name.clone();
        match self.spawn(running.role) {
            Ok(()) => {
                let pid = self.running.get(&name).map_or(0, |running| running.pid);
                format!("{ended}\n{name} started again as process {pid}")
            }
            Err(error) => format!("{ended}\n{name} not started again: {error:#}"),
        }
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

fn how_it_ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(9)) => "killed (signal 9)".to_owned(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "for an unknown reason".to_owned(),
    }
}
