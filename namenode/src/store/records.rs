//! The values of the tables (prost; field numbers are an on-disk format). Keys are in the file of each key kind.

use cairn_protocol::messages::common::{Caller, ClusterSettings};
use cairn_protocol::messages::lock::LockMode;

/// One extent, inline in an inode or as a value of the extent table.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ExtentRecord {
    /// First byte in the file (also in the key of the extent table; 0 there).
    #[prost(uint64, tag = "1")]
    pub offset_in_file: u64,
    /// Chunk id.
    #[prost(uint64, tag = "2")]
    pub chunk: u64,
    /// First byte in the chunk.
    #[prost(uint64, tag = "3")]
    pub offset_in_chunk: u64,
    /// Bytes.
    #[prost(uint64, tag = "4")]
    pub length: u64,
    /// CRC32C of exactly these bytes; absent where a cut made it unknown.
    #[prost(fixed32, optional, tag = "5")]
    pub crc32c: Option<u32>,
}

/// An inode. Small on purpose: 5 million of them fit 200 bytes each, dirent and uses included.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InodeRecord {
    /// `InodeKind`.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// Names (directories: 2 + subdirectories). 0: orphaned or detached.
    #[prost(uint32, tag = "5")]
    pub nlink: u32,
    /// File size.
    #[prost(uint64, tag = "6")]
    pub size: u64,
    /// Last change of content.
    #[prost(fixed64, tag = "7")]
    pub mtime_ns: u64,
    /// ctime − mtime, zigzag, so that equal times cost nothing.
    #[prost(sint64, tag = "8")]
    pub ctime_delta_ns: i64,
    /// atime − mtime, zigzag.
    #[prost(sint64, tag = "9")]
    pub atime_delta_ns: i64,
    /// btime − mtime, zigzag.
    #[prost(sint64, tag = "10")]
    pub btime_delta_ns: i64,
    /// Number of the last change (index of the log entry that made it).
    #[prost(uint64, tag = "11")]
    pub version: u64,
    /// Key of the extents if they are in the extent table; 0 while all are inline.
    #[prost(uint64, tag = "12")]
    pub map: u64,
    /// Up to `MAX_INLINE_EXTENTS`, in order of offset; empty if `map` is set.
    #[prost(message, repeated, tag = "13")]
    pub inline_extents: Vec<ExtentRecord>,
    /// Bytes that extents cover.
    #[prost(uint64, tag = "14")]
    pub allocated: u64,
    /// Replicas of a file's chunks; for a directory the policy of new files (0 inherits).
    #[prost(uint32, tag = "15")]
    pub replication: u32,
    /// Parent of a directory; of a file the parent of its last link (a hint for messages, never a truth).
    #[prost(uint64, tag = "16")]
    pub parent: u64,
    /// Symlink target.
    #[prost(bytes = "vec", tag = "17")]
    pub symlink_target: Vec<u8>,
    /// Device number.
    #[prost(uint64, tag = "18")]
    pub rdev: u64,
    /// Entries of a directory.
    #[prost(uint64, tag = "19")]
    pub entry_count: u64,
    /// Number of extended attributes, so that most inodes need no look at that table.
    #[prost(uint32, tag = "20")]
    pub xattr_count: u32,
    /// Bytes of their names and values together.
    #[prost(uint32, tag = "21")]
    pub xattr_bytes: u32,
    /// Access control list, as `namespace/acl.rs` draws it; empty if the mode says it all.
    #[prost(bytes = "vec", tag = "22")]
    pub acl: Vec<u8>,
    /// What is made in this directory gets this one.
    #[prost(bytes = "vec", tag = "23")]
    pub default_acl: Vec<u8>,
    /// Session that this directory is delegated to, as long as that session lives; 0 for none.
    #[prost(uint64, tag = "24")]
    pub delegated_to: u64,
}

/// A directory entry.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DirentRecord {
    /// Inode id.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// `InodeKind`, so that listing needs no look at the inode.
    #[prost(int32, tag = "2")]
    pub kind: i32,
}

/// State of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ChunkState {
    /// One writer, at one epoch.
    Open = 0,
    /// Immutable.
    Sealed = 1,
    /// Open, returned cleanly, waiting for its next writer.
    Idle = 2,
}

/// A replica of the set.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReplicaRecord {
    /// Datanode id.
    #[prost(uint64, tag = "1")]
    pub datanode: u64,
    /// Which life.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
}

