//! A directory that is delegated to one session: others wait, see all that its holder did by itself, and go on.

use std::time::Duration;

use bytes::Bytes;
use cairn_client::FileSystem;
use cairn_protocol::messages::common::{Caller, InodeKind, Location};
use cairn_protocol::messages::feed::{ChangeKind, ChangesReply, ChangesRequest};
use cairn_protocol::messages::operation::{
    Create, Delegate, IfExists, InodeRange, OperationKind, OutcomeKind, ReserveInodes, Step,
    WriteBehind,
};
use cairn_protocol::messages::query::{QueryKind, QueryReply, QueryRequest, Stat};
use cairn_protocol::messages::session::{
    MutateReply, MutateRequest, OpenSessionReply, OpenSessionRequest,
};
use cairn_protocol::rpc::{ConnectionOptions, Hello, Peers};
use cairn_protocol::{ErrorCode, Method};
use cairn_tests::harness::{ClusterOptions, MiniCluster};
use prost::Message;
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(5);

/// A session that says what it wants in the protocol's words. It sends no keep-alives.
struct Holder {
    peers: Peers,
    addresses: Vec<String>,
    session: u64,
    sequence: u64,
    /// Changes up to here are known.
    heard: u64,
}

impl Holder {
    async fn open(cluster: &MiniCluster) -> Self {
        let options = ConnectionOptions::default();
        let mut holder = Self {
            peers: Peers::new(Hello::new("client", None, 0), options),
            addresses: cluster.addresses().to_vec(),
            session: 0,
            sequence: 0,
            heard: 0,
        };
        let open = OpenSessionRequest {
            client_name: "holder".into(),
            nonce: vec![7; 16],
        };
        let opened: OpenSessionReply = holder.call(Method::OpenSession, &open).await;
        holder.session = opened.session;
        holder.heard = holder.changes().await.upto_index;
        holder
    }

    async fn ask<R: Message + Default>(
        &self,
        address: &str,
        method: Method,
        request: &impl Message,
    ) -> Result<R, ErrorCode> {
        let connection = self.peers.get(address).await.map_err(|error| error.code)?;
        let reply = connection
            .call(method as u16, request, Bytes::new(), LIMIT)
            .await;
        reply
            .and_then(|reply| Ok(reply.decode()?))
            .map_err(|error| error.code())
    }

    /// Asks one namenode after the other until one answers.
    async fn call<R: Message + Default>(&self, method: Method, request: &impl Message) -> R {
        for address in self.addresses.iter().cycle() {
            match self.ask(address, method, request).await {
                Ok(reply) => return reply,
                Err(code) => assert!(code.is_retryable(), "{method:?}: {code:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unreachable!("a cluster has a namenode")
    }

    async fn mutate(&mut self, kind: OperationKind) -> OutcomeKind {
        self.sequence += 1;
        let request = MutateRequest {
            session: self.session,
            sequence: self.sequence,
            lowest_unanswered: self.sequence,
            caller: Caller::default(),
            operation: Some(kind.into()),
        };
        let reply: MutateReply = self.call(Method::Mutate, &request).await;
        reply.outcome.unwrap().kind.unwrap()
    }

    async fn delegate(&mut self, take: &[u64], give_back: &[u64]) {
        let (take, give_back) = (take.to_vec(), give_back.to_vec());
        let delegate = Delegate { take, give_back };
        self.mutate(OperationKind::Delegate(delegate)).await;
    }

    async fn changes(&self) -> ChangesReply {
        let request = ChangesRequest {
            after_index: self.heard,
            without_session: self.session,
            wait_ms: 200,
            ..ChangesRequest::default()
        };
        self.call(Method::Changes, &request).await
    }

    /// Waits until somebody waits for the directory.
    async fn recalled(&mut self, directory: u64) {
        loop {
            let reply = self.changes().await;
            assert!(!reply.lost);
            self.heard = reply.upto_index;
            let ours = reply.sets.iter().filter(|set| set.session == 0);
            let mut changes = ours.flat_map(|set| &set.changes);
            let wanted = ChangeKind::Attributes as i32;
            if changes.any(|change| change.inode == directory && change.kind == wanted) {
                return;
            }
        }
    }

    /// Tells of a file that it made by itself in the directory.
    async fn make(&mut self, directory: u64, name: &str) -> u64 {
        let reserve = OperationKind::ReserveInodes(ReserveInodes { count: 8 });
        let OutcomeKind::Inodes(InodeRange { first, .. }) = self.mutate(reserve).await else {
            panic!("no numbers");
        };
        let create = Create {
            location: Location::entry(directory.into(), name),
            kind: InodeKind::File as i32,
            mode: 0o600,
            ..Create::default()
        };
        let step = Step {
            operation: OperationKind::Create(create).into(),
            inode: first,
            ..Step::default()
        };
        let behind = WriteBehind { steps: vec![step] };
        self.mutate(OperationKind::WriteBehind(behind)).await;
        first
    }
}

/// A cluster, a session that holds `/d`, another client, and the directory.
async fn held(options: ClusterOptions) -> (MiniCluster, Holder, FileSystem, u64) {
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let b = cluster.client().await.unwrap();
    let directory = b.mkdir("/d", 0o755).await.unwrap().inode;
    let mut a = Holder::open(&cluster).await;
    a.delegate(&[directory], &[]).await;
    (cluster, a, b, directory)
}

fn patient(namenodes: usize) -> ClusterOptions {
    ClusterOptions {
        namenodes,
        datanodes: 1,
        replication: 1,
        session_ttl: Duration::from_secs(120),
        ..ClusterOptions::default()
    }
}

/// Something that is under way; ends when dropped.
struct Waiting<T>(JoinSet<T>);

impl<T: Send + 'static> Waiting<T> {
    fn start(work: impl Future<Output = T> + Send + 'static) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(work);
        Self(tasks)
    }

    async fn done(mut self) -> T {
        self.0.join_next().await.unwrap().unwrap()
    }
}

fn stat(fs: &FileSystem, path: &'static str) -> Waiting<Result<u64, ErrorCode>> {
    let fs = fs.clone();
    Waiting::start(async move {
        let found = fs.stat(path).await;
        found.map(|found| found.inode).map_err(|error| error.code())
    })
}

/// What is made after others began to wait, they see: so they have waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_wait_until_a_directory_is_given_back_and_see_what_its_holder_did() {
    let (_cluster, mut a, b, directory) = held(patient(1)).await;
    let found = stat(&b, "/d/late");
    a.recalled(directory).await;
    let late = a.make(directory, "late").await;
    a.delegate(&[], &[directory]).await;
    assert_eq!(found.done().await, Ok(late));

    a.delegate(&[directory], &[]).await;
    let fs = b.clone();
    let listed = Waiting::start(async move { fs.list_all("/d").await.unwrap().len() });
    a.recalled(directory).await;
    a.make(directory, "later").await;
    a.delegate(&[], &[directory]).await;
    assert_eq!(listed.done().await, 2);

    a.delegate(&[directory], &[]).await;
    let fs = b.clone();
    let made = Waiting::start(async move { fs.create("/d/taken", 0o644, IfExists::Fail).await });
    a.recalled(directory).await;
    a.make(directory, "taken").await;
    a.delegate(&[], &[directory]).await;
    let refused = made.done().await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::AlreadyExists);

