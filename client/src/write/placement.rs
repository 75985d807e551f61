//! Finds a chunk to append to, whatever datanodes do meanwhile: allocates, opens the pipeline, and goes around those that
//! fail.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{OperationKind, ReturnChunk};

use super::pipeline::{Pipeline, PipelineFailure, allocate, seal};
use crate::error::{Error, Result, Subject};
use crate::file_system::Core;
use crate::retry::Backoff;

/// A writer that has seen this many datanodes fail forgets them and asks without exclusions.
const EXCLUDED_MAX: usize = 16;

/// Fewest replicas that a chunk is written with because datanodes failed; files that want fewer get what they want.
const DEGRADED_MIN: u32 = 2;

/// What chunks a writer wants.
#[derive(Debug)]
pub(crate) struct Placement {
    /// Replicas; 0 means the cluster's default.
    pub(crate) replication: u32,
    /// A chunk of its own, for a large stream; else any with room.
    pub(crate) whole: bool,
    pub(crate) window_bytes: usize,
    excluded: BTreeSet<u64>,
}

impl Placement {
    pub(crate) fn new(replication: u32, whole: bool, window_bytes: usize) -> Self {
        Self {
            replication,
            whole,
            window_bytes,
            excluded: BTreeSet::new(),
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
        let wanted = match self.replication {
            0 => core.namenode.settings().replication,
            replication => replication,
        };
        let mut replication = wanted;
        loop {
            let exclude = self.excluded.iter().copied().collect();
            let grant = match allocate(core, subject, replication, whole, exclude).await {
                Ok(grant) => grant,
                Err(error) if self.may_degrade(core, &error) && replication > DEGRADED_MIN => {
                    replication -= 1;
                    continue;
                }
                Err(error) => {
                    if !self.may_ask_again(core, &error) || !backoff.pause().await {
                        return Err(error);
                    }
                    replication = wanted;
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
                    core.has_written.store(true, Ordering::Relaxed);
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

    /// True if a chunk with fewer replicas is better than none: datanodes failed while we wrote. Each commit asks for the
    /// file's own replication, so the namenode adds what is missing when it can. A cluster that never had enough is told
    /// to whoever asks instead.
    fn may_degrade(&self, core: &Core, error: &Error) -> bool {
        error.code() == ErrorCode::NotEnoughDatanodes && self.has_failed_us(core)
    }

    fn has_failed_us(&self, core: &Core) -> bool {
        core.has_written.load(Ordering::Relaxed) || !self.excluded.is_empty()
    }

    /// True if another allocation may succeed where this one did not.
    fn may_ask_again(&mut self, core: &Core, error: &Error) -> bool {
        match error.code() {
            // Perhaps those that failed us are the only ones there are; perhaps they come back.
            ErrorCode::NotEnoughDatanodes => {
                let again = self.has_failed_us(core);
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
