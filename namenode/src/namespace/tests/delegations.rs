//! Delegations: who is kept out of a directory, what its holder may tell later, numbers, times, and how a delegation ends.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, Caller, InodeKind, Location};
use cairn_protocol::messages::operation::{
    CloneRange, Concat, Delegate, IfExists, InodeRange, Link, Mkdir, OperationKind, OutcomeKind,
    Precondition, RemoveTree, RemoveXattr, Rename, RenameMode, ReserveInodes, Rmdir, SetAttributes,
    SetXattr, Step, Symlink, Transaction, Unlink, WriteBehind,
};
use cairn_protocol::messages::query::{Access, GetXattr, List, ListXattrs, QueryKind, Stat};

use super::acl;
use super::world::{EPOCH_NS, GRACE_NS, Row, World, create, mkdir, user};
use crate::namespace::command::{
    ClientCommand, CommandKind, ExpireSession, Outcome, RecallDelegation, Sweep,
};
use crate::namespace::invariants::check_all;
use crate::namespace::{OpError, check_remove_tree};
use crate::store::{self, What};

const A: usize = 0;
const B: usize = 1;

/// `/d` is delegated to session A; session B is somebody else's. In `/d` are a file and a directory.
struct Delegating {
    world: World,
    sessions: Vec<(u64, u64)>,
    directory: u64,
    file: u64,
}

impl Delegating {
    fn new() -> Self {
        let mut world = World::new();
        let directory = world.change(&user(1), mkdir("/d", 0o777)).unwrap();
        let file = world.create(&user(1), "/d/file").unwrap();
        world.change(&user(1), mkdir("/d/sub", 0o777)).unwrap();
        world.create(&user(1), "/other").unwrap();
        let sessions = vec![(world.session, world.sequence), (world.open_session(2), 0)];
        let mut delegating = Self {
            world,
            sessions,
            directory: directory.attributes.inode,
            file: file.attributes.inode,
        };
        assert_eq!(delegating.take(A, delegating.directory), Ok(()));
        delegating
    }

    fn outcome(&mut self, session: usize, caller: &Caller, kind: OperationKind) -> Outcome {
        (self.world.session, self.world.sequence) = self.sessions[session];
        let outcome = self.world.outcome(caller, kind);
        self.sessions[session].1 = self.world.sequence;
        assert_eq!(check_all(&self.world.store.snapshot()).unwrap(), []);
        outcome
    }

    fn send(&mut self, session: usize, kind: OperationKind) -> Result<OutcomeKind, ErrorCode> {
        let outcome = self.outcome(session, &user(1), kind);
        match ErrorCode::from_number(outcome.code) {
            Some(code) => Err(code),
            None => Ok(outcome.value.unwrap().kind.unwrap()),
        }
    }

    fn take(&mut self, session: usize, directory: u64) -> Result<(), ErrorCode> {
        let take = vec![directory];
        let give_back = Vec::new();
        self.send(
            session,
            OperationKind::Delegate(Delegate { take, give_back }),
        )
        .map(drop)
    }

    fn give_back(&mut self, session: usize, directory: u64) {
        let give_back = vec![directory];
        let take = Vec::new();
        let delegate = Delegate { take, give_back };
        self.send(session, OperationKind::Delegate(delegate))
            .unwrap();
    }

    fn write_behind(&mut self, steps: Vec<Step>) -> Result<OutcomeKind, ErrorCode> {
        self.send(A, OperationKind::WriteBehind(WriteBehind { steps }))
    }

    fn reserve(&mut self, session: usize, count: u32) -> InodeRange {
        let reserve = OperationKind::ReserveInodes(ReserveInodes { count });
        match self.send(session, reserve).unwrap() {
            OutcomeKind::Inodes(range) => range,
            other => panic!("not a range: {other:?}"),
        }
    }

    /// As a session asks.
    fn asks(&self, session: usize) -> Caller {
        Caller {
            session: self.sessions[session].0,
            ..user(1)
        }
    }

