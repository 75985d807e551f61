//! Namenodes join, leave, are replaced and hand leadership over while a client works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use cairn_client::{FileSystem, WriteOptions};
use cairn_namenode::Namenode;
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::NamenodeId;
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};
use tokio::task::JoinSet;

/// A client that makes files until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<u64>,
}

impl Load {
    fn start(fs: FileSystem) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let stopped = stop.clone();
        tasks.spawn(async move {
            let mut count = 0;
            while !stopped.load(Ordering::SeqCst) {
                fs.write_file(
                    format!("/load-{count}"),
                    content(count, 500),
                    &WriteOptions::default(),
                )
                .await
                .unwrap();
                count += 1;
            }
            count
        });
        Self { stop, tasks }
    }

    /// Everything that was acknowledged is there.
    async fn finish(mut self, fs: &FileSystem) {
        self.stop.store(true, Ordering::SeqCst);
        let count = self.tasks.join_next().await.unwrap().unwrap();
        assert!(count > 0);
        for seed in 0..count {
            assert!(
                fs.read_file(format!("/load-{seed}")).await.unwrap() == content(seed, 500),
                "{seed}"
            );
        }
    }
}

fn id(cluster: &MiniCluster, index: usize) -> NamenodeId {
    NamenodeId(cluster.namenode(index).unwrap().group().id())
}