/// A chunk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChunkRecord {
    /// State.
    #[prost(enumeration = "ChunkState", tag = "1")]
    pub state: i32,
    /// Current epoch (of the seal if sealed).
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Committed length: the end of the furthest committed byte. Final once sealed.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// Where the current epoch began: its writer may commit only at or above.
    #[prost(uint64, tag = "4")]
    pub epoch_start: u64,
    /// Distinct bytes that extents use (I4).
    #[prost(uint64, tag = "5")]
    pub live_bytes: u64,
    /// fsynced on every replica through here.
    #[prost(uint64, tag = "6")]
    pub synced_length: u64,
    /// Session of the writer; 0 if idle, sealed, or compaction's.
    #[prost(uint64, tag = "7")]
    pub writer: u64,
    /// Replicas asked for: the largest wish of the files that use it.
    #[prost(uint32, tag = "8")]
    pub replication: u32,
    /// The replica set in pipeline order.
    #[prost(message, repeated, tag = "9")]
    pub replicas: Vec<ReplicaRecord>,
    /// Largest length.
    #[prost(uint64, tag = "10")]
    pub capacity: u64,
    /// Uses may overlap (clones, or a writer that committed bytes twice): accounting must look around.
    #[prost(bool, tag = "11")]
    pub shared: bool,
    /// Longest use there ever was: how far back an overlapping use can begin.
    #[prost(uint64, tag = "12")]
    pub longest_use: u64,
    /// Stamp of the creation.
    #[prost(fixed64, tag = "13")]
    pub created_ns: u64,
    /// Stamp of the seal, or of the moment when the last live byte went, whichever is later: grace counts from here.
    #[prost(fixed64, tag = "14")]
    pub settled_ns: u64,
    /// Allocated by compaction.
    #[prost(bool, tag = "15")]
    pub compaction: bool,
    /// Committed bytes at the end that no replica holds: they are lost. 0 unless sealed.
    #[prost(uint64, tag = "16")]
    pub lost_bytes: u64,
}

impl ChunkRecord {
    /// How long its replicas are to be once it is sealed: the committed length, without what is lost.
    pub fn held_length(&self) -> u64 {
        self.length.saturating_sub(self.lost_bytes)
    }
}

/// A session.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SessionRecord {
    /// For people.
    #[prost(string, tag = "1")]
    pub client_name: String,
    /// Nonce of its opening.
    #[prost(bytes = "vec", tag = "2")]
    pub nonce: Vec<u8>,
    /// Stamp of its opening.
    #[prost(fixed64, tag = "3")]
    pub opened_ns: u64,
    /// Outcomes below this sequence are forgotten; a mutation below it is refused.
    #[prost(uint64, tag = "4")]
    pub lowest_unanswered: u64,
    /// Largest sequence that was remembered.
    #[prost(uint64, tag = "5")]
    pub highest_sequence: u64,
    /// Outcomes below this sequence have been deleted; follows `lowest_unanswered` in bounded steps.
    #[prost(uint64, tag = "6")]
    pub pruned_below: u64,
    /// The session is over, and what it left behind is being cleaned up.
    #[prost(bool, tag = "7")]
    pub ended: bool,
    /// Locks that it holds.
    #[prost(uint64, tag = "8")]
    pub lock_count: u64,
    /// Address of its client's machine; empty if it was opened by older software.
    #[prost(string, tag = "9")]
    pub host: String,
    /// Who may use it, as the service puts it; empty where everybody is believed.
    #[prost(string, tag = "10")]
    pub owner: String,
    /// First inode number that it has reserved and not used.
    #[prost(uint64, tag = "11")]
    pub reserved_next: u64,
    /// The one after the last that it has reserved.
    #[prost(uint64, tag = "12")]
    pub reserved_end: u64,
}

/// A datanode.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DatanodeRecord {
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
    /// `DatanodeAdminState`.
    #[prost(int32, tag = "7")]
    pub state: i32,
    /// Replicas of the committed state.
    #[prost(uint64, tag = "8")]
    pub replica_count: u64,
    /// `host:port` of its HTTP gateway, or empty.
    #[prost(string, tag = "9")]
    pub http_address: String,
}

/// An unlinked inode that somebody may still have open.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OrphanRecord {
    /// Without claims it goes after this stamp.
    #[prost(fixed64, tag = "1")]
    pub keep_until_ns: u64,
    /// Sessions that have it open, in order.
    #[prost(uint64, repeated, tag = "2")]
    pub claims: Vec<u64>,
}

/// A token key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TokenKeyRecord {
    /// Key id.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// 32 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub secret: Vec<u8>,
    /// Stamp of the entry that made it.
    #[prost(uint64, tag = "3")]
    pub made_ns: u64,
}

