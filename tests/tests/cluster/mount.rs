//! What a mount does with the kernel's requests, without a kernel: `fs.rs` over a cluster in this process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{ClusterConfig, FileSystem};
use cairn_fuse_mount::{
    Forget, Forgets, Forgotten, KernelCaches, MountedFs, NewAttributes, Requester,
};
use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::operation::{RenameMode, XattrMode};
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};
use tokio::task::JoinSet;

const ROOT: u64 = 1;
/// How long the kernel may keep what is watched over.
const KEEP: Duration = Duration::from_secs(3600);
const SUPERUSER: Requester = Requester {
    uid: 0,
    gid: 0,
    pid: 0,
    umask: 0,
};
const SOMEBODY: Requester = Requester {
    uid: 1000,
    gid: 1000,
    pid: 0,
    umask: 0,
};

/// A mount without a kernel, and what its kernel would be told to forget.
fn mount(fs: FileSystem) -> (Arc<MountedFs>, Forgets) {
    let (caches, forgets) = KernelCaches::new();
    (Arc::new(MountedFs::new(fs, caches, KEEP)), forgets)
}

/// A mount whose kernel forgets whatever it is told to.
fn forgetful_mount(fs: FileSystem, tasks: &mut JoinSet<()>) -> Arc<MountedFs> {
    let (mount, mut forgets) = mount(fs);
    tasks.spawn(async move {
        while let Some(forget) = forgets.next().await {
            forget.done();
        }
    });
    mount
}

/// A client that soon gives up.
async fn impatient(cluster: &MiniCluster) -> FileSystem {
    let mut config = ClusterConfig::new(cluster.addresses().to_vec(), Caller::default());
    config.timeouts.patience = Duration::from_millis(500);
    config.timeouts.pipeline = Duration::from_millis(300);
    FileSystem::connect(config).await.unwrap()
}

async fn make(mount: &MountedFs, name: &str) -> u64 {
    let made = mount.create(SUPERUSER, ROOT, name.as_bytes(), 0o644, true);
    made.await.unwrap().inode
}

async fn put(mount: &MountedFs, name: &str, bytes: impl Into<Bytes>) -> u64 {
    let inode = make(mount, name).await;
    mount.write(inode, 0, bytes.into(), false).await.unwrap();
    mount.flush(inode).await.unwrap();
    inode
}

