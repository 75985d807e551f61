//! Advisory locks: ranges of several owners against a map of bytes, sessions and files that end, permissions, limits.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::messages::common::{Caller, Location};
use cairn_protocol::messages::lock::{
    ListLocks, LockMode, LockOutcome, LockSpace, SetLock, TestLock,
};
use cairn_protocol::messages::operation::{
    OperationKind, OutcomeKind, SetAttributes, Transaction, Unlink,
};
use cairn_protocol::messages::query::{QueryKind, QueryResult};
use proptest::prelude::{ProptestConfig, Strategy, prop, prop_oneof, proptest};

use super::world::{GRACE_NS, World, user};
use crate::namespace::command::{CommandKind, ExpireSession, Outcome, Sweep};
use crate::namespace::invariants::check_all;
use crate::namespace::locks::{LOCKS_PER_FILE_MAX, LOCKS_PER_SESSION_MAX};
use crate::store::lock::{LockKey, LockOwner};
use crate::store::records::LockRecord;
use crate::store::{self};

const ALL: (u64, u64) = (0, u64::MAX);

/// A world with one file that everybody may read and write, and three sessions.
struct Locking {
    world: World,
    file: u64,
    sessions: Vec<(u64, u64)>,
}

impl Locking {
    fn new() -> Self {
        let mut world = World::new();
        let file = world.create(&user(1), "/file").unwrap().attributes.inode;
        let mut sessions = vec![(world.session, world.sequence)];
        sessions.push((world.open_session(2), 0));
        sessions.push((world.open_session(3), 0));
        let mut locking = Self {
            world,
            file,
            sessions,
        };
        locking.chmod(0o666);
        locking
    }

    fn chmod(&mut self, mode: u32) {
        let change = SetAttributes {
            location: Location::inode(InodeId(self.file)),
            mode: Some(mode),
            ..SetAttributes::default()
        };
        self.raw(0, &user(0), OperationKind::SetAttributes(change));
    }

    fn raw(&mut self, session: usize, caller: &Caller, operation: OperationKind) -> Outcome {
        (self.world.session, self.world.sequence) = self.sessions[session];
        let outcome = self.world.outcome(caller, operation);
        self.sessions[session].1 = self.world.sequence;
        outcome
    }

    fn message(&self, owner: u64, mode: LockMode, (start, end): (u64, u64)) -> SetLock {
        SetLock {
            inode: self.file,
            space: LockSpace::Posix as i32,
            owner,
            mode: mode as i32,
            start,
            end,
            pid: 77,
        }
    }

    fn send(
        &mut self,
        session: usize,
        caller: &Caller,
        lock: SetLock,
    ) -> Result<LockOutcome, ErrorCode> {
        let outcome = self.raw(session, caller, OperationKind::SetLock(lock));
        if let Some(code) = ErrorCode::from_number(outcome.code) {
            return Err(code);
        }
        match outcome.value.unwrap().kind.unwrap() {
            OutcomeKind::Lock(outcome) => Ok(outcome),
            other => panic!("not about a lock: {other:?}"),
        }
    }

    /// True if it was granted.
    fn posix(&mut self, session: usize, owner: u64, mode: LockMode, range: (u64, u64)) -> bool {
        let lock = self.message(owner, mode, range);
        let outcome = self.send(session, &user(1), lock).unwrap();
        outcome.conflict.is_none()
    }

    fn flock(&mut self, session: usize, owner: u64, mode: LockMode) -> bool {
        let lock = SetLock {
            space: LockSpace::Flock as i32,
            ..self.message(owner, mode, (5, 6))
        };
        let outcome = self.send(session, &user(1), lock).unwrap();
        outcome.conflict.is_none()
    }

    fn expire(&mut self, session: usize) {
        let expire = ExpireSession {
            session: self.sessions[session].0,
        };
        loop {
            let outcome = self
                .world
                .command(CommandKind::ExpireSession(expire.clone()));
            assert_eq!(outcome.code, 0, "{}", outcome.message);
            if !outcome.more {
                return;
            }
        }
    }

    /// (session, owner, mode, first, last) of all locks.
    fn list(&self) -> Vec<(u64, u64, LockMode, u64, u64)> {
        let list = ListLocks {
            location: Location::inode(InodeId(self.file)),
        };
        let listing = self.world.query(&user(9), &QueryKind::ListLocks(list));
        let QueryResult::LockListing(listing) = listing.unwrap() else {
            panic!("not a listing");
        };
        assert!(listing.locks.iter().all(|lock| lock.client_name == "test"));
        let locks = listing.locks.iter();
        locks
            .map(|l| (l.session, l.owner, l.mode(), l.start, l.end))
            .collect()
    }

