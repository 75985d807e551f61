//! `dfs status`: the whole cluster at a glance.

use std::io::{self, Write};
use std::time::Duration;

use cairn_client::{Safety, has_quorum, verdict};
use cairn_protocol::messages::admin::{
    ClusterCounts, DatanodeAdminState, DatanodeStatus, NamenodeStatus, StatusReply,
};
use cairn_protocol::messages::datanode::VolumeSpace;
use clap::Args;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::output::{Align, Table, duration_short, print_json, size_with_unit};
use crate::session::Session;

/// An election takes a second or two.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// For an answer that needs nobody else.
const MEMBER_PATIENCE: Duration = Duration::from_secs(3);

/// Tell how the cluster is: first of all whether all data is safe.
///
/// Exit status 1 if no majority of the namenodes answers; what those know that do is told all the same.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let status = match timeout(LEADER_PATIENCE, session.fs.status()).await {
            Ok(status) => status,
            // Nobody leads: those that can be reached tell what they know.
            Err(_) => match session.fs.local_status(MEMBER_PATIENCE).await {
                Some(status) => Ok(status),
                None => session.fs.status().await,
            },
        }?;
        if !has_quorum(&status) {
            session.fail();
        }
        if self.json {
            print_json(&mut session.out, &as_json(&status))?;
        } else {
            print(&mut session.out, &status)?;
        }
        Ok(())
    }
}

/// Space over the volumes of a datanode.
fn space(datanode: &DatanodeStatus) -> VolumeSpace {
    let host = datanode.address.host.as_str();
    VolumeSpace::of(datanode.volumes.iter().map(|volume| (host, volume)))
}

fn print(out: &mut impl Write, status: &StatusReply) -> io::Result<()> {
    writeln!(out, "{}", verdict(status).text)?;
    let cluster: String = status
        .cluster_id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    writeln!(
        out,
        "\nCluster {cluster}, version {}, term {}, entry {}, {} clients",
        status.version, status.term, status.applied_index, status.session_count
    )?;
    print_counts(out, &status.counts)?;
    writeln!(out, "\nNamenodes")?;
    print_namenodes(out, &status.namenodes)?;
    writeln!(out, "\nDatanodes")?;
    if status.datanodes.is_empty() {
        return writeln!(out, "  none has ever registered");
    }
    print_datanodes(out, &status.datanodes)
}

fn print_counts(out: &mut impl Write, counts: &ClusterCounts) -> io::Result<()> {
    writeln!(
        out,
        "{} files in {} directories, {} in {} chunks ({} open)",
        counts.files,
        counts.directories,
        size_with_unit(counts.live_bytes),
        counts.chunks,
        counts.chunks_open
    )?;
    let pending = [
        (
            counts.chunks_over_replicated,
            "chunks with surplus replicas",
        ),
        (counts.chunks_dead, "chunks to be deleted"),
        (counts.sweeping, "removed trees and files to be swept"),
    ];
    for (count, what) in pending.into_iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "{count} {what}")?;
    }
    if counts.moves_running > 0 {
        writeln!(
            out,
            "datanodes are {} % to {} % full: {} replicas are moving to emptier ones",
            counts.fill_min_permille / 10,
            counts.fill_max_permille / 10,
            counts.moves_running
        )?;
    }
    Ok(())
}

/// A table of namenodes.
pub(crate) fn print_namenodes(
    out: &mut impl Write,
    namenodes: &[NamenodeStatus],
) -> io::Result<()> {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new(&[left, right, left, left, right, left]);
    table.row(["", "ID", "ADDRESS", "ROLE", "ENTRY", ""].map(str::to_owned));
    for namenode in namenodes {
        table.row([
            String::new(),
            namenode.namenode.to_string(),
            namenode.address.clone(),
            namenode.role.clone(),
            namenode.matched_index.to_string(),
            match (namenode.reachable, namenode.disk_low) {
                (false, _) => "does not answer".to_owned(),
                (true, true) => "disk almost full".to_owned(),
                (true, false) => String::new(),
            },
        ]);
    }
    table.print(out, "  ")
}

