//! The registry of key kinds, and the codec that all of them share.
//!
//! ```text
//! key = kind: u8, fields: big-endian integers of fixed width, at most one run of bytes (a name) at the end
//! ```
//! Keys of one kind lie together and in the order of their fields. Numbers of kinds are an on-disk format.

use prost::Message;

use super::error::StoreError;
use super::read::Read;

/// One table each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyKind {
    /// Mark and version of the format.
    Format = 0x00,
    /// Index of the last applied entry.
    Applied = 0x01,
    /// Counters, identity, settings.
    Cluster = 0x02,
    /// inode
    Inode = 0x10,
    /// parent inode, name
    Dirent = 0x11,
    /// map, offset in file
    Extent = 0x12,
    /// inode, name
    Xattr = 0x13,
    /// map
    MapOwner = 0x14,
    /// chunk
    Chunk = 0x20,
    /// chunk, offset in chunk, owner, offset in file
    ChunkUse = 0x21,
    /// datanode, chunk
    Replica = 0x22,
    /// chunk
    DeadChunk = 0x23,
    /// replication, chunk
    IdleChunk = 0x24,
    /// session, chunk
    OpenChunk = 0x25,
    /// datanode
    Datanode = 0x30,
    /// uuid
    DatanodeUuid = 0x31,
    /// session
    Session = 0x40,
    /// nonce
    SessionNonce = 0x41,
    /// session, sequence
    Outcome = 0x42,
    /// session, inode
    Claim = 0x43,
    /// inode
    Orphan = 0x50,
    /// inode
    Detached = 0x51,
    /// map
    DeadMap = 0x52,
    /// inode, space, first byte, session, owner
    Lock = 0x60,
    /// session, inode, space, first byte, owner
    SessionLock = 0x61,
    /// id
    UserToken = 0x70,
    /// user, id
    TokenOfUser = 0x71,
}

/// A key under construction.
pub(super) struct Key(Vec<u8>);

impl Key {
    /// The kind alone: below every key of it.
    pub(super) fn new(kind: KeyKind) -> Self {
        let mut bytes = Vec::with_capacity(40);
        bytes.push(kind as u8);
        Self(bytes)
    }

    pub(super) fn u8(mut self, field: u8) -> Self {
        self.0.push(field);
        self
    }

    pub(super) fn u32(mut self, field: u32) -> Self {
        self.0.extend_from_slice(&field.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, field: u64) -> Self {
        self.0.extend_from_slice(&field.to_be_bytes());
        self
    }

    pub(super) fn bytes(mut self, field: &[u8]) -> Self {
        self.0.extend_from_slice(field);
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    /// The first key that does not begin with this one.
    pub(super) fn end(self) -> Vec<u8> {
        let mut bytes = self.0;
        while let Some(last) = bytes.last_mut() {
            if *last < u8::MAX {
                *last += 1;
                return bytes;
            }
            bytes.pop();
        }
        unreachable!("no kind has the number 255")
    }
}

/// Takes a key apart.
pub(super) struct KeyReader<'a> {
    kind: KeyKind,
    rest: &'a [u8],
}

impl<'a> KeyReader<'a> {
    pub(super) fn new(kind: KeyKind, key: &'a [u8]) -> Result<Self, StoreError> {
        match key.split_first() {
            Some((&first, rest)) if first == kind as u8 => Ok(Self { kind, rest }),
            _ => Err(StoreError::corrupt(
                format!("key of {kind:?}"),
                "another kind of key",
            )),
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8, StoreError> {
        self.take::<1>().map(|[field]| field)
    }

    pub(super) fn u32(&mut self) -> Result<u32, StoreError> {
        self.take::<4>().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, StoreError> {
        self.take::<8>().map(u64::from_be_bytes)
    }

    /// Everything that is left.
    pub(super) fn bytes(self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may be left.
    pub(super) fn finish(self) -> Result<(), StoreError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.wrong("too long"))
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let Some((field, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.wrong("too short"));
        };
        self.rest = rest;
        Ok(*field)
    }

    fn wrong(&self, reason: &str) -> StoreError {
        StoreError::corrupt(format!("key of {:?}", self.kind), reason)
    }
}

/// Reads and decodes a record; `object` names it in an error.
pub(super) fn get_record<M: Message + Default>(
    reader: &(impl Read + ?Sized),
    key: &[u8],
    object: impl FnOnce() -> String,
) -> Result<Option<M>, StoreError> {
    match reader.get(key)? {
        None => Ok(None),
        Some(bytes) => decode_record(&bytes, object).map(Some),
    }
}

/// Decodes a value; `object` names it in an error.
pub(super) fn decode_record<M: Message + Default>(
    bytes: &[u8],
    object: impl FnOnce() -> String,
) -> Result<M, StoreError> {
    M::decode(bytes).map_err(|error| StoreError::corrupt(object(), error.to_string()))
}

/// Decodes a value that is one id.
pub(super) fn decode_id(bytes: &[u8], object: impl FnOnce() -> String) -> Result<u64, StoreError> {
    <[u8; 8]>::try_from(bytes)
        .map(u64::from_be_bytes)
        .map_err(|_| StoreError::corrupt(object(), "not 8 bytes"))
}
