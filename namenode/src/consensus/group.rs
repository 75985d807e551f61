//! The group of namenodes as the rest of this process sees it: propose, read, watch leadership, change members.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_daemon::Tasks;
use cairn_daemon::clock::Clock;
use cairn_protocol::messages::admin::{RaftAnswer, ReadIndexReply, ReadIndexRequest};
use cairn_protocol::rpc::{Peer, Peers, Reply, Request, RpcError};
use cairn_protocol::{ErrorCode, Method};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest};
use openraft::{Raft, SnapshotPolicy};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::flusher;
use super::incoming;
use super::log_store::LogStore;
use super::network::{self, Ballot, Network};
use super::proposer::{Proposed, Proposer, ProposerHandle};
use super::reader::{Reader, ReaderHandle};
use super::room::{Room, RoomOptions};
use super::snapshot::{Piece, Receiver};
use super::state::State;
use super::state_machine::StateMachine;
use super::types::{Member, NodeId, TypeConfig, Vote};
use crate::namespace::command::Command;

mod members;

pub(super) type RaftHandle = Raft<TypeConfig, StateMachine>;

/// A read waits this long for its quorum and for apply at most.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// When a member that has just started stands for election, each time a little later (below [`STAGGER`]): if all have started, none
/// hears a leader, and a whole election timeout would pass before the first one stands. A leader without a quorum, which this member
/// would give it, has time for two heartbeats before.
const FIRST_ELECTIONS: [Duration; 2] = [Duration::from_millis(220), Duration::from_millis(380)];
const STAGGER: Duration = Duration::from_millis(120);

/// How the group behaves. The defaults suit a data centre; all members use the same ones.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// Leader to followers.
    pub heartbeat_interval: Duration,
    /// A follower that hears nothing for a random time between this …
    pub election_timeout_min: Duration,
    /// … and this stands for election.
    pub election_timeout_max: Duration,
    /// A snapshot (and a purge of the log) after so many entries.
    pub snapshot_every_entries: u64,
    /// Entries kept behind the snapshot for members that lag a little.
    pub entries_kept: u64,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(500),
            election_timeout_max: Duration::from_millis(900),
            snapshot_every_entries: 50_000,
            entries_kept: 10_000,
        }
    }
}

impl GroupOptions {
    fn raft_config(&self) -> anyhow::Result<Arc<openraft::Config>> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "cairn".to_owned(),
            heartbeat_interval: millis(self.heartbeat_interval),
            election_timeout_min: millis(self.election_timeout_min),
            election_timeout_max: millis(self.election_timeout_max),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every_entries),
            max_in_snapshot_log_to_keep: self.entries_kept,
            install_snapshot_timeout: 60_000,
            enable_pre_vote: Some(true),
            // A restarted leader that goes on in its old term has not applied what it had committed, has forgotten what it
            // ordered, and would take the old entries of that term for its own: it must be elected again, to a new term.
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        };
        Ok(Arc::new(config.validate()?))
    }
}

/// Who leads, as this member knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Current term.
    pub term: u64,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// This member leads, and has applied an entry of its own term: only then may it propose, place and instruct.
    pub ready: bool,
}

/// One member for status displays.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Id.
    pub id: NodeId,
    /// Address.
    pub address: String,
    /// Votes (false: learner).
    pub voter: bool,
    /// Last log index that the leader knows it to have; `None` on followers.
    pub matched_index: Option<u64>,
    /// Less than the reserve is free on its disk, as it said last; false on followers, but for themselves.
    pub disk_low: bool,
}

/// This member's part in the group. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    id: NodeId,
    raft: RaftHandle,
    state: Arc<State>,
    proposer: ProposerHandle,
    reader: ReaderHandle,
    peers: Peers,
    leadership: watch::Receiver<Leadership>,
    receiver: Arc<Mutex<Receiver>>,
    room: Arc<Room>,
    /// When a leader was heard last, or this process began.
    heard: Arc<watch::Sender<Instant>>,
}

/// What a member is made of.
pub struct GroupParts {
    /// This member's id.
    pub id: NodeId,
    /// Its log.
    pub log: LogStore,
    /// Its state.
    pub state: Arc<State>,
    /// Connections to other namenodes.
    pub peers: Peers,
    /// Time, for stamps.
    pub clock: Clock,
    /// Behaviour.
    pub options: GroupOptions,
    /// Its disks.
    pub room: RoomOptions,
}

