//! What the kernel keeps of this mount and must drop. Those who know ask here; a thread of its own tells the kernel, which may
//! ask for reads and writes before it is done.

use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the thread. Whoever finds no room waits.
const WAITING_MAX: usize = 1024;

/// Asks the kernel to forget. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KernelCaches(mpsc::Sender<Forget>);

/// What the kernel is to forget, in the order of asking. Once this is dropped nobody waits for it any more.
#[derive(Debug)]
pub struct Forgets(mpsc::Receiver<Forget>);

/// Pages and attributes of an inode.
#[derive(Debug)]
pub struct Forget {
    /// Whose.
    pub inode: u64,
    /// Pages from this byte on; all attributes go in any case.
    pub from: u64,
    done: oneshot::Sender<()>,
}

impl Forget {
    /// The kernel has forgotten it.
    pub fn done(self) {
        // Whoever asked may have gone.
        let _ = self.done.send(());
    }
}

impl KernelCaches {
    /// With the other end, for the thread.
    pub fn new() -> (Self, Forgets) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(sender), Forgets(receiver))
    }

    /// Returns when the kernel has no pages of this inode from `from` on that it had before, and no attributes. Cancel-safe.
    pub async fn forget_pages(&self, inode: u64, from: u64) {
        let (done, answered) = oneshot::channel();
        let forget = Forget { inode, from, done };
        if self.0.send(forget).await.is_ok() {
            let _ = answered.await;
        }
    }
}

impl Forgets {
    /// The next one; `None` when nobody can ask any more. Blocks.
    pub fn next_blocking(&mut self) -> Option<Forget> {
        self.0.blocking_recv()
    }

    /// The same for tests without a thread. Cancel-safe.
    pub async fn next(&mut self) -> Option<Forget> {
        self.0.recv().await
    }
}
