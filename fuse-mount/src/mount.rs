//! The life of a mount: what is checked before, how it comes up, and how it ends with everything committed.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use cairn_client::FileSystem;
use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use rustix::mount::{UnmountFlags, unmount};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::caches::{Forgets, KernelCaches};
use crate::config::MountConfig;
use crate::fs::MountedFs;
use crate::fuse::Adapter;

/// Threads that take requests from the kernel.
const THREADS: usize = 2;

/// What the kernel reads ahead of a sequential reader.
const READ_AHEAD_KIB: u32 = 1024;

/// A mount that is up.
#[derive(Debug)]
pub struct Mount {
    fs: Arc<MountedFs>,
    session: BackgroundSession,
    tasks: TaskTracker,
    /// Ended by [`Mount::finish`].
    keeper: JoinHandle<()>,
    config: MountConfig,
}

/// Checks that something can be mounted there, and clears away what a killed mount process left behind.
///
/// # Errors
/// A sentence that says what to do.
pub fn check_mountpoint(mountpoint: &Path) -> anyhow::Result<()> {
    let shown = mountpoint.display();
    if !Path::new("/dev/fuse").exists() {
        bail!(
            "this machine has no /dev/fuse: load the kernel's module with `modprobe fuse`, or in a container pass `--device /dev/fuse`"
        );
    }
    if let Err(error) = std::fs::metadata(mountpoint)
        && error.raw_os_error() == Some(libc::ENOTCONN)
    {
        unmount(mountpoint, UnmountFlags::DETACH).with_context(|| {
            format!("{shown} is the mount of a process that is gone; clear it with `umount -l {shown}` as root")
        })?;
    }
    let metadata = match std::fs::metadata(mountpoint) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{shown} does not exist; make it with `mkdir -p {shown}`")
        }
        Err(error) => return Err(error).with_context(|| format!("look at {shown}")),
    };
    if !metadata.is_dir() {
        bail!("{shown} is not a directory; name an empty directory to mount on");
    }
    let path = std::fs::canonicalize(mountpoint).with_context(|| format!("look at {shown}"))?;
    let above = path.parent().map(std::fs::metadata).transpose();
    let above = above.with_context(|| format!("look above {shown}"))?;
    if above.is_none_or(|above| above.dev() != metadata.dev()) {
        bail!(
            "{shown} is mounted already; unmount it with `umount {shown}`, or name another directory"
        );
    }
    let mut entries = std::fs::read_dir(&path).with_context(|| format!("look into {shown}"))?;
    if entries.next().is_some() {
        bail!(
            "{shown} is not empty, and a mount would hide what is in it; name an empty directory"
        );
    }
    Ok(())
}

impl Mount {
    /// Mounts. When this returns, the folder can be used. Blocks, so it is for a thread of its own.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub fn start(fs: FileSystem, config: MountConfig, runtime: Handle) -> anyhow::Result<Self> {
        check_mountpoint(&config.mountpoint)?;
        let (caches, forgets) = KernelCaches::new();
        let fs = Arc::new(MountedFs::new(fs, caches));
        let tasks = TaskTracker::new();
        let adapter = Adapter {
            fs: fs.clone(),
            runtime: runtime.clone(),
            tasks: tasks.clone(),
            cache: config.cache,
        };
        let shown = config.mountpoint.display();
        let session = Session::new(adapter, &config.mountpoint, &options(&config));
        let session = session.and_then(Session::spawn).map_err(|error| {
            let way_out = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    ": only root may mount; run it as root, or install fuse3 for `fusermount3`"
                }
                _ => "",
            };
            anyhow::Error::new(error).context(format!("mount on {shown}{way_out}"))
        })?;
        let notifier = session.notifier();
        std::thread::Builder::new()
            .name("forgets".to_owned())
            .spawn(move || tell_what_to_forget(forgets, &notifier))
            .context("start a thread")?;
        let keeper = runtime.spawn(look_after(fs.clone()));
        raise_read_ahead(&config.mountpoint);
        Ok(Self {
            fs,
            session,
            tasks,
            keeper,
            config,
        })
    }

    /// True when somebody has unmounted it.
    pub fn has_ended(&self) -> bool {
        self.session.guard.is_finished()
    }

    /// Takes the folder away from new users; those who are in it may finish. Blocks while the kernel flushes.
    ///
    /// # Errors
    /// The system's reason.
    pub fn detach(&self) -> anyhow::Result<()> {
        unmount(&self.config.mountpoint, UnmountFlags::DETACH)
            .with_context(|| format!("unmount {}", self.config.mountpoint.display()))
    }

    /// Commits what is left, once [`Mount::has_ended`], and ends the session with the cluster.
    ///
    /// # Errors
    /// The first thing that could not be committed.
    pub async fn finish(self) -> anyhow::Result<()> {
        self.tasks.close();
        self.tasks.wait().await;
        self.keeper.abort();
        self.fs.shut_down().await.context("commit what was written")
    }
}

/// Passes on what the kernel must forget, until nobody can ask any more.
fn tell_what_to_forget(mut forgets: Forgets, notifier: &Notifier) {
    while let Some(forget) = forgets.next_blocking() {
        let from = i64::try_from(forget.from).unwrap_or(i64::MAX);
        if let Err(error) = notifier.inval_inode(INodeNo(forget.inode), from, 0) {
            // The mount is gone, and all caches with it.
            tracing::debug!(inode = forget.inode, %error, "kernel not told");
        }
        forget.done();
    }
}

/// Looks after open files for as long as the mount is up.
async fn look_after(fs: Arc<MountedFs>) {
    loop {
        sleep(fs.keeper_pause()).await;
        fs.look_after_open_files().await;
    }
}

fn options(config: &MountConfig) -> Config {
    let mut mount_options = vec![
        MountOption::FSName(config.source.clone()),
        MountOption::Subtype("cairn".to_owned()),
        MountOption::DefaultPermissions,
    ];
    if config.read_only {
        mount_options.push(MountOption::RO);
    }
    for option in &config.kernel_options {
        mount_options.push(match option.as_str() {
            "nosuid" => MountOption::NoSuid,
            "suid" => MountOption::Suid,
            "nodev" => MountOption::NoDev,
            "dev" => MountOption::Dev,
            "noexec" => MountOption::NoExec,
            "exec" => MountOption::Exec,
            "noatime" => MountOption::NoAtime,
            "dirsync" => MountOption::DirSync,
            "sync" => MountOption::Sync,
            other => MountOption::CUSTOM(other.to_owned()),
        });
    }
    let mut options = Config::default();
    options.mount_options = mount_options;
    options.n_threads = Some(THREADS);
    options.clone_fd = true;
    if config.allow_other {
        options.acl = SessionACL::All;
    }
    options
}

/// The kernel starts with 128 KiB, which makes eight requests of one.
fn raise_read_ahead(mountpoint: &Path) {
    let Ok(metadata) = std::fs::metadata(mountpoint) else {
        return;
    };
    let device = metadata.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%setting, %error, "read-ahead not raised");
    }
}
