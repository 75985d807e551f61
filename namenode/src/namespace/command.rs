//! What goes through the Raft log. One entry is a [`Batch`]; apply is a pure function of (state, batch).
//!
//! Clients' operations travel as they came (`protocol::messages::operation`); what only the leader may propose is
//! defined here. The leader stamps time and nothing else; ids come from replicated counters inside apply.

use cairn_protocol::messages::common::{Caller, ClusterSettings};
use cairn_protocol::messages::operation::Operation;

/// One Raft entry: concurrent commands packed together by the leader (group commit).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Batch {
    /// The leader's wall clock, ns since 1970. Apply takes the maximum of this and the last one.
    #[prost(uint64, tag = "1")]
    pub stamp_ns: u64,
    /// Each has its own outcome; one that fails changes nothing.
    #[prost(message, repeated, tag = "2")]
    pub commands: Vec<Command>,
    /// The members' disks are almost full: what clients ask for and needs more room fails.
    #[prost(bool, tag = "3")]
    pub no_growth: bool,
}

/// One command.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// Which.
    #[prost(
        oneof = "CommandKind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22"
    )]
    pub kind: Option<CommandKind>,
}

impl From<CommandKind> for Command {
    fn from(kind: CommandKind) -> Self {
        Self { kind: Some(kind) }
    }
}

/// The commands; numbers are part of the log format.
#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(missing_docs, reason = "each variant is the message of the same name")]
pub enum CommandKind {
    #[prost(message, tag = "1")]
    Client(ClientCommand),
    #[prost(message, tag = "2")]
    OpenSession(OpenSession),
    #[prost(message, tag = "3")]
    ExpireSession(ExpireSession),
    #[prost(message, tag = "4")]
    FoundCluster(FoundCluster),
    #[prost(message, tag = "5")]
    RegisterDatanode(RegisterDatanode),
    #[prost(message, tag = "6")]
    SetDatanodeState(SetDatanodeState),
    #[prost(message, tag = "7")]
    ForgetDatanode(ForgetDatanode),
    #[prost(message, tag = "8")]
    SealOpenChunk(SealOpenChunk),
    #[prost(message, tag = "9")]
    BeginCopy(BeginCopy),
    #[prost(message, tag = "10")]
    AddReplica(AddReplica),
    #[prost(message, tag = "11")]
    RemoveReplica(RemoveReplica),
    #[prost(message, tag = "12")]
    AdvanceSynced(AdvanceSynced),
    #[prost(message, tag = "13")]
    DropChunk(DropChunk),
    #[prost(message, tag = "14")]
    Sweep(Sweep),
    #[prost(message, tag = "15")]
    RotateKeys(RotateKeys),
    #[prost(message, tag = "16")]
    SetSettings(SetSettings),
    #[prost(message, tag = "17")]
    Repoint(Repoint),
    #[prost(message, tag = "18")]
    AllocateCompactionChunk(AllocateCompactionChunk),
    #[prost(message, tag = "19")]
    DeclareLost(DeclareLost),
    #[prost(message, tag = "20")]
    IssueUserToken(IssueUserToken),
    #[prost(message, tag = "21")]
    ChangeUserToken(ChangeUserToken),
    #[prost(message, tag = "22")]
    RecallDelegation(RecallDelegation),
}

/// A client's mutation, exactly once under (session, sequence).
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClientCommand {
    /// Session id.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Position in the session.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Outcomes below this may be forgotten.
    #[prost(uint64, tag = "3")]
    pub lowest_unanswered: u64,
    /// Who asks.
    #[prost(message, required, tag = "4")]
    pub caller: Caller,
    /// What.
    #[prost(message, required, tag = "5")]
    pub operation: Operation,
    /// For AllocateChunk only: what the leader's placement chose.
    #[prost(message, optional, tag = "6")]
    pub placement: Option<Placement>,
}

/// Where a new chunk goes, or which idle chunk is handed on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Placement {
    /// Datanodes for a fresh chunk, in pipeline order.
    #[prost(uint64, repeated, tag = "1")]
    pub datanodes: Vec<u64>,
    /// An idle open chunk to hand on instead; if it is not idle any more at apply, a fresh one is made.
    #[prost(uint64, tag = "2")]
    pub reuse_chunk: u64,
}

