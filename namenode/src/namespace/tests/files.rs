//! Files, directories and links beyond what the model does: parents, times, policies, handles, missing
//! privileges.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{InodeKind, Location};
use cairn_protocol::messages::operation::{
    Create, IfExists, Link, Mkdir, OperationKind, SetAttributes, Truncate,
};
use cairn_protocol::messages::query::{Extents, QueryKind};

use super::world::{EPOCH_NS, World, create, mkdir, user};

fn set(path: &str) -> SetAttributes {
    SetAttributes {
        location: Location::path(path),
        follow: true,
        ..SetAttributes::default()
    }
}

fn mkdir_parents(path: &str, mode: u32) -> OperationKind {
    OperationKind::Mkdir(Mkdir {
        location: Location::path(path),
        mode,
        parents: true,
    })
}

#[test]
fn mkdir_makes_missing_parents_and_accepts_what_is_there() {
    let mut world = World::new();
    let made = world
        .change(&user(1), mkdir_parents("/a/b/c", 0o555))
        .unwrap();
    assert!(made.created);
    assert_eq!(
        world.stat(&user(1), "/a/b").unwrap().mode,
        0o755,
        "the owner goes on below"
    );
    assert_eq!(made.attributes.mode, 0o555);
    let again = world
        .change(&user(2), mkdir_parents("/a/b/c/", 0o700))
        .unwrap();
    assert_eq!((again.created, again.attributes), (false, made.attributes));
    world.create(&user(1), "/a/f").unwrap();
    world.symlink(&user(1), "nowhere", "/a/dangling").unwrap();
    world.symlink(&user(1), "b/c", "/a/link").unwrap();
    let fails = [
        ("/a/f", ErrorCode::AlreadyExists),
        ("/a/f/g", ErrorCode::NotADirectory),
        ("/a/dangling", ErrorCode::AlreadyExists),
    ];
    for (path, code) in fails {
        assert_eq!(
            world.change(&user(1), mkdir_parents(path, 0o755)),
            Err(code),
            "{path}"
        );
    }
    let linked = world
        .change(&user(1), mkdir_parents("/a/link", 0o755))
        .unwrap();
    assert_eq!(
        linked.attributes.inode,
        world.stat(&user(1), "/a/b/c").unwrap().inode
    );
    let refused = world.change(&user(2), mkdir_parents("/a/x/y", 0o755));
    assert_eq!(refused, Err(ErrorCode::PermissionDenied));
    assert_eq!(
        world
            .change(&user(1), mkdir_parents("/", 0))
            .unwrap()
            .attributes
            .inode,
        1
    );
}

#[test]
fn create_makes_parents_that_readers_may_search() {
    let mut world = World::new();
    let private = Create {
        mode: 0o640,
        parents: true,
        ..create("/a/b/f")
    };
    world
        .change(&user(1), OperationKind::Create(private))
        .unwrap();
    assert_eq!(world.stat(&user(0), "/a/b").unwrap().mode, 0o750);
}

#[test]
fn a_file_goes_where_a_dangling_link_points() {
    let mut world = World::new();
    world.mkdir(&user(1), "/d").unwrap();
    world.symlink(&user(1), "../d/f", "/d/link").unwrap();
    let through = Create {
        if_exists: IfExists::Open as i32,
        ..create("/d/link")
    };
    let made = world
        .change(&user(1), OperationKind::Create(through.clone()))
        .unwrap();
    assert!(made.created);
    assert_eq!(
        world.stat(&user(1), "/d/f").unwrap().inode,
        made.attributes.inode
    );
    let opened = world
        .change(&user(2), OperationKind::Create(through))
        .unwrap();
    assert_eq!(
        (opened.created, opened.attributes),
        (false, made.attributes)
    );
    assert_eq!(
        world.create(&user(1), "/d/link"),
        Err(ErrorCode::AlreadyExists)
    );
}

#[test]
fn a_link_that_leads_to_itself_is_too_much() {
    let mut world = World::new();
    world.symlink(&user(1), "b", "/a").unwrap();
    world.symlink(&user(1), "a", "/b").unwrap();
    let at = Location::path("/a");
    assert_eq!(
        world.stat_at(&user(1), at, true),
        Err(ErrorCode::TooManyLinks)
    );
    assert_eq!(world.stat(&user(1), "/a/x"), Err(ErrorCode::TooManyLinks));
    assert_eq!(world.stat(&user(1), "/a").unwrap().symlink_target, b"b");
}

