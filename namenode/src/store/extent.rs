//! Table `extent`: the extents of files that have too many to keep them in the inode, by map.

use cairn_protocol::ids::MapId;
use prost::Message;

use super::error::StoreError;
use super::key::{self, Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::records::ExtentRecord;
use super::txn::Txn;

/// `0x12, map: u64, offset_in_file: u64`
pub fn encode(map: MapId, offset_in_file: u64) -> Vec<u8> {
    prefix(map).u64(offset_in_file).finish()
}

fn prefix(map: MapId) -> Key {
    Key::new(KeyKind::Extent).u64(map.0)
}

/// The fields of a key.
pub fn decode(key: &[u8]) -> Result<(MapId, u64), StoreError> {
    let mut reader = KeyReader::new(KeyKind::Extent, key)?;
    let map = MapId(reader.u64()?);
    let offset_in_file = reader.u64()?;
    reader.finish()?;
    Ok((map, offset_in_file))
}

/// A record from its key and value: the offset is in the key alone.
pub fn decode_pair(key: &[u8], value: &[u8]) -> Result<(MapId, ExtentRecord), StoreError> {
    let (map, offset_in_file) = decode(key)?;
    let record: ExtentRecord =
        key::decode_record(value, || format!("extent {offset_in_file} of map {map}"))?;
    Ok((
        map,
        ExtentRecord {
            offset_in_file,
            ..record
        },
    ))
}

/// The extent that begins at an offset.
pub fn get(
    reader: &(impl Read + ?Sized),
    map: MapId,
    offset_in_file: u64,
) -> Result<Option<ExtentRecord>, StoreError> {
    let key = encode(map, offset_in_file);
    let value = reader.get(&key)?;
    value
        .map(|value| decode_pair(&key, &value).map(|(_, record)| record))
        .transpose()
}

/// The last extent that begins before an offset.
pub fn last_before(
    reader: &(impl Read + ?Sized),
    map: MapId,
    offset_in_file: u64,
) -> Result<Option<ExtentRecord>, StoreError> {
    let found = reader.last_before(&prefix(map).finish(), &encode(map, offset_in_file))?;
    found
        .map(|(key, value)| decode_pair(&key, &value).map(|(_, record)| record))
        .transpose()
}

/// Visits all of a map from the last to the first, until `visit` returns false.
pub fn scan_back(
    reader: &(impl Read + ?Sized),
    map: MapId,
    visit: &mut dyn FnMut(ExtentRecord) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    reader.scan_back(
        &prefix(map).finish(),
        &prefix(map).end(),
        &mut |key, value| visit(decode_pair(key, value)?.1),
    )
}

/// Writes one under its offset.
pub fn put(txn: &mut Txn<'_>, map: MapId, record: &ExtentRecord) {
    let value = ExtentRecord {
        offset_in_file: 0,
        ..*record
    }
    .encode_to_vec();
    txn.put(encode(map, record.offset_in_file), value);
}

/// Removes the one that begins at an offset.
pub fn delete(txn: &mut Txn<'_>, map: MapId, offset_in_file: u64) {
    txn.delete(encode(map, offset_in_file));
}

/// Visits those that begin at or after `start`, in order, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    map: MapId,
    start: u64,
    visit: &mut dyn FnMut(ExtentRecord) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(map, start),
        prefix(map),
        &mut |key, value| visit(decode_pair(key, value)?.1),
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::MapId;

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(MapId(0x0102), 0x0304);
        assert_eq!(key, [0x12, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4]);
        assert_eq!(decode(&key).unwrap(), (MapId(0x0102), 0x0304));
        assert!(decode(&key[..16]).is_err());
    }
}