/// Registers a session (a repeated nonce gets the same one).
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenSession {
    /// For people.
    #[prost(string, tag = "1")]
    pub client_name: String,
    /// 16 random bytes of the client.
    #[prost(bytes = "vec", tag = "2")]
    pub nonce: Vec<u8>,
    /// Address of its machine, as the leader saw it; empty in logs of older software.
    #[prost(string, tag = "3")]
    pub host: String,
    /// Who may use it; empty where everybody is believed.
    #[prost(string, tag = "4")]
    pub owner: String,
}

/// Ends a session whose keep-alives stopped: open chunks sealed, claims released, outcomes forgotten.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExpireSession {
    /// Session id.
    #[prost(uint64, tag = "1")]
    pub session: u64,
}

/// The first command of a cluster's life. A second one changes nothing (`AlreadyExists`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct FoundCluster {
    /// 16 random bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub cluster_id: Vec<u8>,
    /// First settings.
    #[prost(message, required, tag = "2")]
    pub settings: ClusterSettings,
    /// First token key, 32 random bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub key_secret: Vec<u8>,
    /// Owner of the root directory.
    #[prost(uint32, tag = "4")]
    pub root_uid: u32,
    /// Group of the root directory.
    #[prost(uint32, tag = "5")]
    pub root_gid: u32,
    /// Mode of the root directory.
    #[prost(uint32, tag = "6")]
    pub root_mode: u32,
}

/// Gives a datanode its id, or updates its address.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterDatanode {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub uuid: Vec<u8>,
    /// `host:port`.
    #[prost(string, tag = "2")]
    pub address: String,
    /// Machine.
    #[prost(string, tag = "3")]
    pub host: String,
    /// Failure domain.
    #[prost(string, tag = "4")]
    pub rack: String,
    /// Unix socket, or empty.
    #[prost(string, tag = "5")]
    pub local_socket: String,
    /// Version of its software.
    #[prost(string, tag = "6")]
    pub version: String,
    /// `host:port` of its HTTP gateway, or empty.
    #[prost(string, tag = "7")]
    pub http_address: String,
    /// The id that it was given before; 0 if none.
    #[prost(uint64, tag = "8")]
    pub datanode: u64,
}

/// What a datanode is to be (`protocol::messages::admin::DatanodeAdminState`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetDatanodeState {
    /// Datanode id.
    #[prost(uint64, tag = "1")]
    pub datanode: u64,
    /// Number of the state.
    #[prost(int32, tag = "2")]
    pub state: i32,
}

/// Removes a datanode that holds no replica of the committed state (`NotEmpty` otherwise).
#[derive(Clone, PartialEq, prost::Message)]
pub struct ForgetDatanode {
    /// Datanode id.
    #[prost(uint64, tag = "1")]
    pub datanode: u64,
}

/// The leader ends an open chunk at its committed length.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SealOpenChunk {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// The epoch that the leader saw; another one means the chunk was handed on meanwhile: `StaleEpoch`.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

/// Takes an incarnation number for a copy. The copy joins the set only by `AddReplica`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BeginCopy {
    /// Chunk id; must be sealed.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Destination.
    #[prost(uint64, tag = "2")]
    pub datanode: u64,
}

/// A confirmed copy joins the replica set.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AddReplica {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Where.
    #[prost(uint64, tag = "2")]
    pub datanode: u64,
    /// From `BeginCopy`.
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
    /// Epoch of the seal that it confirmed.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// Length that it confirmed.
    #[prost(uint64, tag = "5")]
    pub length: u64,
    /// The set that this was decided on, as pairs of datanode and incarnation; empty in logs of older software: not checked.
    #[prost(uint64, repeated, tag = "6")]
    pub decided_on: Vec<u64>,
}

/// A replica leaves the set; deletion on the datanode follows from committed state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RemoveReplica {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Where.
    #[prost(uint64, tag = "2")]
    pub datanode: u64,
    /// Which life.
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
    /// The set that this was decided on, as pairs of datanode and incarnation; empty in logs of older software: not checked.
    #[prost(uint64, repeated, tag = "4")]
    pub decided_on: Vec<u64>,
}

/// All replicas of a sealed chunk are shorter than its committed length: what is missing in all of them is lost, and the rest is
/// what its replicas are to hold from now on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeclareLost {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Epoch of the seal.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Length of the longest replica.
    #[prost(uint64, tag = "3")]
    pub held_length: u64,
    /// The set whose lengths are known, as pairs of datanode and incarnation.
    #[prost(uint64, repeated, tag = "4")]
    pub decided_on: Vec<u64>,
}

