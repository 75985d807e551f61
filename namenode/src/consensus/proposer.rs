//! Group commit: concurrent commands leave in one Raft entry.
//!
//! One task collects. While few batches are in flight a command goes at once; when the log is busy, those that arrive meanwhile
//! share the next entry, so that the batch grows with the load and an idle cluster answers without delay. An entry costs the members
//! as much as dozens of commands, most of it for waking threads, so a crowd of callers is kept together: while an entry of many is on
//! its way the next one waits to be as large, and when it has been answered its callers are waited for a moment, for they are about
//! to come back. The leader's clock is read here, once for each entry, and nowhere else in what is proposed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_daemon::clock::Clock;
use cairn_protocol::rpc::RpcError;
use cairn_protocol::{ErrorCode, Failure};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
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
/// Commands of an entry whose callers are a crowd; fewer are neither waited for nor made to wait.
const CROWD: usize = 8;
/// How long after its answer a crowd is waited for.
const CROWD_RETURNS: Duration = Duration::from_millis(1);

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

/// Commands for the next entry.
#[derive(Default)]
struct Gathered {
    commands: Vec<Waiting>,
    bytes: usize,
    /// Did not fit any more.
    left: Option<Waiting>,
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    fn is_full(&self) -> bool {
        self.left.is_some() || self.commands.len() >= BATCH_COMMANDS_MAX
    }

    fn push(&mut self, one: Waiting) {
        if !self.is_empty() && self.bytes + one.bytes > BATCH_BYTES_MAX {
            self.left = Some(one);
            return;
        }
        self.bytes += one.bytes;
        self.commands.push(one);
    }

    fn take(&mut self) -> Vec<Waiting> {
        let left = self.left.take();
        self.bytes = left.as_ref().map_or(0, |left| left.bytes);
        let rest = left.into_iter().collect();
        std::mem::replace(&mut self.commands, rest)
    }
}

/// When an entry may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Now,
    /// Then, unless enough arrives before.
    At(Instant),
    /// Once enough arrives, or an entry is answered.
    Never,
}

impl Due {
    async fn comes(self) {
        match self {
            Self::Now => {}
            Self::At(instant) => sleep_until(instant).await,
            Self::Never => std::future::pending().await,
        }
    }
}

/// How many come together.
#[derive(Debug, Default)]
struct Crowd {
    /// Commands of the entry that was sent last.
    sent: usize,
    /// Of the one that was answered last, and when.
    answered: Option<(usize, Instant)>,
}

impl Crowd {
    fn sent(&mut self, commands: usize) {
        self.sent = commands;
        self.answered = None;
    }

    fn answered(&mut self, commands: usize) {
        self.answered = Some((commands, Instant::now()));
    }

    fn due(&self, batch: &Gathered, in_flight: usize) -> Due {
        let there = batch.commands.len();
        if in_flight >= IN_FLIGHT_MAX {
            return Due::Never;
        }
        if batch.is_full() {
            return Due::Now;
        }
        if in_flight > 0 {
            return match self.sent >= CROWD && there < self.sent {
                true => Due::Never,
                false => Due::Now,
            };
        }
        match self.answered {
            // A few never come back, or late.
            Some((crowd, at)) if crowd >= CROWD && there < crowd - crowd / 4 => {
                let until = at + CROWD_RETURNS;
                match until > Instant::now() {
                    true => Due::At(until),
                    false => Due::Now,
                }
            }
            _ => Due::Now,
        }
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
        let mut in_flight: FuturesUnordered<BoxFuture<'static, usize>> = FuturesUnordered::new();
        let mut batch = Gathered::default();
        let mut crowd = Crowd::default();
        loop {
            let due = match batch.is_empty() {
                true => Due::Never,
                false => crowd.due(&batch, in_flight.len()),
            };
            if matches!(due, Due::Now) {
                let commands = batch.take();
                crowd.sent(commands.len());
                in_flight.push(Box::pin(self.submit(commands)));
                continue;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(answered) = in_flight.next() => crowd.answered(answered),
                next = self.queue.recv(), if !batch.is_full() => match next {
                    Some(next) => {
                        batch.push(next);
                        // What is there goes along.
                        while !batch.is_full() && let Ok(next) = self.queue.try_recv() {
                            batch.push(next);
                        }
                    }
                    None => return Ok(()),
                },
                () = due.comes() => {}
            }
        }
    }

    /// Answers how many callers have heard what they asked for.
    fn submit(&self, waiting: Vec<Waiting>) -> impl Future<Output = usize> + Send + 'static {
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
                Ok(response) => {
                    let count = answers.len();
                    answer_all(answers, &response.data.outcomes, response.log_id.index);
                    count
                }
                Err(error) => {
                    let error = write_error(error);
                    for answer in answers {
                        // Who does not wait any more does not mind.
                        let _ = answer.send(Err(error.clone()));
                    }
                    0
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

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::operation::Operation;
    use tokio::sync::oneshot;
    use tokio::time::{Instant, advance};

    use super::{BATCH_BYTES_MAX, CROWD, CROWD_RETURNS, Crowd, Due, Gathered, Waiting};
    use crate::namespace::command::{ClientCommand, Command, CommandKind};

    fn waiting(bytes: usize) -> Waiting {
        let command = ClientCommand {
            operation: Operation::default(),
            ..ClientCommand::default()
        };
        Waiting {
            command: Command::from(CommandKind::Client(command)),
            bytes,
            answer: oneshot::channel().0,
        }
    }

    fn gathered(commands: usize) -> Gathered {
        let mut gathered = Gathered::default();
        (0..commands).for_each(|_| gathered.push(waiting(100)));
        gathered
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_callers_never_wait_for_each_other() {
        let mut crowd = Crowd::default();
        assert_eq!(crowd.due(&gathered(1), 0), Due::Now);
        crowd.sent(CROWD - 1);
        assert_eq!(crowd.due(&gathered(1), 1), Due::Now);
        assert_eq!(
            crowd.due(&gathered(1), 2),
            Due::Never,
            "two are on their way"
        );
        crowd.answered(CROWD - 1);
        assert_eq!(crowd.due(&gathered(1), 0), Due::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_kept_together_and_waited_for_a_moment() {
        let mut crowd = Crowd::default();
        crowd.sent(64);
        assert_eq!(crowd.due(&gathered(63), 1), Due::Never);
        assert_eq!(crowd.due(&gathered(64), 1), Due::Now);
        crowd.answered(64);
        let until = Instant::now() + CROWD_RETURNS;
        assert_eq!(crowd.due(&gathered(1), 0), Due::At(until));
        assert_eq!(crowd.due(&gathered(47), 0), Due::At(until));
        assert_eq!(
            crowd.due(&gathered(48), 0),
            Due::Now,
            "who does not come back is not missed"
        );
        advance(CROWD_RETURNS).await;
        assert_eq!(crowd.due(&gathered(1), 0), Due::Now);
        crowd.sent(1);
        crowd.answered(1);
        assert_eq!(crowd.due(&gathered(1), 0), Due::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_goes_with_the_next_entry_and_nothing_waits_for_more_than_fits() {
        let mut crowd = Crowd::default();
        crowd.sent(64);
        let mut batch = gathered(2);
        batch.push(waiting(BATCH_BYTES_MAX));
        assert!(batch.is_full());
        assert_eq!(crowd.due(&batch, 1), Due::Now);
        assert_eq!(batch.take().len(), 2);
        assert!(!batch.is_full());
        assert_eq!(batch.take().len(), 1, "a single larger command goes alone");
        assert!(batch.is_empty());
    }
}
