//! Changes mode, owner, group, times and replication. Who may do what follows chmod(2), chown(2) and
//! utimensat(2).

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::InodeKind;
use cairn_protocol::messages::operation::{OutcomeValue, SetAttributes};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::inode::REPLICATION_MAX;
use crate::namespace::permission::{self, MODE_MASK, SETGID, WRITE};
use crate::namespace::{acl, delegation, inode, path, replication};
use crate::store::records::InodeRecord;
use crate::store::{self, Txn};

/// All of it or nothing. Without any field it changes nothing, not even the ctime.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &SetAttributes,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    let mut node = path::resolve(txn, &ctx.caller, &cmd.location, cmd.follow)?;
    if changes_nothing(cmd) {
        return Ok(inode::answer(&node));
    }
    check_owner(cmd, ctx, &node.inode)?;
    check_mode(cmd, ctx, &node.inode)?;
    check_times(cmd, ctx, &node.inode)?;
    check_replication(cmd, ctx, &node.inode)?;
    delegation::check(txn, &ctx.caller, &node)?;
    let record = &mut node.inode;
    set_owner(cmd, record);
    set_mode(cmd, ctx, record);
    set_times(cmd, ctx, record);
    if let Some(replication) = cmd.replication {
        record.replication = replication;
    }
    inode::touch(record, ctx.stamp);
    store::inode::put(txn, node.id, &node.inode);
    if cmd.replication.is_some() && inode::is_file(&node.inode) {
        replication::spread(txn, &cmd.location, &node)?;
    }
    Ok(inode::answer(&node))
}

fn changes_nothing(cmd: &SetAttributes) -> bool {
    let SetAttributes {
        location: _,
        follow: _,
        mode,
        uid,
        gid,
        atime_ns,
        mtime_ns,
        atime_now,
        mtime_now,
        replication,
    } = cmd;
    let numbers = [mode, uid, gid, replication]
        .iter()
        .all(|field| field.is_none());
    numbers && atime_ns.is_none() && mtime_ns.is_none() && !atime_now && !mtime_now
}

fn check_owner(cmd: &SetAttributes, ctx: &Context, record: &InodeRecord) -> Result<(), OpError> {
    let caller = &ctx.caller;
    let uid_allowed = cmd
        .uid
        .is_none_or(|uid| caller.uid == 0 || (caller.uid == record.uid && uid == record.uid));
    let gid_allowed = cmd.gid.is_none_or(|gid| {
        let own_group = gid == record.gid || permission::in_group(caller, gid);
        caller.uid == 0 || (caller.uid == record.uid && own_group)
    });
    if uid_allowed && gid_allowed {
        Ok(())
    } else {
        Err(path::failure(ErrorCode::NotPermitted, &cmd.location))
    }
}

fn check_mode(cmd: &SetAttributes, ctx: &Context, record: &InodeRecord) -> Result<(), OpError> {
    if cmd.mode.is_none() {
        return Ok(());
    }
    if !permission::owns(&ctx.caller, record) {
        return Err(path::failure(ErrorCode::NotPermitted, &cmd.location));
    }
    if record.kind == InodeKind::Symlink as i32 {
        let message = format!("{}: mode of a symbolic link", path::show(&cmd.location));
        return Err(OpError::new(ErrorCode::NotSupported, message));
    }
    Ok(())
}

/// Only owners choose a time; who may write may say "now", for both.
fn check_times(cmd: &SetAttributes, ctx: &Context, record: &InodeRecord) -> Result<(), OpError> {
    if permission::owns(&ctx.caller, record) {
        return Ok(());
    }
    if cmd.atime_ns.is_some() || cmd.mtime_ns.is_some() || cmd.atime_now != cmd.mtime_now {
        return Err(path::failure(ErrorCode::NotPermitted, &cmd.location));
    }
    if cmd.atime_now && !permission::allows(&ctx.caller, record, WRITE) {
        return Err(path::failure(ErrorCode::PermissionDenied, &cmd.location));
    }
    Ok(())
}

fn check_replication(
    cmd: &SetAttributes,
    ctx: &Context,
    record: &InodeRecord,
) -> Result<(), OpError> {
    let Some(replication) = cmd.replication else {
        return Ok(());
    };
    // 0 lets a directory inherit the cluster's default; a file has a number of its own.
    let smallest = if inode::is_directory(record) { 0 } else { 1 };
    let has_policy = inode::is_directory(record) || inode::is_file(record);
    if !has_policy || !(smallest..=REPLICATION_MAX).contains(&replication) {
        let message = format!(
            "{}: replication {replication}: 1 to {REPLICATION_MAX} for a file, 0 (inherit) to \
             {REPLICATION_MAX} for a directory",
            path::show(&cmd.location)
        );
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    inode::check_access(&ctx.caller, &cmd.location, record, WRITE)
}

fn set_owner(cmd: &SetAttributes, record: &mut InodeRecord) {
    if cmd.uid.is_none() && cmd.gid.is_none() {
        return;
    }
    if !inode::is_directory(record) {
        record.mode = permission::without_set_ids(record.mode);
    }
    record.uid = cmd.uid.unwrap_or(record.uid);
    record.gid = cmd.gid.unwrap_or(record.gid);
}

fn set_mode(cmd: &SetAttributes, ctx: &Context, record: &mut InodeRecord) {
    let Some(mode) = cmd.mode else {
        return;
    };
    let group = ctx.caller.uid == 0 || permission::in_group(&ctx.caller, record.gid);
    record.mode = mode & MODE_MASK;
    if !group {
        record.mode &= !SETGID;
    }
    if !record.acl.is_empty() {
        record.acl = acl::after_chmod(&record.acl, record.mode);
    }
}

fn set_times(cmd: &SetAttributes, ctx: &Context, record: &mut InodeRecord) {
    let now = inode::now(record, ctx.stamp);
    if let Some(mtime) = cmd.mtime_ns.or(cmd.mtime_now.then_some(now)) {
        inode::set_mtime(record, mtime);
    }
    if let Some(atime) = cmd.atime_ns.or(cmd.atime_now.then_some(now)) {
        inode::set_atime(record, atime);
    }
}
