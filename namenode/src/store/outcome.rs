//! Table `outcome`: what was answered to a session's mutations, so that a retry gets the first answer.

use cairn_protocol::ids::{Sequence, SessionId};

use super::error::StoreError;
use super::key::{Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::txn::Txn;

/// `0x42, session: u64, sequence: u64`
pub fn encode(session: SessionId, sequence: Sequence) -> Vec<u8> {
    prefix(session).u64(sequence.0).finish()
}

fn prefix(session: SessionId) -> Key {
    Key::new(KeyKind::Outcome).u64(session.0)
}

/// The fields of a key.
pub fn decode(key: &[u8]) -> Result<(SessionId, Sequence), StoreError> {
    let mut reader = KeyReader::new(KeyKind::Outcome, key)?;
    let session = SessionId(reader.u64()?);
    let sequence = Sequence(reader.u64()?);
    reader.finish()?;
    Ok((session, sequence))
}

/// The encoded outcome.
pub fn get(
    reader: &(impl Read + ?Sized),
    session: SessionId,
    sequence: Sequence,
) -> Result<Option<Vec<u8>>, StoreError> {
    reader.get(&encode(session, sequence))
}

/// Remembers an encoded outcome.
pub fn put(txn: &mut Txn<'_>, session: SessionId, sequence: Sequence, outcome: Vec<u8>) {
    txn.put(encode(session, sequence), outcome);
}

/// Forgets one.
pub fn delete(txn: &mut Txn<'_>, session: SessionId, sequence: Sequence) {
    txn.delete(encode(session, sequence));
}

/// Is called with each encoded outcome until it returns false.
pub type VisitOutcome<'v> = dyn FnMut(Sequence, &[u8]) -> Result<bool, StoreError> + 'v;

/// Visits those of one session from `start` on, in order, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    session: SessionId,
    start: Sequence,
    visit: &mut VisitOutcome<'_>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(session, start),
        prefix(session),
        &mut |key, value| visit(decode(key)?.1, value),
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::{Sequence, SessionId};

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(SessionId(0x0102), Sequence(0x0304));
        assert_eq!(key, [0x42, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4]);
        assert_eq!(decode(&key).unwrap(), (SessionId(0x0102), Sequence(0x0304)));
        assert!(decode(&key[..16]).is_err());
    }
}
