//! Random operations of several users against the [`Reference`]: the same answers, also the same failures,
//! and the same tree after each step.

use std::collections::BTreeMap;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, Caller, InodeKind, Location};
use cairn_protocol::messages::operation::{
    Delegate, IfExists, Link, OperationKind, RemoveTree, Rename, RenameMode, Rmdir, SetAttributes,
    Step as Told, Symlink, Truncate, Unlink, WriteBehind,
};
use cairn_protocol::messages::query::{List, QueryKind, QueryResult};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use proptest::sample::select;

use super::reference::Reference;
use super::world::{World, create, mkdir, user};
use crate::namespace::command::{CommandKind, Sweep};
use crate::namespace::invariants;
use crate::store;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Mkdir(String, u32),
    Create(String, u32, IfExists),
    Symlink(String, String),
    Link(String, String, bool),
    Rename(String, String, RenameMode),
    Unlink(String),
    Rmdir(String),
    RemoveTree(String),
    Chmod(String, u32),
    Chown(String, Option<u32>, Option<u32>),
    Truncate(String, u64),
    Stat(String, bool),
}

fn path() -> impl Strategy<Value = String> {
    let part = select(vec!["a", "b", "c"]);
    let parts = prop::collection::vec(part, 1..4);
    let ending = select(vec!["", "", "", "", "", "/", "/.", "//"]);
    prop_oneof![
        20 => (parts, ending).prop_map(|(parts, end)| format!("/{}{end}", parts.join("/"))),
        1 => Just("/".to_string()),
    ]
}

fn target() -> impl Strategy<Value = String> {
    let relative = select(vec![
        "a", "b/c", "..", "../a", "../../b", "./c", "a/", "b/.", "../c/..", "missing",
    ]);
    prop_oneof![path(), relative.prop_map(String::from)]
}

fn mode() -> impl Strategy<Value = u32> {
    select(vec![
        0o777, 0o777, 0o777, 0o755, 0o755, 0o700, 0o750, 0o1777, 0o2775, 0o2777, 0o4755, 0o6775,
        0o555, 0o644, 0o666, 0o000,
    ])
}

fn id() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(0..3u32)
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let if_exists = select(vec![
        IfExists::Fail,
        IfExists::Open,
        IfExists::Truncate,
        IfExists::Replace,
    ]);
    let rename_mode = select(vec![
        RenameMode::Replace,
        RenameMode::Replace,
        RenameMode::NoReplace,
        RenameMode::Exchange,
    ]);
    prop_oneof![
        6 => (path(), mode()).prop_map(|(path, mode)| Step::Mkdir(path, mode)),
        5 => (path(), mode(), if_exists).prop_map(|(path, mode, if_exists)| Step::Create(path, mode, if_exists)),
        3 => (target(), path()).prop_map(|(target, path)| Step::Symlink(target, path)),
        3 => (path(), path(), prop::bool::ANY).prop_map(|(from, to, replace)| Step::Link(from, to, replace)),
        7 => (path(), path(), rename_mode).prop_map(|(from, to, mode)| Step::Rename(from, to, mode)),
        2 => path().prop_map(Step::Unlink),
        2 => path().prop_map(Step::Rmdir),
        1 => path().prop_map(Step::RemoveTree),
        2 => (path(), mode()).prop_map(|(path, mode)| Step::Chmod(path, mode)),
        2 => (path(), id(), id()).prop_map(|(path, uid, gid)| Step::Chown(path, uid, gid)),
        1 => (path(), 0..9u64).prop_map(|(path, size)| Step::Truncate(path, size)),
        1 => (path(), prop::bool::ANY).prop_map(|(path, follow)| Step::Stat(path, follow)),
    ]
}

pub(super) fn caller() -> impl Strategy<Value = Caller> {
    select(vec![
        user(0),
        user(1),
        Caller {
            uid: 2,
            gid: 2,
            groups: vec![1],
            umask: 0,
            token: Vec::new(),
            session: 0,
        },
    ])
}

