//! What a datanode is and holds survives it.

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::harness::{Cluster, data, incarnation};
use crate::Datanode;
use cairn_daemon::Tasks;
use cairn_daemon::disk::RealDisk;

#[tokio::test]
async fn a_datanode_comes_back_as_itself_with_what_it_held() {
    let mut cluster = Cluster::start(2).await;
    let written = data(300_000, 1);
    cluster.write(1, &[0, 1], &written).await;
    cluster.write(2, &[0, 1], b"sealed").await;
    cluster.seal(0, 2, 6).await;
    let id = cluster.nodes[0].id;
    cluster.nodes[0].stop().await;
    cluster.namenode.heard.lock().unwrap().reported.clear();
    let config = cluster.nodes[0].config.clone();
    let again = cluster.start_node(config).await;
    assert_eq!(again.id, id);
    cluster.nodes[0] = again;
    cluster
        .namenode
        .until(|heard| heard.reported.len() >= 2)
        .await;
    let reported = cluster.namenode.heard.lock().unwrap().reported.clone();
    let (open, sealed) = (&reported[&(id, 1)], &reported[&(id, 2)]);
    assert_eq!(
        (open.length, open.sealed, open.incarnation),
        (300_000, false, incarnation(id))
    );
    assert_eq!((sealed.length, sealed.sealed, sealed.bad), (6, true, false));
    assert!(cluster.read(0, 1, 65_536, 100_000).await == written[65_536..165_536]);
}

#[tokio::test]
async fn volumes_of_another_cluster_are_not_used() {
    let first = Cluster::start(1).await;
    first.nodes[0].stop().await;
    let second = Cluster::start_with_cluster([8; 16], 0).await;
    let mut config = second.config(0);
    config.volumes = vec![first.volume(0)];
    let tasks = Tasks::new();
    let _started = Datanode::start(config, Arc::new(RealDisk), &tasks, StdRng::seed_from_u64(1))
        .await
        .unwrap();
    let error = tasks
        .run_until_shutdown(Duration::from_secs(10))
        .await
        .unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("belong to cluster") && text.contains("check `namenodes`"),
        "{text}"
    );
}

#[tokio::test]
async fn a_volume_in_use_is_refused_by_name() {
    let cluster = Cluster::start(1).await;
    let config = cluster.nodes[0].config.clone();
    let error = Datanode::start(
        config,
        Arc::new(RealDisk),
        &Tasks::new(),
        StdRng::seed_from_u64(1),
    )
    .await;
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("datanode0 is in use by another process"),
        "{text}"
    );
}
