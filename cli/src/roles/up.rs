//! `dfs up`: all roles of a cluster from one folder, in this process or each in its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_client::{ClusterConfig, FileSystem, found_cluster};
use cairn_daemon::disk::{Disk, DiskLock, RealDisk};
use cairn_daemon::identity::{Identity, Uuid};
use cairn_daemon::telemetry::init_logs;
use cairn_daemon::{Tasks, config};
use cairn_protocol::messages::admin::StatusReply;
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
    let mut held = Folder::open(&up.dir)?;
    let layout = layout(&up, &held.path).await?;
    for address in layout.addresses() {
        let free = net::listen(&address).await;
        free.with_context(|| {
            format!(
                "{address} cannot be used: a process of this cluster may still run, or another program has it; \
                other ports are chosen with --port and --http in a new folder"
            )
        })?;
    }
    held.keep();
    let folder = &held.path;
    layout.write(folder)?;
    if layout.secure {
        security::prepare(folder).context("make certificates")?;
    }
    let roles = write_configs(&layout, folder)?;
    let tasks = Tasks::new();
    tasks.shutdown_on_signals()?;
    let stop = tasks.shutdown_token();
    let (namenodes, datanodes) = roles.into_iter().partition(|role| role.kind == "namenode");
    let cluster = Cluster {
        up: &up,
        folder,
        layout: &layout,
        began,
    };
    if up.processes {
        let mut processes = Processes::start(folder, namenodes, up.restart)?;
        let result = cluster
            .with_processes(&mut processes, datanodes, &stop)
            .await;
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
        started = cluster.embedded(namenodes, datanodes, &tasks) => started,
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
    async fn embedded(
        self,
        namenodes: Vec<Role>,
        datanodes: Vec<Role>,
        tasks: &Tasks,
    ) -> anyhow::Result<()> {
        for role in namenodes {
            start(&role, tasks).await?;
        }
        let (fs, datanodes) = self.found(datanodes).await?;
        for role in &datanodes.known {
            start(role, tasks).await?;
        }
        for role in &datanodes.new {
            start(role, tasks).await?;
            wait_until_registered(&fs, role).await?;
        }
        wait_until_ready(self.layout, &datanodes, &fs).await?;
        self.welcome(&datanodes, &[]);
        Ok(())
    }

    /// Waits until the end is asked for; fails if a process ends before the cluster is ready.
    async fn with_processes(
        self,
        processes: &mut Processes,
        datanodes: Vec<Role>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let found = self.found(datanodes);
        let Some((fs, datanodes)) = while_all_run(processes, stop, found).await? else {
            return Ok(());
        };
        for role in &datanodes.known {
            processes.spawn(role.clone())?;
        }
        for role in &datanodes.new {
            processes.spawn(role.clone())?;
            let registered = wait_until_registered(&fs, role);
            if while_all_run(processes, stop, registered).await?.is_none() {
                return Ok(());
            }
        }
        let ready = wait_until_ready(self.layout, &datanodes, &fs);
        if while_all_run(processes, stop, ready).await?.is_none() {
            return Ok(());
        }
        self.welcome(&datanodes, &processes.list());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                news = processes.go_on() => say(news),
            }
        }
    }

    /// With the namenodes running: sees to it that there is a cluster, and tells the datanodes apart.
    async fn found(self, datanodes: Vec<Role>) -> anyhow::Result<(FileSystem, Datanodes)> {
        found_once(self.layout, self.folder).await?;
        let fs = connect(self.layout, self.folder).await?;
        let status = fs.status().await.context("wait for the cluster")?;
        let datanodes = Datanodes::tell_apart(datanodes, self.folder, &status);
        Ok((fs, datanodes))
    }

    fn welcome(self, datanodes: &Datanodes, processes: &[String]) {
        let took = self.began.elapsed();
        say(welcome(
            self.up,
            self.folder,
            self.layout,
            took,
            datanodes,
            processes,
        ));
    }
}

/// The datanodes of the layout.
struct Datanodes {
    /// Those that have their numbers.
    known: Vec<Role>,
    /// A datanode gets its number when it registers first: these are started one by one, in the order of their names.
    new: Vec<Role>,
    /// Those that the cluster would refuse, because it has forgotten their numbers; what to say about each.
    forgotten: Vec<String>,
}

impl Datanodes {
    fn tell_apart(roles: Vec<Role>, folder: &Path, status: &StatusReply) -> Self {
        let numbers: BTreeSet<u64> = status
            .datanodes
            .iter()
            .map(|datanode| datanode.address.datanode)
            .collect();
        let (mut known, mut new, mut forgotten) = (Vec::new(), Vec::new(), Vec::new());
        for role in roles {
            let volume = folder.join(&role.name);
            // Of what cannot be read, or is another cluster's, its start says what is wrong and what to do.
            let identity = Identity::read(&RealDisk, &volume);
            let is_ours =
                |uuid: Option<Uuid>| uuid.is_some_and(|uuid| uuid.0[..] == status.cluster_id);
            match identity.map(|identity| identity.map(|i| (i.node, is_ours(i.cluster)))) {
                Ok(None | Some((None, _))) => new.push(role),
                Ok(Some((Some(number), true))) if !numbers.contains(&number) => forgotten.push(format!(
                    "{} is not started: the cluster has forgotten it (datanode {number}), unless a namenode's directory was put back from \
                     an older copy. If it was forgotten and `dfs fsck` shows nothing missing, {} is not needed: a start without that \
                     directory makes a new datanode",
                    role.name,
                    volume.display()
                )),
                Ok(Some(_)) | Err(_) => known.push(role),
            }
        }
        Self {
            known,
            new,
            forgotten,
        }
    }