/// The cluster has let an inode go.
async fn wait_gone(fs: &FileSystem, inode: u64) {
    let gone = async {
        while fs.stat(cairn_protocol::ids::InodeId(inode)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .unwrap();
}

/// What was deleted before this is gone by now, unless somebody keeps it.
async fn sweep(fs: &FileSystem, mount: &MountedFs) {
    let other = put(mount, "swept", "x").await;
    mount.release(other).await.unwrap();
    fs.unlink("/swept").await.unwrap();
    wait_gone(fs, other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_loses_its_name_here_stays_while_it_is_open() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let (mount, _forgets) = mount(cluster.client().await.unwrap());
    let inode = put(&mount, "file", "abc").await;
    mount.unlink(ROOT, b"file").await.unwrap();
    sweep(&fs, &mount).await;
    assert_eq!(mount.read(inode, 0, 10).await.unwrap(), "abc");
    mount.write(inode, 3, "def".into(), false).await.unwrap();
    mount.sync(inode).await.unwrap();
    assert_eq!(mount.read(inode, 0, 10).await.unwrap(), "abcdef");
    assert_eq!(mount.attributes(inode).await.unwrap().nlink, 0);
    // It goes with its last handle.
    mount.open(inode).await.unwrap();
    mount.release(inode).await.unwrap();
    sweep(&fs, &mount).await;
    assert_eq!(mount.read(inode, 0, 10).await.unwrap(), "abcdef");
    mount.release(inode).await.unwrap();
    wait_gone(&fs, inode).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_open_file_is_told_once_that_bytes_are_lost() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let mut kernel = JoinSet::new();
    let mount = forgetful_mount(cluster.client().await.unwrap(), &mut kernel);
    let inode = put(&mount, "file", "abc").await;
    mount.opened_as(inode, 1);
    mount.open(inode).await.unwrap();
    mount.opened_as(inode, 2);
    fs.unlink("/file").await.unwrap();
    // Nobody looks after the file, so it goes.
    wait_gone(&fs, inode).await;
    mount.write(inode, 3, "def".into(), false).await.unwrap();
    for handle in [1, 2] {
        assert!(mount.sync_for(inode, handle).await.is_err(), "{handle}");
    }
    for handle in [1, 2] {
        mount.release_for(inode, handle).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_loses_its_name_elsewhere_stays_while_it_is_open() {
    // Long enough for the keeper, whom this test calls itself.
    let options = ClusterOptions {
        reclaim_grace: Duration::from_secs(2),
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let (mount, _forgets) = mount(cluster.client().await.unwrap());
    fs.mkdir("/tree", 0o755).await.unwrap();
    let unlinked = put(&mount, "unlinked", "1").await;
    let replaced = put(&mount, "replaced", "2").await;
    let tree = mount.lookup(ROOT, b"tree").await.unwrap().inode;
    let below = mount.create(SUPERUSER, tree, b"below", 0o644, true).await;
    let below = below.unwrap().inode;
    mount.write(below, 0, "3".into(), false).await.unwrap();
    mount.flush(below).await.unwrap();
    let other = put(&mount, "other", "4").await;
    fs.unlink("/unlinked").await.unwrap();
    fs.remove_tree("/tree").await.unwrap();
    // Also through this mount: the kernel does not say what a rename replaces.
    let replace = mount.rename((ROOT, b"other"), (ROOT, b"replaced"), RenameMode::Replace);
    replace.await.unwrap();
    // A tree loses its names in the background.
    while fs
        .stat(cairn_protocol::ids::InodeId(below))
        .await
        .unwrap()
        .nlink
        > 0
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    mount.look_after_open_files().await;
    sweep(&fs, &mount).await;
    for (inode, bytes) in [(unlinked, "1"), (replaced, "2"), (below, "3"), (other, "4")] {
        assert_eq!(mount.read(inode, 0, 10).await.unwrap(), bytes);
        assert!(mount.attributes(inode).await.is_ok(), "{bytes}");
        mount.release(inode).await.unwrap();
    }
    for inode in [unlinked, replaced, below] {
        wait_gone(&fs, inode).await;
    }
    assert_eq!(fs.read_file("/replaced").await.unwrap(), "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlink_between_look_up_and_open_takes_nothing_away() {
    let options = ClusterOptions {
        reclaim_grace: Duration::from_secs(2),
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let (mount, _forgets) = mount(cluster.client().await.unwrap());
    let inode = put(&mount, "file", "abc").await;
    mount.release(inode).await.unwrap();
    mount.unlink(ROOT, b"file").await.unwrap();
    mount.open(inode).await.unwrap();
    mount.look_after_open_files().await;
    sweep(&fs, &mount).await;
    assert_eq!(mount.read(inode, 0, 10).await.unwrap(), "abc");
    mount.release(inode).await.unwrap();
    wait_gone(&fs, inode).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_makes_the_kernel_forget_from_where_it_expected_it() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let (mount, mut forgets) = mount(cluster.client().await.unwrap());
    let inode = put(&mount, "log", "0123456789").await;
    fs.record_append("/log", "elsewhere ".into()).await.unwrap();
    let appending = {
        let mount = mount.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { mount.append(inode, 10, "here".into(), false).await });
        tasks
    };
    let forget: Forget = forgets.next().await.unwrap();
    assert_eq!(forget.what, Forgotten::Pages { inode, from: 10 });
    forget.done();
    assert_eq!(appending.join_all().await, [Ok(20)]);
    assert_eq!(mount.attributes(inode).await.unwrap().size, 24);
    assert_eq!(
        mount.read(inode, 0, 100).await.unwrap(),
        "0123456789elsewhere here"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_older_than_what_this_mount_has_written() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let (mount, _forgets) = mount(cluster.client().await.unwrap());
    let inode = make(&mount, "file").await;
    let directory = mount.open_directory(ROOT);
    let mut tasks = JoinSet::new();
    for reader in 0..3 {
        let mount = mount.clone();
        tasks.spawn(async move {
            let mut before = 0;
            while before < 300 {
                let size = match reader {
                    0 => mount.attributes(inode).await.unwrap().size,
                    1 => mount.lookup(ROOT, b"file").await.unwrap().size,
                    _ => {
                        let page = mount.read_directory(directory, 0, true).await.unwrap();
                        match &page[0].attributes {
                            Some(attributes) => attributes.size,
                            None => continue,
                        }
                    }
                };
                assert!(size >= before, "{size} after {before}");
                before = size;
            }
        });
    }
    for at in 0..300 {
        mount.write(inode, at, "x".into(), false).await.unwrap();
        if at % 3 == 0 {
            mount.flush(inode).await.unwrap();
        }
        // Closed and opened again, so that what is known of closed files counts, too.
        if at % 10 == 0 {
            mount.release(inode).await.unwrap();
            mount.open(inode).await.unwrap();
            assert_eq!(mount.attributes(inode).await.unwrap().size, at + 1);
        }
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_that_were_told_of_a_written_file_stay() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let (mount, _forgets) = mount(cluster.client().await.unwrap());
    let inode = make(&mount, "file").await;
    let empty = mount.attributes(inode).await.unwrap();
    mount
        .write(inode, 0, content(1, 5000), false)
        .await
        .unwrap();
    let told = mount.attributes(inode).await.unwrap();
    assert!(told.mtime_ns > empty.mtime_ns);
    assert_eq!((told.size, told.allocated), (5000, 5000));
    mount.write(inode, 10, content(2, 10), false).await.unwrap();
    let told = mount.lookup(ROOT, b"file").await.unwrap();
    mount.flush(inode).await.unwrap();
    mount.release(inode).await.unwrap();
    let closed = mount.attributes(inode).await.unwrap();
    assert_eq!(
        (closed.mtime_ns, closed.ctime_ns),
        (told.mtime_ns, told.ctime_ns)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_somebody_else_made_since_is_looked_up_again() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let (mount, _forgets) = mount(cluster.client().await.unwrap());
    fs.write_file(
        "/file",
        "abc".into(),
        &cairn_client::WriteOptions::default(),
    )
    .await
    .unwrap();
    let create = |exclusive| mount.create(SOMEBODY, ROOT, b"file", 0o644, exclusive);
    assert_eq!(create(false).await.unwrap_err(), libc::ESTALE);
    assert_eq!(create(true).await.unwrap_err(), libc::EEXIST);
    assert_eq!(fs.read_file("/file").await.unwrap(), "abc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_changes_a_file_and_may_not_keep_set_ids_loses_them() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let mut tasks = JoinSet::new();
    let mount = forgetful_mount(cluster.client().await.unwrap(), &mut tasks);
    let inode = put(&mount, "program", "abc").await;
    let set = async |mode| {
        let mut new = NewAttributes::default();
        new.change.mode = Some(mode);
        let set = mount.set_attributes(SUPERUSER, inode, new).await.unwrap();
        assert_eq!(set.mode, mode);
    };
    let mode = async || mount.attributes(inode).await.unwrap().mode;
    set(0o6755).await;
    mount.write(inode, 0, "d".into(), false).await.unwrap();
    assert_eq!(mode().await, 0o6755, "the superuser may");
    mount.write(inode, 0, "d".into(), true).await.unwrap();
    assert_eq!(mode().await, 0o755);
    set(0o6755).await;
    mount.append(inode, 0, "d".into(), true).await.unwrap();
    assert_eq!(mode().await, 0o755);
    set(0o6745).await;
    let cut = NewAttributes {
        size: Some(1),
        ..NewAttributes::default()
    };
    let cut = mount.set_attributes(SOMEBODY, inode, cut).await.unwrap();
    assert_eq!((cut.size, cut.mode), (1, 0o2745), "no group execution");
    set(0o6755).await;
    let grown = mount.allocate(SOMEBODY, inode, (0, 100), 0).await;
    grown.unwrap();
    assert_eq!(mode().await, 0o755);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_changes_while_it_is_read_tells_each_other_name_once() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let (mount, _forgets) = mount(cluster.client().await.unwrap());
    let name = |index: usize| format!("{index:05}-{}", "n".repeat(index % 200));
    let mut tasks = JoinSet::new();
    for worker in 0..8 {
        let mount = mount.clone();
        tasks.spawn(async move {
            for index in (worker..2500).step_by(8) {
                let name = name(index);
                let make = mount.mkdir(SUPERUSER, ROOT, name.as_bytes(), 0o755);
                make.await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    for attributes in [true, false] {
        let handle = mount.open_directory(ROOT);
        let mut seen = BTreeSet::new();
        let mut index = 0;
        let mut requests = 0;
        loop {
            let entries = mount
                .read_directory(handle, index, attributes)
                .await
                .unwrap();
            if entries.is_empty() {
                break;
            }
            // As much as a buffer of the kernel holds.
            let mut room = 32 << 10;
            let mut taken = 0;
            for entry in &entries {
                room -= 176 + entry.name.len() as i32;
                if room < 0 {
                    break;
                }
                assert_eq!(entry.attributes.is_some(), attributes);
                assert!(seen.insert(entry.name.clone()), "{:?}", entry.name);
                taken += 1;
            }
            index += taken;
            mount.told_directory(handle, index, room < 0).await;
            requests += 1;
            // Before and behind the reader.
            if requests % 2 == 0 {
                let gone = name(requests);
                let _ = fs.rmdir(format!("/{gone}")).await;
                let _ = fs.rmdir(format!("/{}", name(2499 - requests))).await;
                let made = format!("/{:05}-new-{attributes}", 2000 - requests);
                fs.mkdir(made, 0o755).await.unwrap();
            }
        }
        assert!((15..100).contains(&requests), "{requests}");
        // What was there all the time.
        for index in 200..2200 {
            assert!(seen.contains(name(index).as_bytes()), "{index}");
        }
        // A place from before means the same entry.
        let again = mount.read_directory(handle, 100, attributes).await.unwrap();
        assert_eq!(Some(&again[0].name), seen.iter().nth(100));
        mount.close_directory(handle);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fallocate_cuts_nothing_that_others_append_meanwhile() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let (mount, _forgets) = mount(cluster.client().await.unwrap());
    let inode = put(&mount, "file", "").await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        for turn in 0..50_u64 {
            let line = format!("{turn:04}\n");
            fs.record_append("/file", line.into()).await.unwrap();
        }
    });
    for turn in 1..=50 {
        let grown = mount.allocate(SUPERUSER, inode, (0, turn * 7), 0);
        grown.await.unwrap();
    }
    tasks.join_all().await;
    mount.open(inode).await.unwrap();
    let bytes = mount.read(inode, 0, 10_000).await.unwrap();
    let lines: Vec<u8> = bytes.iter().copied().filter(|&byte| byte != 0).collect();
    let expected: String = (0..50).map(|turn| format!("{turn:04}\n")).collect();
    assert_eq!(String::from_utf8(lines).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_close_could_not_commit_are_not_overtaken() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let (mount, _forgets) = mount(impatient(&cluster).await);
    let inode = put(&mount, "file", "first").await;
    for datanode in 0..3 {
        cluster.kill_datanode(datanode).await;
    }
    mount
        .write(inode, 0, "older bytes".into(), false)
        .await
        .unwrap();
    assert!(mount.release(inode).await.is_err(), "nothing takes them");
    mount.open(inode).await.unwrap();
    mount.write(inode, 0, "newer".into(), false).await.unwrap();
    assert_eq!(mount.read(inode, 0, 100).await.unwrap(), "newer bytes");
    for datanode in 0..3 {
        cluster.start_datanode(datanode).await.unwrap();
    }
    for datanode in 0..3 {
        cluster.wait_registered(datanode).await.unwrap();
    }
    while mount.flush(inode).await.is_err() {}
    mount.release(inode).await.unwrap();
    let fs = cluster.client().await.unwrap();
    assert_eq!(fs.read_file("/file").await.unwrap(), "newer bytes");
}

/// user::rw-, user:1000:rw-, group::---, mask::rw-, other::---
const LIST: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x06\0\xe8\x03\0\0\
    \x04\0\0\0\xff\xff\xff\xff\x10\0\x06\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_control_lists_are_kept_and_remembered() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let (here, _forgets) = mount(cluster.client().await.unwrap());
    let (there, _forgets) = mount(cluster.client().await.unwrap());
    let inode = make(&here, "file").await;
    let acl = &b"system.posix_acl_access"[..];
    let set = async |name: &[u8], value: &[u8]| {
        let set = here.set_xattr(SUPERUSER, inode, name, value, XattrMode::Set);
        set.await
    };
    assert_eq!(set(b"user.name", b"value").await, Ok(()));
    assert_eq!(
        set(b"security.capability", b"value").await,
        Err(libc::EOPNOTSUPP)
    );
    let at_once = |mount: &MountedFs, name: &[u8]| mount.get_xattr_at_once(inode, name);
    assert_eq!(at_once(&here, b"user.name"), None);
    assert_eq!(at_once(&here, b"security.capability"), Some(libc::ENODATA));
    for mount in [&here, &there] {
        mount.lookup(ROOT, b"file").await.unwrap();
        assert_eq!(at_once(mount, acl), Some(libc::ENODATA));
    }
    set(acl, LIST).await.unwrap();
    assert_eq!(at_once(&here, acl), None);
    assert_eq!(here.get_xattr(inode, acl).await.unwrap(), LIST);
    assert_eq!(here.attributes(inode).await.unwrap().mode, 0o660);
    assert_eq!(
        here.list_xattrs(inode).await.unwrap(),
        b"system.posix_acl_access\0user.name\0"
    );
    there.attributes(inode).await.unwrap();
    assert_eq!(at_once(&there, acl), None);
    for _ in 0..2 {
        there.remove_xattr(inode, acl).await.unwrap();
    }
    there.attributes(inode).await.unwrap();
    assert_eq!(at_once(&there, acl), Some(libc::ENODATA));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_in_the_mount_of_a_user_is_that_users() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let root = cluster.client().await.unwrap();
    root.mkdir("/home", 0o777).await.unwrap();
    let home = root.stat("/home").await.unwrap().inode;
    let bob = Caller {
        uid: 1000,
        gid: 100,
        ..Caller::default()
    };
    let (mount, _forgets) = mount(cluster.client_as(bob).await.unwrap());
    let process = Requester {
        umask: 0o027,
        ..SUPERUSER
    };
    let made = mount.create(process, home, b"file", 0o666, true);
    let file = made.await.unwrap();
    assert_eq!((file.uid, file.gid, file.mode), (1000, 100, 0o640));
    mount
        .write(file.inode, 0, "abc".into(), false)
        .await
        .unwrap();
    mount.flush(file.inode).await.unwrap();
    let made = mount.mkdir(process, home, b"sub", 0o777).await.unwrap();
    assert_eq!((made.uid, made.gid, made.mode), (1000, 100, 0o750));
    assert_eq!(root.read_file("/home/file").await.unwrap(), "abc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_list_counts_instead_of_the_umask() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let (mount, _forgets) = mount(cluster.client().await.unwrap());
    let who = Requester {
        umask: 0o077,
        ..SUPERUSER
    };
    let plain = mount.mkdir(who, ROOT, b"plain", 0o777).await.unwrap();
    assert_eq!(plain.mode, 0o700);
    let shared = mount.mkdir(who, ROOT, b"shared", 0o777).await.unwrap();
    let default = b"system.posix_acl_default";
    let set = mount.set_xattr(SUPERUSER, shared.inode, default, LIST, XattrMode::Set);
    set.await.unwrap();
    let file = mount.create(who, shared.inode, b"file", 0o666, true).await;
    assert_eq!(file.unwrap().mode, 0o660);
    let file = mount.create(who, plain.inode, b"file", 0o666, true).await;
    assert_eq!(file.unwrap().mode, 0o600);
}

/// Until the kernel is told to forget the pages of a file, which it has not done yet.
async fn to_forget(forgets: &mut Forgets, inode: u64) -> Forget {
    let told = async {
        loop {
            let forget = forgets.next().await.unwrap();
            if forget.what == (Forgotten::Pages { inode, from: 0 }) {
                return forget;
            }
            forget.done();
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(60), told).await;
    told.expect("the kernel is told")
}

/// Until the kernel has forgotten the pages of a file.
async fn forgotten(forgets: &mut Forgets, inode: u64) {
    to_forget(forgets, inode).await.done();
}

/// Until the mount hears of changes. Leaves one more handle or more of a file that is open.
async fn hears_changes(mount: &MountedFs, inode: u64) {
    loop {
        // Its own changes are known, once it listens.
        mount.write(inode, 0, "x".into(), false).await.unwrap();
        mount.flush(inode).await.unwrap();
        if mount.open(inode).await.unwrap() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn follow(mount: &Arc<MountedFs>, tasks: &mut JoinSet<()>) {
    let mount = mount.clone();
    tasks.spawn(async move { mount.follow_changes().await });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_keeps_pages_over_an_open_and_forgets_what_others_write() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let (mount, mut forgets) = mount(cluster.client().await.unwrap());
    let inode = put(&mount, "file", "abc").await;
    mount.release(inode).await.unwrap();
    assert!(!mount.open(inode).await.unwrap(), "nobody listens yet");
    let mut tasks = JoinSet::new();
    follow(&mount, &mut tasks);
    hears_changes(&mount, inode).await;
    assert_eq!(mount.read(inode, 0, 10).await.unwrap(), "xbc");
    let other = fs
        .open_file(cairn_protocol::ids::InodeId(inode))
        .await
        .unwrap();
    // Files that are open are forgotten once when it begins to listen.
    forgotten(&mut forgets, inode).await;
    other.write(1, "yz12".into()).await.unwrap();
    other.flush().await.unwrap();
    forgotten(&mut forgets, inode).await;
    tasks.spawn(async move {
        while let Some(forget) = forgets.next().await {
            forget.done();
        }
    });
    assert_eq!(mount.read(inode, 0, 10).await.unwrap(), "xyz12");
    while !mount.open(inode).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_that_is_held_up_at_one_file_keeps_nothing_of_the_others() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let (mount, mut forgets) = mount(cluster.client().await.unwrap());
    let other = put(&mount, "other", "abc").await;
    let inode = put(&mount, "file", "abc").await;
    let mut tasks = JoinSet::new();
    follow(&mount, &mut tasks);
    for inode in [other, inode] {
        forgotten(&mut forgets, inode).await;
    }
    hears_changes(&mount, other).await;
    fs.record_append("/file", "1".into()).await.unwrap();
    let held = to_forget(&mut forgets, inode).await;
    forgotten(&mut forgets, other).await;
    held.done();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_forgets_bytes_that_are_lost() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let (mount, mut forgets) = mount(cluster.client().await.unwrap());
    let inode = put(&mount, "file", "abc").await;
    mount.opened_as(inode, 1);
    fs.unlink("/file").await.unwrap();
    wait_gone(&fs, inode).await;
    mount.write(inode, 0, "def".into(), false).await.unwrap();
    let (synced, ()) = tokio::join!(mount.sync_for(inode, 1), forgotten(&mut forgets, inode));
    assert!(synced.is_err());
    // Also when nobody asks what became of them.
    mount.write(inode, 0, "ghi".into(), false).await.unwrap();
    let keep = async {
        loop {
            mount.look_after_open_files().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = keep => {}
        () = forgotten(&mut forgets, inode) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_forgets_what_a_closed_file_could_not_commit_for_long() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let (mount, mut forgets) = mount(impatient(&cluster).await);
    let inode = put(&mount, "file", "first").await;
    for datanode in 0..3 {
        cluster.kill_datanode(datanode).await;
    }
    mount.write(inode, 0, "other".into(), false).await.unwrap();
    assert!(mount.release(inode).await.is_err(), "nothing takes them");
    for _ in 0..9 {
        mount.look_after_open_files().await;
    }
    assert_eq!(mount.read(inode, 0, 1).await, Err(libc::EBADF));
    forgotten(&mut forgets, inode).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_change_places_know_what_is_above_them() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let mut tasks = JoinSet::new();
    let mount = forgetful_mount(cluster.client().await.unwrap(), &mut tasks);
    let file = put(&mount, "file", "abc").await;
    follow(&mount, &mut tasks);
    hears_changes(&mount, file).await;
    let make = async |parent: u64, name: &[u8]| {
        let made = mount.mkdir(SUPERUSER, parent, name, 0o755).await;
        made.unwrap().inode
    };
    let (left, right) = (make(ROOT, b"left").await, make(ROOT, b"right").await);
    let (one, two) = (make(left, b"one").await, make(right, b"two").await);
    for (inode, parent) in [(one, left), (two, right)] {
        assert_eq!(mount.parent(inode).await, Ok(parent));
    }
    let exchange = mount.rename((left, b"one"), (right, b"two"), RenameMode::Exchange);
    exchange.await.unwrap();
    for (inode, parent) in [(one, right), (two, left)] {
        assert_eq!(mount.parent(inode).await, Ok(parent));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_content_of_unknown_outcome_is_doubted() {
    let options = ClusterOptions {
        namenodes: 1,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = impatient(&cluster).await;
    let mut kernels = JoinSet::new();
    let mounts = [(); 4].map(|()| forgetful_mount(fs.clone(), &mut kernels));
    let inode = put(&mounts[0], "file", "abc").await;
    for mount in &mounts {
        mount.open(inode).await.unwrap();
    }
    cluster.kill_namenode(0).await;
    let [cut, appended, grown, copied] = &mounts;
    let new = NewAttributes {
        size: Some(1),
        ..NewAttributes::default()
    };
    let outcomes = tokio::join!(
        cut.set_attributes(SUPERUSER, inode, new),
        appended.append(inode, 3, "d".into(), false),
        grown.allocate(SUPERUSER, inode, (0, 9), 0),
        copied.copy_range(SUPERUSER, (inode, 0), (inode, 3), 3),
    );
    assert_eq!(outcomes.0.map(drop), Err(libc::EIO));
    assert_eq!(outcomes.1.map(drop), Err(libc::EIO));
    assert_eq!(outcomes.2, Err(libc::EIO));
    assert_eq!(outcomes.3.map(drop), Err(libc::EIO));
    let doubts = mounts.each_ref().map(|mount| mount.is_in_doubt());
    assert_eq!(doubts, [true; 4]);
}
