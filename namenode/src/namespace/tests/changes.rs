//! What apply notes for those who cache: everything that anybody can tell apart, nothing of what failed, and who did it.

use std::collections::{BTreeMap, BTreeSet};

use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::messages::common::{Caller, Location};
use cairn_protocol::messages::feed;
use cairn_protocol::messages::operation::{OperationKind, RenameMode, SetXattr, Transaction};
use proptest::prelude::{ProptestConfig, prop, proptest};

use super::model::{Step, caller, operation, step};
use super::world::{World, create, mkdir, user};
use crate::namespace::command::{CommandKind, Sweep};
use crate::namespace::{Interest, Onlooker};
use crate::store::records::InodeRecord;
use crate::store::{Change, ChangeSet, KeyKind, What, dirent, inode, scan_kind};

type Inodes = BTreeMap<InodeId, InodeRecord>;
type Names = BTreeMap<(InodeId, Vec<u8>), InodeId>;

fn tables(world: &World) -> (Inodes, Names) {
    let snapshot = world.store.snapshot();
    let mut inodes = Inodes::new();
    inode::scan(&snapshot, InodeId(0), &mut |id, record| {
        inodes.insert(id, record);
        Ok(true)
    })
    .unwrap();
    let mut names = Names::new();
    scan_kind(&snapshot, KeyKind::Dirent, &mut |key, value| {
        let (parent, name) = dirent::decode(key)?;
        let record = dirent::decode_value(parent, name, value)?;
        names.insert((parent, name.to_vec()), InodeId(record.inode));
        Ok(true)
    })
    .unwrap();
    (inodes, names)
}

/// Whether somebody who forgets what these changes name forgets the attributes of this inode.
fn tells_attributes(changes: &[Change], id: InodeId) -> bool {
    changes.iter().any(|change| match change.what {
        What::Attributes | What::Content | What::Gone => change.inode == id,
        What::Named | What::Unnamed => change.inode == id || change.parent == id,
    })
}

fn tells_name(changes: &[Change], parent: InodeId, name: &[u8], what: What, id: InodeId) -> bool {
    changes.iter().any(|change| {
        let place = change.parent == parent && change.name == name;
        place && change.what == what && change.inode == id
    })
}

/// Every difference between two states is told by the changes in between.
fn check(before: &(Inodes, Names), after: &(Inodes, Names), changes: &[Change], detached: bool) {
    for id in before.0.keys().chain(after.0.keys()) {
        if before.0.get(id) != after.0.get(id) {
            assert!(tells_attributes(changes, *id), "inode {id}: {changes:?}");
        }
    }
    for place in before.1.keys().chain(after.1.keys()) {
        let (parent, name) = place;
        let (old, new) = (before.1.get(place), after.1.get(place));
        // Nobody can look at the names in a detached directory.
        if old == new || (detached && new.is_none()) {
            continue;
        }
        if let Some(old) = old {
            assert!(tells_name(changes, *parent, name, What::Unnamed, *old));
        }
        if let Some(new) = new {
            assert!(tells_name(changes, *parent, name, What::Named, *new));
        }
    }
}

