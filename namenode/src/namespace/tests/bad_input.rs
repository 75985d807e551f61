//! Bad input: an error that names the thing, the limit and the way out, and changes nothing.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{
    Create, Link, Mkdir, Operation, OperationKind, Rename, RenameMode, Symlink, Truncate,
};

use super::world::{World, create, user};
use crate::namespace::command::CommandKind;

fn mkdir_at(path: impl Into<Vec<u8>>) -> OperationKind {
    OperationKind::Mkdir(Mkdir {
        location: Location::path(path),
        mode: 0o755,
        parents: false,
    })
}

#[test]
fn paths_have_limits() {
    let mut world = World::new();
    let long_name = "n".repeat(256);
    let long_path = "/a".repeat(2049);
    let cases: [(Vec<u8>, ErrorCode, String); 6] = [
        (
            b"/a/../b".to_vec(),
            ErrorCode::InvalidArgument,
            "/a/../b holds `..`: send the path without it".into(),
        ),
        (
            b"/a\0b".to_vec(),
            ErrorCode::InvalidArgument,
            "/a\\u{0}b holds a NUL byte, which no name may".into(),
        ),
        (
            long_name.clone().into(),
            ErrorCode::NameTooLong,
            format!(
                "/{long_name}: name of 256 bytes, at most 255 are allowed: choose a shorter one"
            ),
        ),
        (
            long_path.into(),
            ErrorCode::NameTooLong,
            "path of 4098 bytes, at most 4096 are allowed: use shorter names or fewer directories"
                .into(),
        ),
        (
            b"/x/\xff\x1b".to_vec(),
            ErrorCode::NotFound,
            "/x/\\xff\\u{1b}".into(),
        ),
        (b"/".to_vec(), ErrorCode::AlreadyExists, "/".into()),
    ];
    for (path, code, message) in cases {
        let outcome = world.outcome(&user(1), mkdir_at(path));
        assert_eq!((outcome.code, outcome.message), (code as u32, message));
    }
    assert_eq!(world.names(&user(1), "/").unwrap(), Vec::<String>::new());
}

#[test]
fn the_longest_names_and_paths_work() {
    let mut world = World::new();
    let name = "n".repeat(255);
    let mut path = String::new();
    for _ in 0..16 {
        path.push('/');
        path.push_str(&name);
        world.mkdir(&user(1), &path).unwrap();
    }
    assert_eq!(path.len(), 4096);
    assert!(world.stat(&user(1), &path).is_ok());
}

#[test]
fn names_are_bytes() {
    let mut world = World::new();
    assert_eq!(
        world
            .outcome(&user(1), mkdir_at(b"/\xff\xfe".to_vec()))
            .code,
        0
    );
    let seen = world.stat_at(&user(1), Location::path(b"/\xff\xfe".to_vec()), false);
    assert!(seen.is_ok());
}

#[test]
fn numbers_that_mean_nothing_are_refused() {
    let mut world = World::new();
    world.create(&user(1), "/f").unwrap();
    let at = |path: &str| Location::path(path);
    let wrong = [
        OperationKind::Create(Create {
            if_exists: 9,
            ..create("/g")
        }),
        OperationKind::Create(Create {
            kind: 99,
            ..create("/g")
        }),
        OperationKind::Create(Create {
            replication: 17,
            ..create("/g")
        }),
        OperationKind::Rename(Rename {
            source: at("/f"),
            target: at("/g"),
            mode: 7,
        }),
        OperationKind::Link(Link {
            source: at("/f"),
            location: at("/g"),
            if_exists: 1,
        }),
    ];
    for operation in wrong {
        let refused = world.change(&user(0), operation.clone());
        assert_eq!(refused, Err(ErrorCode::InvalidArgument), "{operation:?}");
    }
    let large = u64::MAX / 2 + 1;
    let create = Create {
        size: large,
        ..create("/g")
    };
    let truncate = Truncate {
        location: at("/f"),
        size: large,
    };
    for operation in [
        OperationKind::Create(create),
        OperationKind::Truncate(truncate),
    ] {
        assert_eq!(
            world.change(&user(0), operation),
            Err(ErrorCode::FileTooLarge)
        );
    }
    let mut unknown = world.next(&user(1), mkdir_at("/x"));
    unknown.operation = Operation { kind: None };
    let outcome = world.command(CommandKind::Client(unknown));
    assert_eq!(outcome.code, ErrorCode::Malformed as u32);
    assert_eq!(world.names(&user(1), "/").unwrap(), ["f"]);
}

#[test]
fn targets_of_links_have_limits() {
    let mut world = World::new();
    let symlink = |target: &[u8]| {
        OperationKind::Symlink(Symlink {
            location: Location::path("/l"),
            target: target.to_vec(),
        })
    };
    assert_eq!(
        world.change(&user(1), symlink(b"")),
        Err(ErrorCode::NotFound)
    );
    assert_eq!(
        world.change(&user(1), symlink(b"a\0")),
        Err(ErrorCode::InvalidArgument)
    );
    assert_eq!(
        world.change(&user(1), symlink(&[b'x'; 4096])),
        Err(ErrorCode::NameTooLong)
    );
    assert!(world.change(&user(1), symlink(&[b'x'; 4095])).is_ok());
    assert_eq!(
        world.stat(&user(1), "/l/"),
        Err(ErrorCode::NameTooLong),
        "where it leads"
    );
}

#[test]
fn the_root_stays() {
    let mut world = World::new();
    let root = user(0);
    assert_eq!(world.rmdir(&root, "/"), Err(ErrorCode::InvalidArgument));
    assert_eq!(world.unlink(&root, "/"), Err(ErrorCode::IsADirectory));
    assert_eq!(world.remove_tree(&root, "/."), Err(ErrorCode::NotPermitted));
    let rename = world.rename(&root, "/", "/a", RenameMode::Replace);
    assert_eq!(rename, Err(ErrorCode::InvalidArgument));
}
