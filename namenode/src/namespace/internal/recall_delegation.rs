//! Tells the session that a directory is delegated to that somebody waits for it.

use cairn_protocol::ids::InodeId;

use super::done;
use crate::namespace::command::{Outcome, RecallDelegation};
use crate::namespace::delegation;
use crate::namespace::error::OpError;
use crate::store::{self, Txn};

/// Changes nothing but what the feed tells: nobody but the holder changes a directory that is delegated, so the holder knows what a
/// change by somebody else means. `more` as long as the delegation stands.
pub(super) fn apply(txn: &mut Txn, cmd: RecallDelegation) -> Result<Outcome, OpError> {
    let id = InodeId(cmd.directory);
    let Some(record) = store::inode::get(txn, id)? else {
        return Ok(done(0, false));
    };
    let stands = delegation::stands(txn, record.delegated_to)?;
    if stands {
        store::inode::note_attributes(txn, id, &record);
    }
    Ok(done(0, stands))
}
