//! The cluster's first command, sessions, settings, keys, and what a session holds.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{
    ClaimInode, IfExists, Link, OperationKind, ReleaseInode, RemoveTree, SetXattr,
};

use super::world::{GRACE_NS, Row, World, create, found, mkdir, settings, user};
use crate::namespace::command::{
    Command, CommandKind, ExpireSession, OpenSession, RotateKeys, SetSettings, Sweep,
};
use crate::store::{Read, orphan};

fn sweep(world: &mut World) {
    while world.command(CommandKind::Sweep(Sweep { limit: 100 })).more {}
}

#[test]
fn a_cluster_is_founded_once() {
    let mut world = World::unfounded();
    let open = OpenSession {
        client_name: "early".into(),
        nonce: vec![1; 16],
        ..OpenSession::default()
    };
    let early = world.command(CommandKind::OpenSession(open));
    assert_eq!(early.code, ErrorCode::Unavailable as u32);
    assert_eq!(world.command(found(0o755)).code, 0);
    let before = world.dump();
    assert_eq!(
        world.command(found(0o777)).code,
        ErrorCode::AlreadyExists as u32
    );
    let changed = |pair: &(&Row, &Row)| pair.0 != pair.1;
    let after = world.dump();
    assert_eq!(
        before.iter().zip(&after).filter(changed).count(),
        1,
        "only the applied index"
    );
    let root = world.stat(&user(5), "/").unwrap();
    assert_eq!(
        (root.inode, root.mode, root.nlink, root.parent),
        (1, 0o755, 2, 0)
    );
}

#[test]
fn settings_have_limits_that_the_message_names() {
    let mut world = World::new();
    let mut wrong = settings();
    wrong.replication = 17;
    let refused = world.command(CommandKind::SetSettings(SetSettings { settings: wrong }));
    assert_eq!(refused.code, ErrorCode::InvalidArgument as u32);
    assert_eq!(
        refused.message,
        "setting replication is 17, 1 to 16 is allowed"
    );
    let mut small = settings();
    small.chunk_size = 1 << 20;
    let set = SetSettings {
        settings: small.clone(),
    };
    assert_eq!(world.command(CommandKind::SetSettings(set)).code, 0);
    let cluster = world.store.snapshot().cluster_record().unwrap();
    assert_eq!(cluster.settings, Some(small));
}

#[test]
fn a_key_rotates_once_however_often_it_is_proposed() {
    let mut world = World::new();
    let rotate = || {
        CommandKind::RotateKeys(RotateKeys {
            secret: vec![2; 32],
            current_id: 1,
        })
    };
    assert_eq!(world.command(rotate()).id, 2);
    assert_eq!(world.command(rotate()).id, 2);
    let keys = world.store.snapshot().cluster_record().unwrap().keys;
    let keys: Vec<(u32, u8)> = keys.iter().map(|key| (key.id, key.secret[0])).collect();
    assert_eq!(keys, [(2, 2), (1, 1)]);
}

#[test]
fn a_nonce_opens_one_session() {
    let mut world = World::new();
    let first = world.open_session(9);
    assert_eq!(world.open_session(9), first);
    assert_ne!(world.open_session(8), first);
    let nonce = vec![0; 15];
    let short = OpenSession {
        client_name: String::new(),
        nonce,
        ..OpenSession::default()
    };
    let refused = world.command(CommandKind::OpenSession(short));
    assert_eq!(refused.code, ErrorCode::InvalidArgument as u32);
}

#[test]
fn an_unknown_command_is_an_outcome() {
    let mut world = World::new();
    let outcomes = world.batch(vec![Command { kind: None }]);
    assert_eq!(outcomes[0].code, ErrorCode::Malformed as u32);
}

#[test]
fn an_unlinked_file_stays_for_its_grace_and_for_those_who_claim_it() {
    let mut world = World::new();
    let held = world.create(&user(1), "/held").unwrap().attributes.inode;
    let lost = world.create(&user(1), "/lost").unwrap().attributes.inode;
    for path in ["/held", "/lost"] {
        assert_eq!(world.unlink(&user(1), path).unwrap().attributes.nlink, 0);
    }
    world
        .apply(
            &user(1),
            OperationKind::ClaimInode(ClaimInode { inode: held }),
        )
        .unwrap();
    let at = |inode: u64| Location::inode(InodeId(inode));
    sweep(&mut world);
    assert!(
        world.stat_at(&user(1), at(lost), false).is_ok(),
        "its grace is not over"
    );
    world.now_ns += GRACE_NS;
    sweep(&mut world);
    assert_eq!(
        world.stat_at(&user(1), at(lost), false),
        Err(ErrorCode::NotFound)
    );
    assert!(
        world.stat_at(&user(1), at(held), false).is_ok(),
        "it is claimed"
    );
    world
        .apply(
            &user(1),
            OperationKind::ReleaseInode(ReleaseInode { inode: held }),
        )
        .unwrap();
    sweep(&mut world);
    assert_eq!(
        world.stat_at(&user(1), at(held), false),
        Err(ErrorCode::NotFound)
    );
    let gone = world.apply(
        &user(1),
        OperationKind::ClaimInode(ClaimInode { inode: held }),
    );
    assert_eq!(gone, Err(ErrorCode::NotFound));
    assert_eq!(
        world.store.snapshot().cluster_record().unwrap().file_count,
        0
    );
}

