//! Who waits for a lock. Soft, and a hint only: a wait ends when the lock could be granted, and the client then proposes it; what
//! grants a lock is the command alone. So nothing is lost with a leader: its clients come back and wait again.
//!
//! When a lock goes, those are told whom it lets through, in the order in which they began to wait; the others wait on. Whoever
//! was told and does not come holds nobody up for longer than one wait lasts.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::messages::lock::{LockSpace, WaitLockReply};
use cairn_protocol::rpc::RpcError;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Controllers, until_stopped};
use crate::consensus::state::State;
use crate::namespace::locks::{Locks, Wish};
use crate::store::lock::LockOwner;
use crate::store::{Read, StoreError};

/// The longest wait; the client then asks again.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Most waits of one session.
const WAITS_PER_SESSION_MAX: usize = 512;
/// Most waits for locks on one file.
const WAITS_PER_FILE_MAX: usize = 4096;
/// Most waits in all.
const WAITS_MAX: usize = 65_536;
/// Owners that are looked at to find out who waits for whom.
const CIRCLE_MAX: usize = 256;
/// What they wait for, of which as much is looked at.
const CIRCLE_WISHES_MAX: usize = 1024;
/// A circle counts if it is still there after this long: a wait that was given up is heard of a moment later.
const CIRCLE_CONFIRMED_AFTER: Duration = Duration::from_millis(200);

/// All waits of this process.
#[derive(Debug, Default)]
pub(super) struct LockWaits(Mutex<Queues>);

#[derive(Debug, Default)]
struct Queues {
    files: BTreeMap<InodeId, BTreeMap<u64, Waiter>>,
    of_owner: BTreeMap<LockOwner, BTreeSet<(InodeId, u64)>>,
    of_session: BTreeMap<SessionId, usize>,
    count: usize,
    last_place: u64,
    last_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    /// Tells it from another one that takes its place.
    ticket: u64,
    wish: Wish,
    wake: oneshot::Sender<()>,
}

/// A wait in its queue. Leaves when dropped.
struct Queued<'a> {
    waits: &'a LockWaits,
    inode: InodeId,
    place: u64,
    ticket: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut queues = self.waits.lock();
        let held = queues.files.get(&self.inode);
        let held = held.and_then(|queue| queue.get(&self.place));
        if held.is_some_and(|waiter| waiter.ticket == self.ticket) {
            queues.take(self.inode, self.place);
        }
    }
}

impl Queues {
    fn take(&mut self, inode: InodeId, place: u64) -> Option<Waiter> {
        let queue = self.files.get_mut(&inode)?;
        let waiter = queue.remove(&place)?;
        if queue.is_empty() {
            self.files.remove(&inode);
        }
        let owner = waiter.wish.owner;
        if let Some(places) = self.of_owner.get_mut(&owner) {
            places.remove(&(inode, place));
            if places.is_empty() {
                self.of_owner.remove(&owner);
            }
        }
        if let Some(count) = self.of_session.get_mut(&owner.session) {
            *count -= 1;
            if *count == 0 {
                self.of_session.remove(&owner.session);
            }
        }
        self.count -= 1;
        Some(waiter)
    }

    /// What an owner waits for.
    fn wishes_of(&self, owner: LockOwner) -> Vec<Wish> {
        let places = self.of_owner.get(&owner).into_iter().flatten();
        places
            .filter_map(|(inode, place)| self.files.get(inode)?.get(place))
            .map(|waiter| waiter.wish)
            .collect()
    }
}

