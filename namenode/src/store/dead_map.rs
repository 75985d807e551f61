//! Table `dead_map`: extent maps that no file uses any more, until the sweep has released them.

use cairn_protocol::ids::MapId;
use prost::Message;

use super::error::StoreError;
use super::key::{self, Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::records::DeadMapRecord;
use super::txn::Txn;

/// `0x52, map: u64`
pub fn encode(map: MapId) -> Vec<u8> {
    Key::new(KeyKind::DeadMap).u64(map.0).finish()
}

/// The id in a key.
pub fn decode(key: &[u8]) -> Result<MapId, StoreError> {
    let mut reader = KeyReader::new(KeyKind::DeadMap, key)?;
    let id = MapId(reader.u64()?);
    reader.finish()?;
    Ok(id)
}

/// Reads one.
pub fn get(reader: &(impl Read + ?Sized), map: MapId) -> Result<Option<DeadMapRecord>, StoreError> {
    key::get_record(reader, &encode(map), || format!("dead map {map}"))
}

/// Writes one.
pub fn put(txn: &mut Txn<'_>, map: MapId, record: &DeadMapRecord) {
    txn.put(encode(map), record.encode_to_vec());
}

/// Removes one.
pub fn delete(txn: &mut Txn<'_>, map: MapId) {
    txn.delete(encode(map));
}

/// Visits those from `start` on, in order of ids, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    start: MapId,
    visit: &mut dyn FnMut(MapId, DeadMapRecord) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(start),
        Key::new(KeyKind::DeadMap),
        &mut |key, value| {
            let id = decode(key)?;
            visit(id, key::decode_record(value, || format!("dead map {id}"))?)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::MapId;

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(MapId(0x0102));
        assert_eq!(key, [0x52, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode(&key).unwrap(), MapId(0x0102));
        assert!(decode(&key[..8]).is_err());
    }
}
