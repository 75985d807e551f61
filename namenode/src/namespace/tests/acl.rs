//! Access control lists: who may what, what new inodes inherit, and how lists and modes keep to each other.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::{Attributes, Caller, InodeKind, Location};
use cairn_protocol::messages::operation::{
    Create, Mkdir, OperationKind, RemoveXattr, SetAttributes, SetXattr, XattrMode,
};
use cairn_protocol::messages::query::{Access, GetXattr, QueryKind, QueryResult};

use super::world::{World, user};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const READ: u32 = 4;
const WRITE: u32 = 2;
const SEARCH: u32 = 1;

/// owner, user 7, group, mask, others.
pub(super) fn list([owner, named, group, mask, other]: [u16; 5]) -> Vec<u8> {
    let entries = [
        (1, owner, u32::MAX),
        (2, named, 7),
        (4, group, u32::MAX),
        (16, mask, u32::MAX),
        (32, other, u32::MAX),
    ];
    encode(&entries)
}

fn encode(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn set(path: &str, name: &str, value: &[u8]) -> OperationKind {
    OperationKind::SetXattr(SetXattr {
        location: Location::path(path),
        follow: true,
        name: name.into(),
        value: value.to_vec(),
        mode: XattrMode::Set as i32,
    })
}

fn get(world: &World, path: &str, name: &str) -> Result<Vec<u8>, ErrorCode> {
    let query = QueryKind::GetXattr(GetXattr {
        location: Location::path(path),
        follow: true,
        name: name.into(),
    });
    match world.query(&user(1), &query)? {
        QueryResult::Value(found) => Ok(found.value),
        other => panic!("{other:?}"),
    }
}

fn stat(world: &World, path: &str) -> Attributes {
    world.stat(&user(0), path).unwrap()
}

fn may(world: &World, who: &Caller, path: &str, mask: u32) -> bool {
    let query = QueryKind::Access(Access {
        location: Location::path(path),
        mask,
    });
    match world.query(who, &query) {
        Ok(_) => true,
        Err(ErrorCode::PermissionDenied) => false,
        Err(code) => panic!("{code:?}"),
    }
}

#[test]
fn a_list_gives_and_takes_and_shows_in_the_mode() {
    let mut world = World::new();
    world.create(&user(1), "/f").unwrap();
    world
        .change(&user(1), set("/f", ACCESS, &list([6, 7, 0, 6, 4])))
        .unwrap();
    let seen = stat(&world, "/f");
    assert_eq!((seen.mode, seen.has_acl), (0o664, true));
    assert!(may(&world, &user(7), "/f", READ | WRITE));
    assert!(!may(&world, &user(7), "/f", 1), "the mask has no such bit");
    let in_group = Caller {
        groups: vec![1],
        ..user(9)
    };
    assert!(
        !may(&world, &in_group, "/f", READ),
        "the mode's group bits are not the group's"
    );
    assert!(may(&world, &user(9), "/f", READ));
    // chmod moves the mask; the list follows and nobody gets more.
    let chmod = |mode| {
        OperationKind::SetAttributes(SetAttributes {
            location: Location::path("/f"),
            mode: Some(mode),
            ..SetAttributes::default()
        })
    };
    world.change(&user(1), chmod(0o640)).unwrap();
    assert_eq!(get(&world, "/f", ACCESS), Ok(list([6, 7, 0, 4, 0])));
    assert!(may(&world, &user(7), "/f", READ) && !may(&world, &user(7), "/f", WRITE));
    // A list that says what a mode says is a mode.
    let plain = encode(&[(1, 7, u32::MAX), (4, 5, u32::MAX), (32, 0, u32::MAX)]);
    world.change(&user(1), set("/f", ACCESS, &plain)).unwrap();
    let seen = stat(&world, "/f");
    assert_eq!((seen.mode, seen.has_acl), (0o750, false));
    assert_eq!(get(&world, "/f", ACCESS), Err(ErrorCode::NoAttribute));
    // Nonsense is refused, and so are strangers.
    for nonsense in [&b"v"[..], &plain[..11]] {
        let refused = world.change(&user(1), set("/f", ACCESS, nonsense));
        assert_eq!(refused, Err(ErrorCode::InvalidArgument));
    }
    let refused = world.change(&user(1), set("/f", DEFAULT, &plain));
    assert_eq!(refused, Err(ErrorCode::PermissionDenied), "not a directory");
}

#[test]
fn what_is_made_in_a_directory_gets_its_default_list() {
    let mut world = World::new();
    world.mkdir(&user(1), "/d").unwrap();
    let default = list([7, 6, 5, 7, 0]);
    world
        .change(&user(1), set("/d", DEFAULT, &default))
        .unwrap();
    let masked = Caller {
        umask: 0o077,
        ..user(1)
    };
    let create = |path: &str, mode| {
        OperationKind::Create(Create {
            location: Location::path(path),
            kind: InodeKind::File as i32,
            mode,
            ..Create::default()
        })
    };
    let mkdir = |path: &str| {
        OperationKind::Mkdir(Mkdir {
            location: Location::path(path),
            mode: 0o777,
            parents: false,
        })
    };
    world.change(&masked, create("/d/f", 0o666)).unwrap();
    let seen = stat(&world, "/d/f");
    assert_eq!(seen.mode, 0o660, "the list counts, and not the umask");
    assert_eq!(get(&world, "/d/f", ACCESS), Ok(list([6, 6, 5, 6, 0])));
    assert!(may(&world, &user(7), "/d/f", WRITE));
    world.change(&masked, mkdir("/d/sub")).unwrap();
    assert_eq!(get(&world, "/d/sub", DEFAULT), Ok(default.clone()));
    assert_eq!(get(&world, "/d/sub", ACCESS), Ok(default));
    // Elsewhere the umask counts.
    world.change(&masked, create("/f", 0o666)).unwrap();
    world.change(&masked, mkdir("/sub")).unwrap();
    assert_eq!(stat(&world, "/f").mode, 0o600);
    assert_eq!(stat(&world, "/sub").mode, 0o700);
    // Without it new things are plain again.
    let remove = OperationKind::RemoveXattr(RemoveXattr {
        location: Location::path("/d"),
        follow: true,
        name: DEFAULT.into(),
    });
    world.change(&user(1), remove.clone()).unwrap();
    let again = world.change(&user(1), remove);
    assert_eq!(again, Err(ErrorCode::NoAttribute));
    world.change(&masked, create("/d/g", 0o666)).unwrap();
    assert!(!stat(&world, "/d/g").has_acl);
}

#[test]
fn a_walk_goes_where_the_lists_of_its_directories_let_it() {
    let mut world = World::new();
    world.mkdir(&user(1), "/d").unwrap();
    world.mkdir(&user(1), "/d/e").unwrap();
    world.create(&user(1), "/d/e/f").unwrap();
    let look = |world: &World, who: u32| world.stat(&user(who), "/d/e/f").map(drop);
    // It is remembered as one that everybody may search.
    assert_eq!(look(&world, 7), Ok(()));
    assert_eq!(look(&world, 8), Ok(()));
    world
        .change(&user(1), set("/d", ACCESS, &list([7, 1, 0, 1, 0])))
        .unwrap();
    assert_eq!(look(&world, 7), Ok(()));
    assert_eq!(look(&world, 8), Err(ErrorCode::PermissionDenied));
    assert!(may(&world, &user(7), "/d", SEARCH));
    world
        .change(&user(1), set("/d", ACCESS, &list([7, 0, 7, 7, 7])))
        .unwrap();
    assert_eq!(look(&world, 7), Err(ErrorCode::PermissionDenied));
    assert_eq!(look(&world, 8), Ok(()));
}