    fn check(&self) {
        let problems = check_all(&self.world.store.snapshot()).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
    }
}

#[test]
fn a_write_lock_keeps_others_out_of_its_range_and_names_its_holder() {
    let mut locking = Locking::new();
    assert!(locking.posix(0, 5, LockMode::Write, (10, 19)));
    assert!(locking.posix(1, 5, LockMode::Read, (0, 9)), "beside it");
    assert!(!locking.posix(1, 5, LockMode::Read, (0, 10)));
    let lock = locking.message(6, LockMode::Read, ALL);
    let holder = locking.send(0, &user(1), lock).unwrap().conflict.unwrap();
    assert_eq!(
        (holder.session, holder.owner, holder.pid, holder.mode()),
        (locking.sessions[0].0, 5, 77, LockMode::Write),
        "another owner of the same session is somebody else"
    );
    assert_eq!((holder.start, holder.end), (10, 19));
    assert!(locking.posix(1, 5, LockMode::Read, (20, u64::MAX)));
    assert!(locking.posix(0, 5, LockMode::Unlocked, ALL));
    assert!(locking.posix(2, 1, LockMode::Read, ALL), "readers share");
    locking.check();
}

#[test]
fn an_owner_changes_its_mode_in_one_step_or_keeps_what_it_has() {
    let mut locking = Locking::new();
    assert!(locking.posix(0, 5, LockMode::Read, (0, 99)));
    let upgrade = locking.message(5, LockMode::Write, (10, 19));
    let outcome = locking.send(0, &user(1), upgrade).unwrap();
    let replaced: Vec<_> = outcome
        .replaced
        .iter()
        .map(|p| (p.start, p.end, p.mode()))
        .collect();
    assert_eq!(replaced, [(10, 19, LockMode::Read)]);
    assert!(locking.posix(1, 1, LockMode::Read, (30, 39)));
    assert!(!locking.posix(0, 5, LockMode::Write, (20, 39)), "refused");
    let me = locking.sessions[0].0;
    let mine: Vec<_> = locking.list().into_iter().filter(|l| l.0 == me).collect();
    let expected = [
        (me, 5, LockMode::Read, 0, 9),
        (me, 5, LockMode::Write, 10, 19),
        (me, 5, LockMode::Read, 20, 99),
    ];
    assert_eq!(mine, expected);
    assert!(locking.posix(0, 5, LockMode::Read, (10, 19)), "downgrade");
    assert_eq!(locking.list()[0], (me, 5, LockMode::Read, 0, 99));
    locking.check();
}

#[test]
fn flock_and_fcntl_do_not_meet_and_a_refused_change_of_mode_lets_go() {
    let mut locking = Locking::new();
    assert!(locking.posix(0, 1, LockMode::Write, ALL));
    assert!(locking.flock(1, 1, LockMode::Read));
    assert!(locking.flock(2, 1, LockMode::Read));
    assert!(!locking.flock(0, 1, LockMode::Write));
    assert!(!locking.flock(1, 1, LockMode::Write), "refused, and lost");
    assert!(locking.flock(2, 1, LockMode::Write), "so the other may");
    let holders = locking.list();
    assert_eq!(holders.len(), 2);
    assert_eq!(
        holders[1],
        (locking.sessions[2].0, 1, LockMode::Write, 0, u64::MAX)
    );
    locking.check();
}

#[test]
fn locks_go_with_their_session_and_with_their_file() {
    let mut locking = Locking::new();
    for at in 0..2000 {
        assert!(locking.posix(0, 1, LockMode::Write, (2 * at, 2 * at)));
    }
    assert!(!locking.posix(1, 1, LockMode::Write, ALL));
    locking.check();
    locking.expire(0);
    assert!(locking.list().is_empty(), "in several steps");
    assert!(locking.posix(1, 1, LockMode::Write, ALL));
    assert!(locking.flock(1, 1, LockMode::Write));
    locking.check();

    let unlink = Unlink {
        location: Location::path("/file"),
    };
    locking.raw(1, &user(1), OperationKind::Unlink(unlink));
    assert!(!locking.posix(2, 1, LockMode::Write, ALL), "it lives on");
    locking.world.now_ns += 2 * GRACE_NS;
    while locking
        .world
        .command(CommandKind::Sweep(Sweep { limit: 1 }))
        .more
    {}
    locking.check();
    let lock = locking.message(1, LockMode::Write, ALL);
    assert_eq!(locking.send(1, &user(1), lock), Err(ErrorCode::NotFound));
    assert!(
        locking.posix(1, 1, LockMode::Unlocked, ALL),
        "nothing to do"
    );
    locking.check();
}

