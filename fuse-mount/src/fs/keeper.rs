//! Files that lose their last name while they are open here. The cluster keeps them for a while, in which this mount claims
//! them: at once if it took the name away itself, else when the keeper looks.

use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use futures::StreamExt;
use futures::stream;
use tokio::time::Instant;

use super::MountedFs;
use crate::caches::Forgotten;
use crate::inodes::{Kept, Looked};

/// Looks of the keeper in the time for which the cluster keeps what nobody names.
const LOOKS: u32 = 4;
/// Bounds of the pause between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Files that are asked about at the same time.
const QUESTIONS_MAX: usize = 16;

impl MountedFs {
    /// Time between two calls of [`MountedFs::look_after_open_files`].
    pub fn keeper_pause(&self) -> Duration {
        let grace = Duration::from_millis(self.fs.settings().reclaim_grace_ms);
        (grace / LOOKS).clamp(PAUSE_MIN, PAUSE_MAX)
    }

    /// Claims open files whose last name somebody else has taken away, and claims again what it has: a claim ends with the
    /// session, and a mount that was cut off for long has a new one. Also learns what others have written, has the kernel
    /// forget what was written and is lost, and lets go of locks that could not be released.
    pub async fn look_after_open_files(&self) {
        self.release_left_locks().await;
        self.give_idle_back();
        let looked = self
            .inodes
            .look(Instant::now(), |inode| self.fs.is_dirty(InodeId(inode)));
        let Looked {
            kept,
            claimed,
            lost,
        } = looked;
        self.look_after_closed(&lost);
        for inode in lost {
            // Nobody waits for it: what holds up the kernel must not hold up the keeper.
            self.caches.forget_soon(Forgotten::Pages { inode, from: 0 });
        }
        let claimed =
            stream::iter(claimed).for_each_concurrent(QUESTIONS_MAX, |inode| self.let_go(inode));
        claimed.await;
        let kept =
            stream::iter(kept).for_each_concurrent(QUESTIONS_MAX, |kept| self.look_after(kept));
        kept.await;
    }

    async fn look_after(&self, kept: Kept) {
        let Kept { inode, claimed } = kept;
        if self.behind.attributes(inode).is_some() {
            // Nobody else knows it, and it may not exist yet elsewhere.
            return;
        }
        let unlinked = claimed
            || match self.fs.stat_link(InodeId(inode)).await {
                Ok(attributes) => {
                    let unlinked = attributes.nlink == 0;
                    self.inodes.see(attributes);
                    unlinked
                }
                // Another look follows.
                Err(_) => false,
            };
        if unlinked {
            self.keep_unlinked(inode).await;
        }
    }

    /// Claims an inode without a name, if it is open here. Whoever has it open hears of a failure when it is gone.
    pub(super) async fn keep_unlinked(&self, inode: u64) {
        if !self.inodes.claim(inode) {
            return;
        }
        match self.fs.claim(InodeId(inode)).await {
            // Closed meanwhile, and its release may have overtaken this.
            Ok(()) if self.inodes.file(inode).is_none() => self.let_go(inode).await,
            Ok(()) => {}
            Err(error) if error.code() == ErrorCode::NotFound => {
                tracing::warn!(
                    inode,
                    "a file that is open was removed elsewhere, and is gone"
                );
            }
            Err(error) => tracing::warn!(inode, %error, "an unlinked file is not claimed yet"),
        }
    }

    /// Nobody here has it open any more.
    pub(super) async fn let_go(&self, inode: u64) {
        if let Err(error) = self.fs.release(InodeId(inode)).await {
            // It goes with the session.
            tracing::debug!(inode, %error, "claim not released");
        }
    }
}
