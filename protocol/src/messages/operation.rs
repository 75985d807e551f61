//! Mutations of a client: the same messages travel in `Mutate` and in the Raft log. Outcomes beside them.

use super::common::{Attributes, Caller, InodeKind, Location, ReplicaTarget};
use super::lock::{LockOutcome, SetLock};

/// A directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mkdir {
    /// Where; the last component is the new name.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// Permission bits, umask already applied by the client.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Make missing parents, and accept an existing directory (`mkdir -p`).
    #[prost(bool, tag = "3")]
    pub parents: bool,
}

/// A piece of a commit: bytes that all replicas of an open chunk have acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct CommitExtent {
    /// First byte in the file (relative to the chosen offset for appends).
    #[prost(uint64, tag = "1")]
    pub offset_in_file: u64,
    /// Chunk id.
    #[prost(uint64, tag = "2")]
    pub chunk: u64,
    /// The session's epoch of that chunk.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// First byte in the chunk; at or above the epoch's start.
    #[prost(uint64, tag = "4")]
    pub offset_in_chunk: u64,
    /// Bytes, at least 1.
    #[prost(uint64, tag = "5")]
    pub length: u64,
    /// CRC32C of exactly these bytes.
    #[prost(fixed32, tag = "6")]
    pub crc32c: u32,
    /// All replicas have acknowledged that the chunk is fsynced through the end of these bytes. Believed of what the session
    /// itself wrote.
    #[prost(bool, tag = "7")]
    pub synced: bool,
}

/// A file, fifo, socket or device node; with extents, a whole small file in one entry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Create {
    /// Where; for `orphan` the directory whose policy and permissions count.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// Kind; directories and symlinks have their own operations.
    #[prost(enumeration = "InodeKind", tag = "2")]
    pub kind: i32,
    /// Permission bits, umask already applied.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// Device number of device nodes.
    #[prost(uint64, tag = "4")]
    pub rdev: u64,
    /// What an existing name means.
    #[prost(enumeration = "IfExists", tag = "5")]
    pub if_exists: i32,
    /// Replicas; 0 inherits from the directory.
    #[prost(uint32, tag = "6")]
    pub replication: u32,
    /// Content committed with the creation; the size is the end of the last extent.
    #[prost(message, repeated, tag = "7")]
    pub extents: Vec<CommitExtent>,
    /// Make an unnamed file that this session holds (O_TMPFILE): `Link` names it.
    #[prost(bool, tag = "8")]
    pub orphan: bool,
    /// Make missing parent directories with mode 0o777 less this umask (HDFS create).
    #[prost(bool, tag = "9")]
    pub parents: bool,
    /// Explicit times; 0 means now.
    #[prost(uint64, tag = "10")]
    pub mtime_ns: u64,
    /// Explicit access time; 0 means now.
    #[prost(uint64, tag = "11")]
    pub atime_ns: u64,
    /// File size if larger than the extents reach (a hole at the end); 0 means the extents' end.
    #[prost(uint64, tag = "12")]
    pub size: u64,
}

/// What `Create` and `Link` do with an existing name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum IfExists {
    /// `AlreadyExists` (O_EXCL).
    Fail = 0,
    /// Open the existing file unchanged (O_CREAT).
    Open = 1,
    /// Empty the existing file and give it the new content (O_TRUNC); same inode.
    Truncate = 2,
    /// Unlink the existing file and put the new inode in its place.
    Replace = 3,
}

/// A symbolic link.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Symlink {
    /// Where.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// Target, 1 to 4,095 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub target: Vec<u8>,
}

/// Another name for an inode (not a directory), or the first name of an orphan.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Link {
    /// The inode; a symlink is not followed.
    #[prost(message, required, tag = "1")]
    pub source: Location,
    /// The new name.
    #[prost(message, required, tag = "2")]
    pub location: Location,
    /// `Fail` or `Replace`.
    #[prost(enumeration = "IfExists", tag = "3")]
    pub if_exists: i32,
}

