//! Table `user token`: every token of a user that is good, could be renewed, or was revoked and would still be good.

use prost::Message;

use super::error::StoreError;
use super::key::{self, Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::records::UserTokenRecord;
use super::txn::Txn;

/// `0x70, id: u64`
pub fn encode(id: u64) -> Vec<u8> {
    Key::new(KeyKind::UserToken).u64(id).finish()
}

/// The number in a key.
pub fn decode(key: &[u8]) -> Result<u64, StoreError> {
    let mut reader = KeyReader::new(KeyKind::UserToken, key)?;
    let id = reader.u64()?;
    reader.finish()?;
    Ok(id)
}

/// Reads one.
pub fn get(reader: &(impl Read + ?Sized), id: u64) -> Result<Option<UserTokenRecord>, StoreError> {
    key::get_record(reader, &encode(id), || format!("user token {id}"))
}

/// Writes one.
pub fn put(txn: &mut Txn<'_>, id: u64, record: &UserTokenRecord) {
    txn.put(encode(id), record.encode_to_vec());
}

/// Removes one.
pub fn delete(txn: &mut Txn<'_>, id: u64) {
    txn.delete(encode(id));
}

/// Visits those from `start` on, in order of numbers, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    start: u64,
    visit: &mut dyn FnMut(u64, UserTokenRecord) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(start),
        Key::new(KeyKind::UserToken),
        &mut |key, value| {
            let id = decode(key)?;
            visit(
                id,
                key::decode_record(value, || format!("user token {id}"))?,
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(0x0102);
        assert_eq!(key, [0x70, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode(&key).unwrap(), 0x0102);
        assert!(decode(&key[..8]).is_err());
    }
}
