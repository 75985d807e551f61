//! `/jmx`: what monitoring made for HDFS reads of a namenode, in the beans and names that Hadoop has. `qry` chooses beans (`*` stands for
//! anything), `get=BEAN::ATTRIBUTE` one attribute. Blocks are chunks here. A datanode has no such beans.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use cairn_protocol::messages::admin::{DatanodeAdminState, DatanodeStatus, StatusReply};
use cairn_protocol::messages::datanode::VolumeSpace;
use serde_json::{Map, Value, json};

use crate::api::Problem;
use crate::lookout::recent_status;
use crate::params::Params;
use crate::server::Shared;
use crate::status::hex;

/// Answers `/jmx`.
pub(crate) async fn serve(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Problem> {
    let Ok(params) = Params::parse(request.uri().query().unwrap_or_default()) else {
        return Ok(StatusCode::BAD_REQUEST.into_response());
    };
    let all = match shared.leads() {
        None => Vec::new(),
        Some(leads) => {
            let status = recent_status(&shared).await?;
            let host = request.headers().get(header::HOST);
            let host = host.and_then(|host| host.to_str().ok());
            let own = host.map_or_else(|| shared.bound().to_string(), str::to_owned);
            beans(&status, leads, shared.wants_tokens(), &own)
        }
    };
    let chosen = match (params.text("get"), params.text("qry")) {
        (Some(wanted), _) => attribute(all, &wanted),
        (None, Some(pattern)) => all
            .into_iter()
            .filter(|bean| {
                bean["name"]
                    .as_str()
                    .is_some_and(|name| matches(&pattern, name))
            })
            .collect(),
        (None, None) => all,
    };
    let fresh = [(header::CACHE_CONTROL, "no-store")];
    Ok((fresh, Json(json!({ "beans": chosen }))).into_response())
}

/// The bean, with nothing but that attribute.
fn attribute(all: Vec<Value>, wanted: &str) -> Vec<Value> {
    let Some((name, attribute)) = wanted.split_once("::") else {
        return Vec::new();
    };
    let found = all.into_iter().find(|bean| bean["name"] == name);
    let found =
        found.and_then(|bean| Some((bean["modelerType"].clone(), bean.get(attribute)?.clone())));
    let found = found.map(|(kind, value)| {
        let mut bean = Map::new();
        bean.insert("name".to_owned(), name.into());
        bean.insert("modelerType".to_owned(), kind);
        bean.insert(attribute.to_owned(), value);
        Value::Object(bean)
    });
    found.into_iter().collect()
}

/// Whether a name is like a pattern in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for piece in pieces {
        if let Some(before) = last.replace(piece) {
            match rest.split_once(before) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
    }
    match last {
        None => rest.is_empty(),
        Some(last) => rest.ends_with(last),
    }
}

/// Space of datanodes that are alive. What several share counts once, as in `dfs status` and `dfs df`.
struct Space {
    capacity: u64,
    used: u64,
    remaining: u64,
}

impl Space {
    fn of<'a>(datanodes: impl IntoIterator<Item = &'a DatanodeStatus>) -> Self {
        let volumes = datanodes.into_iter().flat_map(|datanode| {
            let host = datanode.address.host.as_str();
            datanode.volumes.iter().map(move |volume| (host, volume))
        });
        let space = VolumeSpace::of(volumes);
        Self {
            capacity: space.capacity_bytes,
            used: space.used_bytes,
            remaining: space.available_bytes,
        }
    }

    fn of_all(status: &StatusReply) -> Self {
        Self::of(status.datanodes.iter().filter(|datanode| datanode.alive))
    }

    fn percent(part: u64, whole: u64) -> f64 {
        if whole == 0 {
            return 0.0;
        }
        part as f64 * 100.0 / whole as f64
    }
}

fn is(datanode: &DatanodeStatus, state: DatanodeAdminState) -> bool {
    datanode.state == state as i32
}

/// How many datanodes are so.
fn count(status: &StatusReply, which: impl Fn(&DatanodeStatus) -> bool) -> usize {
    status
        .datanodes
        .iter()
        .filter(|datanode| which(datanode))
        .count()
}

fn beans(status: &StatusReply, leads: bool, secured: bool, own: &str) -> Vec<Value> {
    let space = Space::of_all(status);
    vec![
        name_node_status(leads, secured, own),
        name_node_info(status, &space),
        name_system(status, &space, leads),
        name_system_state(status, &space),
    ]
}

fn name_node_status(leads: bool, secured: bool, own: &str) -> Value {
    json!({
        "name": "Hadoop:service=NameNode,name=NameNodeStatus",
        "modelerType": "org.apache.hadoop.hdfs.server.namenode.NameNode",
        "NNRole": "NameNode",
        "State": if leads { "active" } else { "standby" },
        "HostAndPort": own,
        "SecurityEnabled": secured,
    })
}

