//! What the records say: an entry, or the whole of the small state beside the entries.
//!
//! ```text
//! entry record                                state record (80 bytes)
//!   0  8  term                                  0  8  flags: 1 vote, 2 vote is committed, 4 committed,
//!   8  8  index                                       8 purged, 16 next index
//!  16  1  0 blank, 1 commands, 2 membership     8  8  opens: how often this log has been opened
//!  17  7  zero                                 16 16  vote: term, node
//!  24  …  commands, or MembershipRecord        32 16  committed: term, index
//!         as protobuf                          48 16  purged: term, index
//!                                              64  8  next index: of the entry that follows
//!                                              72  8  zero
//! ```
//!
//! A state record replaces all of the state before it. Entries up to `purged` and from `next index` on are gone with
//! it: that is how the log is purged, and how a conflicting suffix is cut.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use uuid::Uuid;

use super::format::{ENTRY_FIXED_BYTES, STATE_BYTES, read_u64};
use crate::consensus::types::{CommandBatch, Entry, LogId, Member, Membership, Payload, Vote};

const FLAG_VOTE: u64 = 1;
const FLAG_VOTE_COMMITTED: u64 = 2;
const FLAG_COMMITTED: u64 = 4;
const FLAG_PURGED: u64 = 8;
const FLAG_NEXT: u64 = 16;

/// Everything that the log holds beside entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Grows by one at each opening, so that a record of an earlier opening never continues one of this.
    pub opens: u64,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// Index of the entry that follows; any if nothing was ever appended or purged.
    pub next_index: Option<u64>,
}

impl State {
    pub(super) fn encode(&self) -> [u8; STATE_BYTES as usize] {
        let mut bytes = [0; STATE_BYTES as usize];
        let mut flags = 0;
        let mut put =
            |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(8, self.opens);
        if let Some(vote) = &self.vote {
            flags |= FLAG_VOTE
                | if vote.committed {
                    FLAG_VOTE_COMMITTED
                } else {
                    0
                };
            put(16, vote.leader_id.term);
            put(24, vote.leader_id.voted_for);
        }
        if let Some(committed) = &self.committed {
            flags |= FLAG_COMMITTED;
            put(32, committed.leader_id.term);
            put(40, committed.index);
        }
        if let Some(purged) = &self.purged {
            flags |= FLAG_PURGED;
            put(48, purged.leader_id.term);
            put(56, purged.index);
        }
        if let Some(next_index) = self.next_index {
            flags |= FLAG_NEXT;
            put(64, next_index);
        }
        put(0, flags);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<State, &'static str> {
        if bytes.len() as u64 != STATE_BYTES {
            return Err("a state record has 80 bytes");
        }
        let flags = read_u64(bytes, 0);
        if flags >= FLAG_NEXT << 1 {
            return Err("unknown flags in a state record");
        }
        let log_id = |at| LogId::new_term_index(read_u64(bytes, at), read_u64(bytes, at + 8));
        let vote = || {
            let (term, node) = (read_u64(bytes, 16), read_u64(bytes, 24));
            match flags & FLAG_VOTE_COMMITTED != 0 {
                true => Vote::new_committed(term, node),
                false => Vote::new(term, node),
            }
        };
        Ok(State {
            opens: read_u64(bytes, 8),
            vote: (flags & FLAG_VOTE != 0).then(vote),
            committed: (flags & FLAG_COMMITTED != 0).then(|| log_id(32)),
            purged: (flags & FLAG_PURGED != 0).then(|| log_id(48)),
            next_index: (flags & FLAG_NEXT != 0).then(|| read_u64(bytes, 64)),
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct MembershipRecord {
    #[prost(message, repeated, tag = "1")]
    configs: Vec<ConfigRecord>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<MemberRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ConfigRecord {
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MemberRecord {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(bytes = "vec", tag = "3")]
    uuid: Vec<u8>,
}

fn encode_membership(membership: &Membership) -> Bytes {
    let record = MembershipRecord {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| ConfigRecord {
                voters: voters.iter().copied().collect(),
            })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, member)| MemberRecord {
                id: *id,
                address: member.address.clone(),
                uuid: member.uuid.as_bytes().to_vec(),
            })
            .collect(),
    };
    prost::Message::encode_to_vec(&record).into()
}

fn decode_membership(bytes: &[u8]) -> Result<Membership, &'static str> {
    let record: MembershipRecord =
        prost::Message::decode(bytes).map_err(|_| "a membership that is not protobuf")?;
    let configs: Vec<BTreeSet<u64>> = record
        .configs
        .into_iter()
        .map(|config| config.voters.into_iter().collect())
        .collect();
    let mut members = BTreeMap::new();
    for member in record.members {
        let uuid =
            Uuid::from_slice(&member.uuid).map_err(|_| "a member whose uuid has not 16 bytes")?;
        members.insert(
            member.id,
            Member {
                address: member.address,
                uuid,
            },
        );
    }
    Membership::new(configs, members).map_err(|_| "a membership whose voters are not its members")
}

/// An entry's commands or membership, encoded, with the byte that tells which.
pub(super) struct EntryBody {
    tag: u8,
    bytes: Bytes,
}

impl EntryBody {
    pub(super) fn new(payload: &Payload) -> EntryBody {
        let (tag, bytes) = match payload {
            Payload::Blank => (0, Bytes::new()),
            Payload::Normal(commands) => (1, commands.0.clone()),
            Payload::Membership(membership) => (2, encode_membership(membership)),
        };
        EntryBody { tag, bytes }
    }

