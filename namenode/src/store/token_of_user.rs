//! Table `token of user`: the numbers of a user's tokens, so that they can be counted.

use super::error::StoreError;
use super::key::{Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::txn::Txn;

/// `0x71, uid: u32, id: u64`
pub fn encode(uid: u32, id: u64) -> Vec<u8> {
    Key::new(KeyKind::TokenOfUser).u32(uid).u64(id).finish()
}

/// User and number in a key.
pub fn decode(key: &[u8]) -> Result<(u32, u64), StoreError> {
    let mut reader = KeyReader::new(KeyKind::TokenOfUser, key)?;
    let (uid, id) = (reader.u32()?, reader.u64()?);
    reader.finish()?;
    Ok((uid, id))
}

/// Notes a token.
pub fn put(txn: &mut Txn<'_>, uid: u32, id: u64) {
    txn.put(encode(uid, id), Vec::new());
}

/// Forgets one.
pub fn delete(txn: &mut Txn<'_>, uid: u32, id: u64) {
    txn.delete(encode(uid, id));
}

/// Whether a user's token is noted.
pub fn contains(reader: &impl Read, uid: u32, id: u64) -> Result<bool, StoreError> {
    Ok(reader.get(&encode(uid, id))?.is_some())
}

/// The numbers of a user's oldest tokens, at most `max`.
pub fn oldest(reader: &(impl Read + ?Sized), uid: u32, max: usize) -> Result<Vec<u64>, StoreError> {
    let mut ids = Vec::new();
    scan_prefix(
        reader,
        encode(uid, 0),
        Key::new(KeyKind::TokenOfUser).u32(uid),
        &mut |key, _| {
            ids.push(decode(key)?.1);
            Ok(ids.len() < max)
        },
    )?;
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(3, 0x0102);
        assert_eq!(key, [0x71, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode(&key).unwrap(), (3, 0x0102));
        assert!(decode(&key[..12]).is_err());
    }
}
