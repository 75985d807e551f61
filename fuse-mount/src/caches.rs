//! What the kernel keeps of this mount and must drop. Those who know ask here; threads of their own tell the kernel, which may
//! ask for reads and writes, and waits for look-ups in the directory, before it is done. So nobody waits for these threads
//! who holds up such a request. Names have a thread for themselves: the kernel forgets one when nobody works in the directory,
//! and an append, which waits for pages to be forgotten, may be what a rename waits for that works there.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

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

/// What [`KernelCaches::forget_soon`] found no room for: there is something for the thread to do then, and it looks here
/// before each. Held for a look.
type Missed = Arc<Mutex<BTreeSet<Forgotten>>>;

fn lock(missed: &Missed) -> MutexGuard<'_, BTreeSet<Forgotten>> {
    missed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the kernel keeps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// Has the kernel forget something. Waits for nothing, so it may be called by a write, for whose pages the thread may be
    /// waiting.
    pub fn forget_soon(&self, what: Forgotten) {
        let forget = Forget { what, done: None };
        if let Err(refused) = self.forgets.try_send(forget) {
            lock(&self.missed).insert(refused.into_inner().what);
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

    /// The same; if that takes longer than `limit`, what `late` returns by then is forgotten as well, and it is false. Something
    /// in the kernel holds the threads up then: a page that somebody reads, or a directory in which somebody works.
    /// Not cancel-safe: whoever drops it must have the kernel forget everything.
    pub async fn forget_within(
        &self,
        all: Vec<Forgotten>,
        limit: Duration,
        late: impl FnOnce() -> Vec<Forgotten>,
    ) -> bool {
        let mut forgotten = pin!(self.forget(all));
        if timeout(limit, forgotten.as_mut()).await.is_ok() {
            return true;
        }
        // At the same time: they need not wait for the same thread.
        tokio::join!(forgotten, self.forget(late()));
        false
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
        let what = lock(&self.missed).pop_first()?;
        Some(Forget { what, done: None })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Forgotten, KernelCaches, WAITING_MAX};

    fn attributes(inode: u64) -> Forgotten {
        Forgotten::Attributes { inode }
    }

    #[tokio::test]
    async fn what_finds_no_room_is_not_forgotten() {
        let (caches, mut forgets) = KernelCaches::new();
        let count = WAITING_MAX as u64 + 5;
        for inode in 0..count {
            caches.forget_soon(attributes(inode));
        }
        drop(caches);
        let mut told = Vec::new();
        while let Some(forget) = forgets.next().await {
            told.push(forget.what);
        }
        told.sort_unstable();
        assert_eq!(told, Vec::from_iter((0..count).map(attributes)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_holds_up_the_kernel_does_not_hold_up_all_the_rest() {
        const LIMIT: Duration = Duration::from_secs(5);
        let (caches, mut forgets) = KernelCaches::new();
        let nothing_late = || panic!("it is in time");
        let (in_time, ()) = tokio::join!(
            caches.forget_within(vec![attributes(1)], LIMIT, nothing_late),
            async { forgets.next().await.unwrap().done() }
        );
        assert!(in_time);
        let both = vec![attributes(1), attributes(2)];
        let (in_time, ()) = tokio::join!(
            caches.forget_within(both, LIMIT, || vec![attributes(3)]),
            async {
                let held = forgets.next().await.unwrap();
                assert_eq!(held.what, attributes(1));
                for inode in [2, 3] {
                    let next = forgets.next().await.unwrap();
                    assert_eq!(next.what, attributes(inode));
                    next.done();
                }
                held.done();
            }
        );
        assert!(!in_time);
    }
}