    /// Bytes of commands or membership.
    pub(super) fn body_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Bytes of the whole payload of the entry's record.
    pub(super) fn payload_bytes(&self) -> u64 {
        ENTRY_FIXED_BYTES + self.body_bytes()
    }

    pub(super) fn encode(&self, log_id: &LogId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&log_id.leader_id.term.to_le_bytes());
        buffer.extend_from_slice(&log_id.index.to_le_bytes());
        buffer.extend_from_slice(&[self.tag, 0, 0, 0, 0, 0, 0, 0]);
        buffer.extend_from_slice(&self.bytes);
    }
}

/// Term and index of an encoded entry; does not look at the rest.
pub(super) fn decode_log_id(payload: &[u8]) -> Result<LogId, &'static str> {
    if (payload.len() as u64) < ENTRY_FIXED_BYTES {
        return Err("an entry shorter than its fixed part");
    }
    Ok(LogId::new_term_index(
        read_u64(payload, 0),
        read_u64(payload, 8),
    ))
}

/// Decodes an entry; commands stay in `payload` and are not copied.
pub(super) fn decode_entry(payload: Bytes) -> Result<Entry, &'static str> {
    let log_id = decode_log_id(&payload)?;
    let body = payload.slice(ENTRY_FIXED_BYTES as usize..);
    let payload = match payload[16] {
        0 if body.is_empty() => Payload::Blank,
        1 => Payload::Normal(CommandBatch(body)),
        2 => Payload::Membership(decode_membership(&body)?),
        _ => return Err("an entry of an unknown kind"),
    };
    Ok(Entry { log_id, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(entry: &Entry) -> Bytes {
        let mut buffer = Vec::new();
        EntryBody::new(&entry.payload).encode(&entry.log_id, &mut buffer);
        buffer.into()
    }

    #[test]
    fn entries_of_every_kind_come_back() {
        let joint = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])];
        let members: BTreeMap<u64, Member> = (1..=6)
            .map(|id| {
                (
                    id,
                    Member {
                        address: format!("nn{id}:8020"),
                        uuid: Uuid::from_u128(id.into()),
                    },
                )
            })
            .collect();
        let payloads = [
            Payload::Blank,
            Payload::Normal(CommandBatch(Bytes::from_static(b"commands"))),
            Payload::Normal(CommandBatch::default()),
            Payload::Membership(Membership::new(joint, members).unwrap()),
        ];
        for payload in payloads {
            let entry = Entry {
                log_id: LogId::new_term_index(3, 9),
                payload,
            };
            assert_eq!(decode_entry(encoded(&entry)).unwrap(), entry);
        }
    }

    #[test]
    fn state_comes_back_with_and_without_each_part() {
        let full = State {
            opens: 4,
            vote: Some(Vote::new_committed(5, 6)),
            committed: Some(LogId::new_term_index(7, 8)),
            purged: Some(LogId::new_term_index(9, 10)),
            next_index: Some(0),
        };
        let states = [
            State::default(),
            State {
                vote: Some(Vote::new(5, 6)),
                ..full.clone()
            },
            State {
                vote: None,
                ..full.clone()
            },
            State {
                committed: None,
                ..full.clone()
            },
            State {
                purged: None,
                next_index: None,
                ..full.clone()
            },
            full,
        ];
        for state in states {
            assert_eq!(State::decode(&state.encode()), Ok(state));
        }
    }

    #[test]
    fn the_bytes_of_a_state_record_never_change() {
        let state = State {
            opens: 2,
            vote: Some(Vote::new_committed(3, 4)),
            ..State::default()
        };
        let golden: Vec<u8> = [3u64, 2, 3, 4, 0, 0, 0, 0, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert_eq!(state.encode()[..], golden[..]);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..120)) {
            let _ = State::decode(&bytes);
            let _ = decode_entry(Bytes::from(bytes));
        }
    }
}
