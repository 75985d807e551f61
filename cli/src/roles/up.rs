//! `dfs up`: all roles of a cluster from one folder, in this process or each in its own.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_client::{ClusterConfig, FileSystem, found_cluster};
use cairn_daemon::disk::{Disk, DiskLock, RealDisk};
use cairn_daemon::telemetry::init_logs;
use cairn_daemon::{Tasks, config};
use cairn_protocol::messages::common::Caller;
use cairn_protocol::net::{self, Tls};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::layout::{Layout, Role, layout, write_configs};
use super::processes::Processes;
use super::{SHUTDOWN_TIMEOUT, datanode, namenode, security, traces};
use crate::cluster::{DEFAULT_PORT, client_config};
use crate::commands::up::Up;

/// For all roles to find each other.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks whether the cluster is there.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Runs the cluster until Ctrl-C, SIGTERM or a failure.
pub(crate) async fn run(up: Up) -> anyhow::Result<()> {
    init_logs("warn,openraft=error")?;
    let began = Instant::now();
    let folder = folder(&up.dir)?;
    let _lock = lock(&folder)?;
    let layout = layout(&up, &folder).await?;
    if layout.secure {
        security::prepare(&folder).context("make certificates")?;
    }
    let roles = write_configs(&layout, &folder)?;
    for address in layout.addresses() {
        let free = net::listen(&address).await;
        free.with_context(|| {
            format!(
                "{address} cannot be used: a process of this cluster may still run, or another program has it; \
                other ports are chosen with --port and --http in a new folder"
            )
        })?;
    }
    let tasks = Tasks::new();
    tasks.shutdown_on_signals()?;
    let stop = tasks.shutdown_token();
    // A datanode gets its number when it registers first: new ones start in the order of their names.
    let (known, new) = roles
        .into_iter()
        .partition(|role| role.kind == "namenode" || folder.join(&role.name).exists());
    let cluster = Cluster {
        up: &up,
        folder: &folder,
        layout: &layout,
        began,
    };
    if up.processes {
        let mut processes = Processes::start(&folder, known, up.restart)?;
        let result = cluster.with_processes(&mut processes, new, &stop).await;
        say("stopping");
        processes.stop(SHUTDOWN_TIMEOUT).await;
        return result;
    }
    let origin = traces::Origin {
        service: "cairn-up",
        instance: layout.namenodes.first().map_or("", String::as_str),
    };
    traces::start(&layout.tracing, origin, &tasks)?;
    let started = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        started = cluster.embedded(known, new, &tasks) => started,
    };
    if let Err(error) = started {
        tasks.shutdown();
        // Why it did not start says more than how it stopped.
        let _ = tasks.run_until_shutdown(SHUTDOWN_TIMEOUT).await;
        return Err(error);
    }
    tasks.run_until_shutdown(SHUTDOWN_TIMEOUT).await
}

/// What is started.
#[derive(Clone, Copy)]
struct Cluster<'a> {
    up: &'a Up,
    folder: &'a Path,
    layout: &'a Layout,
    began: Instant,
}

impl Cluster<'_> {
    async fn embedded(self, known: Vec<Role>, new: Vec<Role>, tasks: &Tasks) -> anyhow::Result<()> {
        for role in known {
            start(&role, tasks).await?;
        }
        found_once(self.layout, self.folder).await?;
        let fs = connect(self.layout, self.folder).await?;
        let first = self.layout.datanodes.len() - new.len();
        for (index, role) in new.iter().enumerate() {
            start(role, tasks).await?;
            wait_until_registered(&fs, first + index + 1).await?;
        }
        wait_until_ready(self.layout, &fs).await?;
        self.welcome(&[]);
        Ok(())
    }

    /// Waits until the end is asked for; fails if a process ends before the cluster is ready.
    async fn with_processes(
        self,
        processes: &mut Processes,
        new: Vec<Role>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let first = self.layout.datanodes.len() - new.len();
        let found = async {
            found_once(self.layout, self.folder).await?;
            connect(self.layout, self.folder).await
        };
        let Some(fs) = while_all_run(processes, stop, found).await? else {
            return Ok(());
        };
        for (index, role) in new.into_iter().enumerate() {
            processes.spawn(role)?;
            let registered = wait_until_registered(&fs, first + index + 1);
            if while_all_run(processes, stop, registered).await?.is_none() {
                return Ok(());
            }
        }
        let ready = wait_until_ready(self.layout, &fs);
        if while_all_run(processes, stop, ready).await?.is_none() {
            return Ok(());
        }
        self.welcome(&processes.list());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                ended = processes.next_end() => say(processes.go_on(ended).await),
            }
        }
    }

    fn welcome(self, processes: &[String]) {
        let took = self.began.elapsed();
        say(welcome(self.up, self.folder, self.layout, took, processes));
    }
}

async fn start(role: &Role, tasks: &Tasks) -> anyhow::Result<()> {
    let started = match role.kind {
        "namenode" => namenode::start(config::load(&role.config)?, tasks)
            .await
            .map(|_| ()),
        _ => datanode::start(config::load(&role.config)?, tasks)
            .await
            .map(|_| ()),
    };
    started.with_context(|| format!("start {}", role.name))
}

/// Waits for the work; fails if a process ends meanwhile. `None` if all is to stop.
async fn while_all_run<T>(
    processes: &mut Processes,
    stop: &CancellationToken,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(None),
        ended = processes.next_end() => bail!("{ended} before the cluster was ready"),
        done = work => done.map(Some),
    }
}

