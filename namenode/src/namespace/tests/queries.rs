//! Listings, access, space, extended attributes, and what may be removed with a tree.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::{Caller, Location};
use cairn_protocol::messages::operation::{OperationKind, RemoveXattr, SetXattr, XattrMode};
use cairn_protocol::messages::query::{
    Access, GetXattr, List, ListXattrs, Listing, QueryKind, QueryResult, Statfs,
};

use super::world::{World, create, mkdir, user};
use crate::namespace::{OpError, check_remove_tree};

fn list(world: &World, who: &Caller, after: &str, limit: u32) -> Result<Listing, ErrorCode> {
    let list = List {
        location: Location::path("/d"),
        start_after: after.into(),
        limit,
        attributes: true,
    };
    let QueryResult::Listing(listing) = world.query(who, &QueryKind::List(list))? else {
        panic!("not a listing");
    };
    Ok(listing)
}

#[test]
fn pages_of_a_directory_follow_one_another() {
    let mut world = World::new();
    world.mkdir(&user(1), "/d").unwrap();
    for name in ["b", "a", "d", "c", "a.b"] {
        world.create(&user(1), &format!("/d/{name}")).unwrap();
    }
    let mut names = Vec::new();
    let mut after = String::new();
    loop {
        let page = list(&world, &user(2), &after, 2).unwrap();
        let page_names = page
            .entries
            .iter()
            .map(|e| String::from_utf8(e.name.clone()).unwrap());
        names.extend(page_names);
        assert!(page.entries.iter().all(|entry| entry.attributes.is_some()));
        if !page.more {
            break;
        }
        after.clone_from(names.last().unwrap());
    }
    assert_eq!(names, ["a", "a.b", "b", "c", "d"]);
    assert_eq!(world.stat(&user(1), "/d").unwrap().size, 5);
}

#[test]
fn listing_needs_read_and_attributes_need_search() {
    let mut world = World::new();
    world.change(&user(1), mkdir("/d", 0o754)).unwrap();
    world.create(&user(1), "/d/f").unwrap();
    let seen = list(&world, &user(2), "", 0).unwrap();
    assert_eq!(seen.entries[0].attributes, None);
    world.change(&user(1), mkdir("/d/closed", 0o711)).unwrap();
    let closed = world.names(&user(1), "/d/closed").unwrap();
    assert_eq!(closed, Vec::<String>::new());
    assert_eq!(
        world.names(&user(2), "/d/closed"),
        Err(ErrorCode::PermissionDenied)
    );
    assert_eq!(
        world.names(&user(1), "/d/f").unwrap(),
        [""],
        "a file lists as itself"
    );
}

#[test]
fn access_answers_for_the_caller() {
    let mut world = World::new();
    world.create(&user(1), "/f").unwrap();
    let ask = |who: u32, mask: u32| {
        let access = Access {
            location: Location::path("/f"),
            mask,
        };
        world
            .query(&user(who), &QueryKind::Access(access))
            .map(|_| ())
    };
    assert_eq!(ask(1, 6), Ok(()));
    assert_eq!(ask(2, 4), Ok(()));
    assert_eq!(ask(2, 2), Err(ErrorCode::PermissionDenied));
    assert_eq!(
        ask(0, 1),
        Err(ErrorCode::PermissionDenied),
        "nobody may execute it"
    );
    assert_eq!(ask(0, 8), Err(ErrorCode::InvalidArgument));
}

#[test]
fn the_file_system_counts_its_inodes() {
    let mut world = World::new();
    world.create(&user(1), "/f").unwrap();
    let QueryResult::Space(space) = world
        .query(&user(1), &QueryKind::Statfs(Statfs {}))
        .unwrap()
    else {
        panic!("not space");
    };
    assert_eq!((space.inode_count, space.replication), (2, 3));
}

fn set(name: &str, value: &[u8], mode: XattrMode) -> OperationKind {
    OperationKind::SetXattr(SetXattr {
        location: Location::path("/f"),
        follow: true,
        name: name.into(),
        value: value.to_vec(),
        mode: mode as i32,
    })
}

fn get(world: &World, who: u32, name: &str) -> Result<Vec<u8>, ErrorCode> {
    let query = GetXattr {
        location: Location::path("/f"),
        follow: true,
        name: name.into(),
    };
    let QueryResult::Value(value) = world.query(&user(who), &QueryKind::GetXattr(query))? else {
        panic!("not a value");
    };
    Ok(value.value)
}

fn names(world: &World, who: u32) -> Vec<String> {
    let query = ListXattrs {
        location: Location::path("/f"),
        follow: true,
    };
    let result = world
        .query(&user(who), &QueryKind::ListXattrs(query))
        .unwrap();
    let QueryResult::Names(names) = result else {
        panic!("not names")
    };
    names
        .names
        .into_iter()
        .map(|name| String::from_utf8(name).unwrap())
        .collect()
}

