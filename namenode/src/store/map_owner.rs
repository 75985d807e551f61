//! Table `map_owner`: which inode an extent map belongs to.

use cairn_protocol::ids::MapId;
use prost::Message;

use super::error::StoreError;
use super::key::{self, Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::records::MapOwnerRecord;
use super::txn::Txn;

/// `0x14, map: u64`
pub fn encode(map: MapId) -> Vec<u8> {
    Key::new(KeyKind::MapOwner).u64(map.0).finish()
}

/// The id in a key.
pub fn decode(key: &[u8]) -> Result<MapId, StoreError> {
    let mut reader = KeyReader::new(KeyKind::MapOwner, key)?;
    let id = MapId(reader.u64()?);
    reader.finish()?;
    Ok(id)
}

/// Reads one.
pub fn get(
    reader: &(impl Read + ?Sized),
    map: MapId,
) -> Result<Option<MapOwnerRecord>, StoreError> {
    key::get_record(reader, &encode(map), || format!("owner of map {map}"))
}

/// Writes one.
pub fn put(txn: &mut Txn<'_>, map: MapId, record: &MapOwnerRecord) {
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
    visit: &mut dyn FnMut(MapId, MapOwnerRecord) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(start),
        Key::new(KeyKind::MapOwner),
        &mut |key, value| {
            let id = decode(key)?;
            visit(
                id,
                key::decode_record(value, || format!("owner of map {id}"))?,
            )
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
        assert_eq!(key, [0x14, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode(&key).unwrap(), MapId(0x0102));
        assert!(decode(&key[..8]).is_err());
    }
}