/// Every replica of the set confirmed an fsync through this length.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AdvanceSynced {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Bytes from 0.
    #[prost(uint64, tag = "2")]
    pub synced_length: u64,
    /// The replica set that confirmed (datanode, incarnation pairs flattened): a replica that joined later voids it.
    #[prost(uint64, repeated, tag = "3")]
    pub confirmed_incarnations: Vec<u64>,
}

/// Removes a sealed chunk without live bytes whose grace is over, and its replica rows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DropChunk {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
}

/// One bounded step of background removal: detached trees, orphans whose grace is over, dead maps.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sweep {
    /// Records to touch at most.
    #[prost(uint32, tag = "1")]
    pub limit: u32,
}

/// A new current token key; the present one becomes the previous one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RotateKeys {
    /// 32 random bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub secret: Vec<u8>,
    /// Id that the leader saw as current: a repeated command changes nothing.
    #[prost(uint32, tag = "2")]
    pub current_id: u32,
}

/// A token for a user; its number is the outcome's id.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct IssueUserToken {
    /// Name of the user.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The user.
    #[prost(message, required, tag = "2")]
    pub bearer: Caller,
    /// Its bearer may speak for others.
    #[prost(bool, tag = "3")]
    pub acts_for_others: bool,
    /// How long it is good.
    #[prost(uint64, tag = "4")]
    pub lifetime_ms: u64,
    /// How long it can be renewed.
    #[prost(uint64, tag = "5")]
    pub renewable_ms: u64,
    /// Whatever the others say, it is over then.
    #[prost(uint64, tag = "6")]
    pub until_ms: u64,
    /// 32 random bytes: the key of all tokens if there is none yet.
    #[prost(bytes = "vec", tag = "7")]
    pub secret: Vec<u8>,
    /// The token that it is asked for with; 0 if with none.
    #[prost(uint64, tag = "8")]
    pub parent: u64,
}

impl std::fmt::Debug for IssueUserToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssueUserToken")
            .field("user", &self.user)
            .field("bearer", &self.bearer)
            .finish_non_exhaustive()
    }
}

/// Revokes or renews a user's token.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ChangeUserToken {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Good for so long from now on, as far as it can be renewed; 0 revokes it.
    #[prost(uint64, tag = "2")]
    pub lifetime_ms: u64,
}

/// Somebody waits for the names in a directory: the session that it is delegated to hears so in the feed.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RecallDelegation {
    /// The directory.
    #[prost(uint64, tag = "1")]
    pub directory: u64,
}

/// Replaces the cluster's settings.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSettings {
    /// New settings.
    #[prost(message, required, tag = "1")]
    pub settings: ClusterSettings,
}

/// Compaction: uses of a range of a sealed chunk are re-pointed to a copy of the bytes, each compare-and-swap.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Repoint {
    /// Chunk that is being emptied; must be sealed.
    #[prost(uint64, tag = "1")]
    pub source_chunk: u64,
    /// First byte of the range in it.
    #[prost(uint64, tag = "2")]
    pub source_offset: u64,
    /// Bytes.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// Chunk that has the copy, fsynced on all replicas through the range; sealed or open by compaction.
    #[prost(uint64, tag = "4")]
    pub target_chunk: u64,
    /// First byte of the copy in it.
    #[prost(uint64, tag = "5")]
    pub target_offset: u64,
    /// Uses to re-point at most (`done` in the outcome tells).
    #[prost(uint32, tag = "6")]
    pub limit: u32,
}

/// An open chunk whose writer is the leader's compaction (session 0).
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocateCompactionChunk {
    /// Replicas.
    #[prost(uint32, tag = "1")]
    pub replication: u32,
    /// Where.
    #[prost(uint64, repeated, tag = "2")]
    pub datanodes: Vec<u64>,
}

/// What apply answers for one command, as it is remembered and sent back to the proposer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Outcome {
    /// 0 on success, else the number of an `ErrorCode`.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// The nouns of a failure.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Answer to a client's operation.
    #[prost(message, optional, tag = "3")]
    pub value: Option<cairn_protocol::messages::operation::OutcomeValue>,
    /// Id that an internal command gave out (session, datanode, incarnation, chunk); of `Delegated` the directory.
    #[prost(uint64, tag = "4")]
    pub id: u64,
    /// Sweep, Repoint: whether anything is left to do.
    #[prost(bool, tag = "5")]
    pub more: bool,
    /// Chunks whose record changed (replicas, state, length to zero live bytes): the leader's controllers look at them.
    #[prost(uint64, repeated, tag = "6")]
    pub touched_chunks: Vec<u64>,
}
