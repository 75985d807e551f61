//! Locks of a mount, without a kernel: what its requests do to the locks of the cluster, and when they are lost.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{ClusterConfig, FileSystem};
use cairn_fuse_mount::{KernelCaches, LockCall, MountedFs, Requester, Thread};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::lock::LockMode;
use cairn_protocol::messages::operation::IfExists;
use cairn_tests::harness::{ClusterOptions, MiniCluster};
use futures::poll;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const ROOT: u64 = 1;
const SESSION_TTL: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);
/// A thread that cannot be seen.
const NOBODY: Thread = Thread(0);

/// A mount whose kernel forgets whatever it is told to.
fn mount(fs: FileSystem, kernels: &mut JoinSet<()>) -> Arc<MountedFs> {
    let (caches, mut forgets) = KernelCaches::new();
    kernels.spawn(async move {
        while let Some(forget) = forgets.next().await {
            forget.done();
        }
    });
    Arc::new(MountedFs::new(fs, caches, Duration::from_secs(3600)))
}

struct Setting {
    cluster: MiniCluster,
    here: Arc<MountedFs>,
    /// What `here` is over.
    fs: FileSystem,
    there: Arc<MountedFs>,
    inode: u64,
    _kernels: JoinSet<()>,
}

/// Two mounts that have a file open.
async fn setting() -> Setting {
    let options = ClusterOptions {
        namenodes: 1,
        session_ttl: SESSION_TTL,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let mut kernels = JoinSet::new();
    let fs = cluster.client().await.unwrap();
    let here = mount(fs.clone(), &mut kernels);
    let there = mount(cluster.client().await.unwrap(), &mut kernels);
    let who = Requester {
        uid: 0,
        gid: 0,
        pid: 0,
        umask: 0,
    };
    let made = here.create(who, ROOT, b"file", 0o644, true).await.unwrap();
    there.open(made.inode).await.unwrap();
    Setting {
        cluster,
        here,
        fs,
        there,
        inode: made.inode,
        _kernels: kernels,
    }
}

fn call(inode: u64, owner: u64, mode: LockMode, (start, end): (u64, u64)) -> LockCall {
    LockCall {
        inode,
        handle: owner + 100,
        owner,
        mode,
        start,
        end,
        pid: 7,
    }
}

async fn try_lock(mount: &MountedFs, call: LockCall) -> Result<(), i32> {
    mount.set_lock(call, NOBODY, false).await
}

/// Something under way, for [`ended`].
fn start<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinSet<T> {
    let mut set = JoinSet::new();
    set.spawn(work);
    set
}

async fn ended<T: 'static>(mut set: JoinSet<T>) -> T {
    set.join_next().await.unwrap().unwrap()
}

fn wait(mount: &Arc<MountedFs>, call: LockCall) -> JoinSet<Result<(), i32>> {
    let mount = mount.clone();
    start(async move { mount.set_lock(call, NOBODY, true).await })
}

/// Until the session is over by the client's own clock.
async fn wait_lost(fs: &FileSystem, inode: u64) {
    let lost = async {
        while fs.check_locks(InodeId(inode)).is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, lost).await.unwrap();
}

