//! The replicated state as the Raft library drives it: entries in, outcomes out, snapshots of the whole.
//!
//! The state lives in RocksDB without a write-ahead log: after a crash it is as of its last flush, and the Raft log, which is purged
//! only up to a snapshot and so only up to what is flushed, brings it up to date. Applying is a pure function of (state, entry);
//! everything here that is not pure (directories, snapshots) does not look inside.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cairn_protocol::messages::operation::{Operation, OperationKind};
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use prost::Message;

use super::snapshot;
use super::state::State;
use super::types::{
    Applied, CommittedLeaderId, LogId, Member, NodeId, Payload, SnapshotHandle, SnapshotMeta,
    StoredMembership, TypeConfig,
};
use crate::namespace::apply_batch;
use crate::namespace::command::{Batch, Command, CommandKind};
use crate::store::AppliedState;

/// A snapshot as the library passes it around.
pub type Snapshot = openraft::Snapshot<CommittedLeaderId, NodeId, Member, SnapshotHandle>;

/// Entries that are written to RocksDB together at most: then other tasks of the process get a turn.
const GROUP_ENTRIES_MAX: usize = 64;

/// What the library drives. Readers use the [`State`] that it shares.
pub struct StateMachine {
    state: Arc<State>,
}

impl StateMachine {
    /// Drives this state.
    pub fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    /// Applies a few entries in one write and answers those who wait. Runs inline: it writes to memory only (RocksDB without a
    /// log), and handing a few microseconds of work to another thread would cost more than it takes.
    fn apply_group(&mut self, group: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let Some((last, _)) = group.last() else {
            return Ok(());
        };
        let last_log_id = last.log_id;
        let mut membership = self.state.membership();
        let store = self.state.store();
        let mut txn = store.begin();
        let mut answers = Vec::with_capacity(group.len());
        for (entry, responder) in group {
            let index = entry.log_id.index;
            let mut applied = Applied::default();
            match entry.payload {
                Payload::Blank => {}
                Payload::Membership(members) => {
                    membership = StoredMembership::new(Some(entry.log_id), members);
                }
                Payload::Normal(commands) => {
                    let batch = decode_batch(commands.0, index)?;
                    let outcomes =
                        apply_batch(&mut txn, &batch, index).map_err(io::Error::other)?;
                    // Only the member that proposed the entry has somebody to tell.
                    if responder.is_some() {
                        applied.outcomes = outcomes
                            .iter()
                            .map(|outcome| Bytes::from(outcome.encode_to_vec()))
                            .collect();
                    }
                }
            }
            if let Some(responder) = responder {
                answers.push((responder, applied));
            }
        }
        let (touched, unlocked) = (txn.take_touched(), txn.take_unlocked());
        self.state.feed().extend(txn.take_changes());
        let applied_state = encode_applied(last_log_id, &membership)?;
        txn.commit(applied_state).map_err(io::Error::other)?;
        self.state
            .advance(last_log_id, membership, touched, unlocked);
        for (responder, applied) in answers {
            responder.send(applied);
        }
        Ok(())
    }
}

/// An entry that this software does not understand in full was proposed by newer software: skipping it would let the
/// members' states differ, so the process stops.
pub(super) fn decode_batch(bytes: Bytes, index: u64) -> io::Result<Batch> {
    let batch = Batch::decode(bytes)
        .map_err(|error| io::Error::other(format!("decode log entry {index}: {error}")))?;
    if batch.commands.iter().any(is_unknown) {
        let message = format!(
            "log entry {index} holds a command that this software does not know: upgrade it"
        );
        return Err(io::Error::other(message));
    }
    Ok(batch)
}

/// Whether a part of a command that decides what happens was dropped because this software does not know it.
fn is_unknown(command: &Command) -> bool {
    match &command.kind {
        None => true,
        Some(CommandKind::Client(client)) => operation_is_unknown(&client.operation),
        Some(_) => false,
    }
}

/// The same of an operation, and of those inside a transaction. The service proposes none of these.
pub(crate) fn operation_is_unknown(operation: &Operation) -> bool {
    match &operation.kind {
        None => true,
        Some(OperationKind::Transaction(transaction)) => {
            transaction.operations.iter().any(operation_is_unknown)
        }
        Some(OperationKind::WriteBehind(behind)) => {
            let mut steps = behind.steps.iter();
            steps.any(|step| operation_is_unknown(&step.operation))
        }
        Some(_) => false,
    }
}

/// The applied state as it is stored beside the tables.
pub(super) fn encode_applied(
    log_id: LogId,
    membership: &StoredMembership,
) -> io::Result<AppliedState> {
    let membership = postcard::to_stdvec(membership)
        .map_err(|error| io::Error::other(format!("encode applied state: {error}")))?;
    Ok(AppliedState {
        index: log_id.index,
        term: **log_id.committed_leader_id(),
        leader: 0,
        membership,
    })
}

/// The applied state as it was stored; `None` before the first entry.
pub(super) fn decode_applied(
    applied: Option<&AppliedState>,
) -> io::Result<(Option<LogId>, StoredMembership)> {
    let Some(applied) = applied else {
        return Ok((None, StoredMembership::default()));
    };
    let membership = postcard::from_bytes(&applied.membership)
        .map_err(|error| io::Error::other(format!("decode applied state: {error}")))?;
    let log_id = LogId::new_term_index(applied.term, applied.index);
    Ok((Some(log_id), membership))
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.state.applied_log_id(), self.state.membership()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut group = Vec::with_capacity(GROUP_ENTRIES_MAX);
        while let Some(entry) = entries.next().await {
            group.push(entry?);
            if group.len() == GROUP_ENTRIES_MAX {
                self.apply_group(std::mem::take(&mut group))?;
                tokio::task::yield_now().await;
            }
        }
        self.apply_group(group)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            state: self.state.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        handle: SnapshotHandle,
    ) -> io::Result<()> {
        snapshot::install(&self.state, meta, handle).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        snapshot::current(&self.state).await
    }
}

/// Builds a snapshot while entries go on being applied.
pub struct SnapshotBuilder {
    state: Arc<State>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        snapshot::build(&self.state).await
    }
}
