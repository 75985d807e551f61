//! Directories that are delegated to a client are asked back when somebody else needs them (`namespace/delegation.rs`).

use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::rpc::RpcError;
use tokio::time::{Instant, timeout};

use super::{NamenodeService, internal, outcome_failure};
use crate::consensus::Proposed;
use crate::namespace::command::{ClientCommand, CommandKind, RecallDelegation};
use crate::namespace::is_delegated;

/// After this a holder is told again: it may have connected anew meanwhile.
const REMINDER: Duration = Duration::from_millis(500);

/// Then whoever waits is told to ask again: holders have as long as their session lives.
const PATIENCE: Duration = Duration::from_secs(5);

impl NamenodeService {
    /// Proposes a client's command, again and again as long as it meets directories that are given back for it.
    pub(super) async fn propose_recalling(
        &self,
        command: ClientCommand,
    ) -> Result<Proposed, RpcError> {
        loop {
            let proposed = self
                .group
                .propose(CommandKind::Client(command.clone()))
                .await?;
            if proposed.outcome.code != ErrorCode::Delegated as u32 {
                return Ok(proposed);
            }
            self.recall(InodeId(proposed.outcome.id)).await?;
        }
    }

    /// Has a directory given back. Only the leader can.
    pub(super) async fn recall(&self, directory: InodeId) -> Result<(), RpcError> {
        self.group.require_leader()?;
        let until = Instant::now() + PATIENCE;
        let command = RecallDelegation {
            directory: directory.0,
        };
        while Instant::now() < until {
            let asked = CommandKind::RecallDelegation(command);
            let proposed = self.group.propose(asked).await?;
            if let Some(failure) = outcome_failure(&proposed.outcome) {
                return Err(failure.into());
            }
            if !proposed.outcome.more {
                return Ok(());
            }
            if let Ok(given_back) = timeout(REMINDER, self.given_back(directory)).await {
                return given_back;
            }
        }
        let message = format!(
            "directory inode {directory} is delegated to a client that has not given it back yet"
        );
        Err(RpcError::new(ErrorCode::Unavailable, message))
    }

    async fn given_back(&self, directory: InodeId) -> Result<(), RpcError> {
        let state = self.group.state();
        let mut applied = state.watch_applied();
        loop {
            if !is_delegated(&state.store().snapshot(), directory).map_err(internal)? {
                return Ok(());
            }
            if applied.changed().await.is_err() {
                let message = "namenode is shutting down";
                return Err(RpcError::new(ErrorCode::Unavailable, message));
            }
        }
    }
}