/// Has the client begin a new session, before anything could bring the old one back to life.
fn renew(fs: &FileSystem) -> JoinSet<()> {
    let fs = fs.clone();
    start(async move {
        fs.mkdir("/renewed", 0o755).await.unwrap();
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_locked_here_is_locked_there_until_it_is_closed() {
    let Setting {
        mut cluster,
        here,
        there,
        inode,
        ..
    } = setting().await;
    let range = |owner, mode, first, last| call(inode, owner, mode, (first, last));
    let (write, unlocked) = (LockMode::Write, LockMode::Unlocked);
    let end = i64::MAX as u64;
    try_lock(&here, range(1, write, 0, 9)).await.unwrap();
    // Another process of the same mount, and another mount.
    for mount in [&here, &there] {
        let refused = try_lock(mount, range(2, write, 5, end)).await;
        assert_eq!(refused, Err(libc::EAGAIN));
        let found = mount.get_lock(range(2, write, 5, end)).await.unwrap();
        let found = found.unwrap();
        assert_eq!((found.start, found.end, found.mode()), (0, 9, write));
        let known = if Arc::ptr_eq(mount, &here) { 7 } else { 0 };
        assert_eq!(found.pid, known, "processes are known where they run");
    }
    // What was written under it is there when it is free, also in pages that were read before.
    assert_eq!(there.read(inode, 0, 9).await.unwrap(), "");
    here.write(inode, 0, "abc".into(), false).await.unwrap();
    let waiting = wait(&there, range(2, write, 5, end));
    try_lock(&here, range(1, unlocked, 5, 9)).await.unwrap();
    ended(waiting).await.unwrap();
    assert_eq!(there.read(inode, 0, 9).await.unwrap(), "abc");
    let refused = there.get_lock(range(2, write, 0, end)).await.unwrap();
    assert_eq!(refused.unwrap().end, 4);
    // A process that closes a descriptor, and an open file that is closed.
    here.flush_for(inode, 0, 1).await.unwrap();
    try_lock(&there, range(2, write, 0, 4)).await.unwrap();
    there.open(inode).await.unwrap();
    there.release_for(inode, 102).await.unwrap();
    try_lock(&here, range(1, write, 0, end)).await.unwrap();
    // Nobody waits at a mount that ends.
    let waiting = wait(&there, range(2, write, 0, end));
    there.stop_waiting();
    assert_eq!(ended(waiting).await, Err(libc::EINTR));
    let fs = cluster.client().await.unwrap();
    let locks = fs.list_locks(InodeId(inode)).await.unwrap();
    assert_eq!(locks.len(), 1, "{locks:?}");
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_lost_lock_nothing_is_read_or_written_until_the_file_is_closed() {
    let Setting {
        mut cluster,
        here,
        fs,
        there,
        inode,
        _kernels,
    } = setting().await;
    let all = |owner, mode| call(inode, owner, mode, (0, i64::MAX as u64));
    try_lock(&here, all(1, LockMode::Write)).await.unwrap();
    here.write(inode, 0, "before".into(), false).await.unwrap();
    here.sync(inode).await.unwrap();
    // For longer than the session lives nobody answers.
    cluster.kill_namenode(0).await;
    wait_lost(&fs, inode).await;
    let late = here.write(inode, 0, "late".into(), false).await;
    assert_eq!(late, Err(libc::EIO));
    assert_eq!(here.read(inode, 0, 6).await, Err(libc::EIO));
    let renewed = renew(&fs);
    cluster.start_namenode(0).await.unwrap();
    ended(renewed).await;
    // The next one gets it, and keeps what it writes.
    ended(wait(&there, all(2, LockMode::Write))).await.unwrap();
    assert_eq!(there.read(inode, 0, 6).await.unwrap(), "before");
    there.write(inode, 0, "theirs".into(), false).await.unwrap();
    there.sync(inode).await.unwrap();
    // Who held it closes the file.
    assert_eq!(here.read(inode, 0, 6).await, Err(libc::EIO));
    here.flush_for(inode, 0, 1).await.unwrap();
    assert_eq!(here.read(inode, 0, 6).await.unwrap(), "theirs");
    there.flush_for(inode, 0, 2).await.unwrap();
    // And may begin anew.
    try_lock(&here, all(1, LockMode::Write)).await.unwrap();
    here.write(inode, 0, "ours..".into(), false).await.unwrap();
    here.flush_for(inode, 0, 1).await.unwrap();
    let fs = cluster.client().await.unwrap();
    assert_eq!(fs.read_file("/file").await.unwrap(), "ours..");
    assert!(
        fs.list_locks(InodeId(inode)).await.unwrap().is_empty(),
        "closing lets go"
    );
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_that_cannot_be_released_at_once_are_released_later() {
    let Setting {
        mut cluster,
        here,
        fs,
        there,
        inode,
        _kernels,
    } = setting().await;
    let all = |owner, mode| call(inode, owner, mode, (0, i64::MAX as u64));
    try_lock(&here, all(1, LockMode::Write)).await.unwrap();
    here.write(inode, 0, "before".into(), false).await.unwrap();
    here.sync(inode).await.unwrap();
    cluster.kill_namenode(0).await;
    here.write(inode, 0, "lost!!".into(), false).await.unwrap();
    let closing = {
        let here = here.clone();
        start(async move { here.flush_for(inode, 0, 1).await })
    };
    wait_lost(&fs, inode).await;
    let renewed = renew(&fs);
    cluster.start_namenode(0).await.unwrap();
    ended(renewed).await;
    // Its commit was on its way in the old session, which the namenode has given a new life: both are possible.
    let _ = ended(closing).await;
    here.look_after_open_files().await;
    ended(wait(&there, all(2, LockMode::Write))).await.unwrap();
    there.write(inode, 0, "theirs".into(), false).await.unwrap();
    there.flush_for(inode, 0, 2).await.unwrap();
    here.write(inode, 6, "!".into(), false).await.unwrap();
    here.flush(inode).await.unwrap();
    let fs = cluster.client().await.unwrap();
    assert_eq!(fs.read_file("/file").await.unwrap(), "theirs!");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_owner_left_is_not_released_when_it_has_locked_anew() {
    let options = ClusterOptions {
        namenodes: 1,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let mut config = ClusterConfig::new(cluster.addresses().to_vec(), Caller::default());
    config.timeouts.patience = Duration::from_millis(500);
    config.timeouts.pipeline = Duration::from_millis(300);
    let mut kernels = JoinSet::new();
    let impatient = FileSystem::connect(config).await.unwrap();
    let here = mount(impatient.clone(), &mut kernels);
    let mut inodes = Vec::new();
    for path in ["/first", "/second"] {
        let made = fs.create(path, 0o644, IfExists::Fail).await.unwrap();
        let inode = made.0.inode;
        here.open(inode).await.unwrap();
        let locked = call(inode, 1, LockMode::Write, (0, 9));
        try_lock(&here, locked).await.unwrap();
        inodes.push(inode);
    }
    let [first, second] = inodes[..] else {
        panic!("there are two");
    };
    here.write(first, 0, "x".into(), false).await.unwrap();
    cluster.kill_namenode(0).await;
    here.flush_for(first, 0, 1).await.unwrap_err();
    // Nothing is to be flushed, and its locks are left all the same.
    here.flush_for(second, 0, 1).await.unwrap();
    for datanode in 0..3 {
        cluster.kill_datanode(datanode).await;
    }
    cluster.start_namenode(0).await.unwrap();
    while impatient.stat("/").await.is_err() {}
    // The keeper has seen both and is at the first one, which cannot be flushed.
    let mut keeping = Box::pin(here.look_after_open_files());
    assert!(poll!(&mut keeping).is_pending());
    let again = call(second, 1, LockMode::Write, (0, 9));
    try_lock(&here, again).await.unwrap();
    keeping.await;
    let locks = fs.list_locks(InodeId(second)).await.unwrap();
    assert_eq!(locks.len(), 1, "{locks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_for_which_its_owner_waits_while_it_closes_the_file_goes_with_the_next_close() {
    let Setting {
        mut cluster,
        here,
        there,
        inode,
        ..
    } = setting().await;
    let range = move |owner, mode| call(inode, owner, mode, (5, 9));
    try_lock(&there, range(2, LockMode::Write)).await.unwrap();
    let mut waiting = Box::pin({
        let here = here.clone();
        async move {
            let call = range(1, LockMode::Write);
            here.set_lock(call, NOBODY, true).await
        }
    });
    // It is known that the owner may hold something.
    assert!(poll!(&mut waiting).is_pending());
    let waiting = start(waiting);
    here.flush_for(inode, 0, 1).await.unwrap();
    try_lock(&there, range(2, LockMode::Unlocked))
        .await
        .unwrap();
    ended(waiting).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let held = async || fs.list_locks(InodeId(inode)).await.unwrap().len();
    assert_eq!(held().await, 1);
    here.flush_for(inode, 0, 1).await.unwrap();
    assert_eq!(held().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_granted_is_held_whatever_fails_after_it() {
    let Setting {
        mut cluster,
        here,
        inode,
        ..
    } = setting().await;
    let fs = cluster.client().await.unwrap();
    let locked = call(inode, 1, LockMode::Write, (0, 9));
    let mut locking = Box::pin(here.set_lock(locked, NOBODY, false));
    assert!(poll!(&mut locking).is_pending());
    let granted_and_gone = async {
        while fs.list_locks(InodeId(inode)).await.unwrap().is_empty() {}
        fs.unlink("/file").await.unwrap();
        // Nobody looks after it, so it goes, and cannot be asked about.
        while fs.stat(InodeId(inode)).await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, granted_and_gone).await.unwrap();
    assert_eq!(locking.await, Ok(()));
}