/// Lists of datanodes are JSON inside JSON, as in Hadoop.
fn name_node_info(status: &StatusReply, space: &Space) -> Value {
    let counts = &status.counts;
    let mut lists: [BTreeMap<String, Value>; 3] = Default::default();
    for datanode in &status.datanodes {
        let own = Space::of([datanode]);
        let mut about = json!({
            "infoAddr": datanode.address.http_address,
            "xferaddr": datanode.address.address,
            "lastContact": datanode.heartbeat_age_ms / 1000,
            "location": datanode.address.rack,
            "adminState": admin_state(datanode),
            "version": datanode.version,
        });
        let list = if !datanode.alive {
            about["decommissioned"] = is(datanode, DatanodeAdminState::Decommissioned).into();
            &mut lists[1]
        } else {
            about["capacity"] = own.capacity.into();
            about["usedSpace"] = own.used.into();
            about["remaining"] = own.remaining.into();
            about["numBlocks"] = datanode.replica_count.into();
            let failed = datanode.volumes.iter().filter(|volume| volume.failed);
            about["volfails"] = failed.count().into();
            if is(datanode, DatanodeAdminState::Decommissioning) {
                lists[2].insert(name_of(datanode), about.clone());
            }
            &mut lists[0]
        };
        list.insert(name_of(datanode), about);
    }
    let [live, dead, decommissioning] = lists.map(|list| json!(list).to_string());
    json!({
        "name": "Hadoop:service=NameNode,name=NameNodeInfo",
        "modelerType": "org.apache.hadoop.hdfs.server.namenode.FSNamesystem",
        "Version": status.version,
        "SoftwareVersion": status.version,
        "ClusterId": hex(&status.cluster_id),
        "BlockPoolId": format!("BP-{}", hex(&status.cluster_id)),
        "Safemode": "",
        "Threads": 0,
        "Total": space.capacity,
        "Used": space.used,
        "Free": space.remaining,
        "NonDfsUsedSpace": space.capacity.saturating_sub(space.used + space.remaining),
        "PercentUsed": Space::percent(space.used, space.capacity),
        "PercentRemaining": Space::percent(space.remaining, space.capacity),
        "TotalBlocks": counts.chunks,
        "TotalFiles": counts.inodes,
        "NumberOfMissingBlocks": counts.chunks_unavailable + counts.chunks_lossy,
        "NumberOfMissingBlocksWithReplicationFactorOne": 0,
        "LiveNodes": live,
        "DeadNodes": dead,
        "DecomNodes": decommissioning,
        "CorruptFiles": "[]",
    })
}

fn name_of(datanode: &DatanodeStatus) -> String {
    format!(
        "{}:{}",
        datanode.address.host,
        datanode
            .address
            .address
            .rsplit(':')
            .next()
            .unwrap_or_default()
    )
}

fn admin_state(datanode: &DatanodeStatus) -> &'static str {
    match DatanodeAdminState::try_from(datanode.state) {
        Ok(DatanodeAdminState::InService) => "In Service",
        Ok(DatanodeAdminState::Decommissioning) => "Decommission In Progress",
        Ok(DatanodeAdminState::Decommissioned) => "Decommissioned",
        Ok(DatanodeAdminState::Maintenance) => "In Maintenance",
        Err(_) => "Unknown",
    }
}

fn name_system(status: &StatusReply, space: &Space, leads: bool) -> Value {
    let counts = &status.counts;
    json!({
        "name": "Hadoop:service=NameNode,name=FSNamesystem",
        "modelerType": "FSNamesystem",
        "tag.Context": "dfs",
        "tag.HAState": if leads { "active" } else { "standby" },
        "CapacityTotal": space.capacity,
        "CapacityUsed": space.used,
        "CapacityRemaining": space.remaining,
        "CapacityUsedNonDFS": space.capacity.saturating_sub(space.used + space.remaining),
        "BlocksTotal": counts.chunks,
        "FilesTotal": counts.inodes,
        "MissingBlocks": counts.chunks_unavailable + counts.chunks_lossy,
        "MissingReplOneBlocks": 0,
        "CorruptBlocks": counts.chunks_lossy,
        "UnderReplicatedBlocks": counts.chunks_under_replicated,
        "LowRedundancyBlocks": counts.chunks_under_replicated,
        "ExcessBlocks": counts.chunks_over_replicated,
        "PendingDeletionBlocks": counts.chunks_dead,
        "PendingReplicationBlocks": counts.copies_running,
        "PendingReconstructionBlocks": counts.copies_running,
        "ScheduledReplicationBlocks": counts.copies_running,
        "TotalLoad": status.datanodes.iter().map(|one| u64::from(one.write_streams)).sum::<u64>(),
        "LastWrittenTransactionId": status.applied_index,
    })
}