/// Waits until these and no others vote.
async fn wait_voters(cluster: &MiniCluster, expected: &[usize]) {
    let mut expected: Vec<u64> = expected.iter().map(|index| id(cluster, *index).0).collect();
    expected.sort_unstable();
    cluster
        .until(
            "the group has the members that it should have",
            async || {
                let leader = cluster.leader().await?;
                let members = cluster
                    .namenode(leader)
                    .context("leader")?
                    .group()
                    .members();
                let mut voters: Vec<u64> = members
                    .iter()
                    .filter(|member| member.voter)
                    .map(|member| member.id)
                    .collect();
                voters.sort_unstable();
                ensure!(
                    voters == expected && members.len() == expected.len(),
                    "{members:?}, expected {expected:?}"
                );
                Ok(())
            },
        )
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_grows_to_three_and_survives_its_founder() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let load = Load::start(cluster.client().await.unwrap());
    let second = cluster.start_spare_namenode().await.unwrap();
    let third = cluster.start_spare_namenode().await.unwrap();
    for index in [second, third] {
        fs.add_namenode(cluster.addresses()[index].clone(), None)
            .await
            .unwrap();
    }
    wait_voters(&cluster, &[0, second, third]).await;
    load.finish(&fs).await;
    cluster.kill_namenode(0).await;
    let fs = cluster.client().await.unwrap();
    fs.mkdir("/without-the-founder", 0o755).await.unwrap();
    cluster.start_namenode(0).await.unwrap();
    cluster.wait_equal_states().await.unwrap();
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_namenode_is_replaced_and_another_removed_while_clients_work() {
    let mut cluster = MiniCluster::start(ClusterOptions::of_namenodes(3))
        .await
        .unwrap();
    let fs = cluster.client().await.unwrap();
    let load = Load::start(cluster.client().await.unwrap());
    let leader = cluster.leader().await.unwrap();
    let lost = (leader + 1) % 3;
    let lost_id = id(&cluster, lost);
    cluster.kill_namenode(lost).await;
    let spare = cluster.start_spare_namenode().await.unwrap();
    fs.add_namenode(cluster.addresses()[spare].clone(), Some(lost_id))
        .await
        .unwrap();
    let other = (leader + 2) % 3;
    wait_voters(&cluster, &[leader, other, spare]).await;
    // The leader itself leaves.
    let leader = cluster.leader().await.unwrap();
    let rest: Vec<usize> = [leader, other, spare]
        .into_iter()
        .filter(|index| *index != leader)
        .collect();
    fs.remove_namenode(id(&cluster, leader)).await.unwrap();
    cluster.kill_namenode(leader).await;
    wait_voters(&cluster, &rest).await;
    load.finish(&fs).await;
    cluster.wait_equal_states().await.unwrap();
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_while_clients_work() {
    let mut cluster = MiniCluster::start(ClusterOptions::of_namenodes(3))
        .await
        .unwrap();
    let fs = cluster.client().await.unwrap();
    let load = Load::start(cluster.client().await.unwrap());
    for _ in 0..3 {
        let old = cluster.leader().await.unwrap();
        let target = (old + 1) % 3;
        fs.transfer_leadership(Some(id(&cluster, target)))
            .await
            .unwrap();
        cluster
            .until("the new leader leads", async || {
                let leader = cluster.leader().await?;
                ensure!(leader == target, "{leader} leads instead of {target}");
                Ok(())
            })
            .await
            .unwrap();
    }
    load.finish(&fs).await;
    cluster.wait_equal_states().await.unwrap();
    cluster.check(&fs).await.unwrap();
}

/// Otherwise the group would shrink, and whoever asked would believe that it had not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_does_not_take_the_place_of_another() {
    let mut cluster = MiniCluster::start(ClusterOptions::of_namenodes(3))
        .await
        .unwrap();
    let fs = cluster.client().await.unwrap();
    let address = cluster.addresses()[0].clone();
    let old = id(&cluster, 1);
    let refused = fs.add_namenode(address, Some(old)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidArgument);
    assert!(
        refused.to_string().contains("is a member already"),
        "{refused}"
    );
    let members = cluster.namenode(0).unwrap().group().members();
    assert_eq!(members.iter().filter(|member| member.voter).count(), 3);
}

/// How many snapshots a namenode has received in its life: each is unpacked beside the state that it replaces, under the next number.
fn snapshots_received(cluster: &MiniCluster, index: usize) -> u64 {
    let states = std::fs::read_dir(cluster.namenode_directory(index).join("state")).unwrap();
    let numbers = states.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let numbers: Vec<u64> = numbers.collect();
    let [number] = numbers[..] else {
        panic!("one state counts, and no other is left: {numbers:?}");
    };
    number - 1
}

/// Answers how many snapshots brought the member up to date. `cut`: when it comes back, nobody has the entries any more that it lacks.
async fn away_and_back(snapshot_every_entries: u64, files: u64, cut: bool) -> u64 {
    let options = ClusterOptions {
        namenodes: 3,
        snapshot_every_entries,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let away = (cluster.leader().await.unwrap() + 1) % 3;
    cluster.kill_namenode(away).await;
    let before = snapshots_received(&cluster, away);
    fs.mkdir("/it-lacks-this", 0o755).await.unwrap();
    let lacks = fs.applied_index();
    for seed in 0..files {
        fs.write_file(
            format!("/{seed}"),
            content(seed, 100),
            &WriteOptions::default(),
        )
        .await
        .unwrap();
    }
    if cut {
        let stay = (0..3).filter_map(|index| cluster.namenode(index));
        let stay: Vec<&Namenode> = stay.collect();
        assert_eq!(stay.len(), 2);
        let all_cut = || {
            let mut purged = stay.iter().map(|it| it.group().purged_index());
            purged.all(|purged| purged >= lacks).then_some(())
        };
        let cut = cluster.eventually(all_cut).await;
        cut.expect("logs are cut");
    }
    cluster.start_namenode(away).await.unwrap();
    cluster.wait_equal_states().await.unwrap();
    let received = snapshots_received(&cluster, away) - before;
    // Its copy of the state is complete: with it, the group goes on without another one.
    let leader = cluster.leader().await.unwrap();
    cluster.kill_namenode(leader).await;
    for seed in 0..files {
        assert!(
            fs.read_file(format!("/{seed}")).await.unwrap() == content(seed, 100),
            "{seed}"
        );
    }
    fs.mkdir("/goes-on", 0o755).await.unwrap();
    cluster.start_namenode(leader).await.unwrap();
    cluster.wait_equal_states().await.unwrap();
    cluster.check(&fs).await.unwrap();
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_catches_up_from_the_log() {
    assert_eq!(away_and_back(100_000, 200, false).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_too_long_catches_up_from_a_snapshot() {
    assert!(away_and_back(100, 400, true).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namenode_whose_directory_was_lost_never_votes_under_its_old_id() {
    let mut cluster = MiniCluster::start(ClusterOptions::of_namenodes(3))
        .await
        .unwrap();
    let fs = cluster.client().await.unwrap();
    fs.mkdir("/before", 0o755).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let lost = (leader + 1) % 3;
    let old_id = id(&cluster, lost);
    cluster.kill_namenode(lost).await;
    std::fs::remove_dir_all(cluster.namenode_directory(lost)).unwrap();
    cluster.start_namenode(lost).await.unwrap();
    assert_ne!(id(&cluster, lost), old_id);
    // It is not a member: the two others are needed for each change.
    let members = cluster.namenode(leader).unwrap().group().members();
    assert!(
        members
            .iter()
            .all(|member| member.id != id(&cluster, lost).0)
    );
    fs.mkdir("/between", 0o755).await.unwrap();
    assert!(
        cluster.dump(lost).unwrap().len() < 4,
        "nobody sends it the state"
    );
    // The operator puts it in the place of what was lost.
    fs.add_namenode(cluster.addresses()[lost].clone(), Some(old_id))
        .await
        .unwrap();
    wait_voters(&cluster, &[0, 1, 2]).await;
    cluster.wait_equal_states().await.unwrap();
    cluster.kill_namenode(leader).await;
    fs.mkdir("/after", 0o755).await.unwrap();
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namenode_that_lists_only_itself_founds_no_second_cluster_when_its_directory_is_lost() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let second = cluster.start_spare_namenode().await.unwrap();
    let third = cluster.start_spare_namenode().await.unwrap();
    for index in [second, third] {
        fs.add_namenode(cluster.addresses()[index].clone(), None)
            .await
            .unwrap();
    }
    wait_voters(&cluster, &[0, second, third]).await;
    let fs = cluster.client().await.unwrap();
    // The founder and one that was added: both lose everything, one after the other.
    for lost in [0, second] {
        let old_id = id(&cluster, lost);
        cluster.kill_namenode(lost).await;
        std::fs::remove_dir_all(cluster.namenode_directory(lost)).unwrap();
        cluster.start_namenode(lost).await.unwrap();
        fs.mkdir(format!("/while-{lost}-waits"), 0o755)
            .await
            .unwrap();
        let alone = cluster.namenode(lost).unwrap();
        assert!(!alone.group().is_initialized().await.unwrap());
        assert_eq!(alone.cluster_id(), None);
        fs.add_namenode(cluster.addresses()[lost].clone(), Some(old_id))
            .await
            .unwrap();
        wait_voters(&cluster, &[0, second, third]).await;
    }
    cluster.wait_equal_states().await.unwrap();
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_only_reads_learns_of_namenodes_that_were_added() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let (fs, reader) = (
        cluster.client().await.unwrap(),
        cluster.client().await.unwrap(),
    );
    fs.mkdir("/here", 0o755).await.unwrap();
    reader.stat("/here").await.unwrap();
    let second = cluster.start_spare_namenode().await.unwrap();
    let third = cluster.start_spare_namenode().await.unwrap();
    for index in [second, third] {
        fs.add_namenode(cluster.addresses()[index].clone(), None)
            .await
            .unwrap();
    }
    wait_voters(&cluster, &[0, second, third]).await;
    reader.stat("/here").await.unwrap();
    // The only one that the reader was told of when it connected.
    cluster.kill_namenode(0).await;
    reader.stat("/here").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_removed_hands_over_first() {
    let options = ClusterOptions {
        namenodes: 5,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let load = Load::start(cluster.client().await.unwrap());
    let mut left: Vec<usize> = (0..5).collect();
    for _ in 0..2 {
        let leader = cluster.leader().await.unwrap();
        let leader_id = id(&cluster, leader);
        fs.remove_namenode(leader_id).await.unwrap();
        left.retain(|index| *index != leader);
        let status = fs.status().await.unwrap();
        assert_ne!(status.leader, leader_id.0);
        assert_eq!(status.namenodes.len(), left.len());
        let listed = |id: NamenodeId| status.namenodes.iter().any(|it| it.namenode == id.0);
        assert!(!listed(leader_id));
        wait_voters(&cluster, &left).await;
        cluster.kill_namenode(leader).await;
    }
    let error = fs.remove_namenode(NamenodeId(42)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound, "{error}");
    load.finish(&fs).await;
    cluster.wait_equal_states().await.unwrap();
    cluster.check(&fs).await.unwrap();
}
