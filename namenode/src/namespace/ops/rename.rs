//! Renames an inode. Atomic: readers see the old name or the new one, never both and never neither (I2).

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{OutcomeValue, Rename, RenameMode};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::path::{self, Ancestry, Entry, Node};
use crate::namespace::permission::{self, WRITE};
use crate::namespace::{delegation, inode, tree};
use crate::store::{self, Txn};

/// One side of a rename: a name, and the inode behind it.
struct Side<'a> {
    location: &'a Location,
    entry: Entry,
    node: Node,
}

/// Fails in the order of rename(2): what is missing, what is of the wrong kind, what would cut a subtree off
/// the root, what is forbidden, what is in the way.
pub(super) fn apply(txn: &mut Txn, cmd: &Rename, ctx: &Context) -> Result<OutcomeValue, OpError> {
    let mode = RenameMode::try_from(cmd.mode).map_err(|_| {
        OpError::new(
            ErrorCode::InvalidArgument,
            format!("rename mode {}", cmd.mode),
        )
    })?;
    let unnamed = ErrorCode::InvalidArgument;
    let source = path::resolve_entry(txn, &ctx.caller, &cmd.source, unnamed)?;
    let first = (&cmd.source, &source);
    let target = path::resolve_second_entry(txn, &ctx.caller, &cmd.target, unnamed, first)?;
    let node = path::load(txn, source.existing(&cmd.source)?)?;
    let source = Side {
        location: &cmd.source,
        entry: source,
        node,
    };
    if mode == RenameMode::NoReplace && target.dirent.is_some() {
        return Err(path::failure(ErrorCode::AlreadyExists, &cmd.target));
    }
    let existing = match (target.dirent, mode) {
        (Some(dirent), _) => Some(path::load(txn, dirent)?),
        (None, RenameMode::Exchange) => {
            return Err(path::failure(ErrorCode::NotFound, &cmd.target));
        }
        (None, RenameMode::Replace | RenameMode::NoReplace) => None,
    };
    check_slashes(&source, cmd, &target, existing.as_ref(), mode)?;
    match existing {
        None => move_to_free_name(txn, ctx, source, &cmd.target, target),
        Some(node) => {
            let target = Side {
                location: &cmd.target,
                entry: target,
                node,
            };
            if mode == RenameMode::Exchange {
                exchange(txn, ctx, source, target)
            } else {
                replace(txn, ctx, source, target)
            }
        }
    }
}

/// A trailing slash demands a directory; at a free target, that a directory comes there.
fn check_slashes(
    source: &Side,
    cmd: &Rename,
    target: &Entry,
    existing: Option<&Node>,
    mode: RenameMode,
) -> Result<(), OpError> {
    let moves_directory = inode::is_directory(&source.node.inode);
    if source.entry.slash && !moves_directory {
        return Err(path::failure(ErrorCode::NotADirectory, &cmd.source));
    }
    let fits = match (mode, existing) {
        (RenameMode::Exchange, Some(node)) => inode::is_directory(&node.inode),
        _ => moves_directory,
    };
    if target.slash && !fits {
        return Err(path::failure(ErrorCode::NotADirectory, &cmd.target));
    }
    Ok(())
}

/// Fails with `InvalidArgument` if `directory` lies inside `moved` or is it: the move would cut the subtree
/// off the root (I2).
fn check_not_into_itself(
    txn: &Txn,
    moved: &Node,
    directory: &Node,
    location: &Location,
) -> Result<(), OpError> {
    if !inode::is_directory(&moved.inode) {
        return Ok(());
    }
    match path::ancestors(txn, directory, |id| id == moved.id)? {
        Ancestry::Root => Ok(()),
        Ancestry::Found => {
            let message = format!("{} lies inside what is moved", path::show(location));
            Err(OpError::new(ErrorCode::InvalidArgument, message))
        }
        other => Err(other.failure(location)),
    }
}

/// A directory that gets another parent changes itself: its `..` does.
fn check_new_parent(ctx: &Context, side: &Side, from: InodeId, to: InodeId) -> Result<(), OpError> {
    let changes = from != to && inode::is_directory(&side.node.inode);
    if changes && !permission::allows(&ctx.caller, &side.node.inode, WRITE) {
        return Err(path::failure(ErrorCode::PermissionDenied, side.location));
    }
    Ok(())
}

fn check_may_leave(ctx: &Context, side: &Side) -> Result<(), OpError> {
    tree::check_may_remove(
        &ctx.caller,
        side.location,
        &side.entry.parent,
        &side.node.inode,
    )
}

fn move_to_free_name(
    txn: &mut Txn,
    ctx: &Context,
    mut source: Side,
    location: &Location,
    mut target: Entry,
) -> Result<OutcomeValue, OpError> {
    let (from, to) = (source.entry.parent.id, target.parent.id);
    if from != to {
        check_not_into_itself(txn, &source.node, &target.parent, location)?;
    }
    check_may_leave(ctx, &source)?;
    tree::check_may_add(&ctx.caller, location, &target.parent)?;
    check_new_parent(ctx, &source, from, to)?;
    let old_parent = &mut source.entry.parent;
    tree::remove_name(txn, ctx, old_parent, &source.entry.name, &source.node);
    if from == to {
        target.parent = old_parent.clone();
    }
    tree::add_name(txn, ctx, &mut target.parent, &target.name, &source.node)?;
    settle(txn, ctx, &mut source.node, to);
    Ok(inode::answer(&source.node))
}

