//! Advisory locks between clients: conflict, waiting, and everything that ends a lock without its owner's doing.

use std::time::Duration;

use cairn_client::{FileSystem, LockRequest, WriteOptions};
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::lock::LockSpace;
use cairn_protocol::messages::operation::IfExists;
use cairn_tests::harness::{ClusterOptions, MiniCluster};
use tokio::task::JoinSet;

const SESSION_TTL: Duration = Duration::from_secs(1);

async fn start(namenodes: usize) -> MiniCluster {
    start_with(namenodes, SESSION_TTL).await
}

async fn start_with(namenodes: usize, session_ttl: Duration) -> MiniCluster {
    let options = ClusterOptions {
        namenodes,
        session_ttl,
        ..ClusterOptions::default()
    };
    MiniCluster::start(options).await.unwrap()
}

async fn file(fs: &FileSystem) -> InodeId {
    let (attributes, _) = fs.create("/file", 0o644, IfExists::Fail).await.unwrap();
    InodeId(attributes.inode)
}

/// A cluster, two clients of it, and a file.
async fn two_clients() -> (MiniCluster, FileSystem, FileSystem, InodeId) {
    let mut cluster = start(1).await;
    let (a, b) = (
        cluster.client().await.unwrap(),
        cluster.client().await.unwrap(),
    );
    let inode = file(&a).await;
    (cluster, a, b, inode)
}

fn range(owner: u64, write: bool, start: u64, end: u64) -> LockRequest {
    LockRequest {
        write,
        start,
        end,
        ..LockRequest::exclusive(owner)
    }
}

/// Somebody who waits for a lock; gives up when dropped.
struct Waiting(JoinSet<()>);

impl Waiting {
    fn is_over(&mut self) -> bool {
        self.0.try_join_next().is_some()
    }

    async fn granted(mut self) {
        self.0.join_next().await.unwrap().unwrap();
    }
}

fn lock(fs: &FileSystem, inode: InodeId, request: LockRequest) -> Waiting {
    let fs = fs.clone();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { fs.lock(inode, request).await.unwrap() });
    Waiting(waiting)
}