impl Group {
    /// Starts the Raft library and the tasks around it.
    pub async fn start(parts: GroupParts, tasks: &Tasks) -> anyhow::Result<Self> {
        let GroupParts {
            id,
            log,
            state,
            peers,
            clock,
            options,
            room: room_options,
        } = parts;
        let config = options.raft_config()?;
        let room = Arc::new(Room::new());
        let network = Network::new(id, peers.clone(), room.clone());
        let machine = StateMachine::new(state.clone());
        let raft = Raft::new(id, config, network, log, machine).await?;
        let (proposer, handle) = Proposer::new(raft.clone(), clock, room.clone());
        let (reader, reader_handle) = Reader::new(raft.clone());
        tasks.component("state-flusher", |stop| flusher::run(state.clone(), stop));
        tasks.component("proposer", |stop| proposer.run(stop));
        tasks.component("reader", |stop| reader.run(stop));
        let (watched, members) = (room.clone(), raft.clone());
        tasks.component("room", |stop| {
            watched.watch(room_options, move || other_voters(id, &members), stop)
        });
        tasks.component("first-elections", |stop| {
            stand_after_start(id, raft.clone(), stop)
        });
        let (sender, leadership) = watch::channel(Leadership::default());
        tasks.component("leadership", |stop| {
            watch_leadership(id, raft.clone(), sender, stop)
        });
        Ok(Self {
            id,
            raft,
            state,
            proposer: handle,
            reader: reader_handle,
            peers,
            leadership,
            receiver: Arc::default(),
            room,
            heard: Arc::new(watch::Sender::new(Instant::now())),
        })
    }

    /// This member's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The replicated state.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Index of the last entry that this member's log does not keep any more: whoever needs it gets a snapshot. 0 if it keeps all.
    pub fn purged_index(&self) -> u64 {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().purged.map_or(0, |log| log.index)
    }

    /// Who leads; changes wake the receiver.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Address of the leader, if it is known and is not this member.
    pub fn leader_hint(&self) -> Option<String> {
        let leader = self.leadership.borrow().leader?;
        if leader == self.id {
            return None;
        }
        self.members()
            .into_iter()
            .find(|member| member.id == leader)
            .map(|member| member.address)
    }

    /// How long no leader was heard; zero for the leader itself.
    pub fn silent_for(&self) -> Duration {
        if self.leadership.borrow().ready {
            return Duration::ZERO;
        }
        self.heard.borrow().elapsed()
    }

    /// Fails unless this member leads and is ready; tells the term.
    pub fn require_leader(&self) -> Result<u64, RpcError> {
        let leadership = self.leadership.borrow().clone();
        if leadership.ready {
            return Ok(leadership.term);
        }
        Err(RpcError::not_leader(self.leader_hint()))
    }

    /// Proposes a command; answers when it is applied here. Dropping the future does not take the command back.
    pub async fn propose(&self, command: impl Into<Command>) -> Result<Proposed, RpcError> {
        self.require_leader()?;
        self.proposer.propose(command.into()).await
    }

    /// Waits until this member has applied everything that was acknowledged before the call, anywhere. Cancel-safe.
    pub async fn linearize(&self) -> Result<(), RpcError> {
        let read = async {
            let index = if self.leadership.borrow().leader == Some(self.id) {
                self.reader.read_index().await?
            } else {
                self.leaders_read_index().await?
            };
            self.state.wait_applied(index).await;
            Ok(())
        };
        match tokio::time::timeout(READ_TIMEOUT, read).await {
            Ok(result) => result,
            Err(_) => Err(RpcError::new(
                ErrorCode::Unavailable,
                "no quorum of namenodes answers",
            )),
        }
    }

    async fn leaders_read_index(&self) -> Result<u64, RpcError> {
        let Some(address) = self.leader_hint() else {
            return Err(RpcError::not_leader(None));
        };
        let (reply, _) = self
            .peers
            .call_typed::<ReadIndexReply>(
                &address,
                Method::ReadIndex.into(),
                &ReadIndexRequest {},
                Bytes::new(),
                READ_TIMEOUT,
            )
            .await?;
        Ok(reply.index)
    }

    /// True once the group exists on this member.
    pub async fn is_initialized(&self) -> anyhow::Result<bool> {
        Ok(self.raft.is_initialized().await?)
    }

    /// Founds the group. Only for members whose logs are all empty.
    pub async fn initialize(&self, members: BTreeMap<NodeId, Member>) -> anyhow::Result<()> {
        self.raft.initialize(members).await?;
        Ok(())
    }

    /// Stands for election now instead of waiting for the timeout: for a group of one.
    pub async fn elect(&self) -> anyhow::Result<()> {
        self.raft.trigger().elect(false).await?;
        Ok(())
    }