    fn stat(&self, session: usize, path: &str) -> Result<Attributes, ErrorCode> {
        self.world.stat(&self.asks(session), path)
    }

    /// All but counters, and what is remembered of sessions.
    fn tables(&self) -> Vec<Row> {
        let mut rows = self.world.dump();
        rows.retain(|(key, _)| key[0] >= 0x10 && !(0x40..=0x42).contains(&key[0]));
        rows
    }

    fn expire(&mut self, session: usize) {
        let session = self.sessions[session].0;
        let expire = CommandKind::ExpireSession(ExpireSession { session });
        assert_eq!(self.world.command(expire).code, 0);
    }

    fn recall(&mut self, directory: u64) -> bool {
        let recall = CommandKind::RecallDelegation(RecallDelegation { directory });
        let outcome = self.world.command(recall);
        assert_eq!(outcome.code, 0);
        outcome.more
    }
}

fn at(path: &str) -> Location {
    Location::path(path)
}

fn step(kind: OperationKind, inode: u64, at_ns: u64) -> Step {
    let step = Step {
        operation: kind.into(),
        inode,
        ..Step::default()
    };
    Step { at_ns, ..step }
}

fn file(path: &str) -> OperationKind {
    OperationKind::Create(create(path))
}

fn rename(source: &str, target: &str, mode: RenameMode) -> OperationKind {
    OperationKind::Rename(Rename {
        source: at(source),
        target: at(target),
        mode: mode as i32,
    })
}

fn unlink(path: &str) -> OperationKind {
    OperationKind::Unlink(Unlink { location: at(path) })
}

fn rmdir(path: &str) -> OperationKind {
    OperationKind::Rmdir(Rmdir { location: at(path) })
}

fn remove_tree(path: &str) -> OperationKind {
    OperationKind::RemoveTree(RemoveTree { location: at(path) })
}

fn set_xattr(path: &str, name: &str, value: &[u8]) -> OperationKind {
    OperationKind::SetXattr(SetXattr {
        location: at(path),
        name: name.into(),
        value: value.to_vec(),
        ..SetXattr::default()
    })
}

/// Every kind of change that meets names in `/d`, or `/d` as such.
fn changes(directory: u64) -> Vec<OperationKind> {
    let into = |path: &str| {
        OperationKind::Link(Link {
            source: at("/other"),
            location: at(path),
            ..Link::default()
        })
    };
    let out = OperationKind::Link(Link {
        source: at("/d/file"),
        location: at("/name"),
        ..Link::default()
    });
    let mut by_number = create("");
    by_number.location = Location::entry(InodeId(directory), "new");
    let mut replace = create("/d/file");
    replace.if_exists = IfExists::Replace as i32;
    let mut deep = create("/d/x/y");
    deep.parents = true;
    let precondition = |path: &str| {
        OperationKind::Transaction(Transaction {
            preconditions: vec![Precondition {
                location: at(path),
                exists: Some(true),
                ..Precondition::default()
            }],
            operations: Vec::new(),
        })
    };
    let inside = Transaction {
        preconditions: Vec::new(),
        operations: vec![file("/aside").into(), file("/d/new").into()],
    };
    vec![
        mkdir("/d/new", 0o755),
        mkdir("/d/sub/new", 0o755),
        OperationKind::Mkdir(Mkdir {
            location: at("/d/sub"),
            parents: true,
            ..Mkdir::default()
        }),
        file("/d/new"),
        OperationKind::Create(by_number),
        OperationKind::Create(replace),
        OperationKind::Create(deep),
        OperationKind::Symlink(Symlink {
            location: at("/d/new"),
            target: b"x".to_vec(),
        }),
        into("/d/new"),
        out,
        rename("/d/file", "/name", RenameMode::Replace),
        rename("/other", "/d/name", RenameMode::Replace),
        rename("/other", "/d/file", RenameMode::Exchange),
        rename("/empty", "/d", RenameMode::Replace),
        unlink("/d/file"),
        rmdir("/d"),
        rmdir("/d/sub"),
        remove_tree("/d"),
        remove_tree("/d/sub"),
        OperationKind::Concat(Concat {
            target: at("/d/file"),
            sources: vec![at("/other")],
        }),
        OperationKind::Concat(Concat {
            target: at("/other"),
            sources: vec![at("/d/file")],
        }),
        OperationKind::CloneRange(CloneRange {
            source: at("/d/file"),
            target: at("/other"),
            ..CloneRange::default()
        }),
        OperationKind::CloneRange(CloneRange {
            source: at("/other"),
            target: at("/d/file"),
            ..CloneRange::default()
        }),
        OperationKind::SetAttributes(SetAttributes {
            location: at("/d"),
            mode: Some(0o700),
            ..SetAttributes::default()
        }),
        set_xattr("/d", "user.x", b"1"),
        OperationKind::RemoveXattr(RemoveXattr {
            location: at("/d"),
            name: b"user.x".to_vec(),
            ..RemoveXattr::default()
        }),
        OperationKind::Transaction(inside),
        precondition("/d/file"),
        precondition("/d"),
        OperationKind::Delegate(Delegate {
            take: vec![directory],
            give_back: Vec::new(),
        }),
    ]
}

