//! What several services share.

/// Who asks, as asserted by the client and believed as the cluster's authentication setting says.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct Caller {
    /// User id; 0 is the superuser.
    #[prost(uint32, tag = "1")]
    pub uid: u32,
    /// Primary group id.
    #[prost(uint32, tag = "2")]
    pub gid: u32,
    /// Supplementary group ids, at most 1,024.
    #[prost(uint32, repeated, tag = "3")]
    pub groups: Vec<u32>,
    /// Bits that what it makes does not get, unless the directory has a default access control list. For those who know only
    /// then; others have taken them out of the mode.
    #[prost(uint32, tag = "4")]
    pub umask: u32,
    /// A token that proves it, where the connection does not: a gateway passes on its users' tokens. Namenodes put what the
    /// token says in place of the rest and keep it nowhere.
    #[prost(bytes = "vec", tag = "5")]
    pub token: Vec<u8>,
    /// Its session: whose delegations are its own. Namenodes put it in, and believe no other.
    #[prost(uint64, tag = "6")]
    pub session: u64,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller")
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("groups", &self.groups)
            .field("umask", &self.umask)
            .finish_non_exhaustive()
    }
}

/// A place in the namespace: a path walked from an inode. An empty path is the inode itself; a leading `/` starts at
/// the root. `.` and empty components are skipped, `..` is refused (the client resolves it before it asks).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Location {
    /// Where the walk starts; 0 means the root.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// At most 4,096 bytes; components at most 255.
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
}

impl Location {
    /// A path from the root.
    pub fn path(path: impl Into<Vec<u8>>) -> Self {
        Self {
            inode: 0,
            path: path.into(),
        }
    }

    /// An inode itself.
    pub fn inode(inode: crate::ids::InodeId) -> Self {
        Self {
            inode: inode.0,
            path: Vec::new(),
        }
    }

    /// A name in a directory.
    pub fn entry(parent: crate::ids::InodeId, name: impl Into<Vec<u8>>) -> Self {
        Self {
            inode: parent.0,
            path: name.into(),
        }
    }
}

/// What an inode is. Numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum InodeKind {
    /// Never stored.
    Unspecified = 0,
    /// Regular file.
    File = 1,
    /// Directory.
    Directory = 2,
    /// Symbolic link.
    Symlink = 3,
    /// Named pipe (its data never leaves the host).
    Fifo = 4,
    /// Unix socket name.
    Socket = 5,
    /// Character device.
    CharDevice = 6,
    /// Block device.
    BlockDevice = 7,
}

/// What `stat` tells.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Attributes {
    /// Inode id.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// Kind of inode.
    #[prost(enumeration = "InodeKind", tag = "2")]
    pub kind: i32,
    /// Permission bits and setuid, setgid, sticky: 0 to 0o7777.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "4")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "5")]
    pub gid: u32,
    /// Names of this inode (for directories 2 + subdirectories).
    #[prost(uint32, tag = "6")]
    pub nlink: u32,
    /// Bytes of a file, target length of a symlink, entries of a directory.
    #[prost(uint64, tag = "7")]
    pub size: u64,
    /// Last read.
    #[prost(uint64, tag = "8")]
    pub atime_ns: u64,
    /// Last change of content.
    #[prost(uint64, tag = "9")]
    pub mtime_ns: u64,
    /// Last change of content or attributes.
    #[prost(uint64, tag = "10")]
    pub ctime_ns: u64,
    /// Device number of device nodes.
    #[prost(uint64, tag = "11")]
    pub rdev: u64,
    /// Replicas asked for; 0 for inodes without data.
    #[prost(uint32, tag = "12")]
    pub replication: u32,
    /// Number of the last change to this inode: grows with each.
    #[prost(uint64, tag = "13")]
    pub version: u64,
    /// Bytes that extents cover (a sparse file has fewer than `size`).
    #[prost(uint64, tag = "14")]
    pub allocated: u64,
    /// Target of a symlink.
    #[prost(bytes = "vec", tag = "15")]
    pub symlink_target: Vec<u8>,
    /// Parent of a directory (0 for the root and for other kinds).
    #[prost(uint64, tag = "16")]
    pub parent: u64,
    /// Time of creation.
    #[prost(uint64, tag = "17")]
    pub btime_ns: u64,
    /// It has an access control list, or a default one.
    #[prost(bool, tag = "18")]
    pub has_acl: bool,
}

