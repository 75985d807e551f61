//! Finds a chunk to append to, whatever datanodes do meanwhile: allocates, opens the pipeline, and goes around those that
//! fail.

use std::collections::BTreeSet;

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{OperationKind, ReturnChunk};

use super::pipeline::{Pipeline, PipelineFailure, allocate, seal};
use crate::error::{Error, Result, Subject};
use crate::file_system::Core;
use crate::retry::Backoff;

/// A writer that has seen this many datanodes fail forgets them and asks without exclusions.
const EXCLUDED_MAX: usize = 16;

/// What chunks a writer wants.
#[derive(Debug)]
pub(crate) struct Placement {
    /// Replicas; 0 means the cluster's default.
    pub(crate) replication: u32,
    /// A chunk of its own, for a large stream; else any with room.
    pub(crate) whole: bool,
    pub(crate) window_bytes: usize,
    excluded: BTreeSet<u64>,
    /// There was a pipeline before: then there may be one again.
    has_worked: bool,
}

impl Placement {
    pub(crate) fn new(replication: u32, whole: bool, window_bytes: usize) -> Self {
        Self {
            replication,
            whole,
            window_bytes,
            excluded: BTreeSet::new(),
            has_worked: false,
        }
    }

    /// Leaves a datanode out of the next pipelines.
    pub(crate) fn exclude(&mut self, failure: &PipelineFailure) {
        if self.excluded.len() >= EXCLUDED_MAX {
            self.excluded.clear();
        }
        if failure.datanode != 0 {
            self.excluded.insert(failure.datanode);
        }
    }

    /// Gives datanodes that failed long ago another chance.
    pub(crate) fn forgive(&mut self) {
        self.excluded.clear();
    }

    /// A pipeline with room for `room` bytes. Tries for the client's patience. Not cancel-safe: a chunk may then stay open
    /// until the session ends.
    pub(crate) async fn open(
        &mut self,
        core: &Core,
        subject: &Subject,
        room: u64,
    ) -> Result<Pipeline> {
        let patience = core.config.timeouts.patience;
        let mut backoff = Backoff::new(&core.namenode.randomness, patience);
        let mut whole = self.whole;
        loop {
            let exclude = self.excluded.iter().copied().collect();
            let grant = match allocate(core, subject, self.replication, whole, exclude).await {
                Ok(grant) => grant,
                Err(error) => {
                    if !self.may_ask_again(&error) || !backoff.pause().await {
                        return Err(error);
                    }
                    continue;
                }
            };
            if grant.capacity - grant.start < room {
                if grant.start == 0 {
                    let message = format!("{room} bytes, a chunk takes {}", grant.capacity);
                    return Err(Error::invalid(subject, message));
                }
                let (chunk, epoch, length) = (grant.chunk, grant.epoch, grant.start);
                let back = OperationKind::ReturnChunk(ReturnChunk {
                    chunk,
                    epoch,
                    length,
                });
                core.sessions.mutate(subject, back).await?;
                whole = true;
                continue;
            }
            match Pipeline::open(core, &grant, self.window_bytes).await {
                Ok(pipeline) => {
                    self.has_worked = true;
                    return Ok(pipeline);
                }
                Err(failure) => {
                    tracing::debug!(
                        chunk = grant.chunk, datanode = failure.datanode, error = %failure.failure,
                        "pipeline refused"
                    );
                    self.exclude(&failure);
                    seal(core, subject, grant.chunk, grant.epoch, failure.datanode).await;
                    if !backoff.pause().await {
                        return Err(Error::refused(subject, failure.failure));
                    }
                }
            }
        }
    }

    /// True if another allocation may succeed where this one did not.
    fn may_ask_again(&mut self, error: &Error) -> bool {
        match error.code() {
            // Perhaps those that failed us are the only ones there are; perhaps they come back.
            ErrorCode::NotEnoughDatanodes => {
                let again = self.has_worked || !self.excluded.is_empty();
                self.excluded.clear();
                again
            }
            ErrorCode::NoSpace if !self.excluded.is_empty() => {
                self.excluded.clear();
                true
            }
            // A session writes to many chunks at once; some will be done soon.
            ErrorCode::Overloaded => true,
            // A chunk that may have been allocated under a session that is over harms nobody.
            ErrorCode::OutcomeUnknown => true,
            _ => false,
        }
    }
}

/// True if a commit failed because the chunk is no longer ours to append to: the bytes, which we still have, go into
/// another one.
pub(crate) fn lost_the_chunk(error: &Error) -> bool {
    matches!(error, Error::Refused { .. })
        && matches!(
            error.code(),
            ErrorCode::StaleEpoch
                | ErrorCode::Sealed
                | ErrorCode::WrongLength
                | ErrorCode::NoReplica
        )
}