fn queries() -> Vec<QueryKind> {
    let stat = |path: &str| {
        QueryKind::Stat(Stat {
            location: at(path),
            follow: true,
        })
    };
    vec![
        stat("/d"),
        stat("/d/file"),
        stat("/d/missing"),
        stat("/d/sub/missing"),
        stat("//d//file"),
        stat("/link/file"),
        QueryKind::Access(Access {
            location: at("/d"),
            mask: 0,
        }),
        QueryKind::List(List {
            location: at("/d"),
            ..List::default()
        }),
        QueryKind::GetXattr(GetXattr {
            location: at("/d"),
            name: b"user.x".to_vec(),
            ..GetXattr::default()
        }),
        QueryKind::ListXattrs(ListXattrs {
            location: at("/d"),
            ..ListXattrs::default()
        }),
    ]
}

#[test]
fn nobody_else_changes_anything_in_a_delegated_directory() {
    let mut delegating = Delegating::new();
    let directory = delegating.directory;
    delegating.send(B, mkdir("/empty", 0o755)).unwrap();
    let before = delegating.tables();
    for kind in changes(directory) {
        let outcome = delegating.outcome(B, &user(1), kind.clone());
        assert_eq!(outcome.code, ErrorCode::Delegated as u32, "{kind:?}");
        assert_eq!(outcome.id, directory, "{kind:?}");
        assert_eq!(delegating.tables(), before, "{kind:?}");
    }
    // The superuser has no session either.
    let outcome = delegating.outcome(B, &user(0), remove_tree("/d"));
    assert_eq!(outcome.code, ErrorCode::Delegated as u32);
}

#[test]
fn nobody_else_sees_anything_in_a_delegated_directory() {
    let mut delegating = Delegating::new();
    let link = Symlink {
        location: at("/link"),
        target: b"d".to_vec(),
    };
    delegating.send(B, OperationKind::Symlink(link)).unwrap();
    let mut strangers = vec![user(1), user(0), delegating.asks(B)];
    strangers.push(Caller {
        session: 77,
        ..user(1)
    });
    // Twice: the second time, paths are remembered.
    for _ in 0..2 {
        for kind in queries() {
            for stranger in &strangers {
                let result = delegating.world.query(stranger, &kind);
                assert_eq!(result.unwrap_err(), ErrorCode::Delegated, "{kind:?}");
            }
            let own = delegating.world.query(&delegating.asks(A), &kind);
            assert_ne!(own.err(), Some(ErrorCode::Delegated), "{kind:?}");
        }
    }
    // Who may not, does not make anybody wait.
    let locked = match delegating.send(A, mkdir("/locked", 0o700)).unwrap() {
        OutcomeKind::Inode(outcome) => outcome.attributes.inode,
        other => panic!("{other:?}"),
    };
    delegating.take(A, locked).unwrap();
    let refused = delegating.world.stat(&user(2), "/locked/x").unwrap_err();
    assert_eq!(refused, ErrorCode::PermissionDenied);
}