pub(super) fn operation(step: &Step) -> OperationKind {
    let at = |path: &String| Location::path(path.as_str());
    match step {
        Step::Mkdir(path, mode) => mkdir(path, *mode),
        Step::Create(path, mode, if_exists) => {
            let mut create = create(path);
            create.mode = *mode;
            create.if_exists = *if_exists as i32;
            OperationKind::Create(create)
        }
        Step::Symlink(target, path) => OperationKind::Symlink(Symlink {
            location: at(path),
            target: target.as_bytes().to_vec(),
        }),
        Step::Link(source, path, replace) => OperationKind::Link(Link {
            source: at(source),
            location: at(path),
            if_exists: if *replace {
                IfExists::Replace
            } else {
                IfExists::Fail
            } as i32,
        }),
        Step::Rename(source, target, mode) => OperationKind::Rename(Rename {
            source: at(source),
            target: at(target),
            mode: *mode as i32,
        }),
        Step::Unlink(path) => OperationKind::Unlink(Unlink { location: at(path) }),
        Step::Rmdir(path) => OperationKind::Rmdir(Rmdir { location: at(path) }),
        Step::RemoveTree(path) => OperationKind::RemoveTree(RemoveTree { location: at(path) }),
        Step::Chmod(path, mode) => OperationKind::SetAttributes(SetAttributes {
            follow: true,
            mode: Some(*mode),
            ..attributes_at(at(path))
        }),
        Step::Chown(path, uid, gid) => OperationKind::SetAttributes(SetAttributes {
            uid: *uid,
            gid: *gid,
            ..attributes_at(at(path))
        }),
        Step::Truncate(path, size) => OperationKind::Truncate(Truncate {
            location: at(path),
            size: *size,
        }),
        Step::Stat(..) => unreachable!("a query"),
    }
}

fn attributes_at(location: Location) -> SetAttributes {
    SetAttributes {
        location,
        ..SetAttributes::default()
    }
}

/// The same, told after it was done: it comes to the same, but that directories which it makes are the session's own.
pub(super) fn told_later(step: &Step) -> OperationKind {
    let done = operation(step);
    if matches!(step, Step::RemoveTree(_)) {
        return done;
    }
    let done = Told {
        operation: done.into(),
        ..Told::default()
    };
    OperationKind::WriteBehind(WriteBehind { steps: vec![done] })
}

fn in_world(world: &mut World, who: &Caller, step: &Step, later: bool) -> Result<(), ErrorCode> {
    let of_session = Caller {
        session: world.session,
        ..who.clone()
    };
    match step {
        Step::Stat(path, follow) => world
            .stat_at(&of_session, Location::path(path.as_str()), *follow)
            .map(|_| ()),
        Step::RemoveTree(_) => {
            let outcome = world.change(who, operation(step)).map(|_| ());
            sweep(world);
            outcome
        }
        other if later => world.change(who, told_later(other)).map(|_| ()),
        other => world.change(who, operation(other)).map(|_| ()),
    }
}

/// Link counts of files that have names elsewhere follow in the background, when the session has let go of its directories.
fn sweep(world: &mut World) {
    loop {
        world.command(CommandKind::Sweep(Sweep { limit: 1000 }));
        let mut give_back = Vec::new();
        store::detached::scan(&world.store.snapshot(), InodeId(0), &mut |directory| {
            give_back.push(directory.0);
            Ok(true)
        })
        .unwrap();
        if give_back.is_empty() {
            return;
        }
        let take = Vec::new();
        let delegate = OperationKind::Delegate(Delegate { take, give_back });
        world.apply(&user(0), delegate).unwrap();
    }
}

