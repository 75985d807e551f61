//! Reads. Linearizable unless the caller asks for a stale one.

use super::common::{Attributes, Caller, DatanodeAddress, Extent, InodeKind, Location};
use super::lock::{ListLocks, LockListing, LockTest, TestLock};

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Freshness {
    /// Reflects every mutation acknowledged before the call.
    Linearizable = 0,
    /// Whatever this member has applied.
    Stale = 1,
}

/// One read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QueryRequest {
    /// Who asks.
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
    /// How fresh.
    #[prost(enumeration = "Freshness", tag = "2")]
    pub freshness: i32,
    /// The asker's session, 0 if it has none: see [`QueryReply::changed_index`].
    #[prost(uint64, tag = "3")]
    pub session: u64,
    /// What.
    #[prost(oneof = "QueryKind", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18")]
    pub kind: Option<QueryKind>,
}

/// The reads.
#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(missing_docs, reason = "each variant is the message of the same name")]
pub enum QueryKind {
    #[prost(message, tag = "10")]
    Stat(Stat),
    #[prost(message, tag = "11")]
    List(List),
    #[prost(message, tag = "12")]
    Extents(Extents),
    #[prost(message, tag = "13")]
    GetXattr(GetXattr),
    #[prost(message, tag = "14")]
    ListXattrs(ListXattrs),
    #[prost(message, tag = "15")]
    Statfs(Statfs),
    #[prost(message, tag = "16")]
    Access(Access),
    #[prost(message, tag = "17")]
    TestLock(TestLock),
    #[prost(message, tag = "18")]
    ListLocks(ListLocks),
}

/// The answer to a read, of the same kind (Stat and Access answer `attributes`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct QueryReply {
    /// Index of the last log entry that the answer reflects.
    #[prost(uint64, tag = "1")]
    pub applied_index: u64,
    /// The last entry with a change by any other session than the asker's that the answer can reflect. Who knows the
    /// changes up to here knows nothing older than this answer.
    #[prost(uint64, tag = "2")]
    pub changed_index: u64,
    /// The last entry that changed who the namenodes are: a client that knows an older one asks for `ClusterInfo`.
    #[prost(uint64, tag = "3")]
    pub members_index: u64,
    /// What.
    #[prost(oneof = "QueryResult", tags = "10, 11, 12, 13, 14, 15, 16, 17")]
    pub result: Option<QueryResult>,
}

/// The shapes of answers.
#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(missing_docs, reason = "each variant is the message of the same name")]
pub enum QueryResult {
    #[prost(message, tag = "10")]
    Attributes(Attributes),
    #[prost(message, tag = "11")]
    Listing(Listing),
    #[prost(message, tag = "12")]
    LocatedExtents(LocatedExtents),
    #[prost(message, tag = "13")]
    Value(XattrValue),
    #[prost(message, tag = "14")]
    Names(XattrNames),
    #[prost(message, tag = "15")]
    Space(FilesystemSpace),
    #[prost(message, tag = "16")]
    LockTest(LockTest),
    #[prost(message, tag = "17")]
    LockListing(LockListing),
}

/// Attributes of one inode.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stat {
    /// Which.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// Follow a symlink at the end.
    #[prost(bool, tag = "2")]
    pub follow: bool,
}

/// Checks that the caller may read (4), write (2) and search or execute (1); fails with `PermissionDenied`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Access {
    /// Which; symlinks are followed.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// Bits as in access(2).
    #[prost(uint32, tag = "2")]
    pub mask: u32,
}

/// One page of a directory in order of names (bytes). `.` and `..` are not listed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct List {
    /// Which directory; symlinks are followed. A file lists as itself with an empty name.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// Names after this one; empty for the first page.
    #[prost(bytes = "vec", tag = "2")]
    pub start_after: Vec<u8>,
    /// At most this many entries; 0 means 1,000, the largest is 10,000.
    #[prost(uint32, tag = "3")]
    pub limit: u32,
    /// Whether entries carry attributes.
    #[prost(bool, tag = "4")]
    pub attributes: bool,
}