fn all(sets: &[ChangeSet]) -> Vec<Change> {
    sets.iter().flat_map(|set| set.changes.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_difference_is_told_and_what_failed_tells_nothing(
        steps in prop::collection::vec((caller(), step()), 1..80),
    ) {
        let mut world = World::new();
        for (who, step) in &steps {
            if matches!(step, Step::Stat(..)) {
                continue;
            }
            let before = tables(&world);
            world.changes.clear();
            let outcome = world.change(who, operation(step));
            let sets = std::mem::take(&mut world.changes);
            let after = tables(&world);
            check(&before, &after, &all(&sets), false);
            assert!(outcome.is_ok() || sets.is_empty(), "{step:?}: {sets:?}");
            for set in &sets {
                assert_eq!((set.index, set.session), (world.index, SessionId(world.session)));
                assert!(!set.changes.is_empty());
            }
            world.command(CommandKind::Sweep(Sweep { limit: 1000 }));
            let sets = std::mem::take(&mut world.changes);
            check(&after, &tables(&world), &all(&sets), true);
            assert!(sets.iter().all(|set| set.session == SessionId(0)));
        }
    }
}

fn short(sets: &[ChangeSet]) -> Vec<(What, u64, String)> {
    let short = |change: &Change| {
        let name = String::from_utf8(change.name.to_vec()).unwrap();
        (change.what, change.inode.0, name)
    };
    sets.iter()
        .flat_map(|set| &set.changes)
        .map(short)
        .collect()
}

#[test]
fn a_rename_over_a_file_tells_both_names_and_whose_place_was_taken() {
    let mut world = World::new();
    let a = world.create(&user(0), "/a").unwrap().attributes.inode;
    let b = world.create(&user(0), "/b").unwrap().attributes.inode;
    world.changes.clear();
    world
        .rename(&user(0), "/a", "/b", RenameMode::Replace)
        .unwrap();
    let expected = [
        (What::Unnamed, a, "a".to_owned()),
        (What::Unnamed, b, "b".to_owned()),
        (What::Named, a, "b".to_owned()),
    ];
    assert_eq!(short(&world.changes), expected);
    world.changes.clear();
    let c = world.create(&user(0), "/c").unwrap().attributes.inode;
    assert_eq!(
        short(&world.changes),
        [(What::Named, c, "c".to_owned())],
        "the attributes of what is new follow from its name"
    );
}

#[test]
fn a_repeated_command_and_a_failed_transaction_tell_nothing() {
    let mut world = World::new();
    world.changes.clear();
    let command = world.next(&user(0), mkdir("/a", 0o755));
    world.command(CommandKind::Client(command.clone()));
    assert_eq!(world.changes.len(), 1);
    world.changes.clear();
    assert_eq!(world.command(CommandKind::Client(command)).code, 0);
    let operations = vec![
        OperationKind::Create(create("/b")).into(),
        mkdir("/a", 0o755).into(),
    ];
    let transaction = Transaction {
        preconditions: Vec::new(),
        operations,
    };
    world
        .apply(&user(0), OperationKind::Transaction(transaction))
        .unwrap_err();
    assert!(world.changes.is_empty(), "{:?}", world.changes);
}

#[test]
fn extended_attributes_are_attributes() {
    let mut world = World::new();
    let a = world.create(&user(0), "/a").unwrap().attributes.inode;
    world.changes.clear();
    let set = SetXattr {
        location: Location::path("/a"),
        name: b"user.x".to_vec(),
        value: b"y".to_vec(),
        ..SetXattr::default()
    };
    world.apply(&user(0), OperationKind::SetXattr(set)).unwrap();
    assert_eq!(
        short(&world.changes),
        [(What::Attributes, a, String::new())]
    );
}

/// What a caller is told: (kind, inode, name).
fn told(world: &World, who: &Caller, interest: &Interest) -> Vec<(feed::ChangeKind, u64, String)> {
    let snapshot = world.store.snapshot();
    let mut onlooker = Onlooker::new(&snapshot, who, interest);
    let seen = onlooker.see(world.changes.iter()).unwrap();
    let changes = seen.into_iter().flat_map(|set| set.changes);
    let short = |change: feed::Change| {
        let name = String::from_utf8(change.name.to_vec()).unwrap();
        (change.kind(), change.inode, name)
    };
    changes.map(short).collect()
}

#[test]
fn names_are_for_those_who_may_read_the_directory_and_ids_for_all() {
    let mut world = World::new();
    world.change(&user(1), mkdir("/private", 0o711)).unwrap();
    world.changes.clear();
    let file = world.create(&user(1), "/private/secret").unwrap();
    let id = file.attributes.inode;
    let all = Interest::default();
    let named = |name: &str| [(feed::ChangeKind::Named, id, name.to_owned())];
    assert_eq!(told(&world, &user(0), &all), named("secret"));
    assert_eq!(told(&world, &user(1), &all), named("secret"));
    assert_eq!(told(&world, &user(2), &all), named(""));
    let not_own = Interest {
        without_session: SessionId(world.session),
        ..Interest::default()
    };
    assert!(told(&world, &user(0), &not_own).is_empty());
}

/// Paths that a caller is told, with the kinds of change.
fn paths(world: &World, who: &Caller) -> Vec<(feed::ChangeKind, String)> {
    let interest = Interest {
        paths: true,
        ..Interest::default()
    };
    let snapshot = world.store.snapshot();
    let mut onlooker = Onlooker::new(&snapshot, who, &interest);
    let seen = onlooker.see(world.changes.iter()).unwrap();
    let changes = seen.into_iter().flat_map(|set| set.changes);
    let short = |change: feed::Change| {
        let path = String::from_utf8(change.path.to_vec()).unwrap();
        (change.kind(), path)
    };
    changes.map(short).collect()
}

#[test]
fn paths_are_of_now_or_of_before_it_went_and_for_those_who_may_read_the_way() {
    use feed::ChangeKind::{Attributes, Named, Unnamed};
    let mut world = World::new();
    let (root, owner, other) = (user(0), user(1), user(2));
    world.change(&owner, mkdir("/a", 0o755)).unwrap();
    world.change(&owner, mkdir("/a/shut", 0o711)).unwrap();
    world.change(&owner, mkdir("/a/shut/b", 0o755)).unwrap();
    world.create(&owner, "/a/shut/b/old").unwrap();
    world.changes.clear();
    world.create(&owner, "/a/shut/b/new").unwrap();
    let attribute = SetXattr {
        location: Location::path("/a/shut/b/old"),
        name: b"user.x".to_vec(),
        ..SetXattr::default()
    };
    let attribute = OperationKind::SetXattr(attribute);
    world.apply(&owner, attribute).unwrap();
    let all = |b: &str| {
        [
            (Named, format!("{b}/new")),
            (Attributes, format!("{b}/old")),
        ]
    };
    assert_eq!(paths(&world, &root), all("/a/shut/b"));
    assert_eq!(paths(&world, &owner), all("/a/shut/b"));
    let nothing = [(Named, String::new()), (Attributes, String::new())];
    assert_eq!(paths(&world, &other), nothing);
    let untold = told(&world, &root, &Interest::default());
    assert_eq!(untold[0].2, "new");

    // Where it is now, not where it was.
    let mode = RenameMode::Replace;
    world.rename(&owner, "/a/shut/b", "/a/c", mode).unwrap();
    let moved = paths(&world, &other);
    assert_eq!(moved[..2], all("/a/c"));
    assert!(moved.contains(&(Named, "/a/c".to_owned())), "{moved:?}");
    world.changes.clear();
    world.unlink(&owner, "/a/c/new").unwrap();
    world.unlink(&owner, "/a/c/old").unwrap();
    world.rmdir(&owner, "/a/c").unwrap();
    let went = paths(&world, &root);
    for path in ["/a/c/new", "/a/c/old", "/a/c"] {
        let unnamed = (Unnamed, path.to_owned());
        assert!(went.contains(&unnamed), "{path} is not in {went:?}");
    }
}

#[test]
fn the_work_for_paths_is_bounded() {
    let mut world = World::new();
    let who = user(0);
    world.mkdir(&who, "/d").unwrap();
    for index in 0..100 {
        world.create(&who, &format!("/d/{index}")).unwrap();
    }
    let told = paths(&world, &who);
    let with = told.iter().filter(|(_, path)| !path.is_empty()).count();
    assert_eq!(with, 64, "the last ones have paths");
    assert_eq!(told.last().unwrap().1, "/d/99");
    assert_eq!(told[0].1, "");
}

#[test]
fn an_interest_in_a_directory_is_in_what_lies_in_it_and_below_it_in_all_deeper() {
    let mut world = World::new();
    let who = user(0);
    let top = world.mkdir(&who, "/top").unwrap().attributes.inode;
    let deep = world.mkdir(&who, "/top/deep").unwrap().attributes.inode;
    world.mkdir(&who, "/other").unwrap();
    let near = world.create(&who, "/top/near").unwrap().attributes.inode;
    let far = world.create(&who, "/top/deep/far").unwrap();
    let far = far.attributes.inode;
    world.create(&who, "/other/file").unwrap();
    world.changes.clear();
    for path in ["/top/near", "/top/deep/far", "/other/file"] {
        let truncate = Step::Truncate(path.to_owned(), 5);
        world.change(&who, operation(&truncate)).unwrap();
    }
    world
        .rename(&who, "/top/deep/far", "/other/far", RenameMode::Replace)
        .unwrap();
    world.rmdir(&who, "/top/deep").unwrap();
    let (content, unnamed) = (feed::ChangeKind::Content, feed::ChangeKind::Unnamed);
    let gone = feed::ChangeKind::Gone;
    let (near, far, deep) = (
        |kind, name: &str| (kind, near, name.to_owned()),
        |kind, name: &str| (kind, far, name.to_owned()),
        |kind, name: &str| (kind, deep, name.to_owned()),
    );
    let in_top = Interest {
        inodes: BTreeSet::from([InodeId(top)]),
        ..Interest::default()
    };
    let expected = [near(content, ""), deep(unnamed, "deep"), deep(gone, "")];
    assert_eq!(told(&world, &who, &in_top), expected);
    let below = Interest {
        below: Some(InodeId(top)),
        ..Interest::default()
    };
    // Also what was in the directory that is gone by now.
    let expected = [
        near(content, ""),
        far(content, ""),
        far(unnamed, "far"),
        deep(unnamed, "deep"),
        deep(gone, ""),
    ];
    assert_eq!(told(&world, &who, &below), expected);
    let file = Interest {
        inodes: BTreeSet::from([InodeId(far(content, "").1)]),
        ..Interest::default()
    };
    let expected = [
        far(content, ""),
        far(unnamed, "far"),
        far(feed::ChangeKind::Named, "far"),
    ];
    assert_eq!(told(&world, &who, &file), expected);
}