/// A table of datanodes, and below it volumes that failed.
pub(crate) fn print_datanodes(
    out: &mut impl Write,
    datanodes: &[DatanodeStatus],
) -> io::Result<()> {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new(&[left, right, left, left, left, right, right, right, right]);
    let titles = [
        "",
        "ID",
        "ADDRESS",
        "RACK",
        "STATE",
        "HEARD",
        "REPLICAS",
        "USED",
        "AVAILABLE",
    ];
    table.row(titles.map(str::to_owned));
    for datanode in datanodes {
        let space = space(datanode);
        table.row([
            String::new(),
            datanode.address.datanode.to_string(),
            datanode.address.address.clone(),
            datanode.address.rack.clone(),
            state(datanode).to_owned(),
            heard(datanode),
            datanode.replica_count.to_string(),
            space_or_unknown(datanode, space.used_bytes),
            space_or_unknown(datanode, space.available_bytes),
        ]);
    }
    table.print(out, "  ")?;
    for datanode in datanodes {
        let volumes = datanode.volumes.iter();
        for volume in volumes.filter(|volume| volume.failed || !volume.reason.is_empty()) {
            let what = match volume.failed {
                true => "is withdrawn",
                false => "takes nothing new",
            };
            writeln!(
                out,
                "  datanode {}: volume {} {what}: {}",
                datanode.address.datanode, volume.path, volume.reason
            )?;
        }
    }
    Ok(())
}

/// What a leader has not heard from the datanode yet it does not know.
fn space_or_unknown(datanode: &DatanodeStatus, bytes: u64) -> String {
    if datanode.volumes.is_empty() {
        "-".to_owned()
    } else {
        size_with_unit(bytes)
    }
}

fn heard(datanode: &DatanodeStatus) -> String {
    match datanode.heartbeat_age_ms {
        // Before this leader began: when exactly, only the leader before it knew.
        u64::MAX if is_unknown(datanode) => "-".to_owned(),
        u64::MAX => format!("over {} ago", duration_short(datanode.silent_ms / 1000)),
        age if age < 2_000 => "now".to_owned(),
        age => format!("{} ago", duration_short(age / 1000)),
    }
}

/// A member that does not lead hears no datanode.
fn is_unknown(datanode: &DatanodeStatus) -> bool {
    !datanode.alive && datanode.heartbeat_age_ms == u64::MAX && datanode.silent_ms == 0
}

fn state(datanode: &DatanodeStatus) -> &'static str {
    match (DatanodeAdminState::try_from(datanode.state), datanode.alive) {
        (Ok(DatanodeAdminState::InService), true) => "in service",
        (Ok(DatanodeAdminState::InService), false) if is_unknown(datanode) => "not known",
        (Ok(DatanodeAdminState::InService), false) => "DEAD",
        (Ok(DatanodeAdminState::Decommissioning), true) => "decommissioning",
        (Ok(DatanodeAdminState::Decommissioning), false) => "decommissioning, dead",
        (Ok(DatanodeAdminState::Decommissioned), _) => "decommissioned",
        (Ok(DatanodeAdminState::Maintenance), true) => "maintenance",
        (Ok(DatanodeAdminState::Maintenance), false) => "maintenance, away",
        (Err(_), _) => "unknown",
    }
}

/// Everything, for scripts.
pub(crate) fn as_json(status: &StatusReply) -> Value {
    let counts = &status.counts;
    let verdict = verdict(status);
    let cluster: String = status
        .cluster_id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    json!({
        "verdict": verdict.text,
        "safe": verdict.all_replicas && verdict.safety != Safety::Bad,
        "cluster": cluster,
        "version": status.version,
        "term": status.term,
        "leader": status.leader,
        "applied_index": status.applied_index,
        "time_ms": status.time_ms,
        "sessions": status.session_count,
        "counts": {
            "files": counts.files,
            "directories": counts.directories,
            "inodes": counts.inodes,
            "chunks": counts.chunks,
            "chunks_open": counts.chunks_open,
            "chunks_under_replicated": counts.chunks_under_replicated,
            "chunks_unavailable": counts.chunks_unavailable,
            "chunks_lossy": counts.chunks_lossy,
            "chunks_over_replicated": counts.chunks_over_replicated,
            "chunks_dead": counts.chunks_dead,
            "live_bytes": counts.live_bytes,
            "chunk_bytes": counts.chunk_bytes,
            "copies_running": counts.copies_running,
            "moves_running": counts.moves_running,
            "fill_min_permille": counts.fill_min_permille,
            "fill_max_permille": counts.fill_max_permille,
            "sweeping": counts.sweeping,
        },
        "namenodes": status.namenodes.iter().map(namenode_json).collect::<Vec<_>>(),
        "datanodes": status.datanodes.iter().map(datanode_json).collect::<Vec<_>>(),
    })
}

