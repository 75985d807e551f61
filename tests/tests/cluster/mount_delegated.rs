//! Directories that are delegated to a mount: what it does there by itself is what others see when they look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{
    AttributeChange, ClusterConfig, FileSystem, WatchEvent, WatchOptions, WriteOptions,
};
use cairn_fuse_mount::{Forgotten, KernelCaches, MountedFs, NewAttributes, Requester};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Caller, InodeKind};
use cairn_protocol::messages::feed::ChangeKind;
use cairn_protocol::messages::operation::{RenameMode, XattrMode};
use cairn_tests::harness::{ClusterOptions, MiniCluster};
use tokio::task::JoinSet;

const ROOT: u64 = 1;
const KEEP: Duration = Duration::from_secs(3600);
const SUPERUSER: Requester = Requester {
    uid: 0,
    gid: 0,
    pid: 0,
    umask: 0o022,
};

/// A mount that hears of changes and tells its own, as long as its tasks run.
struct Delegate {
    mount: Arc<MountedFs>,
    tasks: JoinSet<()>,
}

impl Delegate {
    async fn start(fs: FileSystem) -> Self {
        let (caches, mut forgets) = KernelCaches::new();
        let mount = Arc::new(MountedFs::new(fs, caches, KEEP));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(forget) = forgets.next().await {
                forget.done();
            }
        });
        let (listens, tells) = (mount.clone(), mount.clone());
        tasks.spawn(async move { listens.follow_changes().await });
        tasks.spawn(async move { tells.tell_changes().await });
        Self { mount, tasks }
    }

    /// Makes a directory that is delegated to it.
    async fn directory(&self, name: &str) -> u64 {
        for attempt in 0.. {
            let name = if attempt == 0 {
                name.to_owned()
            } else {
                // Not before it hears of changes.
                self.mount.rmdir(ROOT, name.as_bytes()).await.unwrap();
                name.to_owned()
            };
            let made = self.mount.mkdir(SUPERUSER, ROOT, name.as_bytes(), 0o755);
            let made = made.await.unwrap().inode;
            if self.mount.is_delegated(made) {
                return made;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unreachable!("it tries again");
    }

    /// Makes a file with this content, and closes it.
    async fn put(&self, parent: u64, name: &str, bytes: &str) -> u64 {
        let made = self
            .mount
            .create(SUPERUSER, parent, name.as_bytes(), 0o644, true);
        let inode = made.await.unwrap().inode;
        let handle = self.mount.new_handle();
        self.mount.opened_as(inode, handle);
        let bytes = Bytes::copy_from_slice(bytes.as_bytes());
        self.mount.write(inode, 0, bytes, false).await.unwrap();
        self.mount.flush_for(inode, handle, 0).await.unwrap();
        self.mount.release_for(inode, handle).await.unwrap();
        inode
    }
}

/// A client that soon gives up.
async fn impatient(cluster: &MiniCluster, patience: Duration) -> FileSystem {
    let mut config = ClusterConfig::new(cluster.addresses().to_vec(), Caller::default());
    config.timeouts.patience = patience;
    config.timeouts.pipeline = patience / 2;
    FileSystem::connect(config).await.unwrap()
}

/// No bytes can be stored.
async fn kill_datanodes(cluster: &mut MiniCluster) {
    for index in 0..3 {
        cluster.kill_datanode(index).await;
    }
}

/// Everything below a directory as another client sees it: kinds, modes, and contents or targets.
async fn tree(fs: &FileSystem, path: &str) -> BTreeMap<String, (i32, u32, String)> {
    let mut all = BTreeMap::new();
    let mut open = vec![path.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = fs.list_all(directory.as_str()).await.unwrap();
        for entry in entries {
            let name = String::from_utf8(entry.name.clone()).unwrap();
            let path = format!("{directory}/{name}");
            let found = fs.stat_link(path.as_str()).await.unwrap();
            assert_eq!(found.inode, entry.inode, "{path}");
            let content = match found.kind {
                kind if kind == InodeKind::File as i32 => {
                    let bytes = fs.read_file(path.as_str()).await.unwrap();
                    String::from_utf8(bytes.to_vec()).unwrap()
                }
                _ => String::from_utf8(found.symlink_target.clone()).unwrap(),
            };
            if found.kind == InodeKind::Directory as i32 {
                open.push(path.clone());
            }
            all.insert(path, (found.kind, found.mode, content));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_see_what_was_done_in_a_delegated_directory() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let a = Delegate::start(cluster.client().await.unwrap()).await;
    let mount = &a.mount;
    let top = a.directory("top").await;
    let sub = mount.mkdir(SUPERUSER, top, b"sub", 0o777).await.unwrap();
    assert_eq!(sub.mode & 0o7777, 0o755, "the umask counts");
    assert!(mount.is_delegated(sub.inode));
    for index in 0..20 {
        a.put(
            sub.inode,
            &format!("f{index:02}"),
            &format!("content {index}"),
        )
        .await;
    }
    let target = b"f00";
    mount
        .symlink(SUPERUSER, sub.inode, b"link", target)
        .await
        .unwrap();
    mount.unlink(sub.inode, b"f01").await.unwrap();
    let (from, to) = ((sub.inode, &b"f02"[..]), (top, &b"moved"[..]));
    mount.rename(from, to, RenameMode::Replace).await.unwrap();
    let over = (sub.inode, &b"f04"[..]);
    let from = (sub.inode, &b"f03"[..]);
    mount.rename(from, over, RenameMode::Replace).await.unwrap();
    let private = NewAttributes {
        change: AttributeChange {
            mode: Some(0o600),
            mtime_ns: Some(1_000_000_007),
            ..AttributeChange::default()
        },
        size: None,
    };
    let f05 = mount.lookup(sub.inode, b"f05").await.unwrap();
    let set = mount.set_attributes(SUPERUSER, f05.inode, private).await;
    let set = set.unwrap();
    assert_eq!((set.mode & 0o7777, set.mtime_ns), (0o600, 1_000_000_007));
    let told_here = mount.attributes(sub.inode).await.unwrap();
    assert_eq!(told_here.size, 18, "20 files and a link, less 3");

    let seen = tree(&fs, "/top").await;
    let file = |content: &str| (InodeKind::File as i32, 0o644, content.to_owned());
    assert_eq!(seen["/top/moved"], file("content 2"));
    assert_eq!(seen["/top/sub/f04"], file("content 3"));
    assert_eq!(seen["/top/sub/f05"].1, 0o600);
    assert_eq!(seen["/top/sub/link"].2, "f00");
    assert_eq!(seen.len(), 2 + 18);
    // What was told here is what is there.
    let found = fs.stat("/top/sub/f05").await.unwrap();
    assert_eq!((found.size, found.mtime_ns), (9, 1_000_000_007));
    assert_eq!(found.ctime_ns, set.ctime_ns);
    let found = fs.stat("/top/sub").await.unwrap();
    assert_eq!((found.size, found.nlink), (18, 2));
    assert_eq!(found.mtime_ns, told_here.mtime_ns);
    // Nobody has it alone any more.
    fs.create(
        "/top/sub/other",
        0o644,
        cairn_protocol::messages::operation::IfExists::Fail,
    )
    .await
    .unwrap();
    mount.lookup(sub.inode, b"other").await.unwrap();
    assert!(!mount.is_delegated(sub.inode));
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn things_that_are_not_done_here_are_done_after_what_was() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let a = Delegate::start(cluster.client().await.unwrap()).await;
    let mount = &a.mount;
    let top = a.directory("top").await;
    let file = a.put(top, "file", "abc").await;
    let linked = mount.link(file, top, b"second").await.unwrap();
    assert_eq!((linked.inode, linked.nlink), (file, 2));
    mount
        .set_xattr(SUPERUSER, file, b"user.a", b"b", XattrMode::Set)
        .await
        .unwrap();
    assert_eq!(mount.get_xattr(file, b"user.a").await.unwrap(), b"b");
    let cut = NewAttributes {
        size: Some(2),
        ..NewAttributes::default()
    };
    // The directory's own.
    mount
        .set_xattr(SUPERUSER, top, b"user.c", b"d", XattrMode::Set)
        .await
        .unwrap();
    mount.attributes(top).await.unwrap();
    assert_eq!(mount.get_xattr(top, b"user.c").await.unwrap(), b"d");
    let other = a.put(top, "other", "xyz").await;
    let cut = mount.set_attributes(SUPERUSER, other, cut).await.unwrap();
    assert_eq!(cut.size, 2);
    mount.open(other).await.unwrap();
    assert_eq!(mount.read(other, 0, 10).await.unwrap(), "xy");
    let appended = mount.append(other, 2, "!".into(), false).await.unwrap();
    assert_eq!(appended, 2);
    mount.release(other).await.unwrap();
    let both = ((top, &b"file"[..]), (top, &b"other"[..]));
    mount
        .rename(both.0, both.1, RenameMode::Exchange)
        .await
        .unwrap();
    assert_eq!(mount.lookup(top, b"other").await.unwrap().inode, file);
    assert_eq!(mount.lookup(top, b"file").await.unwrap().inode, other);
    let sub = mount.mkdir(SUPERUSER, top, b"sub", 0o755).await.unwrap();
    a.put(sub.inode, "in", "it").await;
    let (from, to) = ((top, &b"sub"[..]), (top, &b"named"[..]));
    mount.rename(from, to, RenameMode::Replace).await.unwrap();
    assert_eq!(mount.rmdir(top, b"named").await, Err(libc::ENOTEMPTY));
    mount.unlink(sub.inode, b"in").await.unwrap();
    mount.rmdir(top, b"named").await.unwrap();
    assert_eq!(
        mount.lookup(top, b"named").await.map(drop),
        Err(libc::ENOENT)
    );
    mount.unlink(top, b"second").await.unwrap();
    let seen = tree(&fs, "/top").await;
    assert_eq!(seen["/top/file"].2, "xy!");
    assert_eq!(seen["/top/other"].2, "abc");
    assert_eq!(seen.len(), 2);
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_open_is_written_and_read_as_anywhere() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let a = Delegate::start(cluster.client().await.unwrap()).await;
    let mount = &a.mount;
    let top = a.directory("top").await;
    let made = mount.create(SUPERUSER, top, b"open", 0o644, true).await;
    let inode = made.unwrap().inode;
    mount.write(inode, 0, "first".into(), false).await.unwrap();
    assert_eq!(mount.read(inode, 0, 10).await.unwrap(), "first");
    assert_eq!(mount.attributes(inode).await.unwrap().size, 5);
    mount.sync(inode).await.unwrap();
    assert_eq!(mount.read(inode, 0, 10).await.unwrap(), "first");
    mount
        .write(inode, 5, " second".into(), false)
        .await
        .unwrap();
    assert_eq!(mount.read(inode, 0, 20).await.unwrap(), "first second");
    // Its name goes while it is open.
    mount.unlink(top, b"open").await.unwrap();
    mount
        .write(inode, 12, " third".into(), false)
        .await
        .unwrap();
    mount.sync(inode).await.unwrap();
    assert_eq!(
        mount.read(inode, 0, 20).await.unwrap(),
        "first second third"
    );
    mount.release(inode).await.unwrap();
    // More than goes into a chunk that files share.
    let made = mount.create(SUPERUSER, top, b"large", 0o644, true).await;
    let inode = made.unwrap().inode;
    let large = Bytes::from(vec![7; 6 << 20]);
    let handle = mount.new_handle();
    mount.opened_as(inode, handle);
    mount.write(inode, 0, large.clone(), false).await.unwrap();
    mount.flush_for(inode, handle, 0).await.unwrap();
    mount.release_for(inode, handle).await.unwrap();
    assert_eq!(fs.read_file("/top/large").await.unwrap(), large);
    assert!(tree_names(&fs, "/top").await == ["large"]);
}

async fn tree_names(fs: &FileSystem, path: &str) -> Vec<String> {
    let entries = fs.list_all(path).await.unwrap();
    let names = entries.into_iter().map(|entry| entry.name);
    names.map(|name| String::from_utf8(name).unwrap()).collect()
}

/// A cluster whose sessions do not live long without a word, a client, and a mount to which `/top` is delegated.
async fn short_lived() -> (MiniCluster, FileSystem, Delegate, u64) {
    let options = ClusterOptions {
        session_ttl: Duration::from_secs(2),
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let mount = Delegate::start(cluster.client().await.unwrap()).await;
    let top = mount.directory("top").await;
    (cluster, fs, mount, top)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_dies_leaves_what_it_told_and_keeps_nobody_waiting_for_ever() {
    let (cluster, fs, mut a, top) = short_lived().await;
    a.put(top, "told", "abc").await;
    a.mount.sync_names().await.unwrap();
    let synced = fs.stat(InodeId(a.mount.lookup(top, b"told").await.unwrap().inode));
    synced.await.unwrap();
    for index in 0..500 {
        let name = format!("z{index:03}");
        let made = a.mount.create(SUPERUSER, top, name.as_bytes(), 0o644, true);
        made.await.unwrap();
    }
    // Nobody tells or gives back any more.
    a.tasks.shutdown().await;
    drop(a);
    let left = tree_names(&fs, "/top").await;
    let first = (0..left.len() - 1).map(|index| format!("z{index:03}"));
    let first: Vec<String> = std::iter::once("told".to_owned()).chain(first).collect();
    assert_eq!(left, first, "what came first, and nothing else");
    cluster.check(&fs).await.unwrap();
}

/// What goes through the cluster does not overtake what was done in delegated directories before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_dies_leaves_nothing_later_without_what_came_before() {
    let (cluster, fs, mut a, top) = short_lived().await;
    let common = fs.mkdir("/common", 0o755).await.unwrap().inode;
    let exclusive = cairn_protocol::messages::operation::IfExists::Fail;
    let file = fs.create("/common/file", 0o644, exclusive).await.unwrap();
    let made = a.mount.create(SUPERUSER, top, b"first", 0o644, true);
    let first = made.await.unwrap();
    let made = a.mount.create(SUPERUSER, common, b"later", 0o644, true);
    made.await.unwrap();
    let told = fs.stat(InodeId(first.inode)).await.map(drop);
    assert!(told.is_ok(), "made before what others see: {told:?}");
    let made = a.mount.create(SUPERUSER, top, b"second", 0o644, true);
    let second = made.await.unwrap();
    let private = NewAttributes {
        change: AttributeChange {
            mode: Some(0o600),
            ..AttributeChange::default()
        },
        size: None,
    };
    let set = a.mount.set_attributes(SUPERUSER, file.0.inode, private);
    set.await.unwrap();
    let told = fs.stat(InodeId(second.inode)).await.map(drop);
    assert!(told.is_ok(), "made before what others see: {told:?}");
    a.tasks.shutdown().await;
    drop(a);
    assert_eq!(tree_names(&fs, "/top").await, ["first", "second"]);
    assert_eq!(tree_names(&fs, "/common").await, ["file", "later"]);
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_things_are_told_in_few_entries() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let a = Delegate::start(cluster.client().await.unwrap()).await;
    let top = a.directory("top").await;
    let before = fs.changed_index();
    for index in 0..2000 {
        let name = format!("d{index}");
        let made = a.mount.mkdir(SUPERUSER, top, name.as_bytes(), 0o755).await;
        a.mount.rmdir(top, name.as_bytes()).await.unwrap();
        made.unwrap();
    }
    a.mount.sync_names().await.unwrap();
    assert!(tree_names(&fs, "/top").await.is_empty());
    let entries = fs.changed_index().max(before) - before;
    assert!(entries < 1000, "{entries} entries for 4,000 changes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_may_die_meanwhile() {
    let mut cluster = MiniCluster::start(ClusterOptions::of_namenodes(3))
        .await
        .unwrap();
    let fs = cluster.client().await.unwrap();
    let a = Delegate::start(cluster.client().await.unwrap()).await;
    let top = a.directory("top").await;
    for index in 0..50 {
        a.put(top, &format!("f{index:02}"), "abc").await;
        if index == 25 {
            let leader = cluster.leader().await.unwrap();
            cluster.kill_namenode(leader).await;
        }
    }
    a.mount.sync_names().await.unwrap();
    let seen = tree(&fs, "/top").await;
    assert_eq!(seen.len(), 50);
    assert!(seen.values().all(|(_, _, content)| content == "abc"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_which_a_mount_works_becomes_its_own() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let a = Delegate::start(cluster.client().await.unwrap()).await;
    a.directory("first").await;
    fs.mkdir("/theirs", 0o755).await.unwrap();
    for index in 0..20 {
        let path = format!("/theirs/{index:02}");
        fs.write_file(
            path.as_str(),
            "abc".into(),
            &cairn_client::WriteOptions::default(),
        )
        .await
        .unwrap();
    }
    let theirs = fs.stat("/theirs").await.unwrap().inode;
    for index in 0..10 {
        let name = format!("{index:02}");
        a.mount.unlink(theirs, name.as_bytes()).await.unwrap();
    }
    assert!(a.mount.is_delegated(theirs));
    let own = a.mount.attributes(theirs).await.unwrap();
    assert_eq!(own.size, 10);
    assert_eq!(tree_names(&fs, "/theirs").await.len(), 10);
    assert!(!a.mount.is_delegated(theirs));
    // Somebody wants it: it is left alone for a while.
    for index in 10..20 {
        let name = format!("{index:02}");
        a.mount.unlink(theirs, name.as_bytes()).await.unwrap();
    }
    assert!(!a.mount.is_delegated(theirs));
    a.mount.rmdir(ROOT, b"theirs").await.unwrap();
    cluster.check(&fs).await.unwrap();
}

/// Two who make the same names take turns in being the first, and nobody makes what another has made.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_name_is_made_by_one_alone_while_directories_go_to_and_fro() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let a = Delegate::start(cluster.client().await.unwrap()).await;
    for round in 0..5 {
        let top = a.directory(&format!("d{round}")).await;
        let names: Vec<String> = (0..60).map(|index| format!("f{index:02}")).collect();
        let here = async {
            let mut made = Vec::new();
            for name in &names {
                let created = a.mount.create(SUPERUSER, top, name.as_bytes(), 0o644, true);
                match created.await {
                    Ok(attributes) => made.push((name.clone(), attributes.inode)),
                    Err(errno) => assert_eq!(errno, libc::EEXIST),
                }
            }
            made
        };
        let there = async {
            let mut made = Vec::new();
            for name in names.iter().rev() {
                let path = format!("/d{round}/{name}");
                let fail = cairn_protocol::messages::operation::IfExists::Fail;
                match fs.create(path.as_str(), 0o600, fail).await {
                    Ok((attributes, _)) => made.push((name.clone(), attributes.inode)),
                    Err(error) => {
                        assert_eq!(error.code(), cairn_protocol::ErrorCode::AlreadyExists);
                    }
                }
            }
            made
        };
        let (here, there) = tokio::join!(here, there);
        let mut made: BTreeMap<String, u64> = here.iter().cloned().collect();
        made.extend(there.iter().cloned());
        assert_eq!(made.len(), here.len() + there.len(), "one alone");
        assert_eq!(made.len(), names.len());
        let path = format!("/d{round}");
        let seen = fs.list_all(path.as_str()).await.unwrap();
        let seen = seen.into_iter().map(|entry| {
            let name = String::from_utf8(entry.name).unwrap();
            (name, entry.inode)
        });
        assert_eq!(seen.collect::<BTreeMap<_, _>>(), made);
    }
    a.mount.sync_names().await.unwrap();
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_that_were_set_stay_whatever_is_stored_later() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let a = Delegate::start(cluster.client().await.unwrap()).await;
    let mount = &a.mount;
    let top = a.directory("top").await;
    for (name, length, with_xattr) in [
        ("small", 9, false),
        ("xattr", 9, true),
        ("large", 6 << 20, false),
    ] {
        let made = mount.create(SUPERUSER, top, name.as_bytes(), 0o644, true);
        let inode = made.await.unwrap().inode;
        let handle = mount.new_handle();
        mount.opened_as(inode, handle);
        let bytes = Bytes::from(vec![7; length]);
        mount.write(inode, 0, bytes, false).await.unwrap();
        let times = NewAttributes {
            change: AttributeChange {
                mtime_ns: Some(1_000_000_007),
                ..AttributeChange::default()
            },
            size: None,
        };
        let set = mount.set_attributes(SUPERUSER, inode, times).await.unwrap();
        assert_eq!(set.mtime_ns, 1_000_000_007);
        if with_xattr {
            mount
                .set_xattr(SUPERUSER, inode, b"user.a", b"b", XattrMode::Set)
                .await
                .unwrap();
        }
        mount.flush_for(inode, handle, 0).await.unwrap();
        mount.release_for(inode, handle).await.unwrap();
        let path = format!("/top/{name}");
        let found = fs.stat(path.as_str()).await.unwrap();
        assert_eq!(
            (found.mtime_ns, found.size),
            (1_000_000_007, length as u64),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_takes_the_place_of_another_without_its_bytes() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    fs.mkdir("/common", 0o755).await.unwrap();
    let common = fs.stat("/common").await.unwrap().inode;
    let patience = Duration::from_secs(3);
    let a = Delegate::start(impatient(&cluster, patience).await).await;
    let mount = &a.mount;
    let top = a.directory("top").await;
    a.put(top, "conf", "old").await;
    mount.sync_names().await.unwrap();
    kill_datanodes(&mut cluster).await;
    let closed = a.put(top, "closed", "new").await;
    let made = mount.create(SUPERUSER, top, b"open", 0o644, true).await;
    let open = made.unwrap().inode;
    mount.write(open, 0, "newer".into(), false).await.unwrap();
    let conf = (top, &b"conf"[..]);
    for name in [&b"closed"[..], b"open"] {
        mount
            .rename((top, name), conf, RenameMode::Replace)
            .await
            .unwrap_err();
        // Nor does it come to where others see it.
        let elsewhere = (common, &b"moved"[..]);
        let moved = mount.rename((top, &b"closed"[..]), elsewhere, RenameMode::Replace);
        moved.await.unwrap_err();
        mount.link(closed, common, b"linked").await.unwrap_err();
    }
    assert!(tree_names(&fs, "/common").await.is_empty());
    for index in 0..3 {
        cluster.start_datanode(index).await.unwrap();
        cluster.wait_registered(index).await.unwrap();
    }
    assert_eq!(fs.read_file("/top/conf").await.unwrap(), "old");
    // It was not given up: the mount keeps it until its keeper has looked often enough.
    mount.sync(open).await.unwrap();
    mount.release(open).await.unwrap();
    for (name, content) in [(&b"closed"[..], "new"), (b"open", "newer")] {
        mount
            .rename((top, name), conf, RenameMode::Replace)
            .await
            .unwrap();
        assert_eq!(fs.read_file("/top/conf").await.unwrap(), content);
    }
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_a_closed_file_that_are_lost_are_told_to_the_next_fsync() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let client = impatient(&cluster, Duration::from_secs(2)).await;
    let a = Delegate::start(client.clone()).await;
    let mount = &a.mount;
    let top = a.directory("top").await;
    a.put(top, "conf", "old").await;
    mount.sync_names().await.unwrap();
    kill_datanodes(&mut cluster).await;
    let lost = a.put(top, "lost", "new").await;
    while client.is_dirty(InodeId(lost)) {
        mount.look_after_open_files().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    mount.look_after_open_files().await;
    // Somebody opens it before anybody asks.
    mount.open(lost).await.unwrap();
    let (from, to) = ((top, &b"lost"[..]), (top, &b"conf"[..]));
    let renamed = mount.rename(from, to, RenameMode::Replace).await;
    assert_eq!(renamed, Err(libc::EIO));
    mount.sync_names().await.unwrap_err();
    mount.sync_names().await.unwrap();
    mount.release(lost).await.unwrap();
}

/// With `--timeout`, programs hear of a cluster that is away, and the mount can be ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_ever_for_a_cluster_that_is_away() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let a = Delegate::start(impatient(&cluster, Duration::from_secs(1)).await).await;
    let mount = a.mount.clone();
    let top = a.directory("top").await;
    let made = mount.create(SUPERUSER, top, b"open", 0o644, true).await;
    let inode = made.unwrap().inode;
    let handle = mount.new_handle();
    mount.opened_as(inode, handle);
    // Every stream of small writes has a chunk that is open.
    for _ in 0..10 {
        mount.write(inode, 0, "abc".into(), false).await.unwrap();
        mount.sync_for(inode, handle).await.unwrap();
    }
    cluster.kill_namenode(0).await;
    // So bytes are stored; only that they are cannot be told.
    mount.write(inode, 3, "def".into(), false).await.unwrap();
    mount.sync_for(inode, handle).await.unwrap_err();
    mount.flush(inode).await.unwrap_err();
    mount.sync_names().await.unwrap_err();
    mount.sync(inode).await.unwrap_err();
    // What was made is told when the cluster is back, and the bytes are still there.
    cluster.start_namenode(0).await.unwrap();
    while mount.sync_for(inode, handle).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let fs = cluster.client().await.unwrap();
    assert_eq!(fs.read_file("/top/open").await.unwrap(), "abcdef");
    cluster.kill_namenode(0).await;
    mount.write(inode, 6, "ghi".into(), false).await.unwrap();
    mount.shut_down().await.unwrap_err();
}

/// As `(cmd1; cmd2) > file` does: the end of the first command closes what the second one goes on to write.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_that_is_written_all_the_time_holds_up_nobody() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let mut a = Delegate::start(impatient(&cluster, Duration::from_secs(5)).await).await;
    let mount = a.mount.clone();
    let top = a.directory("top").await;
    let made = mount.create(SUPERUSER, top, b"out", 0o644, true).await;
    let inode = made.unwrap().inode;
    let handle = mount.new_handle();
    mount.opened_as(inode, handle);
    mount.write(inode, 0, "first".into(), false).await.unwrap();
    mount.flush_for(inode, handle, 0).await.unwrap();
    let writes = mount.clone();
    a.tasks.spawn(async move {
        for at in 5.. {
            let written = writes.write(inode, at, "x".into(), false);
            written.await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    for round in 0..3 {
        mount.sync_names().await.unwrap();
        let name = format!("f{round}");
        a.put(top, &name, "abc").await;
    }
    assert_eq!(tree_names(&fs, "/top").await, ["f0", "f1", "f2", "out"]);
    assert!(
        fs.read_file("/top/out")
            .await
            .unwrap()
            .starts_with(b"first")
    );
    mount.sync_names().await.unwrap();
}

/// The log never has the later of two changes without the earlier, wherever they were made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_elsewhere_comes_after_what_was_done_here_before() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let mut elsewhere = Vec::new();
    for index in 0..6 {
        let path = format!("/x{index}");
        fs.mkdir(path.as_str(), 0o755).await.unwrap();
        elsewhere.push(fs.stat(path.as_str()).await.unwrap().inode);
        let path = format!("/x{index}/old");
        let fail = cairn_protocol::messages::operation::IfExists::Fail;
        fs.create(path.as_str(), 0o644, fail).await.unwrap();
    }
    let a = Delegate::start(cluster.client().await.unwrap()).await;
    let mount = &a.mount;
    let top = a.directory("top").await;
    let mut watch = fs.watch(WatchOptions::default()).await.unwrap();
    for (index, &directory) in elsewhere.iter().enumerate() {
        let before = format!("before{index}");
        let made = mount.create(SUPERUSER, top, before.as_bytes(), 0o644, true);
        made.await.unwrap();
        let name = b"after";
        match index {
            0 => mount.unlink(directory, b"old").await.unwrap(),
            1 => drop(
                mount
                    .create(SUPERUSER, directory, name, 0o644, true)
                    .await
                    .unwrap(),
            ),
            2 => drop(
                mount
                    .mkdir(SUPERUSER, directory, name, 0o755)
                    .await
                    .unwrap(),
            ),
            3 => drop(
                mount
                    .symlink(SUPERUSER, directory, name, b"t")
                    .await
                    .unwrap(),
            ),
            4 => {
                let fifo = InodeKind::Fifo;
                let made = mount.make_node(SUPERUSER, directory, name, fifo, 0o644, 0);
                drop(made.await.unwrap());
            }
            _ => {
                let old = mount.lookup(directory, b"old").await.unwrap().inode;
                drop(mount.link(old, directory, name).await.unwrap());
            }
        }
    }
    let mut changed = Vec::new();
    while !changed.contains(&elsewhere[5]) {
        let WatchEvent::Changes(sets) = watch.next().await.unwrap() else {
            panic!("nothing is lost");
        };
        let names = [ChangeKind::Named as i32, ChangeKind::Unnamed as i32];
        let changes = sets.into_iter().flat_map(|set| set.changes);
        let changes = changes.filter(|change| names.contains(&change.kind));
        changed.extend(changes.map(|change| change.parent));
    }
    let one_by_one = elsewhere.iter().flat_map(|&directory| [top, directory]);
    assert_eq!(changed, one_by_one.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_lost_its_name_is_not_opened_any_more() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let a = Delegate::start(cluster.client().await.unwrap()).await;
    let top = a.directory("top").await;
    for name in ["removed", "replaced"] {
        let inode = a.put(top, name, "abc").await;
        if name == "removed" {
            a.mount.unlink(top, name.as_bytes()).await.unwrap();
        } else {
            a.put(top, "other", "xyz").await;
            let (from, to) = ((top, &b"other"[..]), (top, name.as_bytes()));
            let renamed = a.mount.rename(from, to, RenameMode::Replace);
            renamed.await.unwrap();
        }
        assert_eq!(a.mount.open(inode).await, Err(libc::ESTALE), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_moved_elsewhere_knows_what_is_above_it() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    fs.mkdir("/above", 0o755).await.unwrap();
    let above = fs.stat("/above").await.unwrap().inode;
    let a = Delegate::start(cluster.client().await.unwrap()).await;
    let top = a.directory("top").await;
    let before = a.mount.attributes(top).await.unwrap();
    assert_eq!(before.parent, ROOT);
    let (from, to) = ((ROOT, &b"top"[..]), (above, &b"moved"[..]));
    a.mount.rename(from, to, RenameMode::Replace).await.unwrap();
    assert!(a.mount.is_delegated(top));
    let after = a.mount.attributes(top).await.unwrap();
    assert_eq!(after.parent, above);
    assert!(after.ctime_ns > before.ctime_ns);
    a.put(top, "file", "abc").await;
    assert_eq!(tree(&fs, "/above").await.len(), 2);
}

/// The kernel forgets nothing while a process of its own waits, say for another mount, which waits for this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_that_is_held_up_keeps_nobody_out_of_a_directory() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    fs.mkdir("/x", 0o755).await.unwrap();
    let options = WriteOptions::default();
    fs.write_file("/x/f", "old".into(), &options).await.unwrap();
    let (caches, mut forgets) = KernelCaches::new();
    let mount = MountedFs::new(cluster.client().await.unwrap(), caches, KEEP);
    let mut a = Delegate {
        mount: Arc::new(mount),
        tasks: JoinSet::new(),
    };
    let (held, is_held) = tokio::sync::oneshot::channel();
    let inode = fs.stat("/x/f").await.unwrap().inode;
    a.tasks.spawn(async move {
        let mut held = Some(held);
        let mut kept = Vec::new();
        while let Some(forget) = forgets.next().await {
            if forget.what == (Forgotten::Pages { inode, from: 0 }) {
                held.take().map(|held| held.send(()));
                kept.push(forget);
            } else {
                forget.done();
            }
        }
    });
    let (listens, tells) = (a.mount.clone(), a.mount.clone());
    a.tasks.spawn(async move { listens.follow_changes().await });
    a.tasks.spawn(async move { tells.tell_changes().await });
    let top = a.directory("top").await;
    a.put(top, "mine", "abc").await;
    a.mount.open(inode).await.unwrap();
    fs.write_at("/x/f", 0, "new".into()).await.unwrap();
    is_held.await.unwrap();
    let looked = tokio::time::timeout(Duration::from_secs(30), fs.read_file("/top/mine"));
    assert_eq!(looked.await.unwrap().unwrap(), "abc");
}
