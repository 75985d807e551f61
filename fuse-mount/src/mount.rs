//! The life of a mount: what is checked before, how it comes up, and how it ends with everything committed.

mod attach;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context;
use cairn_client::FileSystem;
use cairn_daemon::Clock;
use fuser::{BackgroundSession, INodeNo, Notifier};
use rustix::mount::{UnmountFlags, unmount};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use self::attach::DISK_READS_MAX;
pub use self::attach::{check_mountpoint, remount};
use crate::caches::{Forget, Forgets, Forgotten, KernelCaches};
use crate::config::MountConfig;
use crate::fs::MountedFs;
use crate::fuse::Adapter;
use crate::reads::AccessTimes;

/// What the kernel reads ahead of a sequential reader.
const READ_AHEAD_KIB: u32 = 1024;

/// How long reads wait for others to be told with them.
const READS_PAUSE: Duration = Duration::from_secs(10);

/// A mount that is up.
#[derive(Debug)]
pub struct Mount {
    fs: Arc<MountedFs>,
    session: BackgroundSession,
    tasks: TaskTracker,
    /// Ended by [`Mount::finish`].
    keeper: JoinHandle<()>,
    /// Listens to changes; ended with the keeper.
    listener: JoinHandle<()>,
    /// Tells the cluster what is done in delegated directories; ended after all is given back.
    teller: JoinHandle<()>,
    config: MountConfig,
}

impl Mount {
    /// Mounts. When this returns, the folder can be used. Blocks, so it is for a thread of its own.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub fn start(fs: FileSystem, config: MountConfig, runtime: Handle) -> anyhow::Result<Self> {
        check_mountpoint(&config.mountpoint)?;
        let mountpoint = config.mountpoint.clone();
        let (caches, forgets) = KernelCaches::new();
        let fs = MountedFs::new(fs, caches, config.cache);
        let which = if config.read_only {
            AccessTimes::Off
        } else {
            config.access_times
        };
        let fs = Arc::new(fs.with_access_times(which, Clock::system()));
        let tasks = TaskTracker::new();
        let adapter = Adapter {
            fs: fs.clone(),
            runtime: runtime.clone(),
            tasks: tasks.clone(),
            disk_reads: Semaphore::new(DISK_READS_MAX),
        };
        let session = attach::mount(adapter, &config)?;
        let notifier = session.notifier();
        let session = session.spawn().context("start the threads of the mount")?;
        std::thread::Builder::new()
            .name("forgets".to_owned())
            .spawn(move || pass_on(forgets, |forget| tell(forget, &notifier)))
            .context("start a thread")?;
        let keeper = runtime.spawn(look_after(fs.clone()));
        let listener = runtime.spawn({
            let fs = fs.clone();
            async move { fs.follow_changes().await }
        });
        let teller = runtime.spawn({
            let fs = fs.clone();
            let delegations = config.delegations;
            async move {
                if delegations {
                    fs.tell_changes().await;
                }
            }
        });
        raise_read_ahead(&mountpoint);
        Ok(Self {
            fs,
            session,
            tasks,
            keeper,
            listener,
            teller,
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
        self.fs.stop_waiting();
        self.tasks.close();
        self.tasks.wait().await;
        self.keeper.abort();
        self.listener.abort();
        let committed = self.fs.shut_down().await;
        self.teller.abort();
        committed.context("commit what was written")
    }
}

/// Passes on what the kernel must forget, until nobody can ask any more. Names go their own way: `tell` may wait with one until
/// it is done with what was asked for later.
fn pass_on(mut forgets: Forgets, tell: impl Fn(Forget) + Sync) {
    let (names, of_names) = mpsc::channel::<Forget>();
    let tell = &tell;
    std::thread::scope(|scope| {
        scope.spawn(move || of_names.iter().for_each(tell));
        while let Some(forget) = forgets.next_blocking() {
            match forget.what {
                Forgotten::Name { .. } => {
                    // It ends after this sender.
                    let _ = names.send(forget);
                }
                Forgotten::Pages { .. } | Forgotten::Attributes { .. } => tell(forget),
            }
        }
        drop(names);
    });
}

fn tell(forget: Forget, notifier: &Notifier) {
    let told = match &forget.what {
        Forgotten::Pages { inode, from } => {
            let from = i64::try_from(*from).unwrap_or(i64::MAX);
            notifier.inval_inode(INodeNo(*inode), from, 0)
        }
        // No pages lie before the first.
        Forgotten::Attributes { inode } => notifier.inval_inode(INodeNo(*inode), -1, 0),
        Forgotten::Name { parent, name } => {
            notifier.inval_entry(INodeNo(*parent), OsStr::from_bytes(name))
        }
    };
    if let Err(error) = told {
        // The mount is gone, and all caches with it.
        tracing::debug!(what = ?forget.what, %error, "kernel not told");
    }
    forget.done();
}

/// Looks after open files for as long as the mount is up.
async fn look_after(fs: Arc<MountedFs>) {
    let open_files = async {
        loop {
            sleep(fs.keeper_pause()).await;
            fs.look_after_open_files().await;
        }
    };
    // What waits for the cluster does not hold up the other.
    let reads = async {
        loop {
            sleep(READS_PAUSE).await;
            fs.tell_reads().await;
        }
    };
    tokio::join!(open_files, reads);
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::pass_on;
    use crate::caches::{Forgotten, KernelCaches};

    #[tokio::test]
    async fn pages_do_not_wait_for_a_name() {
        let (caches, forgets) = KernelCaches::new();
        let (pages_gone, are_gone) = mpsc::sync_channel(1);
        let are_gone = std::sync::Mutex::new(are_gone);
        let kernel = tokio::task::spawn_blocking(move || {
            pass_on(forgets, |forget| {
                match forget.what {
                    // Somebody works in the directory who waits for the pages.
                    Forgotten::Name { .. } => {
                        let waited = are_gone.lock().unwrap();
                        let waited = waited.recv_timeout(Duration::from_secs(60));
                        waited.expect("the pages are forgotten meanwhile");
                    }
                    Forgotten::Pages { .. } | Forgotten::Attributes { .. } => {
                        pages_gone.send(()).unwrap();
                    }
                }
                forget.done();
            });
        });
        let name = Forgotten::Name {
            parent: 1,
            name: b"name"[..].into(),
        };
        let pages = Forgotten::Pages { inode: 2, from: 0 };
        caches.forget(vec![name, pages]).await;
        drop(caches);
        kernel.await.unwrap();
    }
}