/// Waits until nobody holds anything on the file.
async fn wait_free(fs: &FileSystem, inode: InodeId) {
    while !fs.list_locks(inode).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_keeps_others_out_until_it_is_handed_over() {
    let (cluster, a, b, inode) = two_clients().await;
    a.lock(inode, range(1, true, 10, 19)).await.unwrap();
    assert!(
        b.try_lock(inode, range(1, true, 0, 9))
            .await
            .unwrap()
            .is_none()
    );
    let holder = b
        .try_lock(inode, range(1, true, 0, 15))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((holder.owner, holder.start, holder.end), (1, 10, 19));
    assert_eq!(holder.pid, std::process::id());
    let asked = b.test_lock(inode, range(1, false, 15, 15)).await.unwrap();
    assert_eq!(asked, Some(holder));
    assert!(
        a.test_lock(inode, range(1, true, 15, 15))
            .await
            .unwrap()
            .is_none()
    );
    let flock = LockRequest {
        space: LockSpace::Flock,
        ..LockRequest::exclusive(1)
    };
    assert!(
        b.try_lock(inode, flock).await.unwrap().is_none(),
        "another space"
    );

    let mut waiting = lock(&b, inode, range(2, false, 0, 99));
    b.unlock(inode, range(1, true, 0, 9)).await.unwrap();
    assert!(!waiting.is_over());
    a.unlock(inode, range(1, true, 0, u64::MAX)).await.unwrap();
    waiting.granted().await;
    assert!(
        a.try_lock(inode, range(1, true, 50, 50))
            .await
            .unwrap()
            .is_some()
    );
    let listed = a.list_locks("/file").await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|holder| holder.client_name == "test"));
    b.close().await.unwrap();
    assert!(
        a.list_locks("/file").await.unwrap().is_empty(),
        "closing lets go"
    );
    cluster.check(&a).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_counted_under_a_lock_is_counted_right() {
    const CLIENTS: usize = 4;
    const ROUNDS: usize = 12;
    let mut cluster = start(1).await;
    let fs = cluster.client().await.unwrap();
    let inode = file(&fs).await;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let fs = cluster.client().await.unwrap();
        clients.spawn(async move {
            for _ in 0..ROUNDS {
                let owner = client as u64;
                fs.lock(inode, LockRequest::exclusive(owner)).await.unwrap();
                let count = fs.read_file("/file").await.unwrap();
                let count = String::from_utf8(count.to_vec()).unwrap();
                let count: usize = count.parse().unwrap_or(0);
                let bytes = (count + 1).to_string().into();
                let options = WriteOptions {
                    if_exists: IfExists::Truncate,
                    ..WriteOptions::default()
                };
                fs.write_file("/file", bytes, &options).await.unwrap();
                fs.release_owner(inode, LockSpace::Posix, owner)
                    .await
                    .unwrap();
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let count = fs.read_file("/file").await.unwrap();
    assert_eq!(count, (CLIENTS * ROUNDS).to_string());
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_locks_of_a_client_that_dies_go_with_its_session() {
    let mut cluster = start(1).await;
    let (a, b) = (
        cluster.client().await.unwrap(),
        cluster.client().await.unwrap(),
    );
    let inode = file(&b).await;
    a.lock(inode, LockRequest::exclusive(1)).await.unwrap();
    let mut waiting = lock(&b, inode, LockRequest::exclusive(1));
    b.stat("/file").await.unwrap();
    assert!(!waiting.is_over());
    drop(a);
    waiting.granted().await;
    cluster.check(&b).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_goes_on_waiting_when_the_leader_dies() {
    // An election takes a second or two, which no session may end in.
    let mut cluster = start_with(3, Duration::from_secs(20)).await;
    let (a, b) = (
        cluster.client().await.unwrap(),
        cluster.client().await.unwrap(),
    );
    let inode = file(&a).await;
    a.lock(inode, LockRequest::exclusive(1)).await.unwrap();
    let mut waiting = lock(&b, inode, LockRequest::exclusive(1));
    b.try_lock(inode, LockRequest::shared(2))
        .await
        .unwrap()
        .unwrap();
    let leader = cluster.leader().await.unwrap();
    cluster.kill_namenode(leader).await;
    let holder = b.try_lock(inode, LockRequest::shared(2)).await.unwrap();
    assert!(holder.is_some(), "the lock outlives the leader");
    assert!(!waiting.is_over());
    a.unlock(inode, LockRequest::exclusive(1)).await.unwrap();
    waiting.granted().await;
    cluster.start_namenode(leader).await.unwrap();
    cluster.wait_equal_states().await.unwrap();
    cluster.check(&b).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_nobody_waits_for_any_more_is_not_kept() {
    let (cluster, a, b, inode) = two_clients().await;
    // Given up at every moment: before it is sent, on the way, granted and not heard.
    for micros in 0..40 {
        let wished = b.lock(inode, LockRequest::exclusive(1));
        let given_up = tokio::time::timeout(Duration::from_micros(20 * micros), wished).await;
        match given_up {
            Ok(granted) => {
                granted.unwrap();
                b.unlock(inode, LockRequest::exclusive(1)).await.unwrap();
            }
            Err(_) => wait_free(&a, inode).await,
        }
    }
    a.lock(inode, LockRequest::exclusive(1)).await.unwrap();
    let waiting = lock(&b, inode, LockRequest::exclusive(1));
    b.stat("/file").await.unwrap();
    drop(waiting);
    a.unlock(inode, LockRequest::exclusive(1)).await.unwrap();
    wait_free(&a, inode).await;

    // What was held before stays.
    b.lock(inode, range(1, false, 0, 99)).await.unwrap();
    for micros in 0..40 {
        let wished = b.lock(inode, range(1, true, 10, 19));
        let given_up = tokio::time::timeout(Duration::from_micros(20 * micros), wished).await;
        if given_up.is_ok() {
            b.lock(inode, range(1, false, 10, 19)).await.unwrap();
        }
        // Waits its turn behind what is put back.
        b.lock(inode, range(1, false, 200, 200)).await.unwrap();
        let held = a.list_locks(inode).await.unwrap();
        let held: Vec<_> = held.iter().map(|h| (h.start, h.end, h.mode)).collect();
        assert_eq!(held, [(0, 99, 1), (200, 200, 1)]);
    }
    cluster.check(&a).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlock_is_done_though_nobody_waits_for_it() {
    let (cluster, a, b, inode) = two_clients().await;
    for micros in 0..40 {
        a.lock(inode, LockRequest::exclusive(1)).await.unwrap();
        let patience = Duration::from_micros(20 * micros);
        if micros % 2 == 0 {
            let unlocked = a.unlock(inode, LockRequest::exclusive(1));
            let _ = tokio::time::timeout(patience, unlocked).await;
        } else {
            let released = a.release_owner(inode, LockSpace::Posix, 1);
            let _ = tokio::time::timeout(patience, released).await;
        }
        b.lock(inode, LockRequest::exclusive(1)).await.unwrap();
        assert!(a.list_locks(inode).await.unwrap().len() == 1);
        b.unlock(inode, LockRequest::exclusive(1)).await.unwrap();
    }
    cluster.check(&a).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_would_wait_for_each_other_for_ever_are_told() {
    let (cluster, a, b, inode) = two_clients().await;
    a.lock(inode, range(1, true, 0, 0)).await.unwrap();
    b.lock(inode, range(1, true, 1, 1)).await.unwrap();
    a.lock(inode, range(2, true, 2, 2)).await.unwrap();
    // Each wishes for what the next one holds. Whoever closes the circle is told, gives up what it holds, and so lets the others go on.
    let mut all = JoinSet::new();
    for (fs, wish) in [
        (a.clone(), range(1, true, 1, 1)),
        (b.clone(), range(1, true, 2, 2)),
        (a.clone(), range(2, true, 0, 0)),
    ] {
        all.spawn(async move {
            let locked = fs.lock(inode, wish).await;
            fs.release_owner(inode, LockSpace::Posix, wish.owner)
                .await
                .unwrap();
            locked.map_err(|error| error.code())
        });
    }
    let told = all.join_all().await;
    let deadlock = Err(ErrorCode::Deadlock);
    assert!(told.contains(&deadlock), "{told:?}");
    let known = |told: &Result<(), ErrorCode>| told.is_ok() || *told == deadlock;
    assert!(told.iter().all(known), "{told:?}");
    cluster.check(&a).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_under_a_lock_that_was_lost() {
    let mut cluster = start(1).await;
    let a = cluster.client().await.unwrap();
    let inode = file(&a).await;
    a.lock(inode, LockRequest::exclusive(1)).await.unwrap();
    let open = a.open_file(inode).await.unwrap();
    open.write(0, "before".into()).await.unwrap();
    open.flush().await.unwrap();
    a.check_locks(inode).unwrap();
    // Nobody hears of it for longer than its session lives, by its own clock.
    cluster.kill_namenode(0).await;
    cluster
        .eventually(|| a.check_locks(inode).err())
        .await
        .unwrap();
    open.write(0, "after".into()).await.unwrap();
    cluster.start_namenode(0).await.unwrap();
    let error = open.flush().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::LockLost);
    let again = a.try_lock(inode, LockRequest::exclusive(1)).await;
    assert_eq!(again.unwrap_err().code(), ErrorCode::LockLost);
    // However the file is named.
    let appended = a.record_append("/file", "after".into()).await;
    assert_eq!(appended.unwrap_err().code(), ErrorCode::LockLost);
    let truncated = a.truncate("/file", 0).await;
    assert_eq!(truncated.unwrap_err().code(), ErrorCode::LockLost);
    let b = cluster.client().await.unwrap();
    b.lock(inode, LockRequest::exclusive(1)).await.unwrap();
    assert_eq!(b.read_file("/file").await.unwrap(), "before");
    b.close().await.unwrap();
    // Its owner closes the file, and may begin anew.
    a.release_owner(inode, LockSpace::Posix, 1).await.unwrap();
    a.check_locks(inode).unwrap();
    a.lock(inode, LockRequest::exclusive(1)).await.unwrap();
    open.write(0, "anew..".into()).await.unwrap();
    open.flush().await.unwrap();
    assert_eq!(a.read_file("/file").await.unwrap(), "anew..");
    cluster.check(&a).await.unwrap();
}