/// Which file bytes are which chunk bytes.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Extent {
    /// First byte in the file.
    #[prost(uint64, tag = "1")]
    pub offset_in_file: u64,
    /// Chunk id.
    #[prost(uint64, tag = "2")]
    pub chunk: u64,
    /// First byte in the chunk.
    #[prost(uint64, tag = "3")]
    pub offset_in_chunk: u64,
    /// Bytes, at least 1.
    #[prost(uint64, tag = "4")]
    pub length: u64,
    /// CRC32C of exactly these bytes; meaningful only with `crc_known`.
    #[prost(fixed32, tag = "5")]
    pub crc32c: u32,
    /// False where an overwrite, punch or partial clone cut the extent, so that the CRC of the rest is unknown to the namenode.
    #[prost(bool, tag = "6")]
    pub crc_known: bool,
}

/// Where a datanode is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DatanodeAddress {
    /// Datanode id.
    #[prost(uint64, tag = "1")]
    pub datanode: u64,
    /// `host:port` of its data port.
    #[prost(string, tag = "2")]
    pub address: String,
    /// Name of its machine: a client on the same one prefers it.
    #[prost(string, tag = "3")]
    pub host: String,
    /// Failure domain, like `/rack1`.
    #[prost(string, tag = "4")]
    pub rack: String,
    /// Unix socket for short-circuit reads; empty if none.
    #[prost(string, tag = "5")]
    pub local_socket: String,
    /// `host:port` of its HTTP gateway; empty if none.
    #[prost(string, tag = "6")]
    pub http_address: String,
}

/// One replica as the committed state has it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReplicaTarget {
    /// Where it is.
    #[prost(message, required, tag = "1")]
    pub datanode: DatanodeAddress,
    /// Which life of the replica.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
}

/// A failure inside a reply that is not itself a failure.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FailureInfo {
    /// Number of an [`crate::ErrorCode`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// Its nouns.
    #[prost(string, tag = "2")]
    pub message: String,
}

impl From<crate::Failure> for FailureInfo {
    fn from(failure: crate::Failure) -> Self {
        Self {
            code: failure.code as u32,
            message: failure.message,
        }
    }
}

impl From<FailureInfo> for crate::Failure {
    fn from(info: FailureInfo) -> Self {
        match crate::ErrorCode::from_number(info.code) {
            Some(code) => crate::Failure::new(code, info.message),
            None => crate::Failure::new(
                crate::ErrorCode::Malformed,
                format!("unknown error code {}: {}", info.code, info.message),
            ),
        }
    }
}

/// Settings of the whole cluster, replicated; the founding namenode's configuration gives the first ones.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ClusterSettings {
    /// Largest chunk, 1 MiB to 128 MiB.
    #[prost(uint64, tag = "1")]
    pub chunk_size: u64,
    /// Default replication, 1 to 16.
    #[prost(uint32, tag = "2")]
    pub replication: u32,
    /// Whether close makes data durable on disks.
    #[prost(bool, tag = "3")]
    pub sync_on_close: bool,
    /// Life of a session without keep-alive.
    #[prost(uint64, tag = "4")]
    pub session_ttl_ms: u64,
    /// How long an unlinked file and a dead chunk stay for those who still read them.
    #[prost(uint64, tag = "5")]
    pub reclaim_grace_ms: u64,
    /// Without a heartbeat for this long a datanode is dead and its chunks are re-replicated.
    #[prost(uint64, tag = "6")]
    pub datanode_dead_after_ms: u64,
    /// How often datanodes fsync open chunks.
    #[prost(uint64, tag = "7")]
    pub datanode_sync_interval_ms: u64,
}
