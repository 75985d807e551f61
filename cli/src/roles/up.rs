//! `dfs up`: all roles of a cluster from one folder, in this process or each in its own.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_client::{FileSystem, found_cluster};
use cairn_daemon::disk::{Disk, DiskLock, RealDisk};
use cairn_daemon::telemetry::init_logs;
use cairn_daemon::{Tasks, config};
use cairn_protocol::messages::common::Caller;
use cairn_protocol::net;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::layout::{Layout, Role, layout, write_configs};
use super::processes::Processes;
use super::{SHUTDOWN_TIMEOUT, datanode, namenode};
use crate::cluster::{DEFAULT_PORT, client_config};
use crate::commands::up::Up;

/// For all roles to find each other.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the cluster until Ctrl-C, SIGTERM or a failure.
pub(crate) async fn run(up: Up) -> anyhow::Result<()> {
    init_logs("warn,openraft=error")?;
    let began = Instant::now();
    let folder = folder(&up.dir)?;
    let _lock = lock(&folder)?;
    let layout = layout(&up, &folder).await?;
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
    if up.processes {
        let mut processes = Processes::start(&folder, roles, up.restart)?;
        let result = with_processes(&up, &folder, &layout, began, &mut processes, &stop).await;
        say("stopping");
        processes.stop(SHUTDOWN_TIMEOUT).await;
        return result;
    }
    let started = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        started = embedded(&up, &folder, &layout, began, roles, &tasks) => started,
    };
    if let Err(error) = started {
        tasks.shutdown();
        // Why it did not start says more than how it stopped.
        let _ = tasks.run_until_shutdown(SHUTDOWN_TIMEOUT).await;
        return Err(error);
    }
    tasks.run_until_shutdown(SHUTDOWN_TIMEOUT).await
}

async fn embedded(
    up: &Up,
    folder: &Path,
    layout: &Layout,
    began: Instant,
    roles: Vec<Role>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    for role in roles {
        let started = match role.kind {
            "namenode" => namenode::start(config::load(&role.config)?, tasks)
                .await
                .map(|_| ()),
            _ => datanode::start(config::load(&role.config)?, tasks)
                .await
                .map(|_| ()),
        };
        started.with_context(|| format!("start {}", role.name))?;
    }
    found_once(layout, folder).await?;
    wait_until_ready(layout).await?;
    say(welcome(up, folder, layout, began.elapsed(), &[]));
    Ok(())
}

/// Waits until the end is asked for; fails if a process ends before the cluster is ready.
async fn with_processes(
    up: &Up,
    folder: &Path,
    layout: &Layout,
    began: Instant,
    processes: &mut Processes,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        ended = processes.next_end() => bail!("{ended} before the cluster was ready"),
        ready = async {
            found_once(layout, folder).await?;
            wait_until_ready(layout).await
        } => ready?,
    }
    say(welcome(
        up,
        folder,
        layout,
        began.elapsed(),
        &processes.list(),
    ));
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            ended = processes.next_end() => say(processes.go_on(ended).await),
        }
    }
}

/// Standard output may be gone; the cluster goes on.
fn say(text: impl std::fmt::Display) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
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
    let superuser = Caller::default();
    let founded = found_cluster(first, superuser, READY_TIMEOUT).await;
    founded.with_context(|| format!("found the cluster at {first}"))?;
    let layout = Layout {
        founded: true,
        ..layout.clone()
    };
    layout.write(folder)
}

/// Until every namenode answers and every datanode has registered.
async fn wait_until_ready(layout: &Layout) -> anyhow::Result<()> {
    let superuser = Caller::default();
    let config = client_config(layout.namenodes.clone(), superuser, "dfs up", READY_TIMEOUT);
    let deadline = Instant::now() + READY_TIMEOUT;
    let fs = FileSystem::connect(config)
        .await
        .context("wait for the cluster")?;
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
        sleep(Duration::from_millis(20)).await;
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
        lines.push(format!("Status page: http://{}/", layout.http));
    }
    lines.push("In another shell:".to_owned());
    let default = format!("127.0.0.1:{DEFAULT_PORT}");
    if layout.namenodes.first() != Some(&default) {
        lines.push(format!(
            "  export CAIRN_CLUSTER={}",
            layout.namenodes.join(",")
        ));
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