    fn started(&self) -> impl Iterator<Item = &Role> {
        self.known.iter().chain(&self.new)
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

/// The folder, which nobody else uses until this is dropped. What was made for it goes again unless it is kept.
struct Folder {
    path: PathBuf,
    /// Those that were made, the innermost first.
    made: Vec<PathBuf>,
    lock: Option<Lock>,
    is_kept: bool,
}

struct Lock {
    path: PathBuf,
    is_new: bool,
    _held: Box<dyn DiskLock>,
}

impl Folder {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let missing = |directory: &&Path| !directory.as_os_str().is_empty() && !directory.exists();
        let made = path.ancestors().take_while(missing).map(Path::to_path_buf);
        let mut folder = Self {
            path: path.to_path_buf(),
            made: made.collect(),
            lock: None,
            is_kept: false,
        };
        // Data, logs and keys are nobody else's.
        let created = RealDisk.create_dir_all(path);
        created.with_context(|| format!("make {}", path.display()))?;
        folder.path = path
            .canonicalize()
            .with_context(|| format!("find {}", path.display()))?;
        if folder.path.to_str().is_none() {
            bail!(
                "{}: the path of the folder must be UTF-8",
                folder.path.display()
            );
        }
        folder.lock = Some(Lock::take(&folder.path)?);
        Ok(folder)
    }

    /// Something begins to live in it.
    fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // While it is held: nobody else's is removed.
        if let Some(lock) = self.lock.as_ref().filter(|lock| lock.is_new) {
            let _ = fs::remove_file(&lock.path);
        }
        for directory in &self.made {
            // Somebody else's files keep theirs.
            if fs::remove_dir(directory).is_err() {
                break;
            }
        }
    }
}

impl Lock {
    fn take(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("LOCK");
        let is_new = !path.exists();
        match RealDisk.lock(&path) {
            Ok(held) => {
                // For the message below only.
                let _ = fs::write(&path, std::process::id().to_string());
                Ok(Self {
                    path,
                    is_new,
                    _held: held,
                })
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

/// Whether the datanode has registered since the leader began, which was after we did.
fn is_there(role: &Role, status: &StatusReply) -> bool {
    status.datanodes.iter().any(|datanode| {
        // One that was here before, and whose directory was emptied since, may be listed under the same address.
        datanode.address.address == role.address
            && datanode.alive
            && datanode.heartbeat_age_ms != u64::MAX
    })
}

async fn wait_until_registered(fs: &FileSystem, role: &Role) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let status = fs.status().await.context("wait for a datanode")?;
        if is_there(role, &status) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{} is not there after {READY_TIMEOUT:?}", role.name);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Until every namenode answers and every datanode that was started has registered.
async fn wait_until_ready(
    layout: &Layout,
    datanodes: &Datanodes,
    fs: &FileSystem,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    let started = datanodes.started().count();
    loop {
        let status = fs.status().await.context("wait for the cluster")?;
        let namenodes = status
            .namenodes
            .iter()
            .filter(|namenode| namenode.reachable)
            .count();
        let registered = datanodes
            .started()
            .filter(|role| is_there(role, &status))
            .count();
        if namenodes >= layout.namenodes.len() && registered >= started {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "only {namenodes} of {} namenodes and {registered} of {started} datanodes are there after {READY_TIMEOUT:?}",
                layout.namenodes.len(),
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
    datanodes: &Datanodes,
    processes: &[String],
) -> String {
    let forgotten = &datanodes.forgotten;
    let (namenodes, datanodes) = (layout.namenodes.len(), datanodes.started().count());
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
    lines.extend_from_slice(forgotten);
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
    use super::Folder;

    #[test]
    fn a_folder_in_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut held = Folder::open(directory.path()).unwrap();
        held.keep();
        let error = Folder::open(directory.path()).map(|_| ()).unwrap_err();
        assert!(
            error.to_string().contains("in use by another `dfs up`"),
            "{error}"
        );
        drop(held);
        assert!(Folder::open(directory.path()).is_ok());
        assert!(directory.path().join("LOCK").exists());
    }

    #[test]
    fn what_was_made_for_nothing_goes_again() {
        let directory = tempfile::tempdir().unwrap();
        let (above, below) = (directory.path().join("a"), directory.path().join("a/b/c"));
        drop(Folder::open(&below).unwrap());
        assert!(!above.exists());
        // Somebody else's file, and a directory that was there before.
        let folder = Folder::open(&below).unwrap();
        std::fs::write(directory.path().join("a/file"), "x").unwrap();
        drop(folder);
        let left = |path| std::fs::read_dir(path).unwrap().count();
        assert_eq!(left(&above), 1);
        drop(Folder::open(&above).unwrap());
        assert_eq!(left(&above), 1);
    }
}