/// How a rename treats its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum RenameMode {
    /// rename(2).
    Replace = 0,
    /// RENAME_NOREPLACE.
    NoReplace = 1,
    /// RENAME_EXCHANGE.
    Exchange = 2,
}

/// Moves a name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rename {
    /// The old name.
    #[prost(message, required, tag = "1")]
    pub source: Location,
    /// The new name (exact; never "into").
    #[prost(message, required, tag = "2")]
    pub target: Location,
    /// How an existing target is treated.
    #[prost(enumeration = "RenameMode", tag = "3")]
    pub mode: i32,
}

/// Removes a name of anything but a directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Unlink {
    /// The name.
    #[prost(message, required, tag = "1")]
    pub location: Location,
}

/// Removes an empty directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rmdir {
    /// The name.
    #[prost(message, required, tag = "1")]
    pub location: Location,
}

/// Removes a name and, for a directory, all below it, in one step; space follows in the background.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RemoveTree {
    /// The name.
    #[prost(message, required, tag = "1")]
    pub location: Location,
}

/// Changes attributes; absent fields stay.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetAttributes {
    /// Which inode.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// Follow a symlink at the end.
    #[prost(bool, tag = "2")]
    pub follow: bool,
    /// New mode, 0 to 0o7777.
    #[prost(uint32, optional, tag = "3")]
    pub mode: Option<u32>,
    /// New owner.
    #[prost(uint32, optional, tag = "4")]
    pub uid: Option<u32>,
    /// New group.
    #[prost(uint32, optional, tag = "5")]
    pub gid: Option<u32>,
    /// New access time.
    #[prost(uint64, optional, tag = "6")]
    pub atime_ns: Option<u64>,
    /// New modification time.
    #[prost(uint64, optional, tag = "7")]
    pub mtime_ns: Option<u64>,
    /// Set access time to the entry's stamp.
    #[prost(bool, tag = "8")]
    pub atime_now: bool,
    /// Set modification time to the entry's stamp.
    #[prost(bool, tag = "9")]
    pub mtime_now: bool,
    /// New replication: of a file's chunks, or of new files in a directory.
    #[prost(uint32, optional, tag = "10")]
    pub replication: Option<u32>,
}

/// Cuts or extends a file. Longer than one entry may touch: `done` is false and the same call goes on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Truncate {
    /// Which file (symlinks are followed).
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// New size.
    #[prost(uint64, tag = "2")]
    pub size: u64,
}

/// Makes a range read as zeros without data.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PunchHole {
    /// Which file.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// First byte.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Bytes.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// Whether the file may grow to `offset + length`.
    #[prost(bool, tag = "4")]
    pub extend: bool,
}

/// How `SetXattr` treats an existing or missing name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum XattrMode {
    /// Create or replace.
    Set = 0,
    /// XATTR_CREATE.
    Create = 1,
    /// XATTR_REPLACE.
    Replace = 2,
}

/// Sets an extended attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetXattr {
    /// Which inode.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// Follow a symlink at the end.
    #[prost(bool, tag = "2")]
    pub follow: bool,
    /// Name with its namespace (`user.`, `trusted.`, `security.`, `system.posix_acl_*`), at most 255 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub name: Vec<u8>,
    /// At most 64 KiB.
    #[prost(bytes = "vec", tag = "4")]
    pub value: Vec<u8>,
    /// How.
    #[prost(enumeration = "XattrMode", tag = "5")]
    pub mode: i32,
}

/// Removes an extended attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RemoveXattr {
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

/// Where a commit puts its extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CommitPlace {
    /// At the offsets given.
    At = 0,
    /// At the end of the file as the commit finds it (record append, O_APPEND).
    Append = 1,
}

/// Makes acknowledged bytes part of a file: the instant of visibility.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Commit {
    /// Which file.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// At most 1,024 pieces.
    #[prost(message, repeated, tag = "2")]
    pub extents: Vec<CommitExtent>,
    /// Where.
    #[prost(enumeration = "CommitPlace", tag = "3")]
    pub place: i32,
    /// Modification time; 0 means now.
    #[prost(uint64, tag = "4")]
    pub mtime_ns: u64,
    /// Extends the size to at least this (a hole at the end).
    #[prost(uint64, tag = "5")]
    pub size_at_least: u64,
}