/// One namenode, for scripts.
pub(crate) fn namenode_json(namenode: &NamenodeStatus) -> Value {
    json!({
        "id": namenode.namenode,
        "address": namenode.address,
        "role": namenode.role,
        "matched_index": namenode.matched_index,
        "reachable": namenode.reachable,
        "disk_low": namenode.disk_low,
    })
}

/// One datanode, for scripts.
pub(crate) fn datanode_json(datanode: &DatanodeStatus) -> Value {
    let space = space(datanode);
    let volumes = datanode.volumes.iter().map(|volume| {
        json!({
            "path": volume.path,
            "capacity_bytes": volume.capacity_bytes,
            "used_bytes": volume.used_bytes,
            "available_bytes": volume.available_bytes,
            "replicas": volume.replica_count,
            "failed": volume.failed,
            "reason": volume.reason,
        })
    });
    let age = (datanode.heartbeat_age_ms != u64::MAX).then_some(datanode.heartbeat_age_ms);
    json!({
        "id": datanode.address.datanode,
        "address": datanode.address.address,
        "host": datanode.address.host,
        "rack": datanode.address.rack,
        "alive": datanode.alive,
        "state": state(datanode),
        "heartbeat_age_ms": age,
        "silent_ms": datanode.silent_ms,
        "replicas": datanode.replica_count,
        "capacity_bytes": space.capacity_bytes,
        "used_bytes": space.used_bytes,
        "available_bytes": space.available_bytes,
        "write_streams": datanode.write_streams,
        "copies": datanode.copies,
        "version": datanode.version,
        "volumes": volumes.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::admin::{DatanodeStatus, NamenodeStatus, StatusReply};

    use super::{as_json, print};

    fn status() -> StatusReply {
        let mut status = StatusReply::default();
        status.counts.chunks = 10;
        status.namenodes.push(NamenodeStatus {
            reachable: true,
            ..NamenodeStatus::default()
        });
        let mut datanode = DatanodeStatus {
            alive: true,
            heartbeat_age_ms: 5,
            ..DatanodeStatus::default()
        };
        datanode.address.address = "h:1".to_owned();
        status.datanodes.push(datanode);
        status
    }

    #[test]
    fn a_datanode_that_died_before_this_leader_began_is_silent_for_longer_than_that() {
        let mut status = status();
        status.datanodes[0].alive = false;
        status.datanodes[0].heartbeat_age_ms = u64::MAX;
        status.datanodes[0].silent_ms = 200_000;
        let mut out = Vec::new();
        print(&mut out, &status).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("over 3 min 20 s ago") && !text.contains("never"),
            "{text}"
        );
        let line = text.lines().find(|line| line.contains("h:1")).unwrap();
        assert!(!line.contains("0 B"), "its space is not known: {line}");
    }

    #[test]
    fn without_a_leader_nobody_is_called_dead() {
        let mut status = status();
        status.local = true;
        status.datanodes[0].alive = false;
        status.datanodes[0].heartbeat_age_ms = u64::MAX;
        let mut out = Vec::new();
        print(&mut out, &status).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("NO LEADER") && text.contains("not known"),
            "{text}"
        );
        assert!(!text.contains("DEAD"), "{text}");
        assert_eq!(as_json(&status)["safe"].as_bool(), Some(false));
    }

    #[test]
    fn tables_and_json_name_every_node() {
        let mut out = Vec::new();
        print(&mut out, &status()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("h:1") && text.contains("in service") && text.contains("now"),
            "{text}"
        );
        let json = as_json(&status());
        assert_eq!(
            (
                json["safe"].as_bool(),
                json["datanodes"][0]["address"].as_str()
            ),
            (Some(true), Some("h:1"))
        );
    }
}
