//! A datanode dies in the middle of a write, stays dead, and comes back.

use std::collections::BTreeSet;

use anyhow::ensure;
use cairn_client::WriteOptions;
use cairn_protocol::ids::DatanodeId;
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_outlives_a_datanode_whose_replicas_are_made_again_and_go_when_it_returns() {
    let options = ClusterOptions {
        datanodes: 4,
        chunk_size: 4 << 20,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let bytes = content(1, 18 << 20);
    let mut writer = fs.create_writer("/large", WriteOptions::default()).unwrap();
    writer.write(&bytes[..6 << 20]).await.unwrap();
    writer.flush().await.unwrap();
    // One that takes part in the write, and holds finished chunks too.
    let (_, open) = cluster.open_chunks().await.unwrap().pop_last().unwrap();
    let victim = DatanodeId(open.replicas[1].datanode);
    let index = cluster.datanode_index(victim).unwrap();
    cluster.kill_datanode(index).await;
    writer.write(&bytes[6 << 20..]).await.unwrap();
    writer.close().await.unwrap();
    assert!(fs.read_file("/large").await.unwrap() == bytes);

    // It stays dead: every chunk has three replicas again, none of them there.
    let written = cluster.chunks_of(&fs, "/large").await.unwrap();
    cluster
        .until("lost replicas are made again", async || {
            for (id, record) in cluster.chunks().await? {
                let holders: BTreeSet<u64> = record
                    .replicas
                    .iter()
                    .map(|replica| replica.datanode)
                    .collect();
                ensure!(
                    !holders.contains(&victim.0),
                    "chunk {id} still counts on the dead datanode"
                );
                ensure!(holders.len() == 3, "chunk {id} is on {holders:?}");
            }
            Ok(())
        })
        .await
        .unwrap();
    cluster.wait_healthy(&fs).await.unwrap();
    assert!(fs.read_file("/large").await.unwrap() == bytes);

    // It comes back with what it had: too much now.
    assert!(!cluster.data_files(index).unwrap().is_empty());
    cluster.start_datanode(index).await.unwrap();
    cluster.wait_registered(index).await.unwrap();
    assert_eq!(
        cluster.datanode_id(index),
        Some(victim),
        "the same datanode"
    );
    cluster.wait_files_match().await.unwrap();
    cluster.wait_healthy(&fs).await.unwrap();
    assert_eq!(cluster.chunks_of(&fs, "/large").await.unwrap(), written);
    assert!(fs.read_file("/large").await.unwrap() == bytes);
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_outlive_a_datanode() {
    let mut cluster = MiniCluster::start(ClusterOptions {
        datanodes: 4,
        ..ClusterOptions::default()
    })
    .await
    .unwrap();
    let fs = cluster.client().await.unwrap();
    for round in 0..30 {
        if round == 10 {
            let (_, open) = cluster.open_chunks().await.unwrap().pop_last().unwrap();
            let index = cluster
                .datanode_index(DatanodeId(open.replicas[0].datanode))
                .unwrap();
            cluster.kill_datanode(index).await;
        }
        fs.write_file(
            format!("/{round}"),
            content(round, 5000),
            &WriteOptions::default(),
        )
        .await
        .unwrap();
    }
    for round in 0..30 {
        assert!(
            fs.read_file(format!("/{round}")).await.unwrap() == content(round, 5000),
            "{round}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_datanode_to_spare_replicas_wait_for_one_that_returns() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let bytes = content(3, 3 << 20);
    fs.write_file("/file", bytes.clone(), &WriteOptions::default())
        .await
        .unwrap();
    cluster.kill_datanode(0).await;
    cluster
        .until("the loss is reported", async || {
            ensure!(fs.status().await?.counts.chunks_under_replicated > 0);
            Ok(())
        })
        .await
        .unwrap();
    assert!(fs.read_file("/file").await.unwrap() == bytes);
    cluster.start_datanode(0).await.unwrap();
    cluster.wait_registered(0).await.unwrap();
    cluster.wait_healthy(&fs).await.unwrap();
    cluster.wait_files_match().await.unwrap();
    assert!(fs.read_file("/file").await.unwrap() == bytes);
    cluster.check(&fs).await.unwrap();
}