    // One that waits longer than the namenode lets it asks again.
    a.delegate(&[directory], &[]).await;
    let fs = b.clone();
    let made = Waiting::start(async move { fs.create("/d/own", 0o644, IfExists::Fail).await });
    for _ in 0..7 {
        a.recalled(directory).await;
    }
    a.delegate(&[], &[directory]).await;
    let (_, created) = made.done().await.unwrap();
    assert!(created);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_go_on_when_the_holders_session_is_over() {
    let options = ClusterOptions {
        session_ttl: Duration::from_secs(2),
        ..patient(1)
    };
    let (_cluster, mut a, b, directory) = held(options).await;
    let found = stat(&b, "/d/never");
    a.recalled(directory).await;
    assert_eq!(found.done().await, Err(ErrorCode::NotFound));
    b.create("/d/new", 0o644, IfExists::Fail).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_when_the_leader_dies_waits_for_the_next_one() {
    let (mut cluster, mut a, b, directory) = held(patient(3)).await;
    // Another member leaves it to the leader.
    let leader = cluster.leader().await.unwrap();
    let request = QueryRequest {
        kind: Some(QueryKind::Stat(Stat {
            location: Location::path("/d/late"),
            ..Stat::default()
        })),
        ..QueryRequest::default()
    };
    for (index, address) in cluster.addresses().iter().enumerate() {
        if index != leader {
            let asked = a.ask::<QueryReply>(address, Method::Query, &request).await;
            assert_eq!(asked.unwrap_err(), ErrorCode::NotLeader);
        }
    }
    let found = stat(&b, "/d/late");
    a.recalled(directory).await;
    cluster.kill_namenode(leader).await;
    a.recalled(directory).await;
    let late = a.make(directory, "late").await;
    a.delegate(&[], &[directory]).await;
    assert_eq!(found.done().await, Ok(late));
}

/// The log hears of a directory a few times a second, however many wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_wait_for_one_directory_ask_its_holder_together() {
    let (cluster, mut a, b, directory) = held(patient(1)).await;
    let leader = cluster.namenode(0).unwrap();
    let applied = || leader.group().state().applied_log_id().unwrap().index;
    let mut waiting = JoinSet::new();
    let before = applied();
    for _ in 0..400 {
        let fs = b.clone();
        waiting.spawn(async move { fs.stat("/d/late").await.unwrap().inode });
    }
    for _ in 0..3 {
        a.recalled(directory).await;
    }
    let entries = applied() - before;
    let late = a.make(directory, "late").await;
    a.delegate(&[], &[directory]).await;
    while let Some(found) = waiting.join_next().await {
        assert_eq!(found.unwrap(), late);
    }
    assert!(entries < 100, "{entries} entries for 400 who wait");
}
