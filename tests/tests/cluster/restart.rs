//! Everything is killed at once and started again: what was acknowledged is there.

use cairn_client::WriteOptions;
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{IfExists, RenameMode};
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_the_death_of_every_process() {
    let options = ClusterOptions {
        namenodes: 3,
        chunk_size: 4 << 20,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    fs.mkdir_all("/a/b", 0o755).await.unwrap();
    for seed in 0..20 {
        let path = format!("/a/new-{seed}");
        fs.write_file(&path, content(seed, 3000), &WriteOptions::default())
            .await
            .unwrap();
        fs.rename(&path, format!("/a/b/{seed}"), RenameMode::Replace)
            .await
            .unwrap();
    }
    let large = content(100, 11 << 20);
    fs.write_file("/large", large.clone(), &WriteOptions::default())
        .await
        .unwrap();
    fs.unlink("/a/b/0").await.unwrap();
    // A writer in the middle of its work: what it flushed counts.
    fs.create("/log", 0o644, IfExists::Fail).await.unwrap();
    let mut log = fs.open_append("/log").await.unwrap();
    let lines = content(101, 5 << 20);
    log.write(&lines[..3 << 20]).await.unwrap();
    log.flush().await.unwrap();

    cluster.kill_all().await;
    cluster.start_all().await.unwrap();

    let other = cluster.client().await.unwrap();
    for fs in [&fs, &other] {
        assert_eq!(
            fs.stat("/a/b/0").await.unwrap_err().code(),
            ErrorCode::NotFound
        );
        for seed in 1..20 {
            assert!(
                fs.read_file(format!("/a/b/{seed}")).await.unwrap() == content(seed, 3000),
                "{seed}"
            );
        }
        assert!(fs.read_file("/large").await.unwrap() == large);
        assert!(fs.read_file("/log").await.unwrap() == lines[..3 << 20]);
    }
    // The writer goes on where it was.
    log.write(&lines[3 << 20..]).await.unwrap();
    log.close().await.unwrap();
    assert!(other.read_file("/log").await.unwrap() == lines);
    other
        .write_file("/after", content(102, 1000), &WriteOptions::default())
        .await
        .unwrap();
    cluster.wait_healthy(&fs).await.unwrap();
    cluster.wait_equal_states().await.unwrap();
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_namenode_dies_again_and_again() {
    let options = ClusterOptions {
        snapshot_every_entries: 100,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    for life in 0..5 {
        for seed in life * 50..(life + 1) * 50 {
            fs.write_file(
                format!("/{seed}"),
                content(seed, 100),
                &WriteOptions::default(),
            )
            .await
            .unwrap();
        }
        cluster.kill_namenode(0).await;
        cluster.start_namenode(0).await.unwrap();
    }
    assert_eq!(fs.list_all("/").await.unwrap().len(), 250);
    for seed in 0..250 {
        assert!(
            fs.read_file(format!("/{seed}")).await.unwrap() == content(seed, 100),
            "{seed}"
        );
    }
    cluster.wait_healthy(&fs).await.unwrap();
    cluster.check(&fs).await.unwrap();
}
