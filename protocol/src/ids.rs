//! Every id is a newtype, so that two bare integers never sit side by side.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u64> for $name {
            fn from(raw: u64) -> Self {
                Self(raw)
            }
        }

        impl From<$name> for u64 {
            fn from(id: $name) -> u64 {
                id.0
            }
        }
    };
}

id!(
    /// A file, directory or other node of the namespace. Never reused; 1 is the root, 0 means "none".
    InodeId
);
id!(
    /// The extents of one file content. Truncate-to-zero and delete swap the map instead of editing it.
    MapId
);
id!(
    /// An append-only container of up to 128 MiB. Never reused.
    ChunkId
);
id!(
    /// The fencing number of a chunk's writer; the first writer has 1.
    Epoch
);
id!(
    /// A datanode for life, given at its first registration.
    DatanodeId
);
id!(
    /// One life of one replica on one datanode: a re-created replica has another incarnation.
    Incarnation
);
id!(
    /// A member of the Raft group: random, made when its directory is formatted, so that an empty directory never votes under an old id.
    NamenodeId
);
id!(
    /// A client's registered life.
    SessionId
);
id!(
    /// Position of a mutation within its session; the first is 1.
    Sequence
);

impl InodeId {
    /// The root directory.
    pub const ROOT: Self = Self(1);
}

/// Chunks and other wide ids print as 16 hex digits in file names and logs.
impl ChunkId {
    /// The name under which datanodes keep the chunk, e.g. `00000000000004d2`.
    pub fn hex(self) -> String {
        format!("{:016x}", self.0)
    }
}
