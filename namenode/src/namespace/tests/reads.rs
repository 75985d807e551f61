//! Times of access that readers tell later: which of them count, and that nothing else changes by them.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, Caller, Location};
use cairn_protocol::messages::operation::{
    Delegate, Done, NoteReads, OperationKind, OutcomeKind, ReadNote, SetAttributes,
};

use super::world::{World, user};
use crate::store::What;

fn note(world: &mut World, who: &Caller, reads: Vec<ReadNote>) -> Result<OutcomeKind, ErrorCode> {
    world.apply(who, OperationKind::NoteReads(NoteReads { reads }))
}

fn read(file: &Attributes, atime_ns: u64) -> ReadNote {
    ReadNote {
        inode: file.inode,
        before_ns: file.atime_ns,
        atime_ns,
    }
}

/// As a session sees it.
fn stat(world: &World, session: u64, inode: u64) -> Attributes {
    let location = Location::inode(InodeId(inode));
    let caller = Caller { session, ..user(0) };
    world.stat_at(&caller, location, false).unwrap()
}

#[test]
fn a_read_changes_the_time_of_access_and_nothing_else() {
    let mut world = World::new();
    let file = world.create(&user(1), "/file").unwrap().attributes;
    let directory = world.mkdir(&user(1), "/directory").unwrap().attributes;
    world.now_ns += 1_000;
    let (now, later) = (world.now_ns, world.now_ns + 500);
    world.changes.clear();
    // Mode 0644 and 0755: others may read it. What will be is not known yet.
    let reads = vec![read(&file, now - 10), read(&directory, later)];
    let done = OutcomeKind::Done(Done {});
    assert_eq!(note(&mut world, &user(2), reads), Ok(done));
    for (before, atime_ns) in [(file, now - 10), (directory, now)] {
        let after = stat(&world, 0, before.inode);
        assert_eq!(after, Attributes { atime_ns, ..before });
    }
    let changes = world.changes.iter().flat_map(|set| &set.changes);
    let told: Vec<What> = changes.map(|change| change.what).collect();
    assert_eq!(told, [What::Attributes, What::Attributes]);
}

#[test]
fn what_does_not_fit_is_passed_over() {
    let mut world = World::new();
    let shut = world.create(&user(1), "/shut").unwrap().attributes;
    let set = SetAttributes {
        location: Location::path("/shut"),
        mode: Some(0o600),
        ..SetAttributes::default()
    };
    let set = OperationKind::SetAttributes(set);
    world.change(&user(1), set).unwrap();
    let gone = world.create(&user(1), "/gone").unwrap().attributes;
    world.unlink(&user(1), "/gone").unwrap();
    let stale = world.create(&user(1), "/stale").unwrap().attributes;
    let set = SetAttributes {
        location: Location::path("/stale"),
        atime_ns: Some(7),
        ..SetAttributes::default()
    };
    let set = OperationKind::SetAttributes(set);
    world.change(&user(1), set).unwrap();
    let old = world.create(&user(1), "/old").unwrap().attributes;
    let fine = world.create(&user(1), "/fine").unwrap().attributes;
    let theirs = world.mkdir(&user(1), "/theirs").unwrap().attributes;
    let mine = (world.session, world.sequence);
    (world.session, world.sequence) = (world.open_session(2), 0);
    let holder = world.session;
    let take = Delegate {
        take: vec![theirs.inode],
        give_back: Vec::new(),
    };
    let take = OperationKind::Delegate(take);
    world.apply(&user(1), take).unwrap();
    (world.session, world.sequence) = mine;
    world.now_ns += 1_000;
    let now = world.now_ns;
    let of = |file: &Attributes| read(file, now);
    let unknown = ReadNote {
        inode: 999,
        ..of(&fine)
    };
    let reads = vec![
        of(&shut),
        of(&gone),
        of(&stale),
        read(&old, old.atime_ns - 1),
        unknown,
        of(&theirs),
        of(&fine),
    ];
    note(&mut world, &user(2), reads).unwrap();
    for before in [&shut, &old, &theirs] {
        let after = stat(&world, holder, before.inode);
        assert_eq!(after.atime_ns, before.atime_ns);
    }
    assert_eq!(stat(&world, holder, stale.inode).atime_ns, 7);
    assert_eq!(stat(&world, holder, fine.inode).atime_ns, now);
    // Its owner and the superuser may read it.
    note(&mut world, &user(1), vec![of(&shut)]).unwrap();
    assert_eq!(stat(&world, holder, shut.inode).atime_ns, now);
}

#[test]
fn there_is_a_limit() {
    let mut world = World::new();
    let file = world.create(&user(1), "/file").unwrap().attributes;
    let reads = |count| vec![read(&file, file.atime_ns + 1); count];
    assert!(note(&mut world, &user(1), reads(1024)).is_ok());
    let refused = note(&mut world, &user(1), reads(1025));
    assert_eq!(refused, Err(ErrorCode::InvalidArgument));
}