/// Stores a moved inode with its new parent.
fn settle(txn: &mut Txn, ctx: &Context, node: &mut Node, parent: InodeId) {
    node.inode.parent = parent.0;
    inode::touch(&mut node.inode, ctx.stamp);
    store::inode::put(txn, node.id, &node.inode);
}

fn replace(
    txn: &mut Txn,
    ctx: &Context,
    mut source: Side,
    mut target: Side,
) -> Result<OutcomeValue, OpError> {
    let (from, to) = (source.entry.parent.id, target.entry.parent.id);
    if from != to {
        check_not_into_itself(txn, &source.node, &target.entry.parent, target.location)?;
        let above = |id| id == target.node.id;
        if inode::is_directory(&target.node.inode)
            && path::ancestors(txn, &source.entry.parent, above)? == Ancestry::Found
        {
            return Err(path::failure(ErrorCode::NotEmpty, target.location));
        }
    }
    if source.node.id == target.node.id {
        // Two names of one inode: rename(2) does nothing and says that it worked.
        return Ok(inode::answer(&source.node));
    }
    check_may_leave(ctx, &source)?;
    check_may_leave(ctx, &target)?;
    check_kinds(&source, &target)?;
    check_new_parent(ctx, &source, from, to)?;
    delegation::check(txn, &ctx.caller, &target.node)?;
    if inode::is_directory(&target.node.inode) && !tree::is_empty(&target.node.inode) {
        return Err(path::failure(ErrorCode::NotEmpty, target.location));
    }
    let old_parent = &mut source.entry.parent;
    tree::remove_name(txn, ctx, old_parent, &source.entry.name, &source.node);
    if from == to {
        target.entry.parent = old_parent.clone();
    }
    tree::change_name(
        txn,
        ctx,
        &mut target.entry.parent,
        &target.entry.name,
        (&target.node, &source.node),
    );
    if inode::is_directory(&target.node.inode) {
        tree::drop_directory(txn, ctx, &mut target.node);
    } else {
        tree::drop_link(txn, ctx, &mut target.node);
    }
    settle(txn, ctx, &mut source.node, to);
    Ok(inode::answer(&source.node))
}

/// A directory replaces only a directory, and anything else never one.
fn check_kinds(source: &Side, target: &Side) -> Result<(), OpError> {
    let moves_directory = inode::is_directory(&source.node.inode);
    let onto_directory = inode::is_directory(&target.node.inode);
    match (moves_directory, onto_directory) {
        (true, false) => Err(path::failure(ErrorCode::NotADirectory, target.location)),
        (false, true) => Err(path::failure(ErrorCode::IsADirectory, target.location)),
        (true, true) | (false, false) => Ok(()),
    }
}

fn exchange(
    txn: &mut Txn,
    ctx: &Context,
    mut source: Side,
    mut target: Side,
) -> Result<OutcomeValue, OpError> {
    let (from, to) = (source.entry.parent.id, target.entry.parent.id);
    if from != to {
        check_not_into_itself(txn, &source.node, &target.entry.parent, target.location)?;
        check_not_into_itself(txn, &target.node, &source.entry.parent, source.location)?;
    }
    if source.node.id == target.node.id {
        return Ok(inode::answer(&source.node));
    }
    check_may_leave(ctx, &source)?;
    check_may_leave(ctx, &target)?;
    check_new_parent(ctx, &source, from, to)?;
    check_new_parent(ctx, &target, to, from)?;
    let old_parent = &mut source.entry.parent;
    move_subdirectory_count(old_parent, &source.node, &target.node);
    let replaced = (&source.node, &target.node);
    tree::change_name(txn, ctx, old_parent, &source.entry.name, replaced);
    if from == to {
        target.entry.parent = old_parent.clone();
    }
    let new_parent = &mut target.entry.parent;
    move_subdirectory_count(new_parent, &target.node, &source.node);
    let replaced = (&target.node, &source.node);
    tree::change_name(txn, ctx, new_parent, &target.entry.name, replaced);
    settle(txn, ctx, &mut target.node, from);
    settle(txn, ctx, &mut source.node, to);
    Ok(inode::answer(&source.node))
}

/// A directory in whose place something else comes, or the reverse, changes its parent's link count.
fn move_subdirectory_count(parent: &mut Node, out: &Node, into: &Node) {
    let links = &mut parent.inode.nlink;
    if *links == 0 {
        // It is removed, and stays so.
        return;
    }
    *links = links
        .saturating_sub(u32::from(inode::is_directory(&out.inode)))
        .saturating_add(u32::from(inode::is_directory(&into.inode)));
}
