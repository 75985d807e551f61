//! Makes a file, fifo, socket or device node; with extents, a whole small file in one log entry.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::InodeKind;
use cairn_protocol::messages::operation::{
    CommitPlace, Create, IfExists, OutcomeKind, OutcomeValue,
};

use super::commit;
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::inode::{FILE_BYTES_MAX, REPLICATION_MAX};
use crate::namespace::path::{self, Entry, Node, Stop};
use crate::namespace::{extents, inode, tree};
use crate::store::records::{InodeRecord, OrphanRecord};
use crate::store::{self, Txn};

/// What an existing name means is `if_exists`'s to say; a directory is never opened, emptied or replaced.
pub(super) fn apply(txn: &mut Txn, cmd: &Create, ctx: &Context) -> Result<OutcomeValue, OpError> {
    let (kind, if_exists) = check(cmd, ctx)?;
    if cmd.orphan {
        return make_orphan(txn, cmd, ctx, kind);
    }
    // O_CREAT goes through a symbolic link, also to where nothing is yet; O_EXCL and a replacement mean the
    // name itself.
    let follow = matches!(if_exists, IfExists::Open | IfExists::Truncate);
    let entry = match find(txn, cmd, ctx, follow)? {
        Stop::Last(entry) => entry,
        Stop::Missing(_) => return Err(path::failure(ErrorCode::NotFound, &cmd.location)),
        // Without a name there is an inode, and no way to make one.
        Stop::Here(node) => return use_existing(txn, cmd, ctx, if_exists, (node, false)),
    };
    match entry.dirent {
        None => make(txn, cmd, ctx, kind, entry),
        Some(dirent) => {
            let node = path::load(txn, dirent)?;
            if if_exists == IfExists::Replace {
                replace(txn, cmd, ctx, kind, entry, node)
            } else {
                use_existing(txn, cmd, ctx, if_exists, (node, entry.slash))
            }
        }
    }
}

fn find(txn: &mut Txn, cmd: &Create, ctx: &Context, follow: bool) -> Result<Stop, OpError> {
    if cmd.parents {
        return tree::walk_making_parents(txn, ctx, &cmd.location, parent_mode(cmd.mode), follow);
    }
    let mut walk = path::Walk::start_change(txn, &ctx.caller, &cmd.location)?;
    walk.follow_last = follow;
    walk.advance(txn)
}

/// Who may read the file may search the directories that were made for it, and its owner may all.
fn parent_mode(file_mode: u32) -> u32 {
    let readable = file_mode & 0o444;
    0o700 | (file_mode & 0o777) | (readable >> 2)
}

fn check(cmd: &Create, ctx: &Context) -> Result<(InodeKind, IfExists), OpError> {
    let invalid = |what: String| {
        let message = format!("{}: {what}", path::show(&cmd.location));
        OpError::new(ErrorCode::InvalidArgument, message)
    };
    let kind = InodeKind::try_from(cmd.kind).unwrap_or(InodeKind::Unspecified);
    let if_exists = IfExists::try_from(cmd.if_exists);
    let if_exists = if_exists.map_err(|_| invalid(format!("if_exists {}", cmd.if_exists)))?;
    match kind {
        InodeKind::File | InodeKind::Fifo | InodeKind::Socket => {}
        InodeKind::CharDevice | InodeKind::BlockDevice if ctx.caller.uid == 0 => {}
        InodeKind::CharDevice | InodeKind::BlockDevice => {
            return Err(path::failure(ErrorCode::NotPermitted, &cmd.location));
        }
        InodeKind::Unspecified | InodeKind::Directory | InodeKind::Symlink => {
            return Err(invalid(format!("kind {} is not made by create", cmd.kind)));
        }
    }
    if kind != InodeKind::File && (!cmd.extents.is_empty() || cmd.size != 0) {
        return Err(invalid("only a regular file has content".into()));
    }
    if cmd.replication > REPLICATION_MAX {
        return Err(invalid(format!(
            "replication {}, at most {REPLICATION_MAX} is allowed",
            cmd.replication
        )));
    }
    if cmd.size > FILE_BYTES_MAX {
        let message = format!(
            "{}: size {}, at most {FILE_BYTES_MAX} is allowed",
            path::show(&cmd.location),
            cmd.size
        );
        return Err(OpError::new(ErrorCode::FileTooLarge, message));
    }
    Ok((kind, if_exists))
}

/// A new inode with its content, not stored yet.
/// Whether a content was brought that is known to be on the disks of all replicas.
#[derive(Clone, Copy)]
struct Synced(bool);

fn make_inode(
    txn: &mut Txn,
    cmd: &Create,
    ctx: &Context,
    kind: InodeKind,
    directory: &InodeRecord,
) -> Result<(Node, Synced), OpError> {
    let mut record = inode::made_in(ctx, directory, kind, cmd.mode);
    record.rdev = match kind {
        InodeKind::CharDevice | InodeKind::BlockDevice => cmd.rdev,
        _ => 0,
    };
    let mut node = Node {
        id: tree::number(txn, ctx, &record),
        inode: record,
    };
    let mut synced = Synced(false);
    if kind == InodeKind::File {
        node.inode.replication = match cmd.replication {
            0 => tree::inherited_replication(txn, directory),
            replication => replication,
        };
        synced = give_content(txn, cmd, ctx, &mut node)?;
    }
    set_times(cmd, &mut node.inode);
    Ok((node, synced))
}