#[test]
fn what_is_remembered_of_paths_ends_with_a_delegation() {
    let mut delegating = Delegating::new();
    let directory = delegating.directory;
    delegating.give_back(A, directory);
    for _ in 0..2 {
        delegating.stat(B, "/d/sub").unwrap();
        delegating.stat(B, "/d/file").unwrap();
    }
    delegating.take(A, directory).unwrap();
    for _ in 0..2 {
        assert_eq!(
            delegating.stat(B, "/d/file").unwrap_err(),
            ErrorCode::Delegated
        );
        delegating.stat(A, "/d/file").unwrap();
    }
}

#[test]
fn inodes_are_everybodys_and_what_lies_deeper_too() {
    let mut delegating = Delegating::new();
    let by_number = Location::inode(InodeId(delegating.file));
    let b = delegating.asks(B);
    delegating
        .world
        .stat_at(&b, by_number.clone(), false)
        .unwrap();
    let change = SetAttributes {
        location: by_number,
        mode: Some(0o640),
        ..SetAttributes::default()
    };
    delegating
        .send(B, OperationKind::SetAttributes(change))
        .unwrap();
    let sub = delegating.stat(A, "/d/sub").unwrap().inode;
    let mut deeper = create("");
    deeper.location = Location::entry(InodeId(sub), "new");
    delegating.send(B, OperationKind::Create(deeper)).unwrap();
    // The directory's own name is its parent's.
    delegating
        .send(B, rename("/d", "/e", RenameMode::Replace))
        .unwrap();
    delegating.send(A, file("/e/new")).unwrap();
}

#[test]
fn a_delegation_ends_when_it_is_given_back_and_with_its_session() {
    let mut delegating = Delegating::new();
    let directory = delegating.directory;
    assert!(delegating.recall(directory));
    assert_eq!(delegating.take(B, directory), Err(ErrorCode::Delegated));
    // Nobody gives back what is another's.
    delegating.give_back(B, directory);
    assert!(delegating.recall(directory));
    delegating.give_back(A, directory);
    assert!(!delegating.recall(directory));
    delegating.stat(B, "/d/file").unwrap();
    delegating.take(B, directory).unwrap();
    assert_eq!(
        delegating.stat(A, "/d/file").unwrap_err(),
        ErrorCode::Delegated
    );
    delegating.expire(B);
    assert!(!delegating.recall(directory));
    delegating.stat(A, "/d/file").unwrap();
    delegating.world.stat(&user(1), "/d/file").unwrap();
    delegating.take(A, directory).unwrap();
    assert!(!delegating.recall(99));
}

#[test]
fn only_an_owner_takes_a_directory_and_a_default_acl_forbids_it() {
    let mut delegating = Delegating::new();
    let directory = delegating.directory;
    delegating.give_back(A, directory);
    let take = |delegating: &mut Delegating, caller: &Caller, inode| {
        let take = Delegate {
            take: vec![inode],
            give_back: Vec::new(),
        };
        delegating
            .outcome(B, caller, OperationKind::Delegate(take))
            .code
    };
    let denied = ErrorCode::PermissionDenied as u32;
    assert_eq!(take(&mut delegating, &user(2), directory), denied);
    let file = delegating.file;
    assert_eq!(
        take(&mut delegating, &user(1), file),
        ErrorCode::NotADirectory as u32
    );
    assert_eq!(
        take(&mut delegating, &user(1), 999),
        ErrorCode::NotFound as u32
    );
    assert_eq!(take(&mut delegating, &user(0), directory), 0);
    delegating.give_back(B, directory);
    delegating.take(A, directory).unwrap();
    let acl = acl::list([7, 7, 7, 7, 5]);
    delegating
        .send(A, set_xattr("/d", "system.posix_acl_default", &acl))
        .unwrap();
    assert!(!delegating.recall(directory));
    assert_eq!(delegating.take(A, directory), Err(ErrorCode::NotSupported));
    // What is made there inherits the list, and is not delegated.
    delegating
        .write_behind(vec![step(mkdir("/d/new", 0o755), 0, 0)])
        .unwrap();
    delegating.stat(B, "/d/new/x").unwrap_err();
    assert_eq!(
        delegating.stat(B, "/d/new/x").unwrap_err(),
        ErrorCode::NotFound
    );
}