/// Asks for a chunk to append to.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocateChunk {
    /// Replicas, 1 to 16; 0 means the cluster's default.
    #[prost(uint32, tag = "1")]
    pub replication: u32,
    /// A fresh chunk for a large stream (true), or any with room (false).
    #[prost(bool, tag = "2")]
    pub whole: bool,
    /// Datanodes that failed this client just now.
    #[prost(uint64, repeated, tag = "3")]
    pub exclude: Vec<u64>,
    /// The client's machine, for a first replica close by.
    #[prost(string, tag = "4")]
    pub host: String,
}

/// Gives a chunk back: nothing is in flight and all replicas acknowledged exactly `length`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReturnChunk {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// The session's epoch of it.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Acknowledged length on every replica.
    #[prost(uint64, tag = "3")]
    pub length: u64,
}

/// Ends a chunk at its committed length.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SealChunk {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// The session's epoch of it.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Datanodes that failed the writer: evidence, not a verdict.
    #[prost(uint64, repeated, tag = "3")]
    pub failed: Vec<u64>,
}

/// Moves the content of the sources, in order, to the end of the target, and removes the sources.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Concat {
    /// Target file.
    #[prost(message, required, tag = "1")]
    pub target: Location,
    /// Source files, at most 1,024.
    #[prost(message, repeated, tag = "2")]
    pub sources: Vec<Location>,
}

/// Shares a range of one file with another: no data moves. More extents than one entry may touch: `done` is false
/// and the caller goes on at `length_done`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CloneRange {
    /// Source file.
    #[prost(message, required, tag = "1")]
    pub source: Location,
    /// First byte in the source.
    #[prost(uint64, tag = "2")]
    pub source_offset: u64,
    /// Bytes; cut at the source's end.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// Target file.
    #[prost(message, required, tag = "4")]
    pub target: Location,
    /// First byte in the target.
    #[prost(uint64, tag = "5")]
    pub target_offset: u64,
}

/// Keeps an unlinked inode while this session has it open.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClaimInode {
    /// Inode id.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
}

/// Gives a claim up; the last one lets an unlinked inode go.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReleaseInode {
    /// Inode id.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
}

/// Ends the session: its open chunks are sealed, its claims released.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CloseSession {}

/// What must hold for a transaction to happen. Absent fields are not checked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Precondition {
    /// Which name.
    #[prost(message, required, tag = "1")]
    pub location: Location,
    /// Whether it must exist or must not.
    #[prost(bool, optional, tag = "2")]
    pub exists: Option<bool>,
    /// Its version.
    #[prost(uint64, optional, tag = "3")]
    pub version: Option<u64>,
    /// Its inode.
    #[prost(uint64, optional, tag = "4")]
    pub inode: Option<u64>,
    /// Its size.
    #[prost(uint64, optional, tag = "5")]
    pub size: Option<u64>,
}

/// Operations that happen in one step or not at all. Later ones see earlier ones. No transaction, session or chunk
/// operation may be inside; operations that would need a further step (`done` false) fail the whole.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Transaction {
    /// At most 1,024.
    #[prost(message, repeated, tag = "1")]
    pub preconditions: Vec<Precondition>,
    /// At most 1,024.
    #[prost(message, repeated, tag = "2")]
    pub operations: Vec<Operation>,
}

/// What a client has done by itself in directories that are delegated to its session, in order: all of it happens in one
/// step, or nothing. A single step is answered as the operation itself would be, several with `Done`. A directory that is made by it is delegated to the session, unless it inherits an access control list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteBehind {
    /// At most 1,024.
    #[prost(message, repeated, tag = "1")]
    pub steps: Vec<Step>,
}

