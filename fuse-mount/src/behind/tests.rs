use std::collections::BTreeMap;

use cairn_protocol::messages::common::{Attributes, InodeKind, Location};
use cairn_protocol::messages::operation::{Commit, RenameMode};
use tokio::sync::oneshot::Receiver;

use super::{Actor, Behind, Made, Moved, NAMES_MAX, Named, New, Untold, WORKED_IN_MAX};

const SESSION: u64 = 7;
const TOP: u64 = 100;

fn directory(inode: u64) -> Attributes {
    Attributes {
        inode,
        kind: InodeKind::Directory as i32,
        mode: 0o755,
        nlink: 2,
        ..Attributes::default()
    }
}

/// With one delegated directory, of these names.
fn delegate(names: &[(&str, u64)]) -> Behind {
    let behind = Behind::default();
    behind.set_working(Some(Actor::default()));
    let names = names.iter().map(|&(name, inode)| {
        let kind = InodeKind::File as i32;
        (name.as_bytes().into(), Named { inode, kind })
    });
    assert!(behind.adopt(SESSION, &directory(TOP), names.collect()));
    behind.reserve(SESSION, 1000..2000);
    behind
}

fn make(behind: &Behind, name: &str) -> u64 {
    let new = New {
        parent: TOP,
        name: name.as_bytes(),
        kind: InodeKind::File,
        mode: 0o644,
        rdev: 0,
        target: b"",
        replication: 3,
    };
    match behind.make(&Default::default(), &new) {
        Made::Here(made) => made.inode,
        other => panic!("{other:?}"),
    }
}

fn commit(behind: &Behind, inode: u64) -> Receiver<Result<(), Untold>> {
    let commit = Commit {
        location: Location {
            inode,
            path: Vec::new(),
        },
        ..Commit::default()
    };
    behind.commit(commit).expect("an own one").0
}

#[test]
fn whoever_committed_hears_whether_that_was_sent_before_the_session_ended() {
    let behind = delegate(&[]);
    let file = make(&behind, "file");
    let mut sent = commit(&behind, file);
    let batch = behind.take_batch().expect("two steps");
    let mut waits = commit(&behind, file);
    assert_eq!(behind.end(SESSION), Some(3));
    assert!(matches!(waits.try_recv(), Ok(Err(Untold::NotSent))));
    assert!(sent.try_recv().is_err(), "it is still on its way");
    behind.lost(batch, Some(42));
    let unknown = sent.try_recv();
    assert!(matches!(unknown, Ok(Err(Untold::Unknown { after: 42 }))));
    assert!(behind.commit_to_gone(file, 0).is_none());
}

#[test]
fn a_session_that_ends_before_a_batch_is_sent_leaves_no_doubt() {
    let behind = delegate(&[]);
    let file = make(&behind, "file");
    let mut told = commit(&behind, file);
    let batch = behind.take_batch().expect("two steps");
    behind.end(SESSION);
    behind.lost(batch, None);
    assert!(matches!(told.try_recv(), Ok(Err(Untold::NotSent))));
}

#[test]
fn names_are_counted_and_when_there_are_too_many_all_are_given_back() {
    let behind = delegate(&[("a", 1), ("b", 2), ("c", 3)]);
    let names = || behind.lock().names;
    make(&behind, "d");
    assert_eq!(names(), 4);
    let open = |_| false;
    let (a, b) = ((TOP, &b"a"[..]), (TOP, &b"b"[..]));
    let moved = behind.rename(a, b, RenameMode::Replace, open);
    assert_eq!(moved, Moved::Here(1));
    assert_eq!(behind.unlink(TOP, b"c", open), Moved::Here(3));
    assert_eq!(names(), 2);
    let kind = InodeKind::File as i32;
    for _ in 0..2 {
        behind.note_name(TOP, b"e", Some(Named { inode: 5, kind }));
        assert_eq!(names(), 3);
    }
    behind.note_name(TOP, b"e", None);
    behind.note_name(TOP, b"e", None);
    assert_eq!(names(), 2);
    let mut total = names();
    for inode in TOP + 1.. {
        assert!(behind.works());
        let many = (0..20_000_u32).map(|name| {
            let name = name.to_be_bytes().into();
            (name, Named { inode: 9, kind })
        });
        let many: BTreeMap<Box<[u8]>, Named> = many.collect();
        total += many.len();
        // Once more: then it is the same.
        assert!(behind.adopt(SESSION, &directory(inode), many.clone()));
        behind.forget_directory(inode);
        assert!(behind.adopt(SESSION, &directory(inode), many.clone()));
        assert!(behind.adopt(SESSION, &directory(inode), many));
        assert_eq!(names(), total);
        if total > NAMES_MAX {
            break;
        }
    }
    assert!(!behind.works());
    behind.end(SESSION);
    assert_eq!(names(), 0);
}

#[test]
fn directories_that_others_want_are_remembered_within_bounds() {
    let behind = Behind::default();
    for directory in 0..2 * WORKED_IN_MAX as u64 {
        behind.contend(directory);
    }
    assert!(behind.lock().contended.len() <= WORKED_IN_MAX);
}

#[test]
fn what_is_done_to_an_inode_of_others_is_untold_until_it_is_told() {
    let behind = delegate(&[("a", 50)]);
    assert!(!behind.has_untold(50));
    assert_eq!(behind.unlink(TOP, b"a", |_| false), Moved::Here(50));
    assert!(behind.has_untold(50));
    let batch = behind.take_batch().expect("one step");
    behind.told(batch);
    assert!(!behind.has_untold(50));
}

#[test]
fn a_file_whose_bytes_were_lost_is_known_for_one_who_asks() {
    let behind = delegate(&[]);
    let (kept, lost) = (make(&behind, "kept"), make(&behind, "lost"));
    assert!(behind.close_soon(kept, 0) && behind.close_soon(lost, 0));
    behind.closed(kept, Some(0));
    behind.closed(lost, Some(1));
    assert!(!behind.take_lost(kept));
    assert!(behind.is_lost(lost) && behind.take_lost(lost));
    assert!(!behind.take_lost(lost));
}