#[test]
fn the_feed_tells_others_to_forget_and_the_holder_to_give_back() {
    let mut delegating = Delegating::new();
    let directory = delegating.directory;
    let (a, _) = delegating.sessions[A];
    let taken = delegating.world.changes.last().unwrap().clone();
    assert_eq!(taken.session.0, a);
    assert_eq!(taken.changes.len(), 1);
    let change = &taken.changes[0];
    assert_eq!((change.what, change.name.len()), (What::Named, 0));
    assert_eq!((change.parent.0, change.inode.0), (directory, directory));
    // What one has already changes nothing.
    delegating.world.changes.clear();
    delegating.take(A, directory).unwrap();
    assert_eq!(delegating.world.changes, []);
    assert!(delegating.recall(directory));
    let recalled = delegating.world.changes.last().unwrap();
    assert_eq!(recalled.session.0, 0);
    let change = &recalled.changes[0];
    assert_eq!((change.what, change.inode.0), (What::Attributes, directory));
    let before = delegating.world.changes.len();
    delegating.give_back(A, directory);
    assert!(!delegating.recall(directory));
    assert_eq!(delegating.world.changes.len(), before);
}

#[test]
fn a_mutation_that_waited_happens_once_under_its_number() {
    let mut delegating = Delegating::new();
    let directory = delegating.directory;
    (delegating.world.session, delegating.world.sequence) = delegating.sessions[B];
    let command = delegating.world.next(&user(1), file("/d/new"));
    let send = |delegating: &mut Delegating, command: &ClientCommand| {
        let command = CommandKind::Client(command.clone());
        delegating.world.command(command)
    };
    for _ in 0..3 {
        let outcome = send(&mut delegating, &command);
        assert_eq!(outcome.code, ErrorCode::Delegated as u32);
    }
    delegating.give_back(A, directory);
    let done = send(&mut delegating, &command);
    assert_eq!(done.code, 0, "{}", done.message);
    // It is remembered now, also when the directory is delegated again.
    delegating.take(A, directory).unwrap();
    let again = send(&mut delegating, &command);
    assert_eq!((again.code, &again.value), (0, &done.value));
}

#[test]
fn what_a_client_did_by_itself_happens_once_and_in_one_step() {
    let mut delegating = Delegating::new();
    let range = delegating.reserve(A, 3);
    let steps = vec![
        step(mkdir("/d/new", 0o755), range.first, 0),
        step(file("/d/new/a"), range.first + 1, 0),
        step(rename("/d/new/a", "/d/b", RenameMode::Replace), 0, 0),
        step(unlink("/d/file"), 0, 0),
        step(rmdir("/d/sub"), 0, 0),
    ];
    (delegating.world.session, delegating.world.sequence) = delegating.sessions[A];
    let behind = OperationKind::WriteBehind(WriteBehind { steps });
    let command = delegating.world.next(&user(1), behind);
    delegating.sessions[A].1 = delegating.world.sequence;
    for _ in 0..2 {
        let outcome = delegating
            .world
            .command(CommandKind::Client(command.clone()));
        assert_eq!(outcome.code, 0, "{}", outcome.message);
        assert_eq!(check_all(&delegating.world.store.snapshot()).unwrap(), []);
    }
    let a = delegating.asks(A);
    assert_eq!(delegating.world.names(&a, "/d").unwrap(), ["b", "new"]);
    assert_eq!(delegating.stat(A, "/d/new").unwrap().inode, range.first);
    assert_eq!(delegating.stat(A, "/d/b").unwrap().inode, range.first + 1);
    // The new directory is the session's own, too.
    delegating.give_back(A, delegating.directory);
    delegating.stat(B, "/d/b").unwrap();
    assert_eq!(
        delegating.stat(B, "/d/new/x").unwrap_err(),
        ErrorCode::Delegated
    );
    // All or nothing.
    let before = delegating.tables();
    let steps = vec![
        step(file("/d/new/c"), range.first + 2, 0),
        step(unlink("/d/missing"), 0, 0),
    ];
    assert_eq!(delegating.write_behind(steps), Err(ErrorCode::NotFound));
    assert_eq!(
        delegating.stat(A, "/d/new/c").unwrap_err(),
        ErrorCode::NotFound
    );
    assert_eq!(delegating.tables(), before);
    let steps = vec![step(file("/d/new/c"), range.first + 2, 0)];
    delegating.write_behind(steps).unwrap();
}