#[test]
fn replication_is_asked_for_or_inherited_or_the_clusters() {
    let mut world = World::new();
    world.mkdir(&user(1), "/a").unwrap();
    assert_eq!(
        world
            .create(&user(1), "/a/default")
            .unwrap()
            .attributes
            .replication,
        3
    );
    let policy = SetAttributes {
        replication: Some(2),
        ..set("/a")
    };
    world
        .change(&user(1), OperationKind::SetAttributes(policy))
        .unwrap();
    world.mkdir(&user(1), "/a/b").unwrap();
    assert_eq!(
        world
            .create(&user(1), "/a/b/f")
            .unwrap()
            .attributes
            .replication,
        2
    );
    let five = Create {
        replication: 5,
        ..create("/a/b/g")
    };
    let made = world.change(&user(1), OperationKind::Create(five)).unwrap();
    assert_eq!(made.attributes.replication, 5);
    for (path, replication) in [("/a/b/g", 0), ("/a/b/g", 17), ("/a", 17)] {
        let wrong = SetAttributes {
            replication: Some(replication),
            ..set(path)
        };
        let refused = world.change(&user(1), OperationKind::SetAttributes(wrong));
        assert_eq!(
            refused,
            Err(ErrorCode::InvalidArgument),
            "{replication} for {path}"
        );
    }
}

#[test]
fn times_are_as_utimensat_has_them() {
    let mut world = World::new();
    let born = world.create(&user(1), "/f").unwrap().attributes;
    world.now_ns += 10;
    let chosen = SetAttributes {
        mtime_ns: Some(5),
        atime_ns: Some(6),
        ..set("/f")
    };
    let change = |attributes: &SetAttributes| OperationKind::SetAttributes(attributes.clone());
    assert_eq!(
        world.change(&user(2), change(&chosen)),
        Err(ErrorCode::NotPermitted)
    );
    let seen = world.change(&user(1), change(&chosen)).unwrap().attributes;
    assert_eq!((seen.mtime_ns, seen.atime_ns), (5, 6));
    assert_eq!(
        (seen.ctime_ns, seen.btime_ns),
        (EPOCH_NS + 10, born.btime_ns)
    );
    let now = SetAttributes {
        mtime_now: true,
        atime_now: true,
        ..set("/f")
    };
    assert_eq!(
        world.change(&user(2), change(&now)),
        Err(ErrorCode::PermissionDenied)
    );
    world
        .change(
            &user(1),
            change(&SetAttributes {
                mode: Some(0o666),
                ..set("/f")
            }),
        )
        .unwrap();
    world.now_ns += 10;
    let seen = world.change(&user(2), change(&now)).unwrap().attributes;
    assert_eq!(
        (seen.mtime_ns, seen.atime_ns),
        (EPOCH_NS + 20, EPOCH_NS + 20)
    );
    let nothing = world
        .change(&user(2), change(&set("/f")))
        .unwrap()
        .attributes;
    assert_eq!(nothing, seen);
}

#[test]
fn time_does_not_go_back_with_a_new_leaders_clock() {
    let mut world = World::new();
    world.now_ns = EPOCH_NS - 1_000;
    assert_eq!(
        world.create(&user(1), "/f").unwrap().attributes.mtime_ns,
        EPOCH_NS
    );
}

#[test]
fn an_owner_writes_through_a_handle_what_the_mode_forbids_by_path() {
    let mut world = World::new();
    let readonly = Create {
        mode: 0o444,
        ..create("/f")
    };
    let made = world
        .change(&user(1), OperationKind::Create(readonly))
        .unwrap()
        .attributes;
    let truncate = |location: Location| OperationKind::Truncate(Truncate { location, size: 7 });
    let by_path = world.change(&user(1), truncate(Location::path("/f")));
    assert_eq!(by_path, Err(ErrorCode::PermissionDenied));
    let handle = Location::inode(InodeId(made.inode));
    let seen = world
        .change(&user(1), truncate(handle.clone()))
        .unwrap()
        .attributes;
    assert_eq!(seen.size, 7);
    assert_eq!(
        world.change(&user(2), truncate(handle)),
        Err(ErrorCode::PermissionDenied)
    );
}

