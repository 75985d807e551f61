//! May the caller do this, by the mode bits alone? As access(2) with the caller's effective ids.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::{Attributes, Caller};
use cairn_protocol::messages::query::Access;

use crate::namespace::error::OpError;
use crate::namespace::{delegation, inode, path, permission};
use crate::store::Read;

const MASK_MAX: u32 = permission::READ | permission::WRITE | permission::EXECUTE;

/// A mask of 0 asks only whether it exists.
pub(super) fn query(
    read: &impl Read,
    caller: &Caller,
    query: &Access,
) -> Result<Attributes, OpError> {
    if query.mask > MASK_MAX {
        let message = format!("access mask {}, at most {MASK_MAX} is allowed", query.mask);
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    let node = path::resolve(read, caller, &query.location, true)?;
    if !permission::allows(caller, &node.inode, query.mask) {
        return Err(path::failure(ErrorCode::PermissionDenied, &query.location));
    }
    delegation::check(read, caller, &node)?;
    Ok(inode::attributes(node.id, &node.inode))
}
