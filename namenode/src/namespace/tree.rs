//! Names come and go: what every operation on a directory has in common. Keeps entry counts, link counts,
//! parents and the cluster's counts of inodes right (I2).

use bytes::Bytes;
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::messages::common::{Caller, InodeKind, Location};

use super::context::Context;
use super::error::OpError;
use super::inode;
use super::path::{self, Entry, Node, Stop, Walk};
use super::permission::{self, EXECUTE, WRITE};
use crate::store::records::{DirentRecord, InodeRecord, OrphanRecord};
use crate::store::{self, Change, Txn, What};

/// Most names of one inode that is not a directory.
pub(super) const HARD_LINKS_MAX: u32 = 65_000;

/// Most sessions that keep one unlinked inode.
pub(super) const CLAIMS_MAX: usize = 1024;

const NS_PER_MS: u64 = 1_000_000;

/// Fails unless the caller may put a name into the directory.
pub(super) fn check_may_add(
    caller: &Caller,
    location: &Location,
    directory: &Node,
) -> Result<(), OpError> {
    if permission::allows(caller, &directory.inode, WRITE | EXECUTE) {
        Ok(())
    } else {
        Err(path::failure(ErrorCode::PermissionDenied, location))
    }
}

/// Fails unless the caller may take this entry's name out of the directory.
pub(super) fn check_may_remove(
    caller: &Caller,
    location: &Location,
    directory: &Node,
    entry: &InodeRecord,
) -> Result<(), OpError> {
    check_may_add(caller, location, directory)?;
    if permission::sticky_forbids(caller, &directory.inode, entry) {
        return Err(path::failure(ErrorCode::NotPermitted, location));
    }
    Ok(())
}

/// Gives a new inode its id, one that was reserved if the command says so, and counts it; the caller stores it.
pub(super) fn number(txn: &mut Txn, ctx: &Context, inode: &InodeRecord) -> InodeId {
    let cluster = txn.cluster_mut();
    let id = ctx.inode.unwrap_or_else(|| {
        let next = InodeId(cluster.next_inode);
        cluster.next_inode += 1;
        next
    });
    cluster.inode_count += 1;
    if inode::is_directory(inode) {
        cluster.directory_count += 1;
    } else if inode::is_file(inode) {
        cluster.file_count += 1;
    }
    id
}

/// Takes an inode whose record has been deleted out of the counts.
pub(super) fn uncount(txn: &mut Txn, inode: &InodeRecord) {
    let cluster = txn.cluster_mut();
    cluster.inode_count = cluster.inode_count.saturating_sub(1);
    if inode::is_directory(inode) {
        cluster.directory_count = cluster.directory_count.saturating_sub(1);
    } else if inode::is_file(inode) {
        cluster.file_count = cluster.file_count.saturating_sub(1);
    }
}

/// Puts a name into a directory and stores the directory. The named inode's own record is the caller's to
/// store.
pub(super) fn add_name(
    txn: &mut Txn,
    ctx: &Context,
    directory: &mut Node,
    name: &[u8],
    child: &Node,
) -> Result<(), OpError> {
    let record = &mut directory.inode;
    if record.nlink == 0 {
        let message = format!("directory inode {} is removed", directory.id);
        return Err(OpError::new(ErrorCode::NotFound, message));
    }
    if inode::is_directory(&child.inode) {
        let links = record.nlink.checked_add(1);
        record.nlink = links.ok_or_else(|| {
            OpError::new(
                ErrorCode::LinkLimit,
                format!("directory inode {}", directory.id),
            )
        })?;
    }
    record.entry_count += 1;
    inode::touch_content(record, ctx.stamp, 0);
    let dirent = DirentRecord {
        inode: child.id.0,
        kind: child.inode.kind,
    };
    store::dirent::put(txn, directory.id, name, &dirent);
    note_name(txn, directory.id, name, child, What::Named);
    store::inode::put(txn, directory.id, &directory.inode);
    Ok(())
}

/// Takes a name out of a directory and stores the directory. What becomes of the named inode is the caller's
/// business.
pub(super) fn remove_name(
    txn: &mut Txn,
    ctx: &Context,
    directory: &mut Node,
    name: &[u8],
    child: &Node,
) {
    let record = &mut directory.inode;
    if inode::is_directory(&child.inode) {
        record.nlink = record.nlink.saturating_sub(1);
    }
    record.entry_count = record.entry_count.saturating_sub(1);
    inode::touch_content(record, ctx.stamp, 0);
    store::dirent::delete(txn, directory.id, name);
    note_name(txn, directory.id, name, child, What::Unnamed);
    store::inode::put(txn, directory.id, &directory.inode);
}

/// Lets a name that exists name another inode of the same kind of count (neither or both are directories).
pub(super) fn change_name(
    txn: &mut Txn,
    ctx: &Context,
    directory: &mut Node,
    name: &[u8],
    (old, child): (&Node, &Node),
) {
    inode::touch_content(&mut directory.inode, ctx.stamp, 0);
    let dirent = DirentRecord {
        inode: child.id.0,
        kind: child.inode.kind,
    };
    store::dirent::put(txn, directory.id, name, &dirent);
    note_name(txn, directory.id, name, old, What::Unnamed);
    note_name(txn, directory.id, name, child, What::Named);
    store::inode::put(txn, directory.id, &directory.inode);
}

fn note_name(txn: &mut Txn, parent: InodeId, name: &[u8], child: &Node, what: What) {
    txn.note(Change {
        inode: child.id,
        kind: child.inode.kind,
        parent,
        what,
        name: Bytes::copy_from_slice(name),
    });
}

