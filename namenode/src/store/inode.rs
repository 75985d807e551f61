//! Table `inode`: attributes and, for small files, the extents of every inode.

use cairn_protocol::ids::InodeId;
use prost::Message;

use super::error::StoreError;
use super::key::{self, Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::records::InodeRecord;
use super::txn::Txn;

/// `0x10, inode: u64`
pub fn encode(inode: InodeId) -> Vec<u8> {
    Key::new(KeyKind::Inode).u64(inode.0).finish()
}

/// The id in a key.
pub fn decode(key: &[u8]) -> Result<InodeId, StoreError> {
    let mut reader = KeyReader::new(KeyKind::Inode, key)?;
    let id = InodeId(reader.u64()?);
    reader.finish()?;
    Ok(id)
}

/// Decodes a value.
pub fn decode_value(inode: InodeId, value: &[u8]) -> Result<InodeRecord, StoreError> {
    key::decode_record(value, || format!("inode {inode}"))
}

/// Reads one.
pub fn get(
    reader: &(impl Read + ?Sized),
    inode: InodeId,
) -> Result<Option<InodeRecord>, StoreError> {
    key::get_record(reader, &encode(inode), || format!("inode {inode}"))
}

/// Writes one.
pub fn put(txn: &mut Txn<'_>, inode: InodeId, record: &InodeRecord) {
    txn.put(encode(inode), record.encode_to_vec());
}

/// Removes one.
pub fn delete(txn: &mut Txn<'_>, inode: InodeId) {
    txn.delete(encode(inode));
}

/// Visits those from `start` on, in order of ids, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    start: InodeId,
    visit: &mut dyn FnMut(InodeId, InodeRecord) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(start),
        Key::new(KeyKind::Inode),
        &mut |key, value| {
            let id = decode(key)?;
            visit(id, decode_value(id, value)?)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::InodeId;

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(InodeId(0x0102));
        assert_eq!(key, [0x10, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode(&key).unwrap(), InodeId(0x0102));
        assert!(decode(&key[..8]).is_err());
    }
}