    /// Answers another namenode.
    pub async fn handle(
        &self,
        peer: &Peer,
        method: Method,
        request: Request,
    ) -> Result<Reply, RpcError> {
        if method == Method::ReadIndex {
            let index = self.reader.read_index().await?;
            return Ok(Reply::new(&ReadIndexReply { index }));
        }
        let envelope = incoming::open_envelope(self.id, peer, &request)?;
        let from = envelope.from;
        let fatal = |error: &dyn std::fmt::Display| {
            RpcError::new(ErrorCode::Unavailable, error.to_string())
        };
        let body = match method {
            Method::RaftAppend => {
                let append: AppendEntriesRequest<TypeConfig> =
                    incoming::decode_message(from, &request.payload)?;
                self.heard.send_replace(Instant::now());
                network::encode_body(
                    &self
                        .raft
                        .append_entries(append)
                        .await
                        .map_err(|error| fatal(&error))?,
                )?
            }
            Method::RaftVote => {
                let ballot: Ballot = incoming::decode_message(from, &request.payload)?;
                let vote = if ballot.pre_vote {
                    self.raft.pre_vote(ballot.request).await
                } else {
                    self.raft.vote(ballot.request).await
                };
                network::encode_body(&vote.map_err(|error| fatal(&error))?)?
            }
            Method::RaftTransfer => {
                let transfer: TransferLeaderRequest<TypeConfig> =
                    incoming::decode_message(from, &request.payload)?;
                let reply = self.raft.handle_transfer_leader(transfer).await;
                network::encode_body(&reply.map_err(|error| fatal(&error))?)?
            }
            Method::RaftSnapshot => {
                let piece: Piece = incoming::decode_message(from, &envelope.body)?;
                let vote = piece.vote;
                self.refuse_deposed(&vote)?;
                self.heard.send_replace(Instant::now());
                // Held until the installation is over: a transfer that starts anew removes what is installed from.
                let mut receiver = self.receiver.lock().await;
                let complete = receiver
                    .receive(&self.state, piece, request.payload)
                    .await?;
                match complete {
                    None => Bytes::new(),
                    Some(snapshot) => {
                        let reply = self.raft.install_full_snapshot(vote, snapshot).await;
                        network::encode_body(&reply.map_err(|error| fatal(&error))?)?
                    }
                }
            }
            other => {
                return Err(RpcError::new(
                    ErrorCode::Malformed,
                    format!("{} is not for namenodes", other.name()),
                ));
            }
        };
        let answer = RaftAnswer {
            disk_low: self.room.is_low(),
        };
        Ok(Reply::new(&answer).with_payload(body))
    }

    /// Whether the leader refuses what needs more room: the disks of too many members are almost full.
    pub fn is_short_of_room(&self) -> bool {
        self.room.is_short()
    }

    /// A leader that was deposed does not get to write what it would not get to install.
    fn refuse_deposed(&self, vote: &Vote) -> Result<(), RpcError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if *vote >= metrics.vote {
            return Ok(());
        }
        let message = format!("snapshot of vote {vote}, this member's is {}", metrics.vote);
        Err(RpcError::new(ErrorCode::StaleTerm, message))
    }

    /// Ends the Raft library's tasks: the log is synced, the state is as of its last flush.
    pub async fn shutdown(&self) -> anyhow::Result<()> {
        Ok(self.raft.shutdown().await?)
    }
}

/// Who votes, without this member.
fn other_voters(id: NodeId, raft: &RaftHandle) -> Vec<NodeId> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let voters = metrics.membership_config.membership().voter_ids();
    voters.filter(|voter| *voter != id).collect()
}

/// Stands for election a few times soon after the start, and disturbs no leader that has a quorum: first it asks whether a quorum would
/// vote for this member, and nobody would who hears a leader, or has more of the log.
async fn stand_after_start(
    id: NodeId,
    raft: RaftHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let term = raft.metrics().borrow_watched().current_term;
    let began = Instant::now();
    for (attempt, after) in (0..).zip(FIRST_ELECTIONS) {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = sleep_until(began + after + stagger(id, term, attempt)) => {}
        }
        if let Err(fatal) = raft.trigger().elect(true).await {
            if stop.is_cancelled() {
                return Ok(());
            }
            anyhow::bail!("raft stopped: {fatal}");
        }
    }
    stop.cancelled().await;
    Ok(())
}

/// Another one for each member, term and attempt, so that members do not stand at the same time again and again. SplitMix64 (Steele, Lea
/// and Flood, "Fast splittable pseudorandom number generators", 2014).
fn stagger(id: NodeId, term: u64, attempt: u64) -> Duration {
    let mut mixed =
        (id ^ term.rotate_left(32)).wrapping_add((attempt + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    Duration::from_millis(mixed % STAGGER.as_millis() as u64)
}

/// Follows the library's metrics and tells the rest of the process who leads. Ends when the library does: a stopped library
/// (a failed disk, say) must take the process down.
async fn watch_leadership(
    id: NodeId,
    raft: RaftHandle,
    sender: watch::Sender<Leadership>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut metrics = raft.metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            if let Err(fatal) = &metrics.running_state {
                if stop.is_cancelled() {
                    return Ok(());
                }
                anyhow::bail!("raft stopped: {fatal}");
            }
            let applied_term = metrics
                .last_applied
                .map(|log_id| *log_id.committed_leader_id());
            let term = metrics.current_term;
            let leads = metrics.state.is_leader() && metrics.current_leader == Some(id);
            Leadership {
                term,
                leader: metrics.current_leader,
                ready: leads && applied_term.is_some_and(|applied| *applied == term),
            }
        };
        sender.send_if_modified(|old| {
            let changed = *old != now;
            if changed {
                info!(
                    term = now.term,
                    leader = now.leader,
                    ready = now.ready,
                    "leadership changed"
                );
                *old = now;
            }
            changed
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            changed = metrics.changed() => if changed.is_err() {
                if stop.is_cancelled() {
                    return Ok(());
                }
                anyhow::bail!("raft ended");
            },
        }
    }
}