fn name_system_state(status: &StatusReply, space: &Space) -> Value {
    let counts = &status.counts;
    let decommissioned =
        |datanode: &DatanodeStatus| is(datanode, DatanodeAdminState::Decommissioned);
    let failed = status.datanodes.iter().flat_map(|one| &one.volumes);
    json!({
        "name": "Hadoop:service=NameNode,name=FSNamesystemState",
        "modelerType": "org.apache.hadoop.hdfs.server.namenode.FSNamesystem",
        "FSState": "Operational",
        "CapacityTotal": space.capacity,
        "CapacityUsed": space.used,
        "CapacityRemaining": space.remaining,
        "BlocksTotal": counts.chunks,
        "FilesTotal": counts.inodes,
        "UnderReplicatedBlocks": counts.chunks_under_replicated,
        "PendingDeletionBlocks": counts.chunks_dead,
        "PendingReplicationBlocks": counts.copies_running,
        "NumLiveDataNodes": count(status, |one| one.alive),
        "NumDeadDataNodes": count(status, |one| !one.alive),
        "NumStaleDataNodes": 0,
        "NumDecomLiveDataNodes": count(status, |one| one.alive && decommissioned(one)),
        "NumDecomDeadDataNodes": count(status, |one| !one.alive && decommissioned(one)),
        "NumDecommissioningDataNodes": count(status, |one| is(one, DatanodeAdminState::Decommissioning)),
        "NumInMaintenanceLiveDataNodes": count(status, |one| one.alive && is(one, DatanodeAdminState::Maintenance)),
        "VolumeFailuresTotal": failed.filter(|volume| volume.failed).count(),
    })
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::admin::{DatanodeStatus, StatusReply};
    use cairn_protocol::messages::datanode::VolumeReport;
    use serde_json::Value;

    use super::{attribute, beans, matches};

    fn status() -> StatusReply {
        let datanode = |id: u64, alive: bool| {
            let mut datanode = DatanodeStatus {
                alive,
                ..DatanodeStatus::default()
            };
            datanode.address.host = format!("host-{id}");
            datanode.address.address = "10.0.0.1:9010".to_owned();
            datanode.volumes = vec![VolumeReport {
                capacity_bytes: 100,
                used_bytes: 25,
                available_bytes: 70,
                ..VolumeReport::default()
            }];
            datanode
        };
        StatusReply {
            datanodes: vec![datanode(1, true), datanode(2, true), datanode(3, false)],
            ..StatusReply::default()
        }
    }

    #[test]
    fn the_beans_say_what_the_status_says() {
        let all = beans(&status(), false, true, "x:9870");
        let bean = |name: &str| {
            let name = format!("Hadoop:service=NameNode,name={name}");
            all.iter().find(|bean| bean["name"] == *name).unwrap()
        };
        assert_eq!(bean("NameNodeStatus")["State"], "standby");
        assert_eq!(bean("NameNodeStatus")["SecurityEnabled"], true);
        let info = bean("NameNodeInfo");
        assert_eq!(
            (&info["Total"], &info["PercentUsed"]),
            (&200.into(), &25.0.into())
        );
        let live: Value = serde_json::from_str(info["LiveNodes"].as_str().unwrap()).unwrap();
        assert_eq!(live["host-1:9010"]["usedSpace"], 25);
        assert!(info["DeadNodes"].as_str().unwrap().contains("host-3"));
        assert_eq!(bean("FSNamesystemState")["NumDeadDataNodes"], 1);
        assert_eq!(bean("FSNamesystem")["CapacityRemaining"], 140);

        let wanted = "Hadoop:service=NameNode,name=NameNodeStatus::State";
        let one = attribute(all.clone(), wanted);
        assert_eq!(one[0]["State"], "standby");
        assert!(one[0].get("NNRole").is_none());
        assert!(attribute(all, "Hadoop:none::x").is_empty());
    }

    #[test]
    fn a_disk_that_several_share_counts_once() {
        let mut status = status();
        for datanode in &mut status.datanodes {
            datanode.address.host = "one".to_owned();
            datanode.volumes[0].filesystem = 7;
        }
        let all = beans(&status, true, false, "x:9870");
        for bean in &all[2..] {
            let told = ["CapacityTotal", "CapacityUsed", "CapacityRemaining"];
            let told = told.map(|name| bean[name].as_u64());
            assert_eq!(told, [Some(100), Some(50), Some(70)], "{}", bean["name"]);
        }
    }

    #[test]
    fn patterns_have_stars() {
        for (pattern, name, expected) in [
            ("a:b=c", "a:b=c", true),
            ("a:*", "a:b=c", true),
            ("*", "a", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("a*b", "ab", true),
            ("a", "ab", false),
            ("*x*", "abc", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
