//! Two namenodes that both believe they lead.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use cairn_client::WriteOptions;
use cairn_namenode::store::{Read, chunk};
use cairn_protocol::ids::{ChunkId, DatanodeId};
use cairn_protocol::messages::datanode::{
    DeleteReplica, InstructReply, InstructRequest, Instruction, InstructionKind,
};
use cairn_protocol::rpc::{ConnectionOptions, Hello, Peers};
use cairn_protocol::token::{self, Grant, GrantKind, KeyRing, TokenKey};
use cairn_protocol::{ErrorCode, Method};
use tokio::time::sleep;

use super::super::cluster::{Cluster, Stop};
use super::replicas::write;
use super::stage::Stage;

const ANSWER_WITHIN: Duration = Duration::from_millis(500);

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
    let old_term = stage.term(leader);
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
    let late = late_orders(stage, old_term)?;
    stage.act(move |_| refuse_all(late))?;
    stage.cut_off(&old, &friends, false);
    stage.finish()
}

/// What the deposed leader would still send: the deletion of every replica that the cluster relies on now.
fn late_orders(stage: &mut Stage, term: u64) -> anyhow::Result<Vec<(String, InstructRequest)>> {
    let leader = stage.leader()?;
    let running = stage.cluster.namenodes[leader].running.borrow();
    let state = running
        .as_ref()
        .context("the leader runs")?
        .node
        .group()
        .state();
    let store = state.store();
    let snapshot = store.snapshot();
    let cluster = snapshot.cluster_record()?;
    let key = cluster.keys.first().context("a key")?;
    let secret = <[u8; 32]>::try_from(key.secret.as_slice())?;
    let keys = KeyRing {
        cluster: <[u8; 16]>::try_from(cluster.cluster_id.as_slice())?,
        current: TokenKey { id: key.id, secret },
        previous: None,
    };
    let mut orders = Vec::new();
    for id in 1..cluster.next_chunk {
        let Some(record) = chunk::get(&snapshot, ChunkId(id))? else {
            continue;
        };
        for replica in &record.replicas {
            let kind = GrantKind::Instruct {
                datanode: DatanodeId(replica.datanode),
                term,
            };
            let grant = Grant {
                chunk: ChunkId(0),
                kind,
                expires_at_ms: u64::MAX,
            };
            let delete = Instruction {
                chunk: id,
                incarnation: replica.incarnation,
                kind: Some(InstructionKind::Delete(DeleteReplica {})),
            };
            let request = InstructRequest {
                term,
                datanode: replica.datanode,
                token: token::mint(&keys, &grant),
                instructions: vec![delete],
            };
            for machine in &stage.cluster.datanodes {
                orders.push((format!("{}:9866", machine.name), request.clone()));
            }
        }
    }
    ensure!(!orders.is_empty(), "the cluster has no replicas");
    Ok(orders)
}

/// Sends them; one that is carried out is a replica lost.
async fn refuse_all(orders: Vec<(String, InstructRequest)>) -> anyhow::Result<()> {
    let peers = Peers::new(
        Hello::new("namenode", None, 1),
        ConnectionOptions::default(),
    );
    let mut stale = 0;
    for (address, request) in orders {
        let method = Method::Instruct.into();
        let answer = peers
            .call_typed::<InstructReply>(&address, method, &request, Bytes::new(), ANSWER_WITHIN)
            .await;
        match answer {
            Ok(_) => bail!(
                "{address} obeyed a deposed leader: {:?}",
                request.instructions
            ),
            Err(error) if error.code() == ErrorCode::StaleTerm => stale += 1,
            // Another datanode's order, or a datanode that is away.
            Err(_) => {}
        }
    }
    ensure!(stale > 0, "no datanode said that the term is over");
    Ok(())
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
    let before = stage.inodes_given(leader)?;
    let both_lead = |cluster: &Cluster, _| (0..3).filter(|at| cluster.leads(*at)).count() == 2;
    let moments = Duration::from_secs(2);
    stage.cluster.run_until(moments, "two leaders", both_lead)?;
    stage.pass(1_500)?;
    // One counts on without the other, which has heard nothing of it and has taken on what it cannot finish.
    let newer = (0..3).filter(|at| *at != leader && stage.cluster.leads(*at));
    let newer = newer.last().context("a new leader")?;
    ensure!(stage.cluster.leads(leader), "{old} has given up");
    ensure!(
        stage.inodes_given(newer)? > before,
        "the new leader gave no inode a number"
    );
    let unfinished = stage.unfinished(leader)?;
    ensure!(unfinished > 0, "nobody asked {old} for anything");
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