impl LockWaits {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the queue, at the place that was held before if it is still free.
    fn join(
        &self,
        state: &State,
        wish: Wish,
        place: u64,
    ) -> Result<(Queued<'_>, oneshot::Receiver<()>), RpcError> {
        let mut queues = self.lock();
        let inode = wish.inode;
        // A wait that the client has given up, or lost the connection of.
        let same = |queue: &BTreeMap<u64, Waiter>| {
            queue
                .get(&place)
                .is_some_and(|held| held.wish.owner == wish.owner)
        };
        if queues.files.get(&inode).is_some_and(same) {
            queues.take(inode, place);
        }
        let in_file = queues.files.get(&inode).map_or(0, BTreeMap::len);
        let in_session = queues
            .of_session
            .get(&wish.owner.session)
            .copied()
            .unwrap_or(0);
        if in_file >= WAITS_PER_FILE_MAX
            || in_session >= WAITS_PER_SESSION_MAX
            || queues.count >= WAITS_MAX
        {
            let message = "too many wait for locks";
            return Err(RpcError::new(ErrorCode::Overloaded, message));
        }
        let taken = |queue: &BTreeMap<u64, Waiter>| queue.contains_key(&place);
        let known = place > 0 && place <= queues.last_place;
        let place = if known && !queues.files.get(&inode).is_some_and(taken) {
            place
        } else {
            queues.last_place += 1;
            queues.last_place
        };
        let (wake, woken) = oneshot::channel();
        queues.last_ticket += 1;
        let ticket = queues.last_ticket;
        let waiter = Waiter { ticket, wish, wake };
        queues.files.entry(inode).or_default().insert(place, waiter);
        queues
            .of_owner
            .entry(wish.owner)
            .or_default()
            .insert((inode, place));
        *queues.of_session.entry(wish.owner.session).or_default() += 1;
        queues.count += 1;
        // Inside the lock, so that it cannot be called off for a queue that was empty a moment ago.
        state.collect_unlocked(true);
        let queued = Queued {
            waits: self,
            inode,
            place,
            ticket,
        };
        Ok((queued, woken))
    }

    /// Forgets waits of one owner for this very lock: they were given up.
    fn cancel(&self, wish: &Wish) {
        let mut queues = self.lock();
        let places: Vec<_> = queues
            .of_owner
            .get(&wish.owner)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for (inode, place) in places {
            let queue = queues.files.get(&inode);
            let waiter = queue.and_then(|queue| queue.get(&place));
            if waiter.is_some_and(|waiter| waiter.wish == *wish) {
                queues.take(inode, place);
            }
        }
    }

    /// Tells those who can have their locks on a file now.
    fn wake(&self, read: &impl Read, inode: InodeId) -> Result<(), StoreError> {
        let wishes: Vec<(u64, Wish)> = {
            let queues = self.lock();
            let queue = queues.files.get(&inode).into_iter().flatten();
            queue.map(|(place, waiter)| (*place, waiter.wish)).collect()
        };
        if wishes.is_empty() {
            return Ok(());
        }
        let posix = Locks::load(read, inode, LockSpace::Posix)?;
        let flock = Locks::load(read, inode, LockSpace::Flock)?;
        let places = let_through(&wishes, &posix, &flock);
        let mut queues = self.lock();
        for place in places {
            if let Some(waiter) = queues.take(inode, place) {
                // Who does not wait any more does not mind.
                let _ = waiter.wake.send(());
            }
        }
        Ok(())
    }

    /// Sends everybody to the new leader.
    fn clear(&self) {
        let mut queues = self.lock();
        let (last_place, last_ticket) = (queues.last_place, queues.last_ticket);
        *queues = Queues {
            last_place,
            last_ticket,
            ..Queues::default()
        };
    }

    /// Whether those who forbid a wish wait, over however many steps, for the one who has it.
    fn is_circle(&self, read: &impl Read, wish: &Wish) -> Result<bool, StoreError> {
        let mut seen = BTreeSet::new();
        let mut tables = BTreeMap::new();
        let mut wishes = vec![*wish];
        for _ in 0..CIRCLE_WISHES_MAX {
            let Some(next) = wishes.pop() else {
                break;
            };
            let locks = match tables.entry((next.inode, next.space as i32)) {
                Entry::Occupied(table) => table.into_mut(),
                Entry::Vacant(table) => table.insert(Locks::load(read, next.inode, next.space)?),
            };
            for (key, _) in locks.conflicts(&next) {
                if key.owner == wish.owner {
                    return Ok(true);
                }
                if seen.len() < CIRCLE_MAX && seen.insert(key.owner) {
                    wishes.extend(self.lock().wishes_of(key.owner));
                }
            }
        }
        Ok(false)
    }
}

/// Places of those whom the locks let through, and who let each other through: first come, first served.
fn let_through(wishes: &[(u64, Wish)], posix: &Locks, flock: &Locks) -> Vec<u64> {
    let mut granted: Vec<&Wish> = Vec::new();
    let mut places = Vec::new();
    for (place, wish) in wishes {
        let locks = match wish.space {
            LockSpace::Posix => posix,
            LockSpace::Flock => flock,
        };
        let free = locks.conflicts(wish).next().is_none();
        if free && !granted.iter().any(|earlier| earlier.conflicts(wish)) {
            granted.push(wish);
            places.push(*place);
        }
    }
    places
}

