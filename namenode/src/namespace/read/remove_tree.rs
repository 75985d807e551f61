//! May the caller remove everything in a tree? Apply detaches a tree in one step and cannot look, so the
//! service asks this before it proposes. What others put into the tree in between goes with it, as with `rm
//! -r` and a race.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::{Caller, InodeKind, Location};

use crate::namespace::error::OpError;
use crate::namespace::path::{self, DEPTH_MAX, Node};
use crate::namespace::permission::{self, EXECUTE, READ, STICKY, WRITE};
use crate::namespace::{delegation, inode, tree};
use crate::store::records::DirentRecord;
use crate::store::{self, Read};

/// Most entries that one call looks at.
const ENTRIES_MAX: usize = 10_000_000;

/// Entries of one directory that are read at a time.
const PAGE_ENTRIES: usize = 1_000;

/// A directory that is being looked through: what was read of it, and after which name to read on.
struct Level {
    node: Node,
    /// In the level above; empty for the first.
    name: Vec<u8>,
    page: std::vec::IntoIter<(Vec<u8>, DirentRecord)>,
    after: Vec<u8>,
}

/// Fails with the first thing that `rm -r` of this caller would leave behind. Memory is bounded by the depth.
/// Blocks.
pub fn check_remove_tree(
    read: &impl Read,
    caller: &Caller,
    location: &Location,
) -> Result<(), OpError> {
    let top = path::resolve(read, caller, location, false)?;
    if caller.uid == 0 || !inode::is_directory(&top.inode) {
        return Ok(());
    }
    let mut stack = Vec::new();
    enter(read, caller, location, (&[], top), &mut stack)?;
    let mut budget = ENTRIES_MAX;
    while let Some(level) = stack.last_mut() {
        if budget == 0 {
            let message = format!(
                "{} has more than {ENTRIES_MAX} entries to check: remove parts of it first",
                path::show(location)
            );
            return Err(OpError::new(ErrorCode::TooLarge, message));
        }
        match next_entry(read, level, &mut budget)? {
            None => drop(stack.pop()),
            Some((name, dirent)) => {
                if let Some(below) = check_entry(read, caller, location, &stack, &name, dirent)? {
                    enter(read, caller, location, (&name, below), &mut stack)?;
                }
            }
        }
    }
    Ok(())
}

/// A directory that has entries must let the caller list and remove them. Its holder first tells what it did in it: what was taken
/// out of it stays.
fn enter(
    read: &impl Read,
    caller: &Caller,
    location: &Location,
    (name, node): (&[u8], Node),
    stack: &mut Vec<Level>,
) -> Result<(), OpError> {
    let empty = tree::is_empty(&node.inode);
    if !empty && !permission::allows(caller, &node.inode, READ | WRITE | EXECUTE) {
        let message = path_of(location, stack, name);
        return Err(OpError::new(ErrorCode::PermissionDenied, message));
    }
    delegation::check(read, caller, &node)?;
    if empty {
        return Ok(());
    }
    if stack.len() >= DEPTH_MAX {
        return Err(path::Ancestry::TooDeep.failure(location));
    }
    stack.push(Level {
        node,
        name: name.to_vec(),
        page: Vec::new().into_iter(),
        after: Vec::new(),
    });
    Ok(())
}

/// What lies under a name in the last level, or at `location` if there is none.
fn path_of(location: &Location, stack: &[Level], name: &[u8]) -> String {
    let mut path = path::show(location);
    let names = stack.iter().map(|level| level.name.as_slice());
    for name in names.chain([name]).filter(|name| !name.is_empty()) {
        if !path.ends_with('/') {
            path.push('/');
        }
        path.push_str(&path::show_bytes(name));
    }
    path
}

fn next_entry(
    read: &impl Read,
    level: &mut Level,
    budget: &mut usize,
) -> Result<Option<(Vec<u8>, DirentRecord)>, OpError> {
    if level.page.len() == 0 {
        let mut page = Vec::new();
        let limit = PAGE_ENTRIES.min(*budget);
        store::dirent::scan(read, level.node.id, &level.after, &mut |name, dirent| {
            page.push((name.to_vec(), dirent));
            Ok(page.len() < limit)
        })?;
        *budget = budget.saturating_sub(page.len());
        if let Some((last, _)) = page.last() {
            level.after.clone_from(last);
        }
        level.page = page.into_iter();
    }
    Ok(level.page.next())
}

/// Whether the caller may remove an entry; a directory with entries of its own is answered, to be entered.
fn check_entry(
    read: &impl Read,
    caller: &Caller,
    location: &Location,
    stack: &[Level],
    name: &[u8],
    dirent: DirentRecord,
) -> Result<Option<Node>, OpError> {
    let Some(level) = stack.last() else {
        return Ok(None);
    };
    let sticky = level.node.inode.mode & STICKY != 0;
    let directory = dirent.kind == InodeKind::Directory as i32;
    if !sticky && !directory {
        return Ok(None);
    }
    let node = path::load(read, dirent)?;
    if permission::sticky_forbids(caller, &level.node.inode, &node.inode) {
        let message = path_of(location, stack, name);
        return Err(OpError::new(ErrorCode::NotPermitted, message));
    }
    Ok(directory.then_some(node))
}
