//! Raft messages from whoever is no namenode, or speaks for another one, or for a leader that is long gone: they are refused, and
//! change nothing.

use std::time::Duration;

use bytes::Bytes;
use cairn_client::WriteOptions;
use cairn_protocol::messages::admin::RaftEnvelope;
use cairn_protocol::rpc::{ConnectionOptions, Hello, Peers};
use cairn_protocol::{ErrorCode, Method, checksum};
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};

/// A namenode that nobody knows.
pub(super) const STRANGER: u64 = 0x5712_a63e_0000_0007;
/// Another one, in whose name the first must not speak.
pub(super) const OTHER: u64 = 0x5712_a63e_0000_0008;

const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A body as members encode it: postcard, of which this is all that is needed.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn number(mut self, mut number: u64) -> Self {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    fn text(self, text: &[u8]) -> Self {
        let mut body = self.number(text.len() as u64);
        body.0.extend_from_slice(text);
        body
    }

    /// Term, who it is for, whether it was granted.
    fn vote(self, term: u64, owner: u64, granted: bool) -> Self {
        let body = self.number(term).number(1).number(owner);
        body.number(u64::from(granted))
    }

    fn log_id(self, term: u64, index: u64) -> Self {
        self.number(1).number(term).number(index)
    }
}

/// One Raft message: its method, what goes into the envelope, and the payload.
#[derive(Clone)]
pub(super) struct Raft {
    pub method: Method,
    pub body: Vec<u8>,
    pub payload: Vec<u8>,
}

/// What a namenode says in the name of `owner`, in this term.
pub(super) fn messages(term: u64, owner: u64) -> Vec<Raft> {
    let in_payload = |method, body: Body| Raft {
        method,
        body: Vec::new(),
        payload: body.0,
    };
    let vote = |granted| Body::default().vote(term, owner, granted);
    let ballot = |is_only_asked: bool| {
        let body = Body::default().number(u64::from(is_only_asked));
        body.vote(term, owner, false).number(0).number(0)
    };
    // No entry before, two without content, nothing committed.
    let entries = vote(true).number(0).number(2);
    let entries = entries.number(term).number(0).number(0);
    let entries = entries.number(term).number(1).number(0).number(0);
    let data = b"a piece of a snapshot".to_vec();
    let piece = vote(true).log_id(term, 5).log_id(term, 1);
    // Voters, and their addresses and uuids.
    let piece = piece.number(1).number(1).number(owner).number(1);
    let piece = piece.number(owner).text(b"127.0.0.1:1").text(&[0; 16]);
    // A name that snapshots had once.
    let piece = piece.text(b"");
    let piece = piece.number(0).text(b"000001.sst").number(0);
    let piece = piece.number(checksum::crc32c(&data).into()).number(0);
    vec![
        in_payload(Method::RaftAppend, entries),
        in_payload(Method::RaftVote, ballot(false)),
        in_payload(Method::RaftVote, ballot(true)),
        in_payload(Method::RaftTransfer, vote(true).number(owner).number(0)),
        Raft {
            method: Method::RaftSnapshot,
            body: piece.0,
            payload: data,
        },
    ]
}

/// The header of a Raft message.
pub(super) fn envelope(raft: &Raft, from: u64, to: u64) -> RaftEnvelope {
    RaftEnvelope {
        encoding: 1,
        body: raft.body.clone(),
        from,
        to,
    }
}

/// Somebody who dials a namenode and says what he likes.
struct Forger {
    peers: Peers,
    address: String,
    to: u64,
}

impl Forger {
    fn new(cluster: &MiniCluster, role: &str, node: u64) -> Self {
        let namenode = cluster.namenode(0).unwrap();
        let hello = Hello::new(role, namenode.cluster_id(), node);
        Self {
            peers: Peers::new(hello, ConnectionOptions::default()),
            address: cluster.addresses()[0].clone(),
            to: namenode.group().id(),
        }
    }

    async fn say(&self, raft: &Raft, from: u64, to: u64) -> Result<(), ErrorCode> {
        let payload = Bytes::from(raft.payload.clone());
        let method = raft.method.into();
        let header = envelope(raft, from, to);
        let said = self
            .peers
            .call(&self.address, method, &header, payload, ANSWER_MAX);
        said.await.map(|_| ()).map_err(|error| error.code())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_raft_message_changes_nothing() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let before = cluster.namenode(0).unwrap().group().leadership();
    let before = before.borrow().clone();
    let client = Forger::new(&cluster, "client", 0);
    let stranger = Forger::new(&cluster, "namenode", STRANGER);
    let own = client.to;
    for raft in messages(before.term + 1, STRANGER) {
        let refused = client.say(&raft, STRANGER, own).await;
        assert_eq!(refused, Err(ErrorCode::NotPermitted), "{:?}", raft.method);
        // He is a namenode, and says that another one sent it: this one, say.
        let refused = stranger.say(&raft, own, own).await;
        assert_eq!(refused, Err(ErrorCode::NotPermitted), "{:?}", raft.method);
        let elsewhere = stranger.say(&raft, STRANGER, OTHER).await;
        assert_eq!(elsewhere, Err(ErrorCode::InvalidArgument));
    }
    for raft in messages(before.term + 1, OTHER) {
        let refused = stranger.say(&raft, STRANGER, own).await;
        assert_eq!(refused, Err(ErrorCode::Malformed), "{:?}", raft.method);
    }
    // A leader of long ago is answered, as often as it asks, and moves nothing.
    for raft in messages(0, STRANGER).iter().cycle().take(15) {
        let answered = stranger.say(raft, STRANGER, own).await;
        match raft.method {
            Method::RaftSnapshot => assert_eq!(answered, Err(ErrorCode::StaleTerm)),
            // Whatever it is told.
            Method::RaftTransfer => {}
            _ => assert_eq!(answered, Ok(()), "{:?}", raft.method),
        }
    }
    let after = cluster.namenode(0).unwrap().group().leadership();
    assert_eq!(*after.borrow(), before);
    let incoming = cluster.namenode_directory(0).join("snapshots/incoming");
    assert!(!incoming.exists());
    fs.write_file("/after", content(1, 5000), &WriteOptions::default())
        .await
        .unwrap();
    assert!(fs.read_file("/after").await.unwrap() == content(1, 5000));
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raft_message_that_was_cut_anywhere_is_refused() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let stranger = Forger::new(&cluster, "namenode", STRANGER);
    for whole in messages(0, STRANGER) {
        let is_piece = whole.method == Method::RaftSnapshot;
        let len = if is_piece {
            whole.body.len()
        } else {
            whole.payload.len()
        };
        for end in 0..len {
            let mut cut = whole.clone();
            if is_piece {
                cut.body.truncate(end);
            } else {
                cut.payload.truncate(end);
            }
            let refused = stranger.say(&cut, STRANGER, stranger.to).await;
            assert_eq!(refused, Err(ErrorCode::Malformed), "{:?}", whole.method);
        }
    }
    cluster.check(&fs).await.unwrap();
}