fn in_reference(model: &mut Reference, who: &Caller, step: &Step) -> Result<(), ErrorCode> {
    match step {
        Step::Mkdir(path, mode) => model.mkdir(who, path, *mode),
        Step::Create(path, mode, if_exists) => model.create(who, path, *mode, *if_exists),
        Step::Symlink(target, path) => model.symlink(who, target, path),
        Step::Link(source, path, replace) => model.link(who, source, path, *replace),
        Step::Rename(source, target, mode) => model.rename(who, source, target, *mode),
        Step::Unlink(path) => model.unlink(who, path),
        Step::Rmdir(path) => model.rmdir(who, path),
        Step::RemoveTree(path) => model.remove_tree(who, path),
        Step::Chmod(path, mode) => model.chmod(who, path, *mode),
        Step::Chown(path, uid, gid) => model.chown(who, path, *uid, *gid),
        Step::Truncate(path, size) => model.truncate(who, path, *size),
        Step::Stat(path, follow) => model.find(who, path, *follow).map(|_| ()),
    }
}

/// What both trees must agree on, by path.
#[derive(Debug, PartialEq)]
struct Seen {
    id: u64,
    kind: InodeKind,
    mode: u32,
    owner: (u32, u32),
    nlink: u32,
    size: u64,
    parent: u64,
    target: String,
}

fn seen_in_world(world: &World) -> BTreeMap<String, Seen> {
    let mut all = BTreeMap::new();
    let root = world.stat(&superuser(world), "/").unwrap();
    add_from_world(world, "", root, &mut all);
    all
}

fn superuser(world: &World) -> Caller {
    Caller {
        session: world.session,
        ..user(0)
    }
}

fn add_from_world(
    world: &World,
    path: &str,
    attributes: Attributes,
    all: &mut BTreeMap<String, Seen>,
) {
    if attributes.kind() == InodeKind::Directory {
        let list = List {
            location: Location::inode(attributes.inode.into()),
            start_after: Vec::new(),
            limit: 0,
            attributes: true,
        };
        let list = QueryKind::List(list);
        let result = world.query(&superuser(world), &list).unwrap();
        let QueryResult::Listing(listing) = result else {
            panic!("not a listing")
        };
        for entry in listing.entries {
            let name = String::from_utf8(entry.name).unwrap();
            let attributes = entry.attributes.unwrap();
            assert_eq!(
                (entry.inode, entry.kind),
                (attributes.inode, attributes.kind)
            );
            add_from_world(world, &format!("{path}/{name}"), attributes, all);
        }
    }
    let seen = Seen {
        id: attributes.inode,
        kind: attributes.kind(),
        mode: attributes.mode,
        owner: (attributes.uid, attributes.gid),
        nlink: attributes.nlink,
        size: attributes.size,
        parent: attributes.parent,
        target: String::from_utf8(attributes.symlink_target).unwrap(),
    };
    all.insert(path.into(), seen);
}

fn add_from_reference(model: &Reference, path: &str, id: u64, all: &mut BTreeMap<String, Seen>) {
    let node = &model.nodes[&id];
    for (name, child) in &node.entries {
        add_from_reference(model, &format!("{path}/{name}"), *child, all);
    }
    let directory = node.kind == InodeKind::Directory;
    let size = match node.kind {
        InodeKind::Directory => node.entries.len() as u64,
        InodeKind::Symlink => node.target.len() as u64,
        _ => node.size,
    };
    let seen = Seen {
        id,
        kind: node.kind,
        mode: node.mode,
        owner: (node.uid, node.gid),
        nlink: node.nlink,
        size,
        parent: if directory && id != 1 { node.parent } else { 0 },
        target: node.target.clone(),
    };
    all.insert(path.into(), seen);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_namespace_agrees_with_the_reference(
        steps in prop::collection::vec((caller(), step(), any::<bool>()), 1..80),
    ) {
        let mut world = World::new();
        let mut model = Reference::new(0o777);
        for (who, step, later) in &steps {
            let before = model.clone();
            let expected = in_reference(&mut model, who, step);
            if expected.is_err() {
                model = before;
            }
            let found = in_world(&mut world, who, step, *later);
            assert_eq!(found, expected, "{step:?} by {who:?}");
            let mut expected = BTreeMap::new();
            add_from_reference(&model, "", 1, &mut expected);
            assert_eq!(seen_in_world(&world), expected, "after {step:?} by {who:?}");
        }
        let problems = invariants::check_all(&world.store.snapshot()).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
    }
}
