//! Two namenodes that both believe they lead.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use cairn_client::WriteOptions;
use tokio::time::sleep;

use super::super::cluster::Stop;
use super::replicas::write;
use super::stage::Stage;

/// A leader orders deletions whose messages are held up. It is deposed, the new leader makes copies of its own, and then the old
/// orders arrive.
pub(super) fn late_delete(stage: &mut Stage) -> anyhow::Result<()> {
    for number in 0..4 {
        write(stage, &format!("/c0/file-{number}"), number, 60_000)?;
    }
    // A datanode is away until its chunks have been copied; its return makes surplus replicas, which are to be deleted.
    let away = stage.holders()[0];
    stage.cluster.stop_datanode(away, Stop::Kill);
    stage.pass(6_000)?;
    let leader = stage.leader()?;
    let old = stage.cluster.namenodes[leader].name.clone();
    let name = stage.cluster.datanodes[away].name.clone();
    stage.cluster.start_machine(&name);
    let datanodes: Vec<String> = stage
        .cluster
        .datanodes
        .iter()
        .map(|machine| machine.name.clone())
        .collect();
    stage.pass(250)?;
    for datanode in &datanodes {
        stage.cluster.sim.hold(old.clone(), datanode.clone());
    }
    stage.pass(400)?;
    let friends: Vec<&str> = datanodes.iter().map(String::as_str).collect();
    stage.cut_off(&old, &friends, true);
    stage.pass(2_000)?;
    // Under the new leader another datanode goes, so that replicas which the old one wanted to delete are needed.
    let other = stage
        .holders()
        .into_iter()
        .find(|other| *other != away)
        .unwrap_or(0);
    stage.cluster.stop_datanode(other, Stop::Kill);
    stage.pass(2_500)?;
    for datanode in &datanodes {
        stage.cluster.sim.release(old.clone(), datanode.clone());
    }
    stage.pass(1_500)?;
    stage.cut_off(&old, &friends, false);
    stage.finish()
}

/// A leader that has lost its followers goes on stamping ids for a client that still reaches it, while another one leads.
pub(super) fn ids_of_two_leaders(stage: &mut Stage) -> anyhow::Result<()> {
    let leader = stage.leader()?;
    let old = stage.cluster.namenodes[leader].name.clone();
    let write_many = |prefix: &'static str| {
        move |fs: cairn_client::FileSystem| async move {
            for number in 0..12 {
                let path = format!("/c0/{prefix}-{number}");
                let bytes = Bytes::from(path.clone());
                fs.write_file(path.as_str(), bytes, &WriteOptions::default())
                    .await?;
                sleep(Duration::from_millis(60)).await;
            }
            Ok(())
        }
    };
    // Both clients know the old leader; one of them loses it.
    stage.begin(write_many("near"));
    let far = stage.begin(write_many("far"));
    stage.pass(300)?;
    stage.cut_off(&old, &[], true);
    stage.cluster.sim.partition(far.clone(), old.clone());
    stage.pass(2_500)?;
    stage.cut_off(&old, &[], false);
    stage.cluster.sim.repair(far, old);
    stage.end()?;
    for prefix in ["near", "far"] {
        for number in 0..12 {
            let path = format!("/c0/{prefix}-{number}");
            let bytes = path.clone().into_bytes();
            stage.expect(&path, &bytes, false);
        }
    }
    stage.act(|fs| async move {
        let entries = fs.list_all("/c0").await?;
        let inodes: BTreeSet<u64> = entries.iter().map(|entry| entry.inode).collect();
        ensure!(inodes.len() == entries.len(), "an inode id was given twice");
        Ok(())
    })?;
    stage.finish()
}