#[test]
fn numbers_are_used_once_by_who_has_reserved_them() {
    let mut delegating = Delegating::new();
    let none = delegating.write_behind(vec![step(file("/d/a"), delegating.file, 0)]);
    assert_eq!(none, Err(ErrorCode::InvalidArgument));
    let others = delegating.reserve(B, 10);
    let own = delegating.reserve(A, 10);
    assert!(own.first >= others.end);
    for forged in [delegating.file, 1, others.first, own.end, u64::MAX] {
        let behind = delegating.write_behind(vec![step(file("/d/a"), forged, 0)]);
        assert_eq!(behind, Err(ErrorCode::InvalidArgument), "{forged}");
    }
    let mut parents = create("/d/x/y");
    parents.parents = true;
    let several = step(OperationKind::Create(parents), own.first, 0);
    assert_eq!(
        delegating.write_behind(vec![several]),
        Err(ErrorCode::InvalidArgument)
    );
    let made = |name: &str, inode| step(file(name), inode, 0);
    delegating
        .write_behind(vec![
            made("/d/a", own.first + 5),
            step(unlink("/d/a"), 0, 0),
        ])
        .unwrap();
    // Not the same again, nor one below.
    for used in [own.first + 5, own.first] {
        let behind = delegating.write_behind(vec![made("/d/b", used)]);
        assert_eq!(behind, Err(ErrorCode::InvalidArgument));
    }
    // What others make gets numbers above, and what is reserved anew forgets what was left.
    let next = delegating.send(B, file("/c")).unwrap();
    let OutcomeKind::Inode(next) = next else {
        panic!("{next:?}");
    };
    assert!(next.attributes.inode >= own.end);
    let anew = delegating.reserve(A, 1);
    assert_eq!(
        delegating.write_behind(vec![made("/d/b", own.first + 6)]),
        Err(ErrorCode::InvalidArgument)
    );
    delegating
        .write_behind(vec![made("/d/b", anew.first)])
        .unwrap();
    for count in [0, 65_537] {
        let reserve = OperationKind::ReserveInodes(ReserveInodes { count });
        assert_eq!(delegating.send(A, reserve), Err(ErrorCode::InvalidArgument));
    }
}

#[test]
fn times_are_those_of_the_client_within_bounds() {
    let mut delegating = Delegating::new();
    let directory = delegating.stat(A, "/d").unwrap();
    delegating.world.now_ns += 1_000;
    let at_ns = EPOCH_NS + 400;
    delegating
        .write_behind(vec![
            step(file("/d/a"), 0, at_ns),
            step(file("/d/b"), 0, 5),
            step(file("/d/c"), 0, u64::MAX),
            step(file("/d/d"), 0, 0),
            step(file("/d/e"), 0, at_ns),
        ])
        .unwrap();
    let times = |path: &str| {
        let found = delegating.stat(A, path).unwrap();
        (found.mtime_ns, found.ctime_ns, found.btime_ns)
    };
    assert_eq!(times("/d/a"), (at_ns, at_ns, at_ns));
    assert_eq!(times("/d/b").1, EPOCH_NS);
    assert_eq!(times("/d/c").1, EPOCH_NS + 1_000);
    assert_eq!(times("/d/d").1, EPOCH_NS + 1_000);
    // A clock that went back takes the directory's time not back.
    let after = delegating.stat(A, "/d").unwrap();
    assert_eq!(after.mtime_ns, EPOCH_NS + 1_000);
    assert_eq!(after.ctime_ns, EPOCH_NS + 1_000);
    assert!(after.version > directory.version);
}

