//! One page of a directory. Needs read permission on it; attributes of entries need search permission too, as
//! a `stat` of each would, and are left out without it.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::query::{List, Listing, ListingEntry};

use crate::namespace::error::OpError;
use crate::namespace::path::{self, Node};
use crate::namespace::permission::{self, EXECUTE, READ};
use crate::namespace::{delegation, inode};
use crate::store::{self, Read, StoreError};

const LIMIT_DEFAULT: usize = 1_000;
const LIMIT_MAX: usize = 10_000;

/// A file lists as itself with an empty name.
pub(super) fn query(read: &impl Read, caller: &Caller, query: &List) -> Result<Listing, OpError> {
    let node = path::resolve(read, caller, &query.location, true)?;
    if !inode::is_directory(&node.inode) {
        return Ok(list_itself(query, &node));
    }
    if !permission::allows(caller, &node.inode, READ) {
        return Err(path::failure(ErrorCode::PermissionDenied, &query.location));
    }
    delegation::check(read, caller, &node)?;
    let with_attributes = query.attributes && permission::allows(caller, &node.inode, EXECUTE);
    let limit = match query.limit as usize {
        0 => LIMIT_DEFAULT,
        limit => limit.min(LIMIT_MAX),
    };
    let mut listing = Listing::default();
    store::dirent::scan(read, node.id, &query.start_after, &mut |name, dirent| {
        if listing.entries.len() == limit {
            listing.more = true;
            return Ok(false);
        }
        let entry = ListingEntry {
            name: name.to_vec(),
            inode: dirent.inode,
            kind: dirent.kind,
            attributes: None,
        };
        listing.entries.push(entry);
        Ok(true)
    })?;
    if with_attributes {
        add_attributes(read, &mut listing)?;
    }
    Ok(listing)
}

fn list_itself(query: &List, node: &Node) -> Listing {
    let entry = ListingEntry {
        name: Vec::new(),
        inode: node.id.0,
        kind: node.inode.kind,
        attributes: query
            .attributes
            .then(|| inode::attributes(node.id, &node.inode)),
    };
    // A second page of one entry is empty.
    let entries = if query.start_after.is_empty() {
        vec![entry]
    } else {
        Vec::new()
    };
    Listing {
        entries,
        more: false,
    }
}

fn add_attributes(read: &impl Read, listing: &mut Listing) -> Result<(), StoreError> {
    for entry in &mut listing.entries {
        let id = InodeId(entry.inode);
        let record = store::inode::get(read, id)?.ok_or_else(|| {
            StoreError::Inconsistent(format!("an entry names inode {id}, which is gone"))
        })?;
        entry.attributes = Some(inode::attributes(id, &record));
    }
    Ok(())
}
