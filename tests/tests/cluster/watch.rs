//! What others change is told: to every client, in order, through failures without a gap, or with a word that there is one.

use std::collections::BTreeSet;

use bytes::Bytes;
use cairn_client::{
    AttributeChange, FileSystem, Watch, WatchEvent, WatchOptions, WatchScope, WriteOptions,
};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::feed::{Change, ChangeKind, ChangeSet};
use cairn_protocol::messages::operation::RenameMode;
use cairn_tests::harness::{ClusterOptions, MiniCluster};
use tokio::task::JoinSet;

/// The next changes that are any.
async fn changes(watch: &mut Watch) -> Vec<ChangeSet> {
    loop {
        match watch.next().await.unwrap() {
            WatchEvent::Changes(sets) if sets.is_empty() => {}
            WatchEvent::Changes(sets) => return sets,
            WatchEvent::Lost => panic!("changes are lost"),
        }
    }
}

/// What is told until something is told of this inode under this name: (kind, name).
async fn told_until(watch: &mut Watch, inode: u64, name: &str) -> Vec<(ChangeKind, String)> {
    let mut told = Vec::new();
    loop {
        for change in changes(watch).await.iter().flat_map(|set| &set.changes) {
            let change_name = String::from_utf8(change.name.to_vec()).unwrap();
            told.push((change.kind(), change_name.clone()));
            if change.inode == inode && change_name == name {
                return told;
            }
        }
    }
}

fn named(kind: ChangeKind, name: &str) -> (ChangeKind, String) {
    (kind, name.to_owned())
}

async fn write(fs: &FileSystem, path: &str, bytes: &'static [u8]) -> u64 {
    let options = WriteOptions::default();
    let written = fs.write_file(path, Bytes::from_static(bytes), &options);
    written.await.unwrap();
    fs.stat(path).await.unwrap().inode
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_hears_what_another_one_changes_and_nothing_of_its_own() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let (here, there) = (
        cluster.client().await.unwrap(),
        cluster.client().await.unwrap(),
    );
    let options = WatchOptions {
        scope: WatchScope::All,
        others_only: true,
    };
    let mut watch = here.watch(options).await.unwrap();
    here.mkdir("/own", 0o755).await.unwrap();
    let file = write(&there, "/file", b"hello").await;
    there
        .write_at("/file", 5, Bytes::from_static(b" world"))
        .await
        .unwrap();
    let mode = AttributeChange {
        mode: Some(0o600),
        ..AttributeChange::default()
    };
    there.set_attributes("/file", mode).await.unwrap();
    here.rmdir("/own").await.unwrap();
    there
        .rename("/file", "/renamed", RenameMode::Replace)
        .await
        .unwrap();
    there.unlink("/renamed").await.unwrap();
    there.mkdir("/end", 0o755).await.unwrap();
    let end = there.stat("/end").await.unwrap().inode;
    let mut told = told_until(&mut watch, end, "end").await;
    // A file that others make is told of in one change or several, as its writer goes about it.
    let content = named(ChangeKind::Content, "");
    told.dedup_by(|a, b| *a == content && *b == content);
    told.retain(|change| *change != content);
    let expected = [
        named(ChangeKind::Named, "file"),
        named(ChangeKind::Attributes, ""),
        named(ChangeKind::Unnamed, "file"),
        named(ChangeKind::Named, "renamed"),
        named(ChangeKind::Unnamed, "renamed"),
        named(ChangeKind::Named, "end"),
    ];
    assert_eq!(told, expected);
    // One question later the watch has come to whatever an answer can reflect.
    write(&there, "/more", b"x").await;
    here.stat("/more").await.unwrap();
    let needed = here.changed_index();
    while watch.index() < needed {
        changes(&mut watch).await;
    }
    assert!(file > 0);
    cluster.check(&here).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_a_directory_hears_of_what_lies_in_it_or_of_all_below() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let directory = InodeId(fs.mkdir_all("/a/b", 0o755).await.unwrap().inode);
    let top = InodeId(fs.stat("/a").await.unwrap().inode);
    let scopes = [
        WatchScope::Inodes(vec![directory]),
        WatchScope::Below(top),
        WatchScope::Below(directory),
    ];
    let mut watches = Vec::new();
    for scope in scopes {
        let options = WatchOptions {
            scope,
            others_only: false,
        };
        watches.push(fs.watch(options).await.unwrap());
    }
    fs.mkdir("/elsewhere", 0o755).await.unwrap();
    fs.mkdir("/a/c", 0o755).await.unwrap();
    let deep = fs.mkdir_all("/a/b/deep", 0o755).await.unwrap().inode;
    fs.mkdir("/a/b/deep/deeper", 0o755).await.unwrap();
    let last = fs.mkdir("/a/b/last", 0o755).await.unwrap().inode;
    let expected: [&[&str]; 3] = [
        &["deep", "last"],
        &["c", "deep", "deeper", "last"],
        &["deep", "deeper", "last"],
    ];
    for (mut watch, expected) in watches.into_iter().zip(expected) {
        let told = told_until(&mut watch, last, "last").await;
        let names: Vec<String> = told.into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, expected);
    }
    assert!(deep > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_told_to_those_who_may_read_the_directory() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let root = cluster.client().await.unwrap();
    root.mkdir("/private", 0o711).await.unwrap();
    let caller = Caller {
        uid: 1000,
        gid: 1000,
        groups: vec![],
        umask: 0,
        token: Vec::new(),
        session: 0,
    };
    let other = cluster.client_as(caller).await.unwrap();
    let mut watch = other.watch(WatchOptions::default()).await.unwrap();
    let secret = root.mkdir("/private/secret", 0o755).await.unwrap().inode;
    let sets = changes(&mut watch).await;
    let told: Vec<&Change> = sets.iter().flat_map(|set| &set.changes).collect();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].inode, told[0].kind()), (secret, ChangeKind::Named));
    assert!(told[0].name.is_empty());
}

