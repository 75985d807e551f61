//! Table `detached`: roots of removed trees, until the sweep has taken them apart. The value is the last name that it has taken out of
//! the directory; empty before the first.

use cairn_protocol::ids::InodeId;

use super::error::StoreError;
use super::key::{Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::txn::Txn;

/// `0x51, inode: u64`
pub fn encode(inode: InodeId) -> Vec<u8> {
    Key::new(KeyKind::Detached).u64(inode.0).finish()
}

/// The id in a key.
pub fn decode(key: &[u8]) -> Result<InodeId, StoreError> {
    let mut reader = KeyReader::new(KeyKind::Detached, key)?;
    let id = InodeId(reader.u64()?);
    reader.finish()?;
    Ok(id)
}

/// Whether it is listed.
pub fn contains(reader: &(impl Read + ?Sized), inode: InodeId) -> Result<bool, StoreError> {
    Ok(reader.get(&encode(inode))?.is_some())
}

/// The last name that was taken out; empty before the first.
pub fn last_taken(reader: &(impl Read + ?Sized), inode: InodeId) -> Result<Vec<u8>, StoreError> {
    let value = reader.get(&encode(inode))?;
    Ok(value.map(|name| name.to_vec()).unwrap_or_default())
}

/// Notes the last name that was taken out.
pub fn take_up_to(txn: &mut Txn<'_>, inode: InodeId, name: Vec<u8>) {
    txn.put(encode(inode), name);
}

/// Lists one, of which no name has been taken out.
pub fn put(txn: &mut Txn<'_>, inode: InodeId) {
    txn.put(encode(inode), Vec::new());
}

/// Takes one off the list.
pub fn delete(txn: &mut Txn<'_>, inode: InodeId) {
    txn.delete(encode(inode));
}

/// Visits those from `start` on, in order of ids, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    start: InodeId,
    visit: &mut dyn FnMut(InodeId) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(start),
        Key::new(KeyKind::Detached),
        &mut |key, _| visit(decode(key)?),
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::InodeId;

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(InodeId(0x0102));
        assert_eq!(key, [0x51, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode(&key).unwrap(), InodeId(0x0102));
        assert!(decode(&key[..8]).is_err());
    }
}
