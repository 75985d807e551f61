//! Sets an extended attribute.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{OutcomeValue, SetXattr, XattrMode};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::xattr::{COUNT_MAX, INODE_BYTES_MAX, VALUE_BYTES_MAX};
use crate::namespace::{delegation, inode, path, xattr};
use crate::store::records::InodeRecord;
use crate::store::{self, Txn};

/// Fails with `AlreadyExists` or `NoAttribute` as the mode demands.
pub(super) fn apply(txn: &mut Txn, cmd: &SetXattr, ctx: &Context) -> Result<OutcomeValue, OpError> {
    let mode = XattrMode::try_from(cmd.mode).map_err(|_| {
        let message = format!("{}: xattr mode {}", path::show(&cmd.location), cmd.mode);
        OpError::new(ErrorCode::InvalidArgument, message)
    })?;
    let mut node = path::resolve(txn, &ctx.caller, &cmd.location, cmd.follow)?;
    xattr::check_write(&ctx.caller, &cmd.location, &node.inode, &cmd.name)?;
    delegation::check(txn, &ctx.caller, &node)?;
    let acl = xattr::acl(&node.inode, &cmd.name);
    let old = match acl {
        Some(acl) => (!acl.is_empty()).then(|| acl.to_vec()),
        None if node.inode.xattr_count == 0 => None,
        None => store::xattr::get(txn, node.id, &cmd.name)?,
    };
    match (mode, &old) {
        (XattrMode::Create, Some(_)) => {
            return Err(path::failure(ErrorCode::AlreadyExists, &cmd.location));
        }
        (XattrMode::Replace, None) => return Err(xattr::missing(&cmd.location, &cmd.name)),
        (XattrMode::Set | XattrMode::Create | XattrMode::Replace, _) => {}
    }
    if acl.is_some() {
        let named = (&cmd.name[..], &cmd.value[..]);
        xattr::set_acl(&ctx.caller, &cmd.location, &mut node.inode, named)?;
        if !delegation::is_possible(&node.inode) {
            node.inode.delegated_to = 0;
        }
    } else {
        account(cmd, &mut node.inode, old.as_deref())?;
        store::xattr::put(txn, node.id, &cmd.name, cmd.value.clone());
    }
    inode::touch(&mut node.inode, ctx.stamp);
    store::inode::put(txn, node.id, &node.inode);
    Ok(inode::answer(&node))
}

/// Adds the attribute to the inode's counts, within their limits.
fn account(cmd: &SetXattr, record: &mut InodeRecord, old: Option<&[u8]>) -> Result<(), OpError> {
    let too_large = |what: String| {
        let message = format!("{}: {what}", path::show(&cmd.location));
        Err(OpError::new(ErrorCode::TooLarge, message))
    };
    if cmd.value.len() > VALUE_BYTES_MAX {
        let length = cmd.value.len();
        return too_large(format!(
            "value of {length} bytes, at most {VALUE_BYTES_MAX} are allowed"
        ));
    }
    let name_len = cmd.name.len() as u64;
    let before = old.map_or(0, |value| name_len + value.len() as u64);
    let bytes =
        u64::from(record.xattr_bytes).saturating_sub(before) + name_len + cmd.value.len() as u64;
    let count = record.xattr_count + u32::from(old.is_none());
    if bytes > INODE_BYTES_MAX || count > COUNT_MAX {
        return too_large(format!(
            "{count} extended attributes of {bytes} bytes, at most {COUNT_MAX} of \
             {INODE_BYTES_MAX} are allowed"
        ));
    }
    record.xattr_bytes = u32::try_from(bytes).expect("at most 1 MiB");
    record.xattr_count = count;
    Ok(())
}