/// One thing that a client has done by itself.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Step {
    /// What; as in a transaction.
    #[prost(message, required, tag = "1")]
    pub operation: Operation,
    /// Number of the inode that it makes: one that the session has reserved, used in rising order. 0 takes the next of the cluster.
    #[prost(uint64, tag = "2")]
    pub inode: u64,
    /// When it was done, ns since 1970: not before the session was opened and not after the entry, else the nearest of these. 0
    /// means now.
    #[prost(fixed64, tag = "3")]
    pub at_ns: u64,
    /// In whose name, if not in that of the request: only the superuser speaks for others.
    #[prost(message, optional, tag = "4")]
    pub caller: Option<Caller>,
}

/// Takes the delegation of directories, which only their owner may, for the session, or gives it back. Names in a delegated directory are seen and
/// changed by that session alone; others wait until it is given back or the session is over.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Delegate {
    /// Directories, at most 1,024: all are delegated, or none.
    #[prost(uint64, repeated, tag = "1")]
    pub take: Vec<u64>,
    /// Directories, at most 1,024. Those that are not delegated to the session, or gone, stay as they are.
    #[prost(uint64, repeated, tag = "2")]
    pub give_back: Vec<u64>,
}

/// Asks for inode numbers that nobody else gets. Those that the session has left are forgotten.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ReserveInodes {
    /// How many, 1 to 65,536.
    #[prost(uint32, tag = "1")]
    pub count: u32,
}

/// Inode numbers of a session. Answers ReserveInodes.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct InodeRange {
    /// The first.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// The one after the last.
    #[prost(uint64, tag = "2")]
    pub end: u64,
}

/// Tells when inodes were read, after the fact and without haste: times of access are not exact. What is gone, may not be read by the
/// caller, or has another time of access by now stays as it is. Neither ctime nor version change.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NoteReads {
    /// At most 1,024.
    #[prost(message, repeated, tag = "1")]
    pub reads: Vec<ReadNote>,
}

/// When one inode was read.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReadNote {
    /// Inode id.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// Its time of access as the reader knew it, ns since 1970.
    #[prost(fixed64, tag = "2")]
    pub before_ns: u64,
    /// The new one: later than that, and not after the entry, else the entry's.
    #[prost(fixed64, tag = "3")]
    pub atime_ns: u64,
}

/// One mutation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Operation {
    /// Which.
    #[prost(
        oneof = "OperationKind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28"
    )]
    pub kind: Option<OperationKind>,
}

/// The operations; numbers are part of the wire and log format.
#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(missing_docs, reason = "each variant is the message of the same name")]
pub enum OperationKind {
    #[prost(message, tag = "1")]
    Mkdir(Mkdir),
    #[prost(message, tag = "2")]
    Create(Create),
    #[prost(message, tag = "3")]
    Symlink(Symlink),
    #[prost(message, tag = "4")]
    Link(Link),
    #[prost(message, tag = "5")]
    Rename(Rename),
    #[prost(message, tag = "6")]
    Unlink(Unlink),
    #[prost(message, tag = "7")]
    Rmdir(Rmdir),
    #[prost(message, tag = "8")]
    RemoveTree(RemoveTree),
    #[prost(message, tag = "9")]
    SetAttributes(SetAttributes),
    #[prost(message, tag = "10")]
    Truncate(Truncate),
    #[prost(message, tag = "11")]
    PunchHole(PunchHole),
    #[prost(message, tag = "12")]
    SetXattr(SetXattr),
    #[prost(message, tag = "13")]
    RemoveXattr(RemoveXattr),
    #[prost(message, tag = "14")]
    Commit(Commit),
    #[prost(message, tag = "15")]
    AllocateChunk(AllocateChunk),
    #[prost(message, tag = "16")]
    ReturnChunk(ReturnChunk),
    #[prost(message, tag = "17")]
    SealChunk(SealChunk),
    #[prost(message, tag = "18")]
    Concat(Concat),
    #[prost(message, tag = "19")]
    CloneRange(CloneRange),
    #[prost(message, tag = "20")]
    ClaimInode(ClaimInode),
    #[prost(message, tag = "21")]
    ReleaseInode(ReleaseInode),
    #[prost(message, tag = "22")]
    CloseSession(CloseSession),
    #[prost(message, tag = "23")]
    Transaction(Transaction),
    #[prost(message, tag = "24")]
    SetLock(SetLock),
    #[prost(message, tag = "25")]
    WriteBehind(WriteBehind),
    #[prost(message, tag = "26")]
    Delegate(Delegate),
    #[prost(message, tag = "27")]
    ReserveInodes(ReserveInodes),
    #[prost(message, tag = "28")]
    NoteReads(NoteReads),
}