/// One entry of a listing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListingEntry {
    /// Name in its directory.
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    /// Inode id.
    #[prost(uint64, tag = "2")]
    pub inode: u64,
    /// Kind.
    #[prost(enumeration = "InodeKind", tag = "3")]
    pub kind: i32,
    /// Attributes, if asked for.
    #[prost(message, optional, tag = "4")]
    pub attributes: Option<Attributes>,
}

/// One page of a directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Listing {
    /// Entries in order of names.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<ListingEntry>,
    /// Whether there are more after the last.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// Where a file's bytes are, with tokens to read them. Needs read permission.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Extents {
    /// Which file; symlinks are followed.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// First byte.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Bytes; cut at the file's end.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// At most this many extents; 0 means 256, the largest is 4,096.
    #[prost(uint32, tag = "4")]
    pub limit: u32,
    /// Leave locations and tokens out (checksums, `stat`-like uses).
    #[prost(bool, tag = "5")]
    pub without_locations: bool,
}

/// An extent with a token to read it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LocatedExtent {
    /// Which bytes.
    #[prost(message, required, tag = "1")]
    pub extent: Extent,
    /// Read token for exactly this range.
    #[prost(bytes = "vec", tag = "2")]
    pub token: Vec<u8>,
    /// Index into `chunks` of the reply.
    #[prost(uint32, tag = "3")]
    pub chunk_index: u32,
}

/// Where a chunk's replicas are.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChunkLocation {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Ids of datanodes, believed good ones first.
    #[prost(uint64, repeated, tag = "2")]
    pub datanodes: Vec<u64>,
    /// Whether it is sealed.
    #[prost(bool, tag = "3")]
    pub sealed: bool,
    /// Current epoch.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
}

/// Extents of a range; gaps are holes that read as zeros.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LocatedExtents {
    /// The file.
    #[prost(message, required, tag = "1")]
    pub attributes: Attributes,
    /// In order of their offset in the file.
    #[prost(message, repeated, tag = "2")]
    pub extents: Vec<LocatedExtent>,
    /// Chunks of these extents.
    #[prost(message, repeated, tag = "3")]
    pub chunks: Vec<ChunkLocation>,
    /// Datanodes of these chunks.
    #[prost(message, repeated, tag = "4")]
    pub datanodes: Vec<DatanodeAddress>,
    /// Whether the range has more extents after the last.
    #[prost(bool, tag = "5")]
    pub more: bool,
    /// The tokens expire at this cluster time.
    #[prost(uint64, tag = "6")]
    pub expires_at_ms: u64,
}

/// One extended attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetXattr {
    /// Which inode.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// Follow a symlink at the end.
    #[prost(bool, tag = "2")]
    pub follow: bool,
    /// Name with its namespace.
    #[prost(bytes = "vec", tag = "3")]
    pub name: Vec<u8>,
}

/// Value of an extended attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct XattrValue {
    /// Bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub value: Vec<u8>,
}

/// Names of extended attributes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListXattrs {
    /// Which inode.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// Follow a symlink at the end.
    #[prost(bool, tag = "2")]
    pub follow: bool,
}

/// Names with their namespaces, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct XattrNames {
    /// Names.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub names: Vec<Vec<u8>>,
}

/// Space and counts of the file system.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Statfs {}

/// Answer to `Statfs`: bytes are raw, over all datanodes, replicas included.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FilesystemSpace {
    /// Capacity of all volumes.
    #[prost(uint64, tag = "1")]
    pub capacity_bytes: u64,
    /// Used by replicas.
    #[prost(uint64, tag = "2")]
    pub used_bytes: u64,
    /// Still available, reserves taken off.
    #[prost(uint64, tag = "3")]
    pub available_bytes: u64,
    /// Inodes in use.
    #[prost(uint64, tag = "4")]
    pub inode_count: u64,
    /// Default replication (available ÷ this is what a user can still store).
    #[prost(uint32, tag = "5")]
    pub replication: u32,
    /// Chunks in use.
    #[prost(uint64, tag = "6")]
    pub chunk_count: u64,
}
