//! Attributes of one inode. Needs no permission but to search on the way.

use cairn_protocol::messages::common::{Attributes, Caller};
use cairn_protocol::messages::query::Stat;

use crate::namespace::error::OpError;
use crate::namespace::{inode, path};
use crate::store::Read;

pub(super) fn query(
    read: &impl Read,
    caller: &Caller,
    query: &Stat,
) -> Result<Attributes, OpError> {
    let node = path::resolve(read, caller, &query.location, query.follow)?;
    Ok(inode::attributes(node.id, &node.inode))
}
