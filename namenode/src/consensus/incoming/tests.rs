//! Arbitrary bytes, and messages that were changed on their way: nothing panics, nothing takes memory that its bytes do not explain,
//! and what comes through is what a member can have said.

use std::collections::BTreeSet;

use bytes::Bytes;
use cairn_protocol::net::Proof;
use cairn_protocol::rpc::{Hello, Standing};
use openraft::raft::{
    AppendEntriesResponse, SnapshotResponse, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;
use proptest::{collection, prop_assert};
use prost::Message as _;
use serde::Serialize;

use super::*;
use crate::allocations::peak_of;
use crate::consensus::state_machine::{decode_applied, decode_batch};
use crate::consensus::types::{CommandBatch, LeaderId, Member, StoredMembership};
use crate::store::AppliedState;

const OWN: NodeId = 1;
const FROM: NodeId = 7;

/// What decoding may take besides a multiple of its input: a list is given room for what it claims to hold, up to 1 MiB, and lists lie in
/// lists.
const MEMORY_MAX: u64 = 4 << 20;
/// The smallest entry has 3 bytes.
const MEMORY_PER_BYTE: u64 = 128;

fn vote(term: u64, voted_for: NodeId, committed: bool) -> Vote {
    let leader_id = LeaderId { term, voted_for };
    Vote {
        leader_id,
        committed,
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

fn entry(term: u64, index: u64, payload: Payload) -> Entry {
    let log_id = log_id(term, index);
    Entry { log_id, payload }
}

fn members(ids: &[NodeId]) -> Membership {
    let voters: BTreeSet<NodeId> = ids.iter().copied().collect();
    Membership::new_with_defaults(vec![voters], ids.iter().copied())
}

fn append() -> AppendEntriesRequest<TypeConfig> {
    let commands = CommandBatch(Bytes::from_static(b"not looked at here"));
    AppendEntriesRequest {
        vote: vote(3, FROM, true),
        prev_log_id: Some(log_id(2, 9)),
        entries: vec![
            entry(2, 10, Payload::Normal(commands)),
            entry(3, 11, Payload::Blank),
            entry(3, 12, Payload::Membership(members(&[OWN, FROM]))),
        ],
        leader_commit: Some(log_id(3, 11)),
    }
}

fn ballot() -> Ballot {
    Ballot {
        pre_vote: false,
        request: VoteRequest::new(vote(4, FROM, false), Some(log_id(3, 12))),
    }
}

fn transfer() -> TransferLeaderRequest<TypeConfig> {
    TransferLeaderRequest::new(vote(3, FROM, true), OWN, Some(log_id(3, 12)))
}

fn piece() -> Piece {
    Piece {
        vote: vote(3, FROM, true),
        meta: SnapshotMeta {
            last_log_id: Some(log_id(3, 12)),
            last_membership: StoredMembership::new(Some(log_id(3, 12)), members(&[OWN, FROM])),
        },
        sequence: 1,
        file: "000012.sst".to_owned(),
        offset: 1 << 20,
        crc32c: 5,
        last: false,
    }
}

fn encoded(message: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(message).unwrap()
}

fn decode<M: Message>(message: &impl Serialize) -> Result<M, ErrorCode> {
    decode_message(FROM, &encoded(message)).map_err(|error| error.code())
}

fn peer(hello: Hello) -> Peer {
    Peer {
        address: "127.0.0.1:1".to_owned(),
        hello,
        version: 1,
        proof: Proof::Clear,
        standing: Standing::default(),
    }
}

fn request(envelope: &RaftEnvelope) -> Request {
    Request {
        method: 0,
        header: envelope.encode_to_vec().into(),
        payload: Bytes::new(),
    }
}

#[test]
fn an_envelope_is_from_the_namenode_that_introduced_itself_and_for_this_one() {
    let envelope = RaftEnvelope {
        encoding: ENCODING,
        body: Vec::new(),
        from: FROM,
        to: OWN,
    };
    let open = |hello, envelope| {
        let opened = open_envelope(OWN, &peer(hello), &request(envelope));
        opened.map_err(|error| error.code())
    };
    let hello = |role: &str, node| Hello::new(role, None, node);
    assert!(open(hello("namenode", FROM), &envelope).is_ok());
    let forged = Err(ErrorCode::NotPermitted);
    assert_eq!(open(hello("client", 0), &envelope), forged);
    assert_eq!(open(hello("datanode", FROM), &envelope), forged);
    assert_eq!(open(hello("namenode", 8), &envelope), forged);
    let elsewhere = RaftEnvelope {
        to: 2,
        ..envelope.clone()
    };
    let refused = open(hello("namenode", FROM), &elsewhere);
    assert_eq!(refused, Err(ErrorCode::InvalidArgument));
    let newer = RaftEnvelope {
        encoding: 2,
        ..envelope.clone()
    };
    let refused = open(hello("namenode", FROM), &newer);
    assert_eq!(refused, Err(ErrorCode::VersionMismatch));
}

#[test]
fn what_members_say_is_understood() {
    assert!(decode::<AppendEntriesRequest<TypeConfig>>(&append()).is_ok());
    assert!(decode::<Ballot>(&ballot()).is_ok());
    assert!(decode::<TransferLeaderRequest<TypeConfig>>(&transfer()).is_ok());
    assert!(decode::<Piece>(&piece()).is_ok());
    // The first entry of all, and a heartbeat.
    let first = AppendEntriesRequest {
        prev_log_id: None,
        entries: vec![entry(0, 0, Payload::Membership(members(&[FROM])))],
        leader_commit: None,
        ..append()
    };
    assert!(decode::<AppendEntriesRequest<TypeConfig>>(&first).is_ok());
    let heartbeat = AppendEntriesRequest {
        prev_log_id: None,
        entries: Vec::new(),
        ..append()
    };
    assert!(decode::<AppendEntriesRequest<TypeConfig>>(&heartbeat).is_ok());
}

#[test]
fn nobody_speaks_for_another_namenode() {
    let other = vote(3, 8, true);
    let refused = Some(ErrorCode::Malformed);
    let append = AppendEntriesRequest {
        vote: other,
        ..append()
    };
    let decoded = decode::<AppendEntriesRequest<TypeConfig>>(&append);
    assert_eq!(decoded.err(), refused);
    let ballot = Ballot {
        pre_vote: true,
        request: VoteRequest::new(vote(4, OWN, false), None),
    };
    assert_eq!(decode::<Ballot>(&ballot).err(), refused);
    let transfer = TransferLeaderRequest::<TypeConfig>::new(other, OWN, None);
    let decoded = decode::<TransferLeaderRequest<TypeConfig>>(&transfer);
    assert_eq!(decoded.err(), refused);
    let piece = Piece {
        vote: other,
        ..piece()
    };
    assert_eq!(decode::<Piece>(&piece).err(), refused);
}

#[test]
fn entries_that_cannot_be_are_refused() {
    let with = |entries: Vec<Entry>| AppendEntriesRequest {
        entries,
        ..append()
    };
    let blank = |term, index| entry(term, index, Payload::Blank);
    let member = |payload| vec![entry(3, 10, Payload::Membership(payload))];
    let unknown_voter = Membership::new_with_defaults(vec![[OWN].into()], [OWN]);
    let mut bytes = encoded(&unknown_voter);
    let at = bytes.iter().position(|byte| *byte == 1).unwrap();
    // One config, of one voter, which is now another than the one with an address.
    bytes[at + 2] = 99;
    let unknown_voter: Membership = postcard::from_bytes(&bytes).unwrap();
    let wrong = [
        with(vec![blank(3, 11)]),
        with(vec![blank(3, 10), blank(3, 12)]),
        with(vec![blank(3, 10), blank(2, 11)]),
        with(vec![blank(1, 10)]),
        with(vec![blank(4, 10)]),
        with(vec![blank(3, u64::MAX)]),
        with(member(Membership::default())),
        with(member(unknown_voter)),
        AppendEntriesRequest {
            prev_log_id: Some(log_id(2, u64::MAX)),
            entries: Vec::new(),
            ..append()
        },
        AppendEntriesRequest {
            vote: vote(u64::MAX, FROM, true),
            ..append()
        },
        AppendEntriesRequest {
            vote: vote(3, FROM, false),
            ..append()
        },
        AppendEntriesRequest {
            leader_commit: Some(log_id(4, 11)),
            ..append()
        },
    ];
    for append in wrong {
        let decoded = decode::<AppendEntriesRequest<TypeConfig>>(&append);
        assert_eq!(decoded.err(), Some(ErrorCode::Malformed), "{append:?}");
    }
}

#[test]
fn snapshots_that_cannot_be_are_refused() {
    let with = |last, since| {
        let mut piece = piece();
        piece.meta.last_log_id = last;
        piece.meta.last_membership = StoredMembership::new(since, members(&[OWN]));
        piece
    };
    let wrong = [
        with(None, None),
        with(Some(log_id(4, 12)), None),
        with(Some(log_id(3, u64::MAX)), None),
        with(Some(log_id(3, 12)), Some(log_id(3, 13))),
    ];
    for piece in wrong {
        let decoded = decode::<Piece>(&piece);
        assert_eq!(decoded.err(), Some(ErrorCode::Malformed), "{piece:?}");
    }
}

/// Everything that this member decodes of what others of the group send, answer or have stored.
fn decode_all(bytes: &[u8]) -> Result<(), TestCaseError> {
    let attempts: [fn(&[u8]); 10] = [
        |bytes| {
            drop(decode_message::<AppendEntriesRequest<TypeConfig>>(
                FROM, bytes,
            ))
        },
        |bytes| drop(decode_message::<Ballot>(FROM, bytes)),
        |bytes| {
            drop(decode_message::<TransferLeaderRequest<TypeConfig>>(
                FROM, bytes,
            ))
        },
        |bytes| drop(decode_message::<Piece>(FROM, bytes)),
        |bytes| drop(decode_body::<AppendEntriesResponse<TypeConfig>>(bytes)),
        |bytes| drop(decode_body::<VoteResponse<TypeConfig>>(bytes)),
        |bytes| drop(decode_body::<SnapshotResponse<TypeConfig>>(bytes)),
        |bytes| drop(decode_body::<TransferLeaderResponse<TypeConfig>>(bytes)),
        |bytes| {
            let applied = AppliedState {
                membership: bytes.to_vec(),
                ..AppliedState::default()
            };
            drop(decode_applied(Some(&applied)));
        },
        |bytes| drop(decode_batch(Bytes::copy_from_slice(bytes), 1)),
    ];
    let bytes_max = MEMORY_MAX + MEMORY_PER_BYTE * bytes.len() as u64;
    for (number, decode) in attempts.iter().enumerate() {
        let ((), peak) = peak_of(|| decode(bytes));
        prop_assert!(
            peak <= bytes_max,
            "{number}: {peak} bytes for {}",
            bytes.len()
        );
    }
    Ok(())
}

#[derive(Clone, Debug)]
enum Damage {
    Cut(usize),
    Flip(usize, u8),
    /// A length or number beyond all bounds.
    Huge(usize),
    Insert(usize, Vec<u8>),
    Repeat(usize),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let within = |at: usize| at % (bytes.len() + 1);
        match self {
            Self::Cut(at) => bytes.truncate(within(*at)),
            Self::Flip(at, bit) => {
                let at = within(*at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Self::Huge(at) => {
                let at = within(*at);
                let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
                bytes.splice(at..at, huge).for_each(drop);
            }
            Self::Insert(at, rubbish) => {
                let at = within(*at);
                bytes.splice(at..at, rubbish.iter().copied()).for_each(drop);
            }
            Self::Repeat(at) => bytes.extend_from_within(within(*at)..),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<usize>().prop_map(Damage::Cut),
        (any::<usize>(), any::<u8>()).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        any::<usize>().prop_map(Damage::Huge),
        (any::<usize>(), collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, rubbish)| Damage::Insert(at, rubbish)),
        any::<usize>().prop_map(Damage::Repeat),
    ]
}

fn valid() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(encoded(&append())),
        Just(encoded(&ballot())),
        Just(encoded(&transfer())),
        Just(encoded(&piece())),
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_never_take_more_memory_than_they_explain(
        bytes in collection::vec(any::<u8>(), 0..3000),
    ) {
        decode_all(&bytes)?;
    }

    #[test]
    fn changed_messages_never_panic_and_never_take_more_memory_than_they_explain(
        mut bytes in valid(),
        damages in collection::vec(damage(), 1..4),
    ) {
        for damage in &damages {
            damage.apply(&mut bytes);
        }
        decode_all(&bytes)?;
    }
}

#[test]
fn a_frame_full_of_the_smallest_entries_takes_a_bounded_multiple_of_its_bytes() {
    let blank = |index| entry(1, index, Payload::Blank);
    let entries: Vec<Entry> = (0..100_000).map(blank).collect();
    let append = AppendEntriesRequest {
        prev_log_id: None,
        entries,
        ..append()
    };
    decode_all(&encoded(&append)).unwrap();
    // And a member list that claims to be long.
    let member = Member {
        address: "x".repeat(100_000),
        ..Member::default()
    };
    decode_all(&encoded(&vec![member; 10])).unwrap();
}