#[test]
fn the_mode_bits_say_who_may_lock() {
    let mut locking = Locking::new();
    locking.chmod(0o644);
    let stranger = user(9);
    let read = locking.message(1, LockMode::Read, ALL);
    let write = locking.message(1, LockMode::Write, ALL);
    assert!(locking.send(1, &stranger, read).is_ok());
    let refused = Err(ErrorCode::PermissionDenied);
    assert_eq!(locking.send(1, &stranger, write), refused);
    let exclusive = SetLock {
        space: LockSpace::Flock as i32,
        ..write
    };
    assert!(locking.send(1, &stranger, exclusive).is_ok(), "as flock(2)");
    locking.chmod(0o600);
    assert_eq!(locking.send(1, &stranger, read), refused);
    let test = TestLock {
        session: 0,
        lock: read,
    };
    let refused = locking.world.query(&stranger, &QueryKind::TestLock(test));
    assert_eq!(refused.unwrap_err(), ErrorCode::PermissionDenied);
    let unlock = locking.message(1, LockMode::Unlocked, ALL);
    assert!(locking.send(1, &stranger, unlock).is_ok());
    let root = SetLock { inode: 1, ..write };
    assert_eq!(
        locking.send(1, &user(0), root),
        Err(ErrorCode::IsADirectory)
    );
    locking.check();
}

#[test]
fn a_question_changes_nothing_and_an_owner_is_not_in_its_own_way() {
    let mut locking = Locking::new();
    assert!(locking.posix(0, 5, LockMode::Read, (10, 19)));
    let ask = |locking: &Locking, session: u64, owner: u64, mode| {
        let test = TestLock {
            session,
            lock: locking.message(owner, mode, ALL),
        };
        match locking.world.query(&user(1), &QueryKind::TestLock(test)) {
            Ok(QueryResult::LockTest(test)) => test.conflict.map(|holder| holder.start),
            other => panic!("{other:?}"),
        }
    };
    let (first, second) = (locking.sessions[0].0, locking.sessions[1].0);
    let before = locking.world.dump();
    assert_eq!(ask(&locking, second, 5, LockMode::Write), Some(10));
    assert_eq!(ask(&locking, 0, 5, LockMode::Write), Some(10));
    assert_eq!(ask(&locking, second, 5, LockMode::Read), None);
    assert_eq!(ask(&locking, first, 5, LockMode::Write), None);
    assert_eq!(ask(&locking, first, 6, LockMode::Write), Some(10));
    assert!(before == locking.world.dump());
}

#[test]
fn nonsense_and_too_many_locks_are_refused() {
    let mut locking = Locking::new();
    let good = locking.message(1, LockMode::Write, (5, 9));
    let cases = [
        SetLock { space: 2, ..good },
        SetLock { mode: 3, ..good },
        SetLock { start: 10, ..good },
    ];
    for wrong in cases {
        let refused = locking.send(0, &user(1), wrong);
        assert_eq!(refused, Err(ErrorCode::InvalidArgument), "{wrong:?}");
    }
    let inside = Transaction {
        preconditions: Vec::new(),
        operations: vec![OperationKind::SetLock(good).into()],
    };
    let refused = locking.raw(0, &user(1), OperationKind::Transaction(inside));
    assert_eq!(refused.code, ErrorCode::InvalidArgument as u32);

    for at in 0..LOCKS_PER_FILE_MAX as u64 {
        assert!(locking.posix(0, 1, LockMode::Write, (3 * at, 3 * at + 1)));
    }
    let more = locking.message(1, LockMode::Write, (2, 2));
    assert!(locking.send(0, &user(1), more).is_ok(), "it merges");
    assert!(locking.posix(0, 1, LockMode::Write, (3 * 9_000, 3 * 9_000)));
    let more = locking.message(2, LockMode::Write, (3 * 9_002, 3 * 9_002));
    assert_eq!(locking.send(1, &user(1), more), Err(ErrorCode::NoLocks));
    let hole = locking.message(1, LockMode::Unlocked, (1, 1));
    assert_eq!(locking.send(0, &user(1), hole), Err(ErrorCode::NoLocks));
    assert!(locking.posix(0, 1, LockMode::Unlocked, (0, 8)));
    assert!(locking.posix(1, 2, LockMode::Write, (0, 0)));
    locking.check();
}

