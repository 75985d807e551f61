//! Table `session_nonce`: the session that a client opened, by the nonce of the opening.

use cairn_protocol::ids::SessionId;

use super::error::StoreError;
use super::key::{self, Key, KeyKind};
use super::read::Read;
use super::txn::Txn;

/// `0x41, nonce: bytes`
pub fn encode(nonce: &[u8]) -> Vec<u8> {
    Key::new(KeyKind::SessionNonce).bytes(nonce).finish()
}

/// Whose it is.
pub fn get(reader: &(impl Read + ?Sized), nonce: &[u8]) -> Result<Option<SessionId>, StoreError> {
    let value = reader.get(&encode(nonce))?;
    value
        .map(|bytes| key::decode_id(&bytes, || "session of a nonce".into()).map(SessionId))
        .transpose()
}

/// Notes whose it is.
pub fn put(txn: &mut Txn<'_>, nonce: &[u8], id: SessionId) {
    txn.put(encode(nonce), id.0.to_be_bytes().to_vec());
}

/// Forgets it.
pub fn delete(txn: &mut Txn<'_>, nonce: &[u8]) {
    txn.delete(encode(nonce));
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn the_key_is_as_documented() {
        assert_eq!(encode(b"ab"), [0x41, b'a', b'b']);
    }
}