/// Standard output may be gone; the cluster goes on.
fn say(text: impl std::fmt::Display) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    // Data, logs and keys are nobody else's.
    let made = RealDisk.create_dir_all(path);
    made.with_context(|| format!("make {}", path.display()))?;
    let folder = path
        .canonicalize()
        .with_context(|| format!("find {}", path.display()))?;
    if folder.to_str().is_none() {
        bail!("{}: the path of the folder must be UTF-8", folder.display());
    }
    Ok(folder)
}

fn lock(folder: &Path) -> anyhow::Result<Box<dyn DiskLock>> {
    let path = folder.join("LOCK");
    match RealDisk.lock(&path) {
        Ok(lock) => {
            // For the message below only.
            let _ = fs::write(&path, std::process::id().to_string());
            Ok(lock)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            bail!(
                "{} is in use by another `dfs up` (process {})",
                folder.display(),
                pid.trim()
            )
        }
        Err(error) => Err(error).with_context(|| format!("lock {}", folder.display())),
    }
}

/// Founds the cluster of a new folder, and notes that it did: a namenode that loses its data later founds nothing.
async fn found_once(layout: &Layout, folder: &Path) -> anyhow::Result<()> {
    if layout.founded {
        return Ok(());
    }
    let first = layout.namenodes.first().context("up.toml: no namenode")?;
    let config = ClusterConfig::new(vec![first.clone()], Caller::default());
    let config = secured(config, layout, folder)?;
    let founded = found_cluster(&config, READY_TIMEOUT).await;
    founded.with_context(|| format!("found the cluster at {first}"))?;
    let layout = Layout {
        founded: true,
        ..layout.clone()
    };
    layout.write(folder)
}

/// With the operator's certificate, if the cluster wants one.
fn secured(config: ClusterConfig, layout: &Layout, folder: &Path) -> anyhow::Result<ClusterConfig> {
    if !layout.secure {
        return Ok(config);
    }
    let files = security::of(folder, security::OPERATOR).read_for_client()?;
    let files = files.context("security is on")?;
    Ok(ClusterConfig {
        tls: Some(Tls::new(&files.ca, files.own())?),
        ..config
    })
}

async fn connect(layout: &Layout, folder: &Path) -> anyhow::Result<FileSystem> {
    let superuser = Caller::default();
    let config = client_config(layout.namenodes.clone(), superuser, "dfs up", READY_TIMEOUT);
    let config = secured(config, layout, folder)?;
    FileSystem::connect(config)
        .await
        .context("wait for the cluster")
}

/// Until so many datanodes have ever registered.
async fn wait_until_registered(fs: &FileSystem, count: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let status = fs.status().await.context("wait for a datanode")?;
        if status.datanodes.len() >= count {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("datanode-{count} is not there after {READY_TIMEOUT:?}");
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Until every namenode answers and every datanode has registered.
async fn wait_until_ready(layout: &Layout, fs: &FileSystem) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let status = fs.status().await.context("wait for the cluster")?;
        let namenodes = status
            .namenodes
            .iter()
            .filter(|namenode| namenode.reachable)
            .count();
        let datanodes = status
            .datanodes
            .iter()
            .filter(|datanode| datanode.alive)
            .count();
        if namenodes >= layout.namenodes.len() && datanodes >= layout.datanodes.len() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "only {namenodes} of {} namenodes and {datanodes} of {} datanodes are there after {READY_TIMEOUT:?}",
                layout.namenodes.len(),
                layout.datanodes.len()
            );
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// What people need to know to use it.
fn welcome(
    up: &Up,
    folder: &Path,
    layout: &Layout,
    took: Duration,
    processes: &[String],
) -> String {
    let (namenodes, datanodes) = (layout.namenodes.len(), layout.datanodes.len());
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let how = if up.processes {
        "in processes of their own"
    } else {
        "in one process"
    };
    let mut lines = vec![format!(
        "Cairn is up: {namenodes} namenode{} and {datanodes} datanode{} {how}, after {:.1} s. Data is in {}.",
        plural(namenodes),
        plural(datanodes),
        took.as_secs_f64(),
        folder.display()
    )];
    lines.extend(processes.iter().map(|process| format!("  {process}")));
    if !layout.http.is_empty() {
        let scheme = if layout.secure { "https" } else { "http" };
        let consoles: Vec<String> = (0..namenodes)
            .map(|index| format!("{scheme}://{}/", layout.namenode_http(index)))
            .collect();
        lines.push(format!("Console: {}", consoles.join(" ")));
    }
    lines.push("In another shell:".to_owned());
    let default = format!("127.0.0.1:{DEFAULT_PORT}");
    if layout.namenodes.first() != Some(&default) {
        lines.push(format!(
            "  export CAIRN_CLUSTER={}",
            layout.namenodes.join(",")
        ));
    }
    if layout.secure {
        let operator = security::of(folder, security::OPERATOR);
        lines.push(format!("  export CAIRN_CA={}", operator.ca.display()));
        lines.push(format!(
            "  export CAIRN_CERTIFICATE={} CAIRN_KEY={}",
            operator.certificate.display(),
            operator.key.display()
        ));
        lines.push(
            "  dfs token issue USER --out FILE    makes a token; its user then needs CAIRN_TOKEN_FILE=FILE and no certificate"
                .to_owned(),
        );
    }
    lines.push(
        "  dfs put FILE_OR_DIRECTORY /     dfs ls -l /     dfs get /NAME .     dfs status"
            .to_owned(),
    );
    if up.processes {
        lines.push(format!(
            "A role that was killed comes back with: dfs namenode|datanode --config {}/config/NAME.toml",
            folder.display()
        ));
    }
    lines.push("Ctrl-C stops it and keeps the data; the same command starts it again.".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::lock;

    #[test]
    fn a_folder_in_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path()).unwrap();
        let error = lock(directory.path()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("in use by another `dfs up`"), "{error}");
        drop(held);
        assert!(lock(directory.path()).is_ok());
    }
}
