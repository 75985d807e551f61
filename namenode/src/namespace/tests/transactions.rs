//! Transactions: all or nothing, and whose fault it was.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{
    ClaimInode, Operation, OperationKind, OutcomeKind, Precondition, RemoveTree, Rename,
    Transaction,
};

use super::world::{World, create, mkdir, user};

fn precondition(path: &str) -> Precondition {
    Precondition {
        location: Location::path(path),
        ..Precondition::default()
    }
}

fn transaction(preconditions: Vec<Precondition>, operations: Vec<OperationKind>) -> OperationKind {
    let operations = operations.into_iter().map(Operation::from).collect();
    OperationKind::Transaction(Transaction {
        preconditions,
        operations,
    })
}

#[test]
fn later_operations_see_earlier_ones() {
    let mut world = World::new();
    let rename = Rename {
        source: Location::path("/a/f"),
        target: Location::path("/f"),
        ..Rename::default()
    };
    let all = vec![
        mkdir("/a", 0o755),
        OperationKind::Create(create("/a/f")),
        OperationKind::Rename(rename),
    ];
    let kind = world.apply(&user(1), transaction(Vec::new(), all)).unwrap();
    let OutcomeKind::Transaction(outcome) = kind else {
        panic!("not a transaction's")
    };
    assert_eq!(outcome.outcomes.len(), 3);
    assert_eq!(world.names(&user(1), "/").unwrap(), ["a", "f"]);
    assert_eq!(world.names(&user(1), "/a").unwrap(), Vec::<String>::new());
}

#[test]
fn a_failure_undoes_all_and_names_the_item() {
    let mut world = World::new();
    let before = world.stat(&user(1), "/").unwrap();
    let all = vec![
        mkdir("/a", 0o755),
        mkdir("/a/b", 0o755),
        mkdir("/x/y", 0o755),
    ];
    let outcome = world.outcome(&user(1), transaction(Vec::new(), all));
    assert_eq!(outcome.code, ErrorCode::NotFound as u32);
    assert_eq!(outcome.message, "operation 2: /x/y");
    assert_eq!(world.stat(&user(1), "/").unwrap(), before);
    let made = world.mkdir(&user(1), "/b").unwrap().attributes;
    assert_eq!(made.inode, 2, "ids of what was undone are given out again");
}

#[test]
fn preconditions_hold_or_nothing_happens() {
    let mut world = World::new();
    let seen = world.create(&user(1), "/f").unwrap().attributes;
    let met = vec![
        Precondition {
            version: Some(seen.version),
            ..precondition("/f")
        },
        Precondition {
            inode: Some(seen.inode),
            size: Some(0),
            ..precondition("/f")
        },
        Precondition {
            exists: Some(false),
            ..precondition("/g/h")
        },
        Precondition {
            exists: Some(true),
            ..precondition("/")
        },
    ];
    let go = transaction(met.clone(), vec![mkdir("/d", 0o755)]);
    assert!(world.apply(&user(1), go).is_ok());
    let unmet = [
        Precondition {
            version: Some(seen.version + 1),
            ..precondition("/f")
        },
        Precondition {
            exists: Some(false),
            ..precondition("/f")
        },
        Precondition {
            exists: Some(true),
            ..precondition("/g")
        },
        Precondition {
            size: Some(1),
            ..precondition("/f")
        },
        Precondition {
            inode: Some(1),
            ..precondition("/g")
        },
    ];
    for wrong in unmet {
        let all = vec![met[0].clone(), wrong.clone()];
        let outcome = world.outcome(&user(1), transaction(all, vec![mkdir("/e", 0o755)]));
        assert_eq!(
            outcome.code,
            ErrorCode::PreconditionFailed as u32,
            "{wrong:?}"
        );
        assert!(
            outcome.message.starts_with("precondition 1: /"),
            "{}",
            outcome.message
        );
    }
    assert_eq!(world.stat(&user(1), "/e"), Err(ErrorCode::NotFound));
}

#[test]
fn two_changes_in_one_entry_are_two_versions() {
    let mut world = World::new();
    world.create(&user(1), "/f").unwrap();
    let chmod = |mode: u32| {
        OperationKind::SetAttributes(cairn_protocol::messages::operation::SetAttributes {
            location: Location::path("/f"),
            mode: Some(mode),
            ..Default::default()
        })
    };
    let first = world.next(&user(1), chmod(0o600));
    let second = world.next(&user(1), chmod(0o640));
    let outcomes = world.batch(vec![
        crate::namespace::command::CommandKind::Client(first).into(),
        crate::namespace::command::CommandKind::Client(second).into(),
    ]);
    let versions = outcomes.iter().map(|outcome| match &outcome.value {
        Some(value) => match &value.kind {
            Some(OutcomeKind::Inode(inode)) => inode.attributes.version,
            other => panic!("not about an inode: {other:?}"),
        },
        None => panic!("failed: {}", outcome.message),
    });
    let versions: Vec<u64> = versions.collect();
    assert!(versions[0] < versions[1], "{versions:?}");
    let stale = Precondition {
        version: Some(versions[0]),
        ..precondition("/f")
    };
    let late = transaction(vec![stale], Vec::new());
    assert_eq!(
        world.apply(&user(1), late),
        Err(ErrorCode::PreconditionFailed)
    );
}

#[test]
fn some_operations_have_no_place_inside() {
    let mut world = World::new();
    for inner in [
        transaction(Vec::new(), Vec::new()),
        OperationKind::ClaimInode(ClaimInode { inode: 1 }),
    ] {
        let all = transaction(Vec::new(), vec![mkdir("/a", 0o755), inner]);
        assert_eq!(world.apply(&user(1), all), Err(ErrorCode::InvalidArgument));
    }
    let many = transaction(Vec::new(), vec![mkdir("/a", 0o755); 1025]);
    assert_eq!(world.apply(&user(1), many), Err(ErrorCode::InvalidArgument));
    assert_eq!(world.names(&user(1), "/").unwrap(), Vec::<String>::new());
}

#[test]
fn a_tree_of_others_is_not_removed_behind_the_services_back() {
    let mut world = World::new();
    world.change(&user(1), mkdir("/d", 0o777)).unwrap();
    world.mkdir(&user(2), "/d/theirs").unwrap();
    world.mkdir(&user(2), "/d/theirs/full").unwrap();
    let remove = || {
        let location = Location::path("/d");
        transaction(
            Vec::new(),
            vec![OperationKind::RemoveTree(RemoveTree { location })],
        )
    };
    assert_eq!(
        world.apply(&user(1), remove()),
        Err(ErrorCode::NotSupported)
    );
    assert!(world.apply(&user(0), remove()).is_ok());
    assert_eq!(world.stat(&user(0), "/d"), Err(ErrorCode::NotFound));
}