/// Tells whether there is one, all of which is known to be on the disks of all replicas.
fn give_content(
    txn: &mut Txn,
    cmd: &Create,
    ctx: &Context,
    node: &mut Node,
) -> Result<Synced, OpError> {
    let mut synced = false;
    if !cmd.extents.is_empty() {
        let place = CommitPlace::At;
        let attached =
            commit::attach_extents(txn, ctx, node.id, &mut node.inode, &cmd.extents, place)?;
        synced = attached.synced;
    }
    node.inode.size = node.inode.size.max(cmd.size);
    Ok(Synced(synced))
}

fn set_times(cmd: &Create, record: &mut InodeRecord) {
    if cmd.mtime_ns != 0 {
        inode::set_mtime(record, cmd.mtime_ns);
    }
    if cmd.atime_ns != 0 {
        inode::set_atime(record, cmd.atime_ns);
    }
}

fn make(
    txn: &mut Txn,
    cmd: &Create,
    ctx: &Context,
    kind: InodeKind,
    mut entry: Entry,
) -> Result<OutcomeValue, OpError> {
    if entry.slash {
        return Err(path::failure(ErrorCode::IsADirectory, &cmd.location));
    }
    tree::check_may_add(&ctx.caller, &cmd.location, &entry.parent)?;
    let (mut node, synced) = make_inode(txn, cmd, ctx, kind, &entry.parent.inode)?;
    node.inode.nlink = 1;
    node.inode.parent = entry.parent.id.0;
    store::inode::put(txn, node.id, &node.inode);
    tree::add_name(txn, ctx, &mut entry.parent, &entry.name, &node)?;
    Ok(answer(&node, true, synced))
}

fn replace(
    txn: &mut Txn,
    cmd: &Create,
    ctx: &Context,
    kind: InodeKind,
    mut entry: Entry,
    mut old: Node,
) -> Result<OutcomeValue, OpError> {
    if entry.slash && !inode::is_directory(&old.inode) {
        return Err(path::failure(ErrorCode::NotADirectory, &cmd.location));
    }
    tree::check_may_remove(&ctx.caller, &cmd.location, &entry.parent, &old.inode)?;
    if inode::is_directory(&old.inode) {
        return Err(path::failure(ErrorCode::IsADirectory, &cmd.location));
    }
    let (mut node, synced) = make_inode(txn, cmd, ctx, kind, &entry.parent.inode)?;
    node.inode.nlink = 1;
    node.inode.parent = entry.parent.id.0;
    store::inode::put(txn, node.id, &node.inode);
    let replaced = (&old, &node);
    tree::change_name(txn, ctx, &mut entry.parent, &entry.name, replaced);
    tree::drop_link(txn, ctx, &mut old);
    Ok(answer(&node, true, synced))
}

/// `slash`: the path demands a directory.
fn use_existing(
    txn: &mut Txn,
    cmd: &Create,
    ctx: &Context,
    if_exists: IfExists,
    (mut node, slash): (Node, bool),
) -> Result<OutcomeValue, OpError> {
    if if_exists == IfExists::Fail {
        return Err(path::failure(ErrorCode::AlreadyExists, &cmd.location));
    }
    if inode::is_directory(&node.inode) {
        return Err(path::failure(ErrorCode::IsADirectory, &cmd.location));
    }
    if slash {
        return Err(path::failure(ErrorCode::NotADirectory, &cmd.location));
    }
    let mut synced = Synced(false);
    // Whether it may be opened is the client's question to ask: it knows for what.
    if if_exists == IfExists::Truncate {
        path::require_file(&cmd.location, &node.inode)?;
        inode::check_write_and_clear_suid(ctx, &cmd.location, &mut node.inode)?;
        extents::drop_content(txn, ctx, node.id, &mut node.inode)?;
        synced = give_content(txn, cmd, ctx, &mut node)?;
        inode::store_content(txn, ctx, &mut node, 0);
        set_times(cmd, &mut node.inode);
        store::inode::put(txn, node.id, &node.inode);
    }
    Ok(answer(&node, false, synced))
}

fn make_orphan(
    txn: &mut Txn,
    cmd: &Create,
    ctx: &Context,
    kind: InodeKind,
) -> Result<OutcomeValue, OpError> {
    let directory = path::resolve(txn, &ctx.caller, &cmd.location, true)?;
    if !inode::is_directory(&directory.inode) {
        return Err(path::failure(ErrorCode::NotADirectory, &cmd.location));
    }
    tree::check_may_add(&ctx.caller, &cmd.location, &directory)?;
    let (mut node, synced) = make_inode(txn, cmd, ctx, kind, &directory.inode)?;
    node.inode.parent = directory.id.0;
    store::inode::put(txn, node.id, &node.inode);
    let keep_until_ns = tree::keep_until_ns(txn, ctx);
    let orphan = OrphanRecord {
        keep_until_ns,
        claims: Vec::new(),
    };
    tree::claim(txn, ctx.session, node.id, orphan)?;
    Ok(answer(&node, true, synced))
}

fn answer(node: &Node, created: bool, Synced(synced): Synced) -> OutcomeValue {
    let mut outcome = inode::outcome(node);
    outcome.created = created;
    // Whatever the content was before, nothing of it is left.
    outcome.synced_since = synced.then_some(0);
    OutcomeKind::Inode(outcome).into()
}
