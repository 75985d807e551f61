//! Table `session`: every session that is alive.

use cairn_protocol::ids::SessionId;
use prost::Message;

use super::error::StoreError;
use super::key::{self, Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::records::SessionRecord;
use super::txn::Txn;

/// `0x40, session: u64`
pub fn encode(session: SessionId) -> Vec<u8> {
    Key::new(KeyKind::Session).u64(session.0).finish()
}

/// The id in a key.
pub fn decode(key: &[u8]) -> Result<SessionId, StoreError> {
    let mut reader = KeyReader::new(KeyKind::Session, key)?;
    let id = SessionId(reader.u64()?);
    reader.finish()?;
    Ok(id)
}

/// Reads one.
pub fn get(
    reader: &(impl Read + ?Sized),
    session: SessionId,
) -> Result<Option<SessionRecord>, StoreError> {
    key::get_record(reader, &encode(session), || format!("session {session}"))
}

/// Writes one.
pub fn put(txn: &mut Txn<'_>, session: SessionId, record: &SessionRecord) {
    txn.put(encode(session), record.encode_to_vec());
}

/// Removes one.
pub fn delete(txn: &mut Txn<'_>, session: SessionId) {
    txn.delete(encode(session));
}

/// Visits those from `start` on, in order of ids, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    start: SessionId,
    visit: &mut dyn FnMut(SessionId, SessionRecord) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(start),
        Key::new(KeyKind::Session),
        &mut |key, value| {
            let id = decode(key)?;
            visit(id, key::decode_record(value, || format!("session {id}"))?)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::SessionId;

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(SessionId(0x0102));
        assert_eq!(key, [0x40, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode(&key).unwrap(), SessionId(0x0102));
        assert!(decode(&key[..8]).is_err());
    }
}
