//! What the kernel keeps of this mount and must drop. Those who know ask here; threads of their own tell the kernel, which may
//! ask for reads and writes, and waits for look-ups in the directory, before it is done. So nobody waits for these threads
//! who holds up such a request. Names have a thread for themselves: the kernel forgets one when nobody works in the directory,
//! and an append, which waits for pages to be forgotten, may be what a rename waits for that works there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the thread. Whoever finds no room waits.
const WAITING_MAX: usize = 1024;

/// Asks the kernel to forget. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KernelCaches {
    forgets: mpsc::Sender<Forget>,
    missed: Missed,
}

/// What the kernel is to forget, in the order of asking. Once this is dropped nobody waits for it any more.
#[derive(Debug)]
pub struct Forgets {
    forgets: mpsc::Receiver<Forget>,
    missed: Missed,
}

/// Inodes of [`KernelCaches::forget_attributes_soon`] that found no room: there is something for the thread to do then, and
/// it looks here before each. Held for a look.
type Missed = Arc<Mutex<BTreeSet<u64>>>;

fn lock(missed: &Missed) -> MutexGuard<'_, BTreeSet<u64>> {
    missed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the kernel keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// Pages of an inode, and its attributes.
    Pages {
        /// Whose.
        inode: u64,
        /// Pages from this byte on; all attributes go in any case.
        from: u64,
    },
    /// Attributes of an inode.
    Attributes {
        /// Whose.
        inode: u64,
    },
    /// What a name means, or that it means nothing, and the attributes of the directory.
    Name {
        /// The directory.
        parent: u64,
        /// The name.
        name: Box<[u8]>,
    },
}

/// Something to forget.
#[derive(Debug)]
pub struct Forget {
    /// What.
    pub what: Forgotten,
    /// Whoever asked waits until this and all else that was asked for with it is gone.
    done: Option<Arc<oneshot::Sender<()>>>,
}

impl Forget {
    /// The kernel has forgotten it.
    pub fn done(self) {
        drop(self.done);
    }
}

impl KernelCaches {
    /// With the other end, for the thread.
    pub fn new() -> (Self, Forgets) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let missed = Missed::default();
        let caches = Self {
            forgets: sender,
            missed: missed.clone(),
        };
        (
            caches,
            Forgets {
                forgets: receiver,
                missed,
            },
        )
    }

    /// Has the kernel forget the attributes of an inode. Waits for nothing, so it may be called by a write, for whose pages the
    /// thread may be waiting.
    pub fn forget_attributes_soon(&self, inode: u64) {
        let what = Forgotten::Attributes { inode };
        if self.forgets.try_send(Forget { what, done: None }).is_err() {
            lock(&self.missed).insert(inode);
        }
    }

    /// Returns when the kernel has no pages of this inode from `from` on that it had before, and no attributes. Cancel-safe.
    pub async fn forget_pages(&self, inode: u64, from: u64) {
        self.forget(vec![Forgotten::Pages { inode, from }]).await;
    }

    /// Returns when the kernel has nothing of this that it had before. Cancel-safe.
    pub async fn forget(&self, all: Vec<Forgotten>) {
        let (done, all_done) = oneshot::channel();
        let done = Arc::new(done);
        for what in all {
            let done = Some(done.clone());
            if self.forgets.send(Forget { what, done }).await.is_err() {
                return;
            }
        }
        drop(done);
        // Nobody sends anything: it ends when nobody has the other end any more.
        let _ = all_done.await;
    }
}

impl Forgets {
    /// The next one; `None` when nobody can ask any more. Blocks.
    pub fn next_blocking(&mut self) -> Option<Forget> {
        self.next_missed().or_else(|| self.forgets.blocking_recv())
    }

    /// The same for tests without a thread. Cancel-safe.
    pub async fn next(&mut self) -> Option<Forget> {
        match self.next_missed() {
            Some(missed) => Some(missed),
            None => self.forgets.recv().await,
        }
    }

    fn next_missed(&self) -> Option<Forget> {
        let inode = lock(&self.missed).pop_first()?;
        let what = Forgotten::Attributes { inode };
        Some(Forget { what, done: None })
    }
}

#[cfg(test)]
mod tests {
    use super::{Forgotten, KernelCaches, WAITING_MAX};

    #[tokio::test]
    async fn what_finds_no_room_is_not_forgotten() {
        let (caches, mut forgets) = KernelCaches::new();
        let count = WAITING_MAX as u64 + 5;
        for inode in 0..count {
            caches.forget_attributes_soon(inode);
        }
        drop(caches);
        let mut told = Vec::new();
        while let Some(forget) = forgets.next().await {
            let Forgotten::Attributes { inode } = forget.what else {
                panic!("{forget:?}");
            };
            told.push(inode);
        }
        told.sort_unstable();
        assert_eq!(told, Vec::from_iter(0..count));
    }
}
