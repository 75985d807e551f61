//! Table `datanode_uuid`: the id that a datanode got at its first registration, by its uuid.

use cairn_protocol::ids::DatanodeId;

use super::error::StoreError;
use super::key::{self, Key, KeyKind};
use super::read::Read;
use super::txn::Txn;

/// `0x31, uuid: bytes`
pub fn encode(uuid: &[u8]) -> Vec<u8> {
    Key::new(KeyKind::DatanodeUuid).bytes(uuid).finish()
}

/// Whose it is.
pub fn get(reader: &(impl Read + ?Sized), uuid: &[u8]) -> Result<Option<DatanodeId>, StoreError> {
    let value = reader.get(&encode(uuid))?;
    value
        .map(|bytes| key::decode_id(&bytes, || "datanode of a uuid".into()).map(DatanodeId))
        .transpose()
}

/// Notes whose it is.
pub fn put(txn: &mut Txn<'_>, uuid: &[u8], id: DatanodeId) {
    txn.put(encode(uuid), id.0.to_be_bytes().to_vec());
}

/// Forgets it.
pub fn delete(txn: &mut Txn<'_>, uuid: &[u8]) {
    txn.delete(encode(uuid));
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn the_key_is_as_documented() {
        assert_eq!(encode(b"ab"), [0x31, b'a', b'b']);
    }
}