#[test]
fn an_expired_session_gives_its_claims_up() {
    let mut world = World::new();
    let inode = world.create(&user(1), "/a").unwrap().attributes.inode;
    world.unlink(&user(1), "/a").unwrap();
    world
        .apply(&user(1), OperationKind::ClaimInode(ClaimInode { inode }))
        .unwrap();
    let session = world.session;
    world.command(CommandKind::ExpireSession(ExpireSession { session }));
    let orphan = orphan::get(&world.store.snapshot(), InodeId(inode))
        .unwrap()
        .unwrap();
    assert_eq!(orphan.claims, Vec::<u64>::new());
}

#[test]
fn an_unnamed_file_gets_a_name_in_one_step_with_the_loss_of_another() {
    let mut world = World::new();
    let old = world.create(&user(1), "/a").unwrap().attributes.inode;
    let mut unnamed = create("/");
    unnamed.orphan = true;
    let made = world
        .change(&user(1), OperationKind::Create(unnamed))
        .unwrap()
        .attributes;
    assert_eq!(
        (made.nlink, world.names(&user(1), "/").unwrap().len()),
        (0, 1)
    );
    let link = |if_exists: IfExists| {
        OperationKind::Link(Link {
            source: Location::inode(InodeId(made.inode)),
            location: Location::path("/a"),
            if_exists: if_exists as i32,
        })
    };
    assert_eq!(
        world.change(&user(2), link(IfExists::Replace)),
        Err(ErrorCode::NotPermitted)
    );
    assert_eq!(
        world.change(&user(1), link(IfExists::Fail)),
        Err(ErrorCode::AlreadyExists)
    );
    let linked = world
        .change(&user(1), link(IfExists::Replace))
        .unwrap()
        .attributes;
    assert_eq!((linked.inode, linked.nlink), (made.inode, 1));
    assert_eq!(world.stat(&user(1), "/a").unwrap().inode, made.inode);
    let snapshot = world.store.snapshot();
    assert!(
        orphan::get(&snapshot, InodeId(made.inode))
            .unwrap()
            .is_none()
    );
    assert!(orphan::get(&snapshot, InodeId(old)).unwrap().is_some());
    drop(snapshot);
    // Somebody else's session was told that the old file is gone, and cannot bring it back.
    let revive = OperationKind::Link(Link {
        source: Location::inode(InodeId(old)),
        location: Location::path("/b"),
        if_exists: IfExists::Fail as i32,
    });
    assert_eq!(world.change(&user(1), revive), Err(ErrorCode::NotFound));
}

#[test]
fn a_detached_tree_accepts_nothing_and_is_swept() {
    let mut world = World::new();
    let top = world.mkdir(&user(1), "/a").unwrap().attributes.inode;
    let below = world.mkdir(&user(1), "/a/b").unwrap().attributes.inode;
    let deep = world.mkdir(&user(1), "/a/b/c").unwrap().attributes.inode;
    world.create(&user(1), "/a/b/c/f").unwrap();
    world.remove_tree(&user(1), "/a").unwrap();
    assert_eq!(world.names(&user(1), "/").unwrap(), Vec::<String>::new());
    for directory in [top, below, deep] {
        let mut late = create("");
        late.location = Location::entry(InodeId(directory), "late");
        let refused = world.change(&user(1), OperationKind::Create(late));
        assert_eq!(refused, Err(ErrorCode::NotFound), "in inode {directory}");
        let location = Location::entry(InodeId(directory), "b");
        let remove = OperationKind::RemoveTree(RemoveTree { location });
        assert_eq!(world.change(&user(1), remove), Err(ErrorCode::NotFound));
    }
    sweep(&mut world);
    world.now_ns += GRACE_NS;
    sweep(&mut world);
    let cluster = world.store.snapshot().cluster_record().unwrap();
    assert_eq!(
        (
            cluster.inode_count,
            cluster.directory_count,
            cluster.file_count
        ),
        (1, 1, 0)
    );
}

#[test]
fn a_removed_directory_takes_its_attributes_along() {
    let mut world = World::new();
    world.change(&user(1), mkdir("/a", 0o755)).unwrap();
    let set = SetXattr {
        location: Location::path("/a"),
        name: b"user.x".to_vec(),
        value: b"1".to_vec(),
        ..SetXattr::default()
    };
    world
        .change(&user(1), OperationKind::SetXattr(set))
        .unwrap();
    world.rmdir(&user(1), "/a").unwrap();
    sweep(&mut world);
    let xattrs = world
        .dump()
        .iter()
        .filter(|(key, _)| key[0] == 0x13)
        .count();
    assert_eq!(
        (
            xattrs,
            world.store.snapshot().cluster_record().unwrap().inode_count
        ),
        (0, 1)
    );
}
