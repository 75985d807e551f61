//! Queries over any consistent view of the state, one file per query. They change nothing, not even times of
//! access.

use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::query::{QueryKind, QueryResult};

use super::error::OpError;
use crate::store::Read;

mod access;
mod changes;
mod extents;
mod list;
mod lock;
mod paths;
mod remove_tree;
mod stat;
mod statfs;
mod xattr;

pub use changes::{Interest, Onlooker};
pub use remove_tree::check_remove_tree;

/// Answers a query. Tokens, addresses of datanodes and the space on their volumes are the service's to fill
/// in.
pub fn query(read: &impl Read, caller: &Caller, kind: &QueryKind) -> Result<QueryResult, OpError> {
    match kind {
        QueryKind::Stat(query) => stat::query(read, caller, query).map(QueryResult::Attributes),
        QueryKind::Access(query) => access::query(read, caller, query).map(QueryResult::Attributes),
        QueryKind::List(query) => list::query(read, caller, query).map(QueryResult::Listing),
        QueryKind::Extents(query) => {
            extents::query(read, caller, query).map(QueryResult::LocatedExtents)
        }
        QueryKind::GetXattr(query) => xattr::get(read, caller, query).map(QueryResult::Value),
        QueryKind::ListXattrs(query) => xattr::list(read, caller, query).map(QueryResult::Names),
        QueryKind::TestLock(query) => lock::test(read, caller, query).map(QueryResult::LockTest),
        QueryKind::ListLocks(query) => {
            lock::list(read, caller, query).map(QueryResult::LockListing)
        }
        QueryKind::Statfs(_) => statfs::query(read).map(QueryResult::Space),
    }
}