/// Makes an empty directory. The caller has checked that the name is free and that it may be made.
pub(super) fn make_directory(
    txn: &mut Txn,
    ctx: &Context,
    parent: &mut Node,
    name: &[u8],
    mode: u32,
) -> Result<Node, OpError> {
    let mut record = inode::made_in(ctx, &parent.inode, InodeKind::Directory, mode);
    record.nlink = 2;
    record.parent = parent.id.0;
    record.replication = parent.inode.replication;
    let node = Node {
        id: number(txn, ctx, &record),
        inode: record,
    };
    store::inode::put(txn, node.id, &node.inode);
    add_name(txn, ctx, parent, name, &node)?;
    Ok(node)
}

/// Walks to a location and makes the directories that are missing in the middle, at most as many as a path
/// can hold.
pub(super) fn walk_making_parents(
    txn: &mut Txn,
    ctx: &Context,
    location: &Location,
    mode: u32,
    follow_last: bool,
) -> Result<Stop, OpError> {
    let mut walk = Walk::start_change(txn, &ctx.caller, location)?;
    walk.follow_last = follow_last;
    loop {
        match walk.advance(txn)? {
            Stop::Missing(Entry {
                mut parent, name, ..
            }) => {
                check_may_add(&ctx.caller, location, &parent)?;
                walk.enter(make_directory(txn, ctx, &mut parent, &name, mode)?);
            }
            stop => return Ok(stop),
        }
    }
}

/// One name fewer for an inode that is not a directory, and stores it. Without any it becomes an orphan:
/// readable by id until the grace is over and no session claims it any more.
pub(super) fn drop_link(txn: &mut Txn, ctx: &Context, node: &mut Node) {
    node.inode.nlink = node.inode.nlink.saturating_sub(1);
    inode::touch(&mut node.inode, ctx.stamp);
    store::inode::put(txn, node.id, &node.inode);
    if node.inode.nlink == 0 {
        let orphan = OrphanRecord {
            keep_until_ns: keep_until_ns(txn, ctx),
            claims: Vec::new(),
        };
        store::orphan::put(txn, node.id, &orphan);
    }
}

/// When an inode that loses its last name now may go.
pub(super) fn keep_until_ns(txn: &Txn, ctx: &Context) -> u64 {
    let settings = txn.cluster().settings.as_ref();
    let grace_ms = settings.map_or(0, |settings| settings.reclaim_grace_ms);
    ctx.stamp
        .time_ns
        .saturating_add(grace_ms.saturating_mul(NS_PER_MS))
}

/// Lets go of an empty directory whose name has been taken away. Its attributes, if it has any, are left to
/// the sweeper.
pub(super) fn drop_directory(txn: &mut Txn, ctx: &Context, node: &mut Node) {
    if node.inode.xattr_count == 0 {
        store::inode::delete(txn, node.id, &node.inode);
        uncount(txn, &node.inode);
        node.inode.nlink = 0;
        inode::touch(&mut node.inode, ctx.stamp);
    } else {
        detach(txn, ctx, node);
    }
}

/// Cuts a directory off, with all below it: it accepts nothing any more and is swept in the background.
pub(super) fn detach(txn: &mut Txn, ctx: &Context, node: &mut Node) {
    node.inode.nlink = 0;
    inode::touch(&mut node.inode, ctx.stamp);
    store::inode::put(txn, node.id, &node.inode);
    store::detached::put(txn, node.id);
}

/// Whether a directory has no entries.
pub(super) fn is_empty(directory: &InodeRecord) -> bool {
    directory.entry_count == 0
}

/// Gives a session's claim on an inode up, if it has one.
pub(super) fn release_claim(txn: &mut Txn, session: SessionId, id: InodeId) -> Result<(), OpError> {
    store::claim::delete(txn, session, id);
    if let Some(mut orphan) = store::orphan::get(txn, id)?
        && let Ok(at) = orphan.claims.binary_search(&session.0)
    {
        orphan.claims.remove(at);
        store::orphan::put(txn, id, &orphan);
    }
    Ok(())
}

/// Takes an inode out of the orphans, with all claims: it has a name again.
pub(super) fn adopt(txn: &mut Txn, id: InodeId) -> Result<(), OpError> {
    if let Some(orphan) = store::orphan::get(txn, id)? {
        for session in orphan.claims {
            store::claim::delete(txn, session.into(), id);
        }
        store::orphan::delete(txn, id);
    }
    Ok(())
}

/// Puts a session's claim on an orphan.
pub(super) fn claim(
    txn: &mut Txn,
    session: SessionId,
    id: InodeId,
    mut orphan: OrphanRecord,
) -> Result<(), OpError> {
    if let Err(at) = orphan.claims.binary_search(&session.0) {
        if orphan.claims.len() >= CLAIMS_MAX {
            let message = format!("inode {id} is kept by {CLAIMS_MAX} sessions, no more may");
            return Err(OpError::new(ErrorCode::Overloaded, message));
        }
        orphan.claims.insert(at, session.0);
        store::claim::put(txn, session, id);
    }
    store::orphan::put(txn, id, &orphan);
    Ok(())
}

/// The replication that a new file in a directory gets if it does not ask for one.
pub(super) fn inherited_replication(txn: &Txn, directory: &InodeRecord) -> u32 {
    let settings = txn.cluster().settings.as_ref();
    let default = settings.map_or(1, |settings| settings.replication);
    if directory.replication == 0 {
        default
    } else {
        directory.replication
    }
}
