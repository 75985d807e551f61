//! Extended attributes of one inode: a value, or the names.

use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::query::{GetXattr, ListXattrs, XattrNames, XattrValue};

use crate::namespace::error::OpError;
use crate::namespace::{delegation, path, xattr};
use crate::store::{self, Read};

/// Fails with `NoAttribute` if there is none of this name that the caller may see.
pub(super) fn get(
    read: &impl Read,
    caller: &Caller,
    query: &GetXattr,
) -> Result<XattrValue, OpError> {
    let node = path::resolve(read, caller, &query.location, query.follow)?;
    xattr::check_read(caller, &query.location, &node.inode, &query.name)?;
    delegation::check(read, caller, &node)?;
    let value = match xattr::acl(&node.inode, &query.name) {
        Some(acl) => (!acl.is_empty()).then(|| acl.to_vec()),
        None if node.inode.xattr_count == 0 => None,
        None => store::xattr::get(read, node.id, &query.name)?,
    };
    let value = value.ok_or_else(|| xattr::missing(&query.location, &query.name))?;
    Ok(XattrValue { value })
}

/// All names that the caller may see, in order: their number is limited when they are set.
pub(super) fn list(
    read: &impl Read,
    caller: &Caller,
    query: &ListXattrs,
) -> Result<XattrNames, OpError> {
    let node = path::resolve(read, caller, &query.location, query.follow)?;
    delegation::check(read, caller, &node)?;
    let mut names: Vec<_> = xattr::acl_names(&node.inode).map(<[u8]>::to_vec).collect();
    if node.inode.xattr_count > 0 {
        store::xattr::scan(read, node.id, &mut |name, _| {
            if xattr::is_listed(caller, name) {
                names.push(name.to_vec());
            }
            Ok(true)
        })?;
    }
    names.sort_unstable();
    Ok(XattrNames { names })
}