#[test]
fn extents_need_read_permission_and_a_file() {
    let mut world = World::new();
    let private = Create {
        mode: 0o600,
        size: 100,
        ..create("/f")
    };
    world
        .change(&user(1), OperationKind::Create(private))
        .unwrap();
    let query = |path: &str| {
        QueryKind::Extents(Extents {
            location: Location::path(path),
            offset: 200,
            length: u64::MAX,
            limit: 0,
            without_locations: false,
        })
    };
    assert!(world.query(&user(1), &query("/f")).is_ok());
    assert_eq!(
        world.query(&user(2), &query("/f")),
        Err(ErrorCode::PermissionDenied)
    );
    assert_eq!(
        world.query(&user(2), &query("/")),
        Err(ErrorCode::IsADirectory)
    );
}

#[test]
fn only_the_superuser_makes_devices() {
    let mut world = World::new();
    let kind = InodeKind::CharDevice as i32;
    let device = Create {
        kind,
        rdev: 0x103,
        ..create("/null")
    };
    let refused = world.change(&user(1), OperationKind::Create(device.clone()));
    assert_eq!(refused, Err(ErrorCode::NotPermitted));
    let made = world
        .change(&user(0), OperationKind::Create(device))
        .unwrap()
        .attributes;
    assert_eq!(
        (made.rdev, made.kind(), made.replication),
        (0x103, InodeKind::CharDevice, 0)
    );
    let fifo = Create {
        kind: InodeKind::Fifo as i32,
        rdev: 9,
        ..create("/fifo")
    };
    let made = world
        .change(&user(1), OperationKind::Create(fifo))
        .unwrap()
        .attributes;
    assert_eq!((made.rdev, made.kind()), (0, InodeKind::Fifo));
    for kind in [
        InodeKind::Directory,
        InodeKind::Symlink,
        InodeKind::Unspecified,
    ] {
        let wrong = Create {
            kind: kind as i32,
            ..create("/x")
        };
        let refused = world.change(&user(0), OperationKind::Create(wrong));
        assert_eq!(refused, Err(ErrorCode::InvalidArgument));
    }
}

#[test]
fn an_inode_has_65000_names_at_most() {
    let mut world = World::new();
    let mut names = world.create(&user(1), "/f").unwrap().attributes.nlink;
    let link = |n: u32| {
        OperationKind::Link(Link {
            source: Location::path("/f"),
            location: Location::path(format!("/{n}")),
            if_exists: IfExists::Fail as i32,
        })
    };
    while names < 65_000 {
        let batch = (0..1_000.min(65_000 - names)).map(|n| {
            let command = world.next(&user(1), link(names + n));
            crate::namespace::command::CommandKind::Client(command).into()
        });
        let batch: Vec<_> = batch.collect();
        names += u32::try_from(batch.len()).unwrap();
        assert!(world.batch(batch).iter().all(|outcome| outcome.code == 0));
    }
    assert_eq!(
        world.change(&user(1), link(names)),
        Err(ErrorCode::LinkLimit)
    );
    assert_eq!(world.stat(&user(1), "/f").unwrap().nlink, 65_000);
}

#[test]
fn changes_within_a_directory_reached_by_id_work_as_by_path() {
    let mut world = World::new();
    let directory = world
        .change(&user(1), mkdir("/a", 0o755))
        .unwrap()
        .attributes
        .inode;
    let mut inner = create("");
    inner.location = Location::entry(InodeId(directory), "f");
    let made = world
        .change(&user(1), OperationKind::Create(inner.clone()))
        .unwrap();
    assert_eq!(world.stat(&user(1), "/a/f").unwrap(), made.attributes);
    inner.location = Location::entry(InodeId(made.attributes.inode), "g");
    let below_file = world.change(&user(1), OperationKind::Create(inner.clone()));
    assert_eq!(below_file, Err(ErrorCode::NotADirectory));
    inner.location = Location::entry(InodeId(999), "g");
    assert_eq!(
        world.change(&user(1), OperationKind::Create(inner)),
        Err(ErrorCode::NotFound)
    );
}
