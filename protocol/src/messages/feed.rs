//! The change feed: what the last entries of the log changed, for those who cache what they read.

use bytes::Bytes;

use super::common::{Caller, InodeKind};

/// Asks for changes after an index; the answer waits until there are some, or for `wait_ms`. Any member answers, after it has
/// applied all that was acknowledged before the question; so an answer without changes says that there were none.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChangesRequest {
    /// Who asks. Names in directories that the caller may not read are left out.
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
    /// All changes up to this entry are known; 0 asks where the feed is now, and is answered at once.
    #[prost(uint64, tag = "2")]
    pub after_index: u64,
    /// Changes of this session are left out; 0 for none.
    #[prost(uint64, tag = "3")]
    pub without_session: u64,
    /// Only changes of these inodes, and of what lies in them; at most 1,024. None: all inodes.
    #[prost(uint64, repeated, tag = "4")]
    pub inodes: Vec<u64>,
    /// Only changes of this directory and of all below it; 0 for no such limit.
    #[prost(uint64, tag = "5")]
    pub below: u64,
    /// How long to wait for a change, at most 30,000.
    #[prost(uint32, tag = "6")]
    pub wait_ms: u32,
    /// With paths, for people: see [`Change::path`].
    #[prost(bool, tag = "7")]
    pub paths: bool,
}

/// Changes in the order in which they happened.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChangesReply {
    /// These are all the changes up to this entry; the next question goes on from here.
    #[prost(uint64, tag = "1")]
    pub upto_index: u64,
    /// Changes are missing: whatever was read at or before `upto_index` may be out of date.
    #[prost(bool, tag = "2")]
    pub lost: bool,
    /// One for each mutation that changed something.
    #[prost(message, repeated, tag = "3")]
    pub sets: Vec<ChangeSet>,
}

/// What one mutation changed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChangeSet {
    /// Index of its log entry; several mutations may share one.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// The session that did it; 0 for the cluster itself.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// What changed. What follows from another change of the set is left out.
    #[prost(message, repeated, tag = "3")]
    pub changes: Vec<Change>,
}

/// What happened to an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ChangeKind {
    /// Never sent.
    Unspecified = 0,
    /// Attributes or extended attributes.
    Attributes = 1,
    /// Bytes or size, and with them attributes.
    Content = 2,
    /// A name means it now, whatever it meant before; attributes of the inode and of the directory with it.
    Named = 3,
    /// A name does not mean it any more; attributes of the inode and of the directory with it.
    Unnamed = 4,
    /// It does not exist any more.
    Gone = 5,
}

/// One change of one inode.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Change {
    /// Inode id.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// What it is.
    #[prost(enumeration = "InodeKind", tag = "2")]
    pub inode_kind: i32,
    /// Named, Unnamed: the directory of the name. Else the directory in which it was last given a name, or 0.
    #[prost(uint64, tag = "3")]
    pub parent: u64,
    /// What happened.
    #[prost(enumeration = "ChangeKind", tag = "4")]
    pub kind: i32,
    /// Named, Unnamed: which name; empty if the caller may not read the directory. Then any name in it may be meant.
    #[prost(bytes = "bytes", tag = "5")]
    pub name: Bytes,
    /// If asked for, of the last changes of an answer: Named, Unnamed: the path of the name. Else a path of the inode, of one that is gone
    /// the last. Empty if the caller may not read all directories of it, or finding it takes too long.
    #[prost(bytes = "bytes", tag = "6")]
    pub path: Bytes,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::{Change, ChangeKind, ChangeSet, ChangesReply, ChangesRequest};
    use crate::messages::common::{Caller, InodeKind};

    #[test]
    fn bytes_are_golden() {
        let caller = Caller {
            uid: 1,
            gid: 2,
            groups: vec![],
            umask: 0,
            token: Vec::new(),
            session: 0,
        };
        let request = ChangesRequest {
            caller,
            after_index: 3,
            without_session: 4,
            inodes: vec![5, 6],
            below: 7,
            wait_ms: 8,
            paths: true,
        };
        let golden = [
            0x0A, 4, 8, 1, 16, 2, 0x10, 3, 0x18, 4, 0x22, 2, 5, 6, 0x28, 7, 0x30, 8, 0x38, 1,
        ];
        assert_eq!(request.encode_to_vec(), golden);
        let change = Change {
            inode: 1,
            inode_kind: InodeKind::File as i32,
            parent: 2,
            kind: ChangeKind::Unnamed as i32,
            name: Bytes::from_static(b"a"),
            path: Bytes::from_static(b"/a"),
        };
        let reply = ChangesReply {
            upto_index: 9,
            lost: true,
            sets: vec![ChangeSet {
                index: 3,
                session: 4,
                changes: vec![change],
            }],
        };
        let golden = [
            8, 9, 16, 1, 0x1A, 21, 8, 3, 16, 4, 0x1A, 15, 8, 1, 16, 1, 24, 2, 32, 4, 0x2A, 1, b'a',
            0x32, 2, b'/', b'a',
        ];
        assert_eq!(reply.encode_to_vec(), golden);
    }
}
