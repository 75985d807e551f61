//! Moves the content of files, in order, to the end of another, and removes them: no data moves.
//!
//! One entry does it all or nothing, so there is a limit to how many extents it moves. The sources become orphans as
//! unlinked files do: who has one open reads on.

use std::collections::BTreeSet;

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{Concat, OutcomeKind, OutcomeValue};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::inode::{self, FILE_BYTES_MAX};
use crate::namespace::path::{self, Entry, Node};
use crate::namespace::permission::READ;
use crate::namespace::{extents, tree};
use crate::store::records::ExtentRecord;
use crate::store::{self, Txn};

/// Most sources.
const SOURCES_MAX: usize = 1024;

/// Most extents of all sources together.
const EXTENTS_MAX: usize = 4096;

/// A source: its name, its inode and its extents.
struct Source {
    entry: Entry,
    node: Node,
    extents: Vec<ExtentRecord>,
}

/// Fails with `TooLarge` over the limits, and with `InvalidArgument` for a source that is the target, comes twice or has
/// other names.
pub(super) fn apply(txn: &mut Txn, cmd: &Concat, ctx: &Context) -> Result<OutcomeValue, OpError> {
    let mut target = path::resolve_file(txn, &ctx.caller, &cmd.target)?;
    inode::check_write_and_clear_suid(ctx, &cmd.target, &mut target.inode)?;
    let sources = load_sources(txn, cmd, ctx, &target)?;
    let offset_in_file = target.inode.size;
    for source in &sources {
        append(txn, &mut target, source)?;
    }
    // The target is stored before the sources go: they may lie in the directory whose record names its parent.
    inode::store_content(txn, ctx, &mut target, 0);
    for (location, source) in cmd.sources.iter().zip(sources) {
        remove(txn, ctx, location, source)?;
    }
    let mut outcome = inode::outcome(&target);
    outcome.offset_in_file = offset_in_file;
    Ok(OutcomeKind::Inode(outcome).into())
}

/// Checks all limits before anything changes.
fn load_sources(
    txn: &Txn,
    cmd: &Concat,
    ctx: &Context,
    target: &Node,
) -> Result<Vec<Source>, OpError> {
    if cmd.sources.is_empty() || cmd.sources.len() > SOURCES_MAX {
        let message = format!(
            "{} files to append, 1 to {SOURCES_MAX} are allowed",
            cmd.sources.len()
        );
        return Err(OpError::new(ErrorCode::TooLarge, message));
    }
    let mut seen = BTreeSet::from([target.id]);
    let mut extents_left = EXTENTS_MAX;
    let mut size = target.inode.size;
    let mut sources = Vec::with_capacity(cmd.sources.len());
    for location in &cmd.sources {
        let source = load_source(txn, ctx, location, extents_left)?;
        if !seen.insert(source.node.id) {
            let message = format!("{} is the target or comes twice", path::show(location));
            return Err(OpError::new(ErrorCode::InvalidArgument, message));
        }
        extents_left -= source.extents.len();
        size = size.saturating_add(source.node.inode.size);
        sources.push(source);
    }
    if size > FILE_BYTES_MAX {
        let message = format!("{size} bytes together, a file has at most {FILE_BYTES_MAX}");
        return Err(OpError::new(ErrorCode::FileTooLarge, message));
    }
    Ok(sources)
}

fn load_source(
    txn: &Txn,
    ctx: &Context,
    location: &Location,
    extents_left: usize,
) -> Result<Source, OpError> {
    let entry = path::resolve_entry(txn, &ctx.caller, location, ErrorCode::InvalidArgument)?;
    let node = path::load(txn, entry.existing(location)?)?;
    path::require_file(location, &node.inode)?;
    inode::check_access(&ctx.caller, location, &node.inode, READ)?;
    tree::check_may_remove(&ctx.caller, location, &entry.parent, &node.inode)?;
    if node.inode.nlink != 1 {
        let message = format!(
            "{} has other names, which would lose it",
            path::show(location)
        );
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    let all = 0..node.inode.size;
    let extents = extents::intersecting(txn, &node.inode, &all, extents_left + 1)?;
    if extents.len() > extents_left {
        let message = format!(
            "the files to append have more than {EXTENTS_MAX} extents together; \
             append fewer at once, or clone ranges and unlink"
        );
        return Err(OpError::new(ErrorCode::TooLarge, message));
    }
    Ok(Source {
        entry,
        node,
        extents,
    })
}

fn append(txn: &mut Txn, target: &mut Node, source: &Source) -> Result<(), OpError> {
    let base = target.inode.size;
    for extent in &source.extents {
        let shared = ExtentRecord {
            offset_in_file: base + extent.offset_in_file,
            ..*extent
        };
        extents::add_shared(txn, target.id, &mut target.inode, &shared)?;
    }
    target.inode.size = base + source.node.inode.size;
    Ok(())
}

fn remove(
    txn: &mut Txn,
    ctx: &Context,
    location: &Location,
    source: Source,
) -> Result<(), OpError> {
    let Source {
        mut entry,
        mut node,
        ..
    } = source;
    // Several sources may lie in one directory: its record has changed since.
    let fresh = store::inode::get(txn, entry.parent.id)?;
    entry.parent.inode = fresh.ok_or_else(|| path::failure(ErrorCode::NotFound, location))?;
    tree::remove_name(txn, ctx, &mut entry.parent, &entry.name, &node);
    tree::drop_link(txn, ctx, &mut node);
    Ok(())
}
