//! Table `dirent`: the names in directories.

use cairn_protocol::ids::InodeId;
use prost::Message;

use super::error::StoreError;
use super::key::{self, Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::records::DirentRecord;
use super::txn::Txn;

/// `0x11, parent: u64, name: bytes`
pub fn encode(parent: InodeId, name: &[u8]) -> Vec<u8> {
    prefix(parent).bytes(name).finish()
}

fn prefix(parent: InodeId) -> Key {
    Key::new(KeyKind::Dirent).u64(parent.0)
}

/// Parent and name in a key.
pub fn decode(key: &[u8]) -> Result<(InodeId, &[u8]), StoreError> {
    let mut reader = KeyReader::new(KeyKind::Dirent, key)?;
    let parent = InodeId(reader.u64()?);
    Ok((parent, reader.bytes()))
}

/// Decodes a value.
pub fn decode_value(
    parent: InodeId,
    name: &[u8],
    value: &[u8],
) -> Result<DirentRecord, StoreError> {
    key::decode_record(value, || object(parent, name))
}

/// Reads one.
pub fn get(
    reader: &(impl Read + ?Sized),
    parent: InodeId,
    name: &[u8],
) -> Result<Option<DirentRecord>, StoreError> {
    key::get_record(reader, &encode(parent, name), || object(parent, name))
}

/// Writes one.
pub fn put(txn: &mut Txn<'_>, parent: InodeId, name: &[u8], record: &DirentRecord) {
    txn.put(encode(parent, name), record.encode_to_vec());
}

/// Removes one.
pub fn delete(txn: &mut Txn<'_>, parent: InodeId, name: &[u8]) {
    txn.delete(encode(parent, name));
}

/// Is called with each name until it returns false.
pub type VisitName<'v> = dyn FnMut(&[u8], DirentRecord) -> Result<bool, StoreError> + 'v;

/// Visits the names after `after` (empty: all), in order of their bytes, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    parent: InodeId,
    after: &[u8],
    visit: &mut VisitName<'_>,
) -> Result<(), StoreError> {
    let mut start = encode(parent, after);
    if !after.is_empty() {
        // The least key above `after` itself; names hold no NUL.
        start.push(0);
    }
    scan_prefix(reader, start, prefix(parent), &mut |key, value| {
        let (_, name) = decode(key)?;
        visit(name, decode_value(parent, name, value)?)
    })
}

fn object(parent: InodeId, name: &[u8]) -> String {
    format!(
        "entry {:?} of directory {parent}",
        String::from_utf8_lossy(name)
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::InodeId;

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(InodeId(0x0102), b"ab");
        assert_eq!(key, [0x11, 0, 0, 0, 0, 0, 0, 1, 2, b'a', b'b']);
        assert_eq!(decode(&key).unwrap(), (InodeId(0x0102), b"ab".as_slice()));
        assert!(decode(&key[..8]).is_err());
    }
}