impl From<OperationKind> for Operation {
    fn from(kind: OperationKind) -> Self {
        Self { kind: Some(kind) }
    }
}

/// An inode as the operation left it. Answers Mkdir, Create, Symlink, Link, Rename, SetAttributes, Truncate, PunchHole,
/// SetXattr, RemoveXattr, Commit, Concat, CloneRange; for Unlink, Rmdir and RemoveTree the inode that lost its name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InodeOutcome {
    /// Attributes after the operation.
    #[prost(message, required, tag = "1")]
    pub attributes: Attributes,
    /// Commit and Concat: where in the file the first extent went.
    #[prost(uint64, tag = "2")]
    pub offset_in_file: u64,
    /// False if the same call must go on (Truncate, PunchHole, CloneRange, Concat).
    #[prost(bool, tag = "3")]
    pub done: bool,
    /// CloneRange: bytes shared so far by this call.
    #[prost(uint64, tag = "4")]
    pub length_done: u64,
    /// Create with `Open`: false if the file existed.
    #[prost(bool, tag = "5")]
    pub created: bool,
    /// Create and Commit: there if all that they brought is known to be fsynced on every replica. The version before, 0 for a
    /// content that is new as a whole: whoever knows that all bytes of that version are fsynced knows it of this one, too.
    #[prost(uint64, optional, tag = "6")]
    pub synced_since: Option<u64>,
}

/// A chunk to append to. Answers AllocateChunk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChunkGrant {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// The session's epoch of it.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Length of every replica now; the first append goes here.
    #[prost(uint64, tag = "3")]
    pub start: u64,
    /// Largest length.
    #[prost(uint64, tag = "4")]
    pub capacity: u64,
    /// The pipeline, in order.
    #[prost(message, repeated, tag = "5")]
    pub targets: Vec<ReplicaTarget>,
    /// Append token; minted by the leader when it answers, never stored.
    #[prost(bytes = "vec", tag = "6")]
    pub token: Vec<u8>,
}

/// Nothing to tell.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Done {}

/// Outcomes of the operations of a transaction, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransactionOutcome {
    /// One for each operation.
    #[prost(message, repeated, tag = "1")]
    pub outcomes: Vec<OutcomeValue>,
}

/// What an operation answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OutcomeValue {
    /// Which.
    #[prost(oneof = "OutcomeKind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<OutcomeKind>,
}

/// The shapes of outcomes.
#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(missing_docs, reason = "each variant is the message of the same name")]
pub enum OutcomeKind {
    #[prost(message, tag = "1")]
    Inode(InodeOutcome),
    #[prost(message, tag = "2")]
    Chunk(ChunkGrant),
    #[prost(message, tag = "3")]
    Done(Done),
    #[prost(message, tag = "4")]
    Transaction(TransactionOutcome),
    #[prost(message, tag = "5")]
    Lock(LockOutcome),
    #[prost(message, tag = "6")]
    Inodes(InodeRange),
}

