//! Table `xattr`: extended attributes. Values are the attributes' bytes themselves.

use cairn_protocol::ids::InodeId;

use super::error::StoreError;
use super::key::{Key, KeyKind, KeyReader};
use super::read::{Read, Visit, scan_prefix};
use super::txn::Txn;

/// `0x13, inode: u64, name: bytes`
pub fn encode(inode: InodeId, name: &[u8]) -> Vec<u8> {
    prefix(inode).bytes(name).finish()
}

fn prefix(inode: InodeId) -> Key {
    Key::new(KeyKind::Xattr).u64(inode.0)
}

/// Inode and name in a key.
pub fn decode(key: &[u8]) -> Result<(InodeId, &[u8]), StoreError> {
    let mut reader = KeyReader::new(KeyKind::Xattr, key)?;
    let inode = InodeId(reader.u64()?);
    Ok((inode, reader.bytes()))
}

/// Reads one.
pub fn get(
    reader: &(impl Read + ?Sized),
    inode: InodeId,
    name: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    reader.get(&encode(inode, name))
}

/// Writes one.
pub fn put(txn: &mut Txn<'_>, inode: InodeId, name: &[u8], value: Vec<u8>) {
    txn.put(encode(inode, name), value);
}

/// Removes one.
pub fn delete(txn: &mut Txn<'_>, inode: InodeId, name: &[u8]) {
    txn.delete(encode(inode, name));
}

/// Visits (name, value) of one inode in order of names, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    inode: InodeId,
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        prefix(inode).finish(),
        prefix(inode),
        &mut |key, value| visit(decode(key)?.1, value),
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::InodeId;

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(InodeId(0x0102), b"user.a");
        assert_eq!(key[..9], [0x13, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(&key[9..], b"user.a");
        assert_eq!(
            decode(&key).unwrap(),
            (InodeId(0x0102), b"user.a".as_slice())
        );
        assert!(decode(&key[..8]).is_err());
    }
}
