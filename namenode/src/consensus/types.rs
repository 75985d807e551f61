//! The types that the Raft library is set up with: what an entry, an answer, a member and a vote are.
//!
//! At most one leader per term (`leader_id_std`), so that a term alone fences a deposed leader's instructions.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Number of a namenode in the Raft group; never used twice, not even after its disk was lost.
pub type NodeId = u64;
/// Term of a leader.
pub type Term = u64;
/// Who leads, or wants to lead, in which term.
pub type LeaderId = leader_id_std::LeaderId<Term, NodeId>;
/// What an entry remembers of the leader that proposed it: its term.
pub type CommittedLeaderId = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
/// Term and index of an entry.
pub type LogId = openraft::LogId<CommittedLeaderId>;
/// A vote, granted by a quorum or not.
pub type Vote = openraft::Vote<LeaderId>;
/// One entry of the log.
pub type Entry = openraft::Entry<CommittedLeaderId, Payload>;
/// What an entry holds: nothing, commands or a membership.
pub type Payload = openraft::EntryPayload<CommandBatch, NodeId, Member>;
/// The members of the group.
pub type Membership = openraft::Membership<NodeId, Member>;
/// A membership and the entry that it came from.
pub type StoredMembership = openraft::StoredMembership<CommittedLeaderId, NodeId, Member>;
/// The state that a snapshot stands for.
pub type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, NodeId, Member>;
/// The first and last entries of the log.
pub type LogState = openraft::LogState<TypeConfig>;
/// Reports that appended entries are durable.
pub type IoFlushed = openraft::storage::IOFlushed<TypeConfig>;

/// The runtime that the Raft library runs on.
#[cfg(not(cairn_sim))]
pub type Runtime = openraft_rt_tokio::TokioRuntime;
/// The runtime that the Raft library runs on: tokio with a random generator that the simulator seeds
/// (`Runtime::scope(seed, …)` around each simulated host).
#[cfg(cairn_sim)]
pub type Runtime =
    openraft_rt::deterministic_rng::DeterministicRng<openraft_rt_tokio::TokioRuntime>;

openraft::declare_raft_types!(
    /// Binds the Raft library to our types.
    pub TypeConfig:
        D = CommandBatch,
        R = Applied,
        NodeId = NodeId,
        Node = Member,
        Term = Term,
        LeaderId = LeaderId,
        Vote = Vote,
        Payload = Payload,
        Entry = Entry,
        AsyncRuntime = Runtime,
);

/// Encoded commands of one group commit. Opaque here: only the state machine looks inside.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CommandBatch(pub Bytes);

impl fmt::Debug for CommandBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandBatch({} bytes)", self.0.len())
    }
}

impl fmt::Display for CommandBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of commands", self.0.len())
    }
}

impl Serialize for CommandBatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for CommandBatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bytes::deserialize(deserializer).map(CommandBatch)
    }
}

/// What the state machine answers to one [`CommandBatch`]: one encoded outcome per command, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Encoded outcomes.
    pub outcomes: Vec<Bytes>,
}

/// A member of the namenode group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` where it listens to the others.
    pub address: String,
    /// Identity of its data directory: a member with another one is somebody else, whatever its number says.
    pub uuid: Uuid,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)
    }
}

/// A finished snapshot on the local disk, as the Raft library passes it around. The files stay where they are; the
/// network layer streams them from the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHandle {
    /// Directory that holds the snapshot's files.
    pub directory: std::path::PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_the_wire_and_commands_travel_as_plain_bytes() {
        let commands = CommandBatch(Bytes::from_static(b"mkdir /a"));
        let entry = Entry {
            log_id: LogId::new_term_index(7, 42),
            payload: Payload::Normal(commands.clone()),
        };
        let wire = postcard::to_stdvec(&entry).unwrap();
        assert!(wire.windows(8).any(|window| window == b"mkdir /a"));
        assert!(wire.len() < 8 + 8, "{} bytes of overhead", wire.len() - 8);
        assert_eq!(postcard::from_bytes::<Entry>(&wire).unwrap(), entry);
    }
}
