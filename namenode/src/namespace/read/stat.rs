//! Attributes of one inode. Needs no permission but to search on the way. Those of a directory tell of the names in it: when they
//! changed, and how many there are.

use cairn_protocol::messages::common::{Attributes, Caller};
use cairn_protocol::messages::query::Stat;

use crate::namespace::error::OpError;
use crate::namespace::{delegation, inode, path};
use crate::store::Read;

pub(super) fn query(
    read: &impl Read,
    caller: &Caller,
    query: &Stat,
) -> Result<Attributes, OpError> {
    let node = path::resolve(read, caller, &query.location, query.follow)?;
    delegation::check(read, caller, &node)?;
    Ok(inode::attributes(node.id, &node.inode))
}