#[test]
fn an_inode_is_kept_for_its_grace_from_when_its_end_is_told() {
    let mut delegating = Delegating::new();
    let long_ago = delegating.world.now_ns;
    delegating.world.now_ns += 10 * GRACE_NS;
    delegating
        .write_behind(vec![step(unlink("/d/file"), 0, long_ago)])
        .unwrap();
    let sweep = CommandKind::Sweep(Sweep { limit: 100 });
    delegating.world.command(sweep.clone());
    let by_number = Location::inode(InodeId(delegating.file));
    let b = delegating.asks(B);
    delegating
        .world
        .stat_at(&b, by_number.clone(), false)
        .unwrap();
    delegating.world.now_ns += GRACE_NS + 1;
    delegating.world.command(sweep);
    let gone = delegating.world.stat_at(&b, by_number, false).unwrap_err();
    assert_eq!(gone, ErrorCode::NotFound);
}

#[test]
fn what_is_no_change_of_names_is_not_told_later() {
    let mut delegating = Delegating::new();
    let give_back = Delegate {
        take: Vec::new(),
        give_back: vec![delegating.directory],
    };
    let kinds = [
        OperationKind::Delegate(give_back),
        OperationKind::ReserveInodes(ReserveInodes { count: 1 }),
        OperationKind::WriteBehind(WriteBehind { steps: Vec::new() }),
        OperationKind::Transaction(Transaction::default()),
    ];
    for kind in kinds {
        let behind = delegating.write_behind(vec![step(kind.clone(), 0, 0)]);
        assert_eq!(behind, Err(ErrorCode::InvalidArgument));
        let inside = Transaction {
            preconditions: Vec::new(),
            operations: vec![kind.into()],
        };
        let inside = delegating.send(A, OperationKind::Transaction(inside));
        assert_eq!(inside, Err(ErrorCode::InvalidArgument));
    }
    let many = (0..1025).map(|_| step(unlink("/d/x"), 0, 0)).collect();
    assert_eq!(
        delegating.write_behind(many),
        Err(ErrorCode::InvalidArgument)
    );
}

#[test]
fn a_session_that_is_over_tells_nothing_any_more() {
    let mut delegating = Delegating::new();
    let range = delegating.reserve(A, 5);
    delegating.expire(A);
    let behind = delegating.write_behind(vec![step(file("/d/late"), range.first, 0)]);
    assert_eq!(behind, Err(ErrorCode::SessionExpired));
    assert_eq!(
        delegating.stat(B, "/d/late").unwrap_err(),
        ErrorCode::NotFound
    );
    delegating
        .send(B, rename("/d/file", "/d/mine", RenameMode::Replace))
        .unwrap();
}

#[test]
fn a_tree_is_removed_after_the_holders_in_it_have_told() {
    let mut delegating = Delegating::new();
    let sub = delegating.stat(A, "/d/sub").unwrap().inode;
    delegating.take(A, sub).unwrap();
    delegating.give_back(A, delegating.directory);
    let check = |delegating: &Delegating, session| {
        let caller = delegating.asks(session);
        check_remove_tree(&delegating.world.store.snapshot(), &caller, &at("/d"))
    };
    match check(&delegating, B) {
        Err(OpError::Delegated(directory)) => assert_eq!(directory.0, sub),
        other => panic!("{other:?}"),
    }
    check(&delegating, A).unwrap();
    delegating.give_back(A, sub);
    check(&delegating, B).unwrap();
    delegating.send(B, remove_tree("/d")).unwrap();
    // What is on its way out is nobody's any more.
    assert_eq!(
        delegating.take(A, delegating.directory),
        Err(ErrorCode::NotFound)
    );
}

