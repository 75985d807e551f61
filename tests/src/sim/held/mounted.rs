//! A mount without a kernel on a simulated machine: `fuse-mount`'s own code, with whom it tells and hears.

use std::sync::Arc;
use std::time::Duration;

use cairn_client::{ClusterConfig, FileSystem};
use cairn_fuse_mount::{KernelCaches, MountedFs, Requester};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::cluster::connect;

/// The inode of `/`.
pub(crate) const ROOT_INODE: u64 = 1;

/// Whoever asks a holder for something.
pub(crate) const PROGRAM: Requester = Requester {
    uid: 0,
    gid: 0,
    pid: 0,
    umask: 0,
};

/// How long the kernel may keep things, if there were one.
const KEEP: Duration = Duration::from_secs(3600);
/// Between two looks for a session.
const PAUSE: Duration = Duration::from_millis(50);

/// A mount that is up, until it leaves or is dropped: then it died.
pub(crate) struct Mounted {
    pub(crate) fs: FileSystem,
    pub(crate) mount: Arc<MountedFs>,
    /// What hears of changes and looks after open files.
    keepers: JoinSet<()>,
    /// What tells, and gives back.
    teller: JoinSet<()>,
}

impl Mounted {
    pub(crate) async fn start(config: &ClusterConfig) -> anyhow::Result<Self> {
        let fs = connect(config, 10).await?;
        let (caches, mut forgets) = KernelCaches::new();
        let mount = Arc::new(MountedFs::new(fs.clone(), caches, KEEP));
        let (mut keepers, mut teller) = (JoinSet::new(), JoinSet::new());
        keepers.spawn(async move {
            while let Some(forget) = forgets.next().await {
                forget.done();
            }
        });
        let hears = mount.clone();
        keepers.spawn(async move { hears.follow_changes().await });
        let looks = mount.clone();
        keepers.spawn(async move {
            loop {
                sleep(looks.keeper_pause()).await;
                looks.look_after_open_files().await;
            }
        });
        let tells = mount.clone();
        teller.spawn(async move { tells.tell_changes().await });
        Ok(Self {
            fs,
            mount,
            keepers,
            teller,
        })
    }

    /// As when the folder is unmounted: all is told and given back. False if that did not work.
    pub(crate) async fn leave(mut self) -> bool {
        self.keepers.shutdown().await;
        let left = self.mount.shut_down().await;
        self.teller.shutdown().await;
        left.is_ok()
    }

    /// The process dies: nobody tells anything any more, or gives anything back.
    pub(crate) async fn die(mut self) {
        self.keepers.shutdown().await;
        self.teller.shutdown().await;
    }

    /// Whether a session is still the one in which changes are made. Waits while nobody knows.
    pub(crate) async fn is_in(&self, session: u64) -> bool {
        loop {
            match self.fs.session() {
                0 if self.fs.session_may_live(session) => sleep(PAUSE).await,
                now => return now == session,
            }
        }
    }
}