impl From<OutcomeKind> for OutcomeValue {
    fn from(kind: OutcomeKind) -> Self {
        Self { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{
        CommitExtent, Delegate, InodeOutcome, InodeRange, NoteReads, Operation, OperationKind,
        OutcomeKind, OutcomeValue, ReadNote, ReserveInodes, Step, Unlink, WriteBehind,
    };
    use crate::ErrorCode;
    use crate::messages::common::{Attributes, Caller};
    use crate::messages::session::SyncReply;

    #[test]
    fn what_is_said_of_synced_bytes_is_golden() {
        let extent = CommitExtent {
            offset_in_file: 1,
            chunk: 2,
            epoch: 3,
            offset_in_chunk: 4,
            length: 5,
            crc32c: 6,
            synced: true,
        };
        let golden = [
            0x08, 1, 0x10, 2, 0x18, 3, 0x20, 4, 0x28, 5, 0x35, 6, 0, 0, 0, 0x38, 1,
        ];
        assert_eq!(extent.encode_to_vec(), golden);
        let outcome = |synced_since| InodeOutcome {
            attributes: Attributes::default(),
            offset_in_file: 1,
            done: true,
            length_done: 2,
            created: true,
            synced_since,
        };
        let golden = [0x0a, 0, 0x10, 1, 0x18, 1, 0x20, 2, 0x28, 1];
        assert_eq!(outcome(None).encode_to_vec(), golden);
        let whole = [&golden[..], &[0x30, 0]].concat();
        assert_eq!(outcome(Some(0)).encode_to_vec(), whole, "0 is not absent");
        let reply = SyncReply { version: 7 };
        assert_eq!(reply.encode_to_vec(), [0x08, 7]);
    }

    #[test]
    fn older_software_says_nothing_of_synced_bytes() {
        let outcome = InodeOutcome::decode(&[0x0a, 0, 0x18, 1][..]).unwrap();
        assert_eq!(outcome.synced_since, None);
        assert!(!CommitExtent::decode(&[0x28, 5][..]).unwrap().synced);
        assert_eq!(SyncReply::decode(&[][..]).unwrap().version, 0);
    }

    fn hex(message: &impl Message) -> String {
        let bytes = message.encode_to_vec();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn field_numbers_of_delegations_are_golden() {
        let step = Step {
            operation: OperationKind::Unlink(Unlink::default()).into(),
            inode: 2,
            ..Step::default()
        };
        let step = Step { at_ns: 3, ..step };
        let behind = WriteBehind {
            steps: vec![step.clone()],
        };
        let delegate = Delegate {
            take: vec![1, 2],
            give_back: vec![3],
        };
        let reserve = ReserveInodes { count: 1 };
        let range = InodeRange { first: 1, end: 2 };
        let caller = Caller {
            session: 1,
            ..Caller::default()
        };
        let cases = [
            (hex(&step), "0a0432020a0010021903000000000000 00"),
            (hex(&delegate), "0a020102 120103"),
            (hex(&reserve), "0801"),
            (hex(&range), "08011002"),
            (hex(&caller), "3001"),
            (
                hex(&Operation::from(OperationKind::WriteBehind(behind))),
                "ca0113 0a11 0a0432020a0010021903000000000000 00",
            ),
            (
                hex(&Operation::from(OperationKind::Delegate(delegate))),
                "d20107 0a020102 120103",
            ),
            (
                hex(&Operation::from(OperationKind::ReserveInodes(reserve))),
                "da0102 0801",
            ),
            (
                hex(&OutcomeValue::from(OutcomeKind::Inodes(range))),
                "3204 08011002",
            ),
        ];
        for (index, (found, expected)) in cases.iter().enumerate() {
            assert_eq!(*found, expected.replace(' ', ""), "case {index}");
        }
        assert_eq!(ErrorCode::from_number(25), Some(ErrorCode::Delegated));
        assert!(ErrorCode::Delegated.is_retryable());
    }

    #[test]
    fn field_numbers_of_reads_are_golden() {
        let read = ReadNote {
            inode: 1,
            before_ns: 2,
            atime_ns: 3,
        };
        let reads = vec![read; 2];
        let note = "0801 110200000000000000 190300000000000000";
        assert_eq!(
            hex(&Operation::from(OperationKind::NoteReads(NoteReads {
                reads
            }))),
            format!("e2012c 0a14{note} 0a14{note}").replace(' ', "")
        );
    }
}