#[test]
fn extended_attributes_come_and_go() {
    let mut world = World::new();
    world.create(&user(1), "/f").unwrap();
    let me = user(1);
    assert_eq!(
        world.change(&me, set("user.a", b"1", XattrMode::Replace)),
        Err(ErrorCode::NoAttribute)
    );
    world
        .change(&me, set("user.a", b"1", XattrMode::Create))
        .unwrap();
    assert_eq!(
        world.change(&me, set("user.a", b"2", XattrMode::Create)),
        Err(ErrorCode::AlreadyExists)
    );
    world
        .change(&me, set("user.a", b"", XattrMode::Set))
        .unwrap();
    world
        .change(&me, set("user.b", b"x", XattrMode::Set))
        .unwrap();
    assert_eq!(get(&world, 2, "user.a"), Ok(Vec::new()));
    assert_eq!(names(&world, 2), ["user.a", "user.b"]);
    let remove = |name: &str| {
        OperationKind::RemoveXattr(RemoveXattr {
            location: Location::path("/f"),
            follow: true,
            name: name.into(),
        })
    };
    assert_eq!(
        world.change(&user(2), remove("user.a")),
        Err(ErrorCode::PermissionDenied)
    );
    world.change(&me, remove("user.a")).unwrap();
    assert_eq!(
        world.change(&me, remove("user.a")),
        Err(ErrorCode::NoAttribute)
    );
    assert_eq!(names(&world, 2), ["user.b"]);
}

#[test]
fn namespaces_of_attributes_have_their_rules() {
    let mut world = World::new();
    world.create(&user(1), "/f").unwrap();
    let cases = [
        ("trusted.x", 1, Err(ErrorCode::NotPermitted)),
        ("security.x", 1, Err(ErrorCode::NotPermitted)),
        ("system.posix_acl_access", 2, Err(ErrorCode::NotPermitted)),
        ("system.posix_acl_access", 1, Ok(())),
        ("system.other", 0, Err(ErrorCode::NotSupported)),
        ("unknown", 0, Err(ErrorCode::NotSupported)),
        ("user.", 0, Err(ErrorCode::InvalidArgument)),
        ("user.x", 2, Err(ErrorCode::PermissionDenied)),
        ("trusted.x", 0, Ok(())),
        ("security.x", 0, Ok(())),
    ];
    for (name, who, expected) in cases {
        // user::rw-, group::r--, group:5:rw-, mask::rw-, other::---
        let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\
            \x08\0\x06\0\x05\0\0\0\x10\0\x06\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
        let value = if name.contains("acl") { &acl[..] } else { b"v" };
        let found = world
            .change(&user(who), set(name, value, XattrMode::Set))
            .map(|_| ());
        assert_eq!(found, expected, "{name} by {who}");
    }
    assert_eq!(get(&world, 1, "trusted.x"), Err(ErrorCode::NoAttribute));
    assert_eq!(get(&world, 0, "trusted.x"), Ok(b"v".to_vec()));
    assert_eq!(get(&world, 2, "security.x"), Ok(b"v".to_vec()));
    assert_eq!(names(&world, 1), ["security.x", "system.posix_acl_access"]);
}

#[test]
fn attributes_have_limits_and_give_their_room_back() {
    let mut world = World::new();
    world.create(&user(1), "/f").unwrap();
    let me = user(1);
    let large = vec![0; 65_536];
    let too_large = set("user.a", &[0; 65_537], XattrMode::Set);
    assert_eq!(world.change(&me, too_large), Err(ErrorCode::TooLarge));
    let long = format!("user.{}", "n".repeat(251));
    let long = set(&long, b"", XattrMode::Set);
    assert_eq!(world.change(&me, long), Err(ErrorCode::NameTooLong));
    for n in 0..15 {
        world
            .change(&me, set(&format!("user.{n:02}"), &large, XattrMode::Set))
            .unwrap();
    }
    world
        .change(&me, set("user.00", &large, XattrMode::Set))
        .unwrap();
    let over = set("user.15", &large, XattrMode::Set);
    assert_eq!(world.change(&me, over.clone()), Err(ErrorCode::TooLarge));
    world
        .change(&me, set("user.00", b"small", XattrMode::Set))
        .unwrap();
    assert!(world.change(&me, over).is_ok());
}

#[test]
fn a_tree_is_removed_only_by_who_may_remove_each_part() {
    let mut world = World::new();
    let check = |world: &World, who: u32| {
        let at = Location::path("/d");
        match check_remove_tree(&world.store.snapshot(), &user(who), &at) {
            Ok(()) => Ok(()),
            Err(OpError::Failure(failure)) => Err((failure.code, failure.message)),
            Err(error) => panic!("{error}"),
        }
    };
    let refused = |code, path: &str| Err((code, path.to_owned()));
    world.change(&user(1), mkdir("/d", 0o777)).unwrap();
    world.change(&user(1), mkdir("/d/tmp", 0o1777)).unwrap();
    world
        .change(&user(2), mkdir("/d/tmp/theirs", 0o755))
        .unwrap();
    assert_eq!(
        check(&world, 1),
        Ok(()),
        "an empty directory of others goes with its parent"
    );
    assert_eq!(
        check(&world, 3),
        refused(ErrorCode::NotPermitted, "/d/tmp/theirs"),
        "sticky"
    );
    let mut inner = create("/d/tmp/theirs/f");
    inner.mode = 0o666;
    world
        .change(&user(2), OperationKind::Create(inner))
        .unwrap();
    assert_eq!(
        check(&world, 1),
        refused(ErrorCode::PermissionDenied, "/d/tmp/theirs")
    );
    assert_eq!(check(&world, 0), Ok(()));
    world.change(&user(1), mkdir("/e", 0o700)).unwrap();
    world.change(&user(1), mkdir("/e/f", 0o700)).unwrap();
    let top = check_remove_tree(&world.store.snapshot(), &user(2), &Location::path("/e"));
    let Err(OpError::Failure(failure)) = top else {
        panic!("not refused");
    };
    assert_eq!(failure.message, "/e");
}
