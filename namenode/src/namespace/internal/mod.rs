//! What only the leader proposes, one file per command. Each answers an [`Outcome`] made by [`done`]; the id
//! and `more` in it are how it tells what it gave out and whether anything is left to do.

use super::command::{CommandKind, Outcome};
use super::context::Context;
use super::error::OpError;
use crate::store::Txn;

mod add_replica;
mod advance_synced;
mod allocate_compaction_chunk;
mod begin_copy;
mod change_user_token;
mod declare_lost;
mod drop_chunk;
mod expire_session;
mod forget_datanode;
mod found_cluster;
pub(super) mod issue_user_token;
mod open_session;
mod recall_delegation;
mod register_datanode;
mod remove_replica;
mod repoint;
mod rotate_keys;
mod seal_open_chunk;
mod set_datanode_state;
mod set_settings;
mod sweep;

/// Success: the id that was given out (0 for none), and whether the same command should come again.
pub(super) fn done(id: u64, more: bool) -> Outcome {
    Outcome {
        id,
        more,
        ..Outcome::default()
    }
}

/// Applies a command of the leader. A client's own goes through `retry` first and is no business of this.
pub(super) fn apply(txn: &mut Txn, kind: &CommandKind, ctx: &Context) -> Result<Outcome, OpError> {
    match kind {
        CommandKind::Client(_) => Err(cairn_protocol::ErrorCode::Malformed.into()),
        CommandKind::OpenSession(cmd) => open_session::apply(txn, cmd, ctx),
        CommandKind::ExpireSession(cmd) => expire_session::apply(txn, cmd, ctx),
        CommandKind::FoundCluster(cmd) => found_cluster::apply(txn, cmd, ctx),
        CommandKind::RotateKeys(cmd) => rotate_keys::apply(txn, cmd, ctx),
        CommandKind::SetSettings(cmd) => set_settings::apply(txn, cmd),
        CommandKind::RegisterDatanode(cmd) => register_datanode::apply(txn, cmd, ctx),
        CommandKind::SetDatanodeState(cmd) => set_datanode_state::apply(txn, cmd, ctx),
        CommandKind::ForgetDatanode(cmd) => forget_datanode::apply(txn, cmd, ctx),
        CommandKind::SealOpenChunk(cmd) => seal_open_chunk::apply(txn, cmd, ctx),
        CommandKind::BeginCopy(cmd) => begin_copy::apply(txn, cmd, ctx),
        CommandKind::AddReplica(cmd) => add_replica::apply(txn, cmd, ctx),
        CommandKind::RemoveReplica(cmd) => remove_replica::apply(txn, cmd, ctx),
        CommandKind::AdvanceSynced(cmd) => advance_synced::apply(txn, cmd, ctx),
        CommandKind::DropChunk(cmd) => drop_chunk::apply(txn, cmd, ctx),
        CommandKind::Sweep(cmd) => sweep::apply(txn, cmd, ctx),
        CommandKind::Repoint(cmd) => repoint::apply(txn, cmd, ctx),
        CommandKind::AllocateCompactionChunk(cmd) => {
            allocate_compaction_chunk::apply(txn, cmd, ctx)
        }
        CommandKind::DeclareLost(cmd) => declare_lost::apply(txn, cmd),
        CommandKind::IssueUserToken(cmd) => issue_user_token::apply(txn, cmd, ctx),
        CommandKind::ChangeUserToken(cmd) => change_user_token::apply(txn, cmd, ctx),
        CommandKind::RecallDelegation(cmd) => recall_delegation::apply(txn, *cmd),
    }
}
