//! Table `inode`: attributes and, for small files, the extents of every inode.

use bytes::Bytes;
use cairn_protocol::ids::InodeId;
use prost::Message;

use super::change::{Change, What};
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

/// Writes one, and notes that its attributes changed.
pub fn put(txn: &mut Txn<'_>, inode: InodeId, record: &InodeRecord) {
    note_attributes(txn, inode, record);
    put_unnoticed(txn, inode, record);
}

/// Writes one of which nobody who asks for attributes or bytes can tell the difference: its bytes are elsewhere.
pub fn put_unnoticed(txn: &mut Txn<'_>, inode: InodeId, record: &InodeRecord) {
    txn.put(encode(inode), record.encode_to_vec());
}

/// Notes that attributes changed.
pub fn note_attributes(txn: &mut Txn<'_>, inode: InodeId, record: &InodeRecord) {
    txn.note(change(inode, record, What::Attributes));
}

/// Notes that the bytes or the size of a file changed.
pub fn note_content(txn: &mut Txn<'_>, inode: InodeId, record: &InodeRecord) {
    txn.note(change(inode, record, What::Content));
}

/// Removes one, and notes it. `record` is what it was.
pub fn delete(txn: &mut Txn<'_>, inode: InodeId, record: &InodeRecord) {
    txn.note(change(inode, record, What::Gone));
    txn.delete(encode(inode));
}

fn change(inode: InodeId, record: &InodeRecord, what: What) -> Change {
    Change {
        inode,
        kind: record.kind,
        parent: InodeId(record.parent),
        what,
        name: Bytes::new(),
    }
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