/// Makes directories until it is told to stop; each call counts.
async fn make_directories(fs: &FileSystem, from: usize, count: usize) {
    for number in from..from + count {
        fs.mkdir(format!("/d{number:04}"), 0o755).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_without_a_gap_when_the_leader_dies() {
    const COUNT: usize = 60;
    let options = ClusterOptions {
        namenodes: 3,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let (here, there) = (
        cluster.client().await.unwrap(),
        cluster.client().await.unwrap(),
    );
    let mut watch = here.watch(WatchOptions::default()).await.unwrap();
    make_directories(&there, 0, COUNT).await;
    let leader = cluster.leader().await.unwrap();
    let mut work = JoinSet::new();
    work.spawn(async move { make_directories(&there, COUNT, COUNT).await });
    cluster.kill_namenode(leader).await;
    // It comes back, and what it is asked for it may have forgotten.
    cluster.start_namenode(leader).await.unwrap();
    let mut names = Vec::new();
    while names.len() < 2 * COUNT {
        for change in changes(&mut watch)
            .await
            .iter()
            .flat_map(|set| &set.changes)
        {
            names.push(String::from_utf8(change.name.to_vec()).unwrap());
        }
    }
    work.join_next().await.unwrap().unwrap();
    let expected: Vec<String> = (0..2 * COUNT)
        .map(|number| format!("d{number:04}"))
        .collect();
    assert_eq!(names, expected, "each once, in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_has_forgotten_changes_says_so_and_tells_those_that_follow() {
    let options = ClusterOptions {
        snapshot_every_entries: 100,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let mut watch = fs.watch(WatchOptions::default()).await.unwrap();
    let heard = watch.index();
    make_directories(&fs, 0, 150).await;
    // What is flushed is not played again at the next start, so nobody remembers it then.
    let flushed = || {
        let group = cluster.namenode(0).unwrap().group();
        let index = group.state().store().flushed_index().unwrap();
        (index > heard).then_some(())
    };
    cluster.eventually(flushed).await.unwrap();
    cluster.kill_namenode(0).await;
    cluster.start_namenode(0).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), WatchEvent::Lost);
    let mut names = BTreeSet::new();
    fs.mkdir("/after", 0o755).await.unwrap();
    while !names.contains(b"after".as_slice()) {
        for change in changes(&mut watch)
            .await
            .iter()
            .flat_map(|set| &set.changes)
        {
            names.insert(change.name.to_vec());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_replayed_at_a_start_is_told_to_those_who_missed_it() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let mut watch = fs.watch(WatchOptions::default()).await.unwrap();
    make_directories(&fs, 0, 5).await;
    cluster.kill_namenode(0).await;
    cluster.start_namenode(0).await.unwrap();
    let last = fs.mkdir("/last", 0o755).await.unwrap().inode;
    let told = told_until(&mut watch, last, "last").await;
    let names: Vec<String> = told.into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["d0000", "d0001", "d0002", "d0003", "d0004", "last"]);
}
