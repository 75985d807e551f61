//! Table `datanode`: every datanode that ever registered and was not forgotten.

use cairn_protocol::ids::DatanodeId;
use prost::Message;

use super::error::StoreError;
use super::key::{self, Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::records::DatanodeRecord;
use super::txn::Txn;

/// `0x30, datanode: u64`
pub fn encode(datanode: DatanodeId) -> Vec<u8> {
    Key::new(KeyKind::Datanode).u64(datanode.0).finish()
}

/// The id in a key.
pub fn decode(key: &[u8]) -> Result<DatanodeId, StoreError> {
    let mut reader = KeyReader::new(KeyKind::Datanode, key)?;
    let id = DatanodeId(reader.u64()?);
    reader.finish()?;
    Ok(id)
}

/// Reads one.
pub fn get(
    reader: &(impl Read + ?Sized),
    datanode: DatanodeId,
) -> Result<Option<DatanodeRecord>, StoreError> {
    key::get_record(reader, &encode(datanode), || format!("datanode {datanode}"))
}

/// Writes one.
pub fn put(txn: &mut Txn<'_>, datanode: DatanodeId, record: &DatanodeRecord) {
    txn.put(encode(datanode), record.encode_to_vec());
}

/// Removes one.
pub fn delete(txn: &mut Txn<'_>, datanode: DatanodeId) {
    txn.delete(encode(datanode));
}

/// Visits those from `start` on, in order of ids, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    start: DatanodeId,
    visit: &mut dyn FnMut(DatanodeId, DatanodeRecord) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(start),
        Key::new(KeyKind::Datanode),
        &mut |key, value| {
            let id = decode(key)?;
            visit(id, key::decode_record(value, || format!("datanode {id}"))?)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::DatanodeId;

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(DatanodeId(0x0102));
        assert_eq!(key, [0x30, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode(&key).unwrap(), DatanodeId(0x0102));
        assert!(decode(&key[..8]).is_err());
    }
}