/// Everything that there is once: counters, identity, settings.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClusterRecord {
    /// 16 bytes; empty before `FoundCluster`.
    #[prost(bytes = "vec", tag = "1")]
    pub cluster_id: Vec<u8>,
    /// Settings.
    #[prost(message, optional, tag = "2")]
    pub settings: Option<ClusterSettings>,
    /// Current token key first.
    #[prost(message, repeated, tag = "3")]
    pub keys: Vec<TokenKeyRecord>,
    /// Next inode id.
    #[prost(uint64, tag = "4")]
    pub next_inode: u64,
    /// Next map id.
    #[prost(uint64, tag = "5")]
    pub next_map: u64,
    /// Next chunk id.
    #[prost(uint64, tag = "6")]
    pub next_chunk: u64,
    /// Next incarnation.
    #[prost(uint64, tag = "7")]
    pub next_incarnation: u64,
    /// Next session id.
    #[prost(uint64, tag = "8")]
    pub next_session: u64,
    /// Next datanode id.
    #[prost(uint64, tag = "9")]
    pub next_datanode: u64,
    /// Last stamp: time never goes back.
    #[prost(fixed64, tag = "10")]
    pub last_stamp_ns: u64,
    /// Regular files.
    #[prost(uint64, tag = "11")]
    pub file_count: u64,
    /// Directories.
    #[prost(uint64, tag = "12")]
    pub directory_count: u64,
    /// All inodes.
    #[prost(uint64, tag = "13")]
    pub inode_count: u64,
    /// Chunks.
    #[prost(uint64, tag = "14")]
    pub chunk_count: u64,
    /// Sum of live bytes.
    #[prost(uint64, tag = "15")]
    pub live_bytes: u64,
    /// Sum of committed lengths.
    #[prost(uint64, tag = "16")]
    pub chunk_bytes: u64,
    /// Sessions.
    #[prost(uint64, tag = "17")]
    pub session_count: u64,
    /// Agreed format level (DESIGN §8).
    #[prost(uint32, tag = "18")]
    pub feature_level: u32,
    /// Orphan with which the next sweep goes on; 0 at the beginning of a pass.
    #[prost(uint64, tag = "19")]
    pub sweep_cursor: u64,
    /// Where the sweep of detached directories goes on.
    #[prost(uint64, tag = "20")]
    pub sweep_detached_cursor: u64,
    /// What users' tokens are signed with: 32 bytes; empty before the first one.
    #[prost(bytes = "vec", tag = "21")]
    pub user_token_secret: Vec<u8>,
    /// Number of the last token of a user.
    #[prost(uint64, tag = "22")]
    pub last_user_token: u64,
    /// Tokens of users.
    #[prost(uint64, tag = "23")]
    pub user_token_count: u64,
    /// Where the removal of tokens that are over goes on.
    #[prost(uint64, tag = "24")]
    pub user_token_cursor: u64,
    /// Where the sweep of dead maps goes on.
    #[prost(uint64, tag = "25")]
    pub sweep_dead_map_cursor: u64,
}

/// A token of a user. The token itself follows from its number and the cluster's secret.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UserTokenRecord {
    /// Name of its user, for people.
    #[prost(string, tag = "1")]
    pub user: String,
    /// Its user.
    #[prost(message, required, tag = "2")]
    pub bearer: Caller,
    /// Its bearer may speak for others.
    #[prost(bool, tag = "3")]
    pub acts_for_others: bool,
    /// Stamp of the entry that made it.
    #[prost(uint64, tag = "4")]
    pub issued_at_ms: u64,
    /// Good before this instant.
    #[prost(uint64, tag = "5")]
    pub expires_at_ms: u64,
    /// It can be renewed up to this instant, and is forgotten then.
    #[prost(uint64, tag = "6")]
    pub renewable_until_ms: u64,
    /// Good no more.
    #[prost(bool, tag = "7")]
    pub revoked: bool,
    /// The token that it was issued with, without which it is not good; 0 if with none.
    #[prost(uint64, tag = "8")]
    pub parent: u64,
}

/// What the state reflects; in the batch of each entry.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AppliedState {
    /// Index of the last applied entry.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Its term.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Its leader, where the consensus keeps one in log ids; else 0.
    #[prost(uint64, tag = "3")]
    pub leader: u64,
    /// Last applied membership, as the consensus encodes it.
    #[prost(bytes = "vec", tag = "4")]
    pub membership: Vec<u8>,
}

/// A map on its way out.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DeadMapRecord {
    /// Extents below this file offset are released already.
    #[prost(uint64, tag = "1")]
    pub next_offset: u64,
}

/// A lock; the rest is in its key.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LockRecord {
    /// Last byte.
    #[prost(uint64, tag = "1")]
    pub end: u64,
    /// `Read` or `Write`.
    #[prost(enumeration = "LockMode", tag = "2")]
    pub mode: i32,
    /// Process, for people.
    #[prost(uint32, tag = "3")]
    pub pid: u32,
}

/// Whose extents a map holds.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct MapOwnerRecord {
    /// Inode id.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
}
