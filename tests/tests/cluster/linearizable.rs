//! What clients see while the leader dies and leadership moves could have happened one operation at a time (I6).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{Error, FileSystem, WriteOptions};
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{IfExists, RenameMode};
use cairn_tests::harness::{
    Call, ClusterOptions, Deed, MiniCluster, NAMES, Seen, Where, names_are_linearizable,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

const CLIENTS: usize = 5;
const ROUNDS: usize = 60;

fn path(name: usize) -> String {
    format!("/name-{name}")
}

fn draw(rng: &mut StdRng, value: u64) -> Deed {
    let (name, other) = (rng.random_range(0..NAMES), rng.random_range(0..NAMES));
    match rng.random_range(0..10) {
        0 => Deed::Put(name, value, Where::Nothing),
        1..=2 => Deed::Put(name, value, Where::Anywhere),
        3 => Deed::Remove(name),
        4 => Deed::Rename(name, other),
        5 => Deed::Exchange(name, other),
        _ => Deed::Look(name),
    }
}

fn seen(result: Result<Seen, Error>) -> Seen {
    match result {
        Ok(seen) => seen,
        Err(Error::OutcomeUnknown { .. }) => Seen::Unknown,
        Err(error) if matches!(error.code(), ErrorCode::NotFound | ErrorCode::AlreadyExists) => {
            Seen::Refused
        }
        Err(error) => panic!("{error}"),
    }
}

async fn carry_out(fs: &FileSystem, deed: Deed) -> Seen {
    let write = async |name, value: u64, if_exists| {
        let options = WriteOptions {
            if_exists,
            ..WriteOptions::default()
        };
        let bytes = Bytes::copy_from_slice(&value.to_be_bytes());
        fs.write_file(path(name), bytes, &options)
            .await
            .map(|_| Seen::Done)
    };
    let rename = async |from, to, mode| {
        fs.rename(path(from), path(to), mode)
            .await
            .map(|_| Seen::Done)
    };
    seen(match deed {
        Deed::Put(name, value, Where::Nothing) => write(name, value, IfExists::Fail).await,
        Deed::Put(name, value, _) => write(name, value, IfExists::Replace).await,
        Deed::Look(name) => fs.read_file(path(name)).await.map(|bytes| {
            Seen::Value(u64::from_be_bytes(
                bytes[..].try_into().expect("a whole number"),
            ))
        }),
        Deed::Remove(name) => fs.unlink(path(name)).await.map(|_| Seen::Done),
        Deed::Rename(from, to) => rename(from, to, RenameMode::Replace).await,
        Deed::Exchange(a, b) => rename(a, b, RenameMode::Exchange).await,
    })
}

struct Clock(Instant);

impl Clock {
    fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).expect("a test is short")
    }
}

/// One client's part of the history. It goes on until its rounds are over and the faults are.
async fn act(
    fs: FileSystem,
    client: usize,
    mut rng: StdRng,
    clock: Arc<Clock>,
    (done, faults_over): (Arc<AtomicUsize>, Arc<AtomicBool>),
) -> Vec<Call<(Deed, Seen)>> {
    let mut history = Vec::new();
    let mut round = 0;
    while round < ROUNDS || !faults_over.load(Ordering::SeqCst) {
        let deed = draw(&mut rng, (client * 1_000_000 + round) as u64);
        let began = clock.now();
        let seen = carry_out(&fs, deed).await;
        let ended = (seen != Seen::Unknown).then(|| clock.now());
        history.push(Call {
            began,
            ended,
            operation: (deed, seen),
        });
        done.fetch_add(1, Ordering::SeqCst);
        round += 1;
    }
    history
}

fn seed() -> u64 {
    let given = std::env::var("DFS_SEED")
        .ok()
        .map(|seed| seed.parse().expect("DFS_SEED is a number"));
    given.unwrap_or_else(rand::random)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_under_failover_is_linearizable() {
    let seed = seed();
    println!("DFS_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    // Readers of replaced files may be slow: their bytes stay.
    let options = ClusterOptions {
        namenodes: 3,
        reclaim_grace: Duration::from_secs(60),
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let faults_over = Arc::new(AtomicBool::new(false));
    let clock = Arc::new(Clock(Instant::now()));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let fs = cluster.client().await.unwrap();
        let rng = StdRng::seed_from_u64(rng.random());
        let shared = (done.clone(), faults_over.clone());
        clients.spawn(act(fs, client, rng, clock.clone(), shared));
    }
    let progress = async |cluster: &MiniCluster, count: usize| {
        let target = done.load(Ordering::SeqCst) + count;
        cluster
            .eventually(|| (done.load(Ordering::SeqCst) >= target).then_some(()))
            .await
            .unwrap();
    };
    progress(&cluster, 40).await;
    let leader = cluster.leader().await.unwrap();
    cluster.kill_namenode(leader).await;
    progress(&cluster, 40).await;
    cluster.start_namenode(leader).await.unwrap();
    let operator = cluster.client().await.unwrap();
    operator.transfer_leadership(None).await.unwrap();
    progress(&cluster, 40).await;
    let leader = cluster.leader().await.unwrap();
    cluster.kill_namenode(leader).await;
    cluster.start_namenode(leader).await.unwrap();
    progress(&cluster, 40).await;
    faults_over.store(true, Ordering::SeqCst);
    let mut history: Vec<Call<(Deed, Seen)>> =
        clients.join_all().await.into_iter().flatten().collect();
    history.sort_by_key(|call| call.began);
    let unknown = history.iter().filter(|call| call.ended.is_none()).count();
    println!(
        "{} operations, {unknown} of them with an unknown outcome",
        history.len()
    );
    if !names_are_linearizable(&history) {
        for call in &history {
            println!("{call:?}");
        }
        panic!("the history is not linearizable: DFS_SEED={seed}");
    }
    cluster.wait_equal_states().await.unwrap();
    cluster.check(&operator).await.unwrap();
}
