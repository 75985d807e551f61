//! What nobody uses any more leaves the disks; what is still used stays.

use std::time::Duration;

use anyhow::ensure;
use cairn_client::{FileSystem, WriteOptions};
use cairn_daemon::config::ByteSize;
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::RenameMode;
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};

/// Waits until neither the committed state nor the disks have chunks, besides those that wait for writers.
async fn wait_empty(cluster: &MiniCluster, fs: &FileSystem) {
    cluster
        .until("everything is reclaimed", async || {
            let counts = fs.status().await?.counts;
            ensure!(counts.live_bytes == 0 && counts.sweeping == 0, "{counts:?}");
            for (id, record) in cluster.chunks().await? {
                ensure!(
                    record.live_bytes == 0 && record.state != 1,
                    "chunk {id} is sealed and still there"
                );
            }
            Ok(())
        })
        .await
        .unwrap();
    cluster.wait_files_match().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_deleted_and_truncated_files_leave_the_disks() {
    let options = ClusterOptions {
        chunk_size: 1 << 20,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    fs.mkdir_all("/tree/a/b", 0o755).await.unwrap();
    for path in [
        "/unlinked",
        "/truncated",
        "/tree/one",
        "/tree/a/two",
        "/tree/a/b/three",
    ] {
        fs.write_file(path, content(1, (3 << 20) + 5), &WriteOptions::default())
            .await
            .unwrap();
    }
    assert!(cluster.chunks().await.unwrap().len() >= 15);
    fs.unlink("/unlinked").await.unwrap();
    fs.remove_tree("/tree").await.unwrap();
    assert_eq!(
        fs.truncate("/truncated", 2 << 20).await.unwrap().size,
        2 << 20
    );
    assert!(fs.read_file("/truncated").await.unwrap() == content(1, (3 << 20) + 5)[..2 << 20]);
    fs.truncate("/truncated", 0).await.unwrap();
    // Chunks that its writers have still open are sealed with the session.
    fs.clone().close().await.unwrap();
    wait_empty(&cluster, &fs).await;
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_small_files_share_stays_until_the_last_is_gone() {
    let options = ClusterOptions {
        chunk_size: 1 << 20,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    for seed in 0..60 {
        fs.write_file(
            format!("/{seed}"),
            content(seed, 50_000),
            &WriteOptions::default(),
        )
        .await
        .unwrap();
    }
    let chunks = cluster.chunks().await.unwrap().len();
    assert!((3..20).contains(&chunks), "60 files in {chunks} chunks");
    for seed in 0..59 {
        fs.unlink(format!("/{seed}")).await.unwrap();
    }
    cluster
        .until("the other chunks go", async || {
            // What is left may move together into another chunk.
            let last = cluster.chunks_of(&fs, "/59").await?;
            for (id, record) in cluster.chunks().await? {
                ensure!(
                    last.contains(&id) || record.state != 1,
                    "chunk {id} is still there"
                );
            }
            Ok(())
        })
        .await
        .unwrap();
    cluster.wait_files_match().await.unwrap();
    assert!(fs.read_file("/59").await.unwrap() == content(59, 50_000));
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cluster_says_so_and_can_still_delete() {
    let mut options = ClusterOptions {
        chunk_size: 1 << 20,
        ..ClusterOptions::default()
    };
    // An empty chunk that waits for a writer goes when none comes.
    options.controllers.idle_chunk_max = Duration::from_millis(200);
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let bytes = content(1, (4 << 20) + 5);
    fs.write_file("/file", bytes.clone(), &WriteOptions::default())
        .await
        .unwrap();
    fs.write_file("/small", content(2, 500), &WriteOptions::default())
        .await
        .unwrap();
    // More than any disk has is to stay free.
    cluster.options_mut().reserve = ByteSize::gib(1 << 20);
    for index in 0..3 {
        cluster.kill_datanode(index).await;
        cluster.start_datanode(index).await.unwrap();
        cluster.wait_registered(index).await.unwrap();
    }
    let fs = cluster.client().await.unwrap();
    for len in [500, 5 << 20] {
        let error = fs
            .write_file("/more", content(3, len), &WriteOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::NoSpace, "{error}");
        assert_eq!(
            fs.stat("/more").await.unwrap_err().code(),
            ErrorCode::NotFound
        );
    }
    assert!(fs.read_file("/file").await.unwrap() == bytes);
    fs.rename("/small", "/moved", RenameMode::Replace)
        .await
        .unwrap();
    fs.unlink("/file").await.unwrap();
    fs.unlink("/moved").await.unwrap();
    cluster
        .until("space is freed", async || {
            for index in 0..3 {
                let files = cluster.data_files(index)?;
                ensure!(files.is_empty(), "datanode {index} has {files:?}");
            }
            Ok(())
        })
        .await
        .unwrap();
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_disks_of_most_namenodes_are_almost_full_only_what_removes_is_accepted() {
    let options = ClusterOptions {
        namenodes: 3,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    for name in ["/old", "/replaced"] {
        fs.write_file(name, content(1, 500), &WriteOptions::default())
            .await
            .unwrap();
    }
    fs.mkdir("/tree", 0o755).await.unwrap();
    fs.mkdir("/tree/below", 0o755).await.unwrap();
    let roomy = cluster.options_mut().namenode_reserve;
    // More than any disk has is to stay free. One of three may be full: the others are enough.
    cluster.options_mut().namenode_reserve = ByteSize::gib(1 << 20);
    restart(&mut cluster, 1).await;
    low(&cluster, &fs, 1).await;
    fs.mkdir("/goes-on", 0o755).await.unwrap();
    restart(&mut cluster, 2).await;
    low(&cluster, &fs, 2).await;
    let refused = loop {
        match fs.mkdir("/more", 0o755).await {
            Err(refused) => break refused,
            // Somebody else leads, and has not looked yet.
            Ok(_) => fs.rmdir("/more").await.unwrap(),
        };
        low(&cluster, &fs, 2).await;
    };
    assert_eq!(refused.code(), ErrorCode::NoSpace, "{refused}");
    assert!(refused.to_string().contains("remove files"), "{refused}");
    let refused = fs
        .write_file("/more", content(2, 500), &WriteOptions::default())
        .await;
    assert_eq!(refused.unwrap_err().code(), ErrorCode::NoSpace);
    let refused = fs.symlink("old", "/more").await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NoSpace);
    assert!(fs.read_file("/old").await.unwrap() == content(1, 500));
    fs.rename("/old", "/replaced", RenameMode::Replace)
        .await
        .unwrap();
    fs.truncate("/replaced", 100).await.unwrap();
    fs.unlink("/replaced").await.unwrap();
    fs.remove_tree("/tree").await.unwrap();
    cluster
        .until("space is freed", async || {
            let counts = fs.status().await?.counts;
            ensure!(counts.live_bytes == 0 && counts.sweeping == 0, "{counts:?}");
            Ok(())
        })
        .await
        .unwrap();
    cluster.options_mut().namenode_reserve = roomy;
    restart(&mut cluster, 1).await;
    restart(&mut cluster, 2).await;
    low(&cluster, &fs, 0).await;
    fs.write_file("/more", content(2, 500), &WriteOptions::default())
        .await
        .unwrap();
    cluster.check(&fs).await.unwrap();
}

async fn restart(cluster: &mut MiniCluster, namenode: usize) {
    cluster.kill_namenode(namenode).await;
    cluster.start_namenode(namenode).await.unwrap();
}

/// Waits until the leader has heard of so many namenodes that their disks are almost full, and everybody answers.
async fn low(cluster: &MiniCluster, fs: &FileSystem, count: usize) {
    let all_know = async || {
        let status = fs.status().await?;
        let low = status.namenodes.iter().filter(|one| one.disk_low).count();
        let silent = status.namenodes.iter().filter(|one| !one.reachable).count();
        ensure!(low == count && silent == 0, "{:?}", status.namenodes);
        let leader = cluster.leader().await?;
        let group = cluster.namenode(leader).map(|node| node.group());
        let is_short = group.is_some_and(|group| group.is_short_of_room());
        ensure!(is_short == (count > 1), "the leader does not know yet");
        Ok(())
    };
    cluster
        .until("the leader knows the disks", all_know)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_in_sparsely_used_chunks_moves_together_and_keeps_every_byte() {
    let options = ClusterOptions {
        chunk_size: 1 << 20,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    for seed in 0..80 {
        fs.write_file(
            format!("/{seed}"),
            content(seed, 50_000),
            &WriteOptions::default(),
        )
        .await
        .unwrap();
    }
    // A range in the middle of a block that two files use, and a hole beside bytes that stay.
    fs.write_file("/clone", content(100, 10), &WriteOptions::default())
        .await
        .unwrap();
    assert_eq!(
        fs.clone_range("/8", 30_001, 15_000, "/clone", 5)
            .await
            .unwrap(),
        15_000
    );
    fs.punch_hole("/16", 100, 40_000, false).await.unwrap();
    let mut clone = content(100, 10)[..5].to_vec();
    clone.extend_from_slice(&content(8, 50_000)[30_001..45_001]);
    let mut punched = content(16, 50_000).to_vec();
    punched[100..40_100].fill(0);
    for seed in (0..80).filter(|seed| seed % 8 != 0) {
        fs.unlink(format!("/{seed}")).await.unwrap();
    }
    // Nothing is written any more: the chunks are sealed with the session.
    fs.clone().close().await.unwrap();
    let used = 9 * 50_000 + 10_000 + 5;
    cluster
        .until("what is left lies together", async || {
            let chunks = cluster.chunks().await?;
            let sealed = chunks.values().filter(|record| record.state == 1);
            let (live, length) = sealed.fold((0, 0), |(live, length), record| {
                (live + record.live_bytes, length + record.length)
            });
            let together = live == used && length < 2 * live;
            ensure!(together, "{live} of {length} bytes are used");
            Ok(())
        })
        .await
        .unwrap();
    cluster.wait_files_match().await.unwrap();
    let fs = cluster.client().await.unwrap();
    for seed in (0..80).filter(|seed| seed % 8 == 0 && *seed != 16) {
        let read = fs.read_file(format!("/{seed}")).await.unwrap();
        assert!(read == content(seed, 50_000), "/{seed}");
    }
    assert!(fs.read_file("/clone").await.unwrap() == clone);
    assert!(fs.read_file("/16").await.unwrap() == punched);
    cluster.check(&fs).await.unwrap();
}
