//! `dfs mount`: the cluster as a folder.

mod background;
mod helper;
mod options;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use cairn_daemon::telemetry::init_logs;
use cairn_fuse_mount::{Mount as Mounted, MountConfig, check_mountpoint, remount};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use self::options::Options;
use crate::arguments::Global;
use crate::cluster;
use crate::session::Ending;

pub(crate) use self::helper::as_mount_helper;

/// How often we look whether somebody has unmounted.
const LOOK: Duration = Duration::from_millis(50);

/// Mount the cluster on an empty directory.
///
/// It returns when the folder can be used. `umount MOUNTPOINT` commits what was written and ends it; in the foreground Ctrl-C
/// does the same. While the cluster does not answer, programs wait, and fail after --timeout.
#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// An empty directory.
    mountpoint: PathBuf,
    /// Stay in the foreground.
    #[arg(short = 'f', long)]
    foreground: bool,
    /// Wait for ever while the cluster is away, instead of failing after --timeout.
    #[arg(long)]
    hard: bool,
    /// Where a mount in the background says what goes wrong. It is appended to.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Options as of mount(8): ro, suid, dev, noexec, noatime, sync, dirsync, allow_other, remount; hard, timeout=TIME and
    /// log=FILE as above, token_file=FILE as for every command; wsync: calls return after the cluster knows what
    /// they did, as with sync and dirsync; read_ahead_max=SIZE: memory for what is read ahead, 64M by default. Unless it says
    /// otherwise nosuid and nodev hold.
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',')]
    options: Vec<String>,
    /// What `mount` and `df` show as the source.
    #[arg(long, hide = true, value_name = "WORD")]
    source: Option<String>,
    /// Let options pass that are not known.
    #[arg(long, hide = true)]
    sloppy: bool,
    /// Look at everything, and mount nothing.
    #[arg(long, hide = true)]
    fake: bool,
}

impl Mount {
    pub(crate) async fn run(self, global: &Global) -> anyhow::Result<Ending> {
        let options = options::parse(&self.options, self.sloppy)?;
        if options.remount {
            if !self.fake {
                remount(&self.mountpoint, options.read_only, &options.kernel)?;
            }
            return Ok(Ending::Done);
        }
        check_mountpoint(&self.mountpoint)?;
        if self.fake {
            return Ok(Ending::Done);
        }
        if self.foreground {
            return self.serve(global, options).await;
        }
        let line = as_mount_helper(std::env::args_os());
        let line = line.unwrap_or_else(|| std::env::args_os().collect());
        spawn_blocking(move || background::start(&line))
            .await
            .context("wait for the mount")?
    }

    fn config(&self, global: &Global, options: &Options) -> anyhow::Result<MountConfig> {
        let of_cluster = match &global.cluster[..] {
            [] => "cairn".to_owned(),
            several => several.join(","),
        };
        let named = self.source.clone().filter(|word| !word.is_empty());
        let source = named.unwrap_or(of_cluster);
        let mountpoint = std::fs::canonicalize(&self.mountpoint)
            .with_context(|| format!("look at {}", self.mountpoint.display()))?;
        let mut config = MountConfig::new(mountpoint, source);
        config.allow_other = options.allow_other || rustix::process::geteuid().is_root();
        config.read_only = options.read_only;
        let in_step = |word: &String| word == "sync" || word == "dirsync";
        config.delegations = !options.wsync && !options.kernel.iter().any(in_step);
        config.access_times = options.access_times;
        config.kernel_options.clone_from(&options.kernel);
        Ok(config)
    }

    /// How the cluster is asked: what stands behind `-o` comes before what holds for all commands.
    fn asks_as(&self, global: &Global, options: &Options) -> Global {
        let mut global = global.clone();
        global.timeout = options.timeout.unwrap_or(global.timeout);
        if self.hard || options.hard {
            global.timeout = cluster::FOR_EVER;
        }
        if let Some(file) = &options.token_file {
            global.token_file = Some(file.clone());
            global.is_token_typed = true;
        }
        global
    }

    /// Mounts, and stays until somebody unmounts or a signal comes.
    async fn serve(self, global: &Global, options: Options) -> anyhow::Result<Ending> {
        // The kernel takes no answer for a program that was killed meanwhile: nothing goes wrong then.
        init_logs("warn,fuser::reply=off")?;
        let config = self.config(global, &options)?;
        let global = self.asks_as(global, &options);
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let fs = cluster::connect(&global, "dfs mount", |config| {
            if let Some(bytes) = options.read_ahead_bytes_max {
                config.read_ahead_bytes_max = bytes;
            }
        });
        let fs = fs.await?;
        let runtime = tokio::runtime::Handle::current();
        let mounted = spawn_blocking(move || Mounted::start(fs, config, runtime))
            .await
            .context("mount")??;
        background::detach(self.log.or(options.log).as_deref())?;
        let mut detached = false;
        while !mounted.has_ended() {
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = sleep(LOOK) => continue,
            }
            // Once is enough; a second signal must not end us before those who have files open are done.
            if !detached {
                match mounted.detach() {
                    Ok(()) => detached = true,
                    Err(error) => tracing::warn!(%error, "cannot unmount yet"),
                }
            }
        }
        mounted.finish().await?;
        Ok(Ending::Done)
    }
}
