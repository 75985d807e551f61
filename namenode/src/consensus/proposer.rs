//! Group commit: concurrent commands leave in one Raft entry.
//!
//! One task collects. While few batches are in flight a command goes at once; when the log is busy, those that arrive meanwhile
//! share the next entry, so that the batch grows with the load and an idle cluster answers without delay. The leader's clock is
//! read here, once for each entry, and nowhere else in what is proposed.

use std::sync::Arc;

use bytes::Bytes;
use cairn_daemon::clock::Clock;
use cairn_protocol::rpc::RpcError;
use cairn_protocol::{ErrorCode, Failure};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::group::RaftHandle;
use super::room::Room;
use super::types::{CommandBatch, TypeConfig};
use crate::namespace::command::{Batch, Command, Outcome};

/// Commands that wait for their batch; beyond this callers wait to hand theirs in.
const QUEUE_MAX: usize = 8192;
/// Commands of one entry: no entry may touch more than a bounded number of records.
const BATCH_COMMANDS_MAX: usize = 512;
/// Bytes of one entry (a single larger command goes alone).
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Entries in flight at once. Two keep disk and network busy while the next batch gathers.
const IN_FLIGHT_MAX: usize = 2;

/// A command's outcome and the index of the entry that did it.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// What apply answered; a failure of the command is an outcome, too.
    pub outcome: Outcome,
    /// Index of the entry.
    pub index: u64,
}

type Answer = oneshot::Sender<Result<Proposed, RpcError>>;

struct Waiting {
    command: Command,
    bytes: usize,
    answer: Answer,
}

/// Hands commands in. Cheap to clone.
#[derive(Clone)]
pub(super) struct ProposerHandle {
    queue: mpsc::Sender<Waiting>,
}

impl ProposerHandle {
    /// Proposes a command and waits until it is applied here. Dropping the future does not take the command back.
    pub async fn propose(&self, command: Command) -> Result<Proposed, RpcError> {
        let bytes = command.encoded_len();
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            command,
            bytes,
            answer,
        };
        let gone = || RpcError::new(ErrorCode::Unavailable, "namenode is shutting down");
        self.queue.send(waiting).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// Collects commands into entries.
pub(super) struct Proposer {
    raft: RaftHandle,
    clock: Clock,
    queue: mpsc::Receiver<Waiting>,
    room: Arc<Room>,
}

impl Proposer {
    pub fn new(raft: RaftHandle, clock: Clock, room: Arc<Room>) -> (Self, ProposerHandle) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        (
            Self {
                raft,
                clock,
                queue,
                room,
            },
            ProposerHandle { queue: sender },
        )
    }

    /// Runs until `stop` is cancelled; who waits then is told that the process shuts down.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        // A command that did not fit into the last batch.
        let mut left: Option<Waiting> = None;
        loop {
            if in_flight.len() >= IN_FLIGHT_MAX {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    _ = in_flight.next() => {}
                }
                continue;
            }
            let first = match left.take() {
                Some(first) => first,
                None => tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    Some(()) = in_flight.next() => continue,
                    first = self.queue.recv() => match first {
                        Some(first) => first,
                        None => return Ok(()),
                    },
                },
            };
            let (batch, rest) = self.gather(first);
            left = rest;
            in_flight.push(Box::pin(self.submit(batch)));
        }
    }

    fn gather(&mut self, first: Waiting) -> (Vec<Waiting>, Option<Waiting>) {
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while batch.len() < BATCH_COMMANDS_MAX {
            let Ok(next) = self.queue.try_recv() else {
                break;
            };
            bytes += next.bytes;
            if bytes > BATCH_BYTES_MAX {
                return (batch, Some(next));
            }
            batch.push(next);
        }
        (batch, None)
    }

    fn submit(&self, waiting: Vec<Waiting>) -> impl Future<Output = ()> + Send + 'static {
        let raft = self.raft.clone();
        let stamp_ns = self.clock.now_ns();
        let mut answers = Vec::with_capacity(waiting.len());
        let mut commands = Vec::with_capacity(waiting.len());
        for one in waiting {
            commands.push(one.command);
            answers.push(one.answer);
        }
        let batch = Batch {
            stamp_ns,
            commands,
            no_growth: self.room.is_short(),
        };
        async move {
            let data = CommandBatch(Bytes::from(batch.encode_to_vec()));
            match raft.client_write(data).await {
                Ok(response) => answer_all(answers, &response.data.outcomes, response.log_id.index),
                Err(error) => {
                    let error = write_error(error);
                    for answer in answers {
                        // Who does not wait any more does not mind.
                        let _ = answer.send(Err(error.clone()));
                    }
                }
            }
        }
    }
}

fn answer_all(answers: Vec<Answer>, outcomes: &[Bytes], index: u64) {
    let mut outcomes = outcomes.iter();
    for answer in answers {
        let result = match outcomes.next().map(|bytes| Outcome::decode(bytes.clone())) {
            Some(Ok(outcome)) => Ok(Proposed { outcome, index }),
            Some(Err(_)) | None => Err(RpcError::new(
                ErrorCode::Internal,
                format!("log entry {index} has no outcome"),
            )),
        };
        let _ = answer.send(result);
    }
}

/// What the caller may do: go to the leader, or ask again. An entry that was thrown away may still have been committed
/// elsewhere; that is why mutations carry (session, sequence).
fn write_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> RpcError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => not_leader(&forward),
        // Not `NotLeader`: that says for certain that nothing has happened.
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(forward)) => RpcError {
            failure: Failure::new(ErrorCode::Unavailable, "the leader changed meanwhile"),
            leader_hint: not_leader(&forward).leader_hint,
        },
        RaftError::APIError(other) => RpcError::new(ErrorCode::Unavailable, other.to_string()),
        RaftError::Fatal(fatal) => {
            RpcError::new(ErrorCode::Unavailable, format!("raft stopped: {fatal}"))
        }
    }
}

pub(super) fn not_leader(forward: &ForwardToLeader<TypeConfig>) -> RpcError {
    RpcError::not_leader(
        forward
            .leader_node
            .as_ref()
            .map(|member| member.address.clone()),
    )
}
