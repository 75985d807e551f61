//! What a group whose disks are almost full still does.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{
    Link, Operation, OperationKind, RenameMode, SetXattr, Transaction, Truncate, Unlink,
};

use super::world::{World, create, mkdir, user};
use crate::namespace::command::CommandKind;

fn unlink(path: &str) -> OperationKind {
    OperationKind::Unlink(Unlink {
        location: Location::path(path),
    })
}

fn transaction(operations: Vec<OperationKind>) -> OperationKind {
    OperationKind::Transaction(Transaction {
        preconditions: Vec::new(),
        operations: operations.into_iter().map(Operation::from).collect(),
    })
}

fn crowded() -> World {
    let mut world = World::new();
    let own = user(1);
    world.mkdir(&own, "/d").unwrap();
    for path in ["/d/a", "/d/b", "/d/c", "/e"] {
        world.create(&own, path).unwrap();
    }
    world.no_growth = true;
    world
}

#[test]
fn what_needs_room_is_refused_and_changes_nothing() {
    let mut world = crowded();
    let own = user(1);
    let inode = world.stat(&own, "/e").unwrap().inode;
    let link = OperationKind::Link(Link {
        source: Location::inode(inode.into()),
        location: Location::path("/l"),
        ..Link::default()
    });
    let set = OperationKind::SetXattr(SetXattr {
        location: Location::path("/e"),
        name: b"user.n".to_vec(),
        value: vec![7; 1000],
        ..SetXattr::default()
    });
    let tree = world.names(&own, "/").unwrap();
    for operation in [
        mkdir("/m", 0o755),
        OperationKind::Create(create("/f")),
        link,
        set,
        transaction(vec![unlink("/d/a"), OperationKind::Create(create("/f"))]),
    ] {
        let outcome = world.outcome(&own, operation);
        assert_eq!(outcome.code, ErrorCode::NoSpace as u32, "{outcome:?}");
        assert!(outcome.message.contains("remove files"), "{outcome:?}");
    }
    assert_eq!(world.symlink(&own, "e", "/s"), Err(ErrorCode::NoSpace));
    assert_eq!(world.names(&own, "/").unwrap(), tree);
    assert_eq!(world.names(&own, "/d").unwrap(), ["a", "b", "c"]);
}

#[test]
fn what_removes_or_replaces_is_accepted() {
    let mut world = crowded();
    let own = user(1);
    let truncate = OperationKind::Truncate(Truncate {
        location: Location::path("/e"),
        size: 0,
    });
    world.apply(&own, truncate).unwrap();
    world
        .rename(&own, "/e", "/d/a", RenameMode::Replace)
        .unwrap();
    world
        .apply(&own, transaction(vec![unlink("/d/a"), unlink("/d/b")]))
        .unwrap();
    world.unlink(&own, "/d/c").unwrap();
    world.rmdir(&own, "/d").unwrap();
    assert_eq!(world.names(&own, "/").unwrap(), Vec::<String>::new());
    world.open_session(2);
}

#[test]
fn what_was_done_before_is_not_denied_when_it_is_asked_again() {
    let mut world = World::new();
    let command = world.next(&user(1), mkdir("/d", 0o755));
    let first = world.command(CommandKind::Client(command.clone()));
    assert_eq!(first.code, 0);
    world.no_growth = true;
    let again = world.command(CommandKind::Client(command));
    assert_eq!((again.code, again.value), (0, first.value));
}
