//! Linearizable reads share their rounds: all that wait when a round begins are answered by it. One round asks a quorum
//! whether this member still leads; who arrives while it runs waits for the next one, because only a round that began after a read
//! was asked for proves anything to it.

use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::rpc::RpcError;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::group::RaftHandle;
use super::proposer::not_leader;

/// Reads that wait for their round; beyond this callers wait to join.
const QUEUE_MAX: usize = 8192;

/// A round that takes longer is given up, so that those behind it get a fresh one.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);

type Answer = oneshot::Sender<Result<u64, RpcError>>;

/// Asks for read indexes. Cheap to clone.
#[derive(Clone)]
pub(super) struct ReaderHandle {
    queue: mpsc::Sender<Answer>,
}

impl ReaderHandle {
    /// An index that a read must have applied to reflect all that was acknowledged before the call. Cancel-safe.
    pub async fn read_index(&self) -> Result<u64, RpcError> {
        let gone = || RpcError::new(ErrorCode::Unavailable, "namenode is shutting down");
        let (answer, answered) = oneshot::channel();
        self.queue.send(answer).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// Runs the rounds.
pub(super) struct Reader {
    raft: RaftHandle,
    queue: mpsc::Receiver<Answer>,
}

impl Reader {
    pub fn new(raft: RaftHandle) -> (Self, ReaderHandle) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        (Self { raft, queue }, ReaderHandle { queue: sender })
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                taken = self.queue.recv_many(&mut waiting, QUEUE_MAX) => if taken == 0 {
                    return Ok(());
                },
            }
            let index = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                index = round(&self.raft) => index,
            };
            for answer in waiting.drain(..) {
                // Who does not wait any more does not mind.
                let _ = answer.send(index.clone());
            }
        }
    }
}

async fn round(raft: &RaftHandle) -> Result<u64, RpcError> {
    let asked = raft.get_read_linearizer(ReadPolicy::ReadIndex);
    let Ok(answer) = tokio::time::timeout(ROUND_TIMEOUT, asked).await else {
        let message = "no quorum of namenodes answers";
        return Err(RpcError::new(ErrorCode::Unavailable, message));
    };
    match answer {
        Ok(linearizer) => Ok(linearizer.read_log_id().log_id().index),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            Err(not_leader(&forward))
        }
        Err(error) => Err(RpcError::new(ErrorCode::Unavailable, error.to_string())),
    }
}