/// Waits until a lock could be granted, or for so long; with no time at all, gives up a wait that was begun before.
pub(super) async fn wait(
    controllers: &Controllers,
    wish: Wish,
    place: u64,
    wait: Duration,
) -> Result<WaitLockReply, RpcError> {
    let (group, waits) = (&controllers.group, &controllers.lock_waits);
    group.require_leader()?;
    if wait.is_zero() {
        waits.cancel(&wish);
        return Ok(WaitLockReply { free: false, place });
    }
    let (queued, mut woken) = waits.join(group.state(), wish, place)?;
    // Who leads no more has perhaps sent everybody away a moment before this one came.
    group.require_leader()?;
    let reply = |free| WaitLockReply {
        free,
        place: queued.place,
    };
    let is_free = || {
        let locks = Locks::load(&controllers.store().snapshot(), wish.inode, wish.space)?;
        Ok(locks.conflicts(&wish).next().is_none())
    };
    if is_free().map_err(internal)? {
        return Ok(reply(true));
    }
    let mut left = wait.min(WAIT_MAX);
    let circle = || {
        let store = controllers.store();
        let circle = waits.is_circle(&store.snapshot(), &wish);
        circle.map_err(internal)
    };
    if wish.space == LockSpace::Posix && circle()? {
        let first = left.min(CIRCLE_CONFIRMED_AFTER);
        match timeout(first, &mut woken).await {
            Ok(Ok(())) => return Ok(reply(true)),
            Ok(Err(_)) => return Err(RpcError::not_leader(group.leader_hint())),
            Err(_) if circle()? => return Err(ErrorCode::Deadlock.into()),
            Err(_) => left -= first,
        }
    }
    match timeout(left, woken).await {
        Ok(Ok(())) => Ok(reply(true)),
        Ok(Err(_)) => Err(RpcError::not_leader(group.leader_hint())),
        Err(_) => Ok(reply(false)),
    }
}

fn internal(error: StoreError) -> RpcError {
    RpcError::new(ErrorCode::Internal, error.to_string())
}

/// Tells those who wait what has become free, until `stop`.
pub(super) async fn run(
    controllers: Arc<Controllers>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let waits = &controllers.lock_waits;
    let state = controllers.group.state();
    let mut leadership = controllers.group.leadership();
    until_stopped(stop, async {
        loop {
            tokio::select! {
                biased;
                () = state.wait_unlocked() => {}
                // Its sender ends with the process.
                _ = leadership.changed() => {}
                () = tokio::time::sleep(controllers.options.interval) => {}
            }
            if controllers.group.require_leader().is_err() {
                waits.clear();
            }
            let unlocked = state.take_unlocked();
            if !unlocked.is_empty() {
                let store = controllers.store();
                let snapshot = store.snapshot();
                for inode in unlocked {
                    waits.wake(&snapshot, inode)?;
                }
            }
            let queues = waits.lock();
            if queues.count == 0 {
                state.collect_unlocked(false);
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use cairn_protocol::ids::{InodeId, SessionId};
    use cairn_protocol::messages::lock::{LockMode, LockSpace};

    use super::{LockOwner, Locks, Wish, let_through};
    use crate::namespace::locks::Range;

    fn wish(owner: u64, mode: LockMode, start: u64, end: u64) -> Wish {
        Wish {
            inode: InodeId(9),
            space: LockSpace::Posix,
            owner: LockOwner {
                session: SessionId(1),
                owner,
            },
            range: Range {
                start,
                end,
                mode,
                pid: 0,
            },
        }
    }

    #[test]
    fn the_first_in_the_queue_goes_first_and_readers_go_together() {
        let none = Locks::default();
        let (read, write) = (LockMode::Read, LockMode::Write);
        let queue = [
            (3, wish(1, read, 0, 9)),
            (4, wish(2, read, 5, 15)),
            (5, wish(3, write, 0, 3)),
            (6, wish(4, write, 20, 30)),
            (7, wish(4, write, 25, 26)),
        ];
        assert_eq!(let_through(&queue, &none, &none), [3, 4, 6, 7]);
        assert_eq!(let_through(&queue[2..], &none, &none), [5, 6, 7]);
    }
}