#[test]
fn what_was_taken_out_of_a_tree_before_it_was_removed_stays() {
    let mut delegating = Delegating::new();
    let root = user(0);
    let made = delegating.send(B, mkdir("/top", 0o777)).unwrap();
    let OutcomeKind::Inode(top) = made else {
        panic!("{made:?}");
    };
    delegating
        .send(B, rename("/d", "/top/d", RenameMode::Replace))
        .unwrap();
    assert_eq!(delegating.outcome(B, &root, remove_tree("/top")).code, 0);
    let sweep = |delegating: &mut Delegating| {
        let sweep = CommandKind::Sweep(Sweep { limit: 1000 });
        let outcome = delegating.world.command(sweep);
        assert_eq!((outcome.code, outcome.more), (0, false));
        assert_eq!(check_all(&delegating.world.store.snapshot()).unwrap(), []);
    };
    sweep(&mut delegating);
    // The holder hears that it should give it back.
    let directory = delegating.directory;
    let heard = delegating.world.changes.last().unwrap();
    assert_eq!(heard.session.0, 0);
    assert!(heard.changes.iter().any(|c| c.inode.0 == directory));
    sweep(&mut delegating);
    let inside = |name: &str| Location::entry(InodeId(directory), name);
    let out = OperationKind::Rename(Rename {
        source: inside("file"),
        target: at("/saved"),
        mode: RenameMode::Replace as i32,
    });
    let gone = OperationKind::Rmdir(Rmdir {
        location: inside("sub"),
    });
    delegating
        .write_behind(vec![step(out, 0, 0), step(gone, 0, 0)])
        .unwrap();
    let mut late = create("");
    late.location = inside("late");
    let late = vec![step(OperationKind::Create(late), 0, 0)];
    assert_eq!(delegating.write_behind(late), Err(ErrorCode::NotFound));
    delegating.give_back(A, directory);
    sweep(&mut delegating);
    sweep(&mut delegating);
    for gone in [directory, top.attributes.inode] {
        let gone = delegating
            .world
            .stat_at(&root, Location::inode(InodeId(gone)), false);
        assert_eq!(gone.unwrap_err(), ErrorCode::NotFound);
    }
    let saved = delegating.stat(B, "/saved").unwrap();
    assert_eq!((saved.inode, saved.nlink), (delegating.file, 1));
}

#[test]
fn a_delegation_of_a_file_and_numbers_of_two_are_found() {
    let mut delegating = Delegating::new();
    let range = delegating.reserve(A, 5);
    let (a, _) = delegating.sessions[A];
    let broken = |breaking: &dyn Fn(&mut store::Txn<'_>)| {
        let mut txn = delegating.world.store.begin();
        breaking(&mut txn);
        let problems = check_all(&txn).unwrap();
        problems.iter().filter(|p| p.invariant == "I11").count()
    };
    let file = InodeId(delegating.file);
    let delegated = |txn: &mut store::Txn<'_>| {
        let mut record = store::inode::get(txn, file).unwrap().unwrap();
        record.delegated_to = a;
        store::inode::put(txn, file, &record);
    };
    assert_eq!(broken(&delegated), 1);
    let reserve = |end: u64, next: u64| {
        move |txn: &mut store::Txn<'_>| {
            let mut session = store::session::get(txn, a.into()).unwrap().unwrap();
            (session.reserved_next, session.reserved_end) = (next, end);
            store::session::put(txn, a.into(), &session);
        }
    };
    assert_eq!(broken(&reserve(range.end, range.first)), 0);
    assert_eq!(broken(&reserve(range.end + 1, range.first)), 1);
    assert_eq!(broken(&reserve(range.first, range.end)), 1);
    assert_eq!(broken(&reserve(range.end, file.0)), 1);
    let kind = delegating.stat(A, "/d/file").unwrap().kind;
    assert_eq!(kind, InodeKind::File as i32);
}