#[test]
fn a_session_has_a_limit_over_all_files() {
    let mut locking = Locking::new();
    let id = SessionId(locking.sessions[0].0);
    let mut txn = locking.world.store.begin();
    let mut record = store::session::get(&txn, id).unwrap().unwrap();
    record.lock_count = LOCKS_PER_SESSION_MAX;
    store::session::put(&mut txn, id, &record);
    txn.commit(locking.world.store.applied().unwrap().unwrap())
        .unwrap();
    let lock = locking.message(1, LockMode::Write, ALL);
    assert_eq!(locking.send(0, &user(1), lock), Err(ErrorCode::NoLocks));
    assert!(locking.send(1, &user(1), lock).is_ok());
}

#[test]
fn a_retry_is_answered_from_memory() {
    let mut locking = Locking::new();
    let lock = locking.message(1, LockMode::Write, ALL);
    (locking.world.session, locking.world.sequence) = locking.sessions[0];
    let command = locking.world.next(&user(1), OperationKind::SetLock(lock));
    let first = locking.world.command(CommandKind::Client(command.clone()));
    assert!(locking.posix(1, 1, LockMode::Unlocked, ALL));
    let again = locking.world.command(CommandKind::Client(command));
    assert_eq!(first, again);
    assert_eq!(locking.list().len(), 1);
}

#[test]
fn the_checks_find_locks_that_must_not_be() {
    let mut locking = Locking::new();
    assert!(locking.posix(0, 1, LockMode::Write, (0, 9)));
    let key = |session: u64, owner, start, inode| LockKey {
        inode: InodeId(inode),
        space: LockSpace::Posix,
        start,
        owner: LockOwner {
            session: SessionId(session),
            owner,
        },
    };
    let record = LockRecord {
        end: 20,
        mode: LockMode::Read as i32,
        pid: 0,
    };
    let (first, second) = (locking.sessions[0].0, locking.sessions[1].0);
    let cases = [
        (key(second, 1, 5, locking.file), "conflicts"),
        (key(first, 1, 5, locking.file), "overlaps"),
        (key(99, 1, 15, locking.file), "of no session"),
        (key(second, 1, 15, 1), "on no file"),
        (key(second, 1, 15, 99), "on no file"),
    ];
    for (key, expected) in cases {
        let mut txn = locking.world.store.begin();
        store::lock::put(&mut txn, &key, &record);
        let problems = check_all(&txn).unwrap();
        assert!(
            problems
                .iter()
                .any(|p| p.invariant == "I10" && p.message.contains(expected)),
            "{expected}: {problems:?}"
        );
    }
    let held = key(first, 1, 0, locking.file);
    let mut txn = locking.world.store.begin();
    txn.delete(store::session_lock::encode(&held));
    assert_eq!(
        check_all(&txn).unwrap().len(),
        2,
        "not listed, and miscounted"
    );
    let mut txn = locking.world.store.begin();
    txn.delete(store::lock::encode(&held));
    assert_eq!(check_all(&txn).unwrap().len(), 1, "listed without a lock");
}

/// What one owner asks for.
type Step = (usize, u64, LockMode, u64, u64);

const BYTES: u64 = 12;

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![
        proptest::strategy::Just(LockMode::Unlocked),
        proptest::strategy::Just(LockMode::Read),
        proptest::strategy::Just(LockMode::Write),
    ];
    (0..3usize, 0..2u64, mode, 0..BYTES, 0..BYTES)
        .prop_map(|(session, owner, mode, a, b)| (session, owner, mode, a.min(b), a.max(b)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn owners_hold_what_a_map_of_bytes_says(steps in prop::collection::vec(step(), 1..60)) {
        let mut locking = Locking::new();
        // Mode of each owner at each byte.
        let mut reference = vec![[LockMode::Unlocked; 6]; BYTES as usize];
        for (session, owner, mode, start, end) in steps {
            let me = session * 2 + owner as usize;
            let mut range = reference[start as usize..=end as usize].iter();
            let free = mode == LockMode::Unlocked || range.all(|byte| {
                byte.iter().enumerate().all(|(other, held)| {
                    let shared = *held != LockMode::Write && mode != LockMode::Write;
                    other == me || *held == LockMode::Unlocked || shared
                })
            });
            assert_eq!(locking.posix(session, owner, mode, (start, end)), free);
            if free {
                for byte in &mut reference[start as usize..=end as usize] {
                    byte[me] = mode;
                }
            }
            let mut held = vec![[LockMode::Unlocked; 6]; BYTES as usize];
            for (id, owner, mode, start, end) in locking.list() {
                let session = locking.sessions.iter().position(|known| known.0 == id).unwrap();
                for byte in &mut held[start as usize..=end as usize] {
                    byte[session * 2 + owner as usize] = mode;
                }
            }
            assert_eq!(held, reference);
            locking.check();
        }
    }
}
