//! Registration, heartbeats and reports of datanodes.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::DatanodeId;
use cairn_protocol::messages::datanode::{
    ClusterDirections, HeartbeatReply, HeartbeatRequest, RegisterDatanodeReply,
    RegisterDatanodeRequest, ReplicaReportReply, ReplicaReportRequest,
};
use cairn_protocol::rpc::{Reply, Request, RpcError};

use super::{NamenodeService, grants, internal, outcome_failure};
use crate::namespace::command::{CommandKind, RegisterDatanode};
use crate::store::Read;

/// Longest host, rack, address or version string of a datanode.
const TEXT_BYTES_MAX: usize = 255;
/// Replicas in one page of a report.
const REPORT_PAGE_MAX: usize = 10_000;
/// Changes in one heartbeat.
const CHANGED_MAX: usize = 1_000;

impl NamenodeService {
    pub(super) async fn register_datanode(&self, request: Request) -> Result<Reply, RpcError> {
        let request: RegisterDatanodeRequest = request.decode()?;
        let term = self.group.require_leader()?;
        check_registration(&request)?;
        let cluster_id = self.founded_cluster_id()?;
        if !request.cluster_id.is_empty() && request.cluster_id != cluster_id {
            let message = format!(
                "datanode {}: its volumes belong to another cluster",
                request.address
            );
            return Err(RpcError::new(ErrorCode::WrongCluster, message));
        }
        let command = CommandKind::RegisterDatanode(RegisterDatanode {
            uuid: request.uuid.clone(),
            address: request.address.clone(),
            host: request.host.clone(),
            rack: request.rack.clone(),
            local_socket: request.local_socket.clone(),
            version: request.version.clone(),
            http_address: request.http_address.clone(),
            datanode: request.datanode,
        });
        let proposed = self.group.propose(command).await?;
        if let Some(failure) = outcome_failure(&proposed.outcome) {
            return Err(failure.into());
        }
        let datanode = DatanodeId(proposed.outcome.id);
        self.controllers.registered(datanode, &request);
        let directions = self.directions(term, true)?;
        Ok(Reply::new(&RegisterDatanodeReply {
            datanode: datanode.0,
            cluster_id,
            directions,
        }))
    }

    pub(super) fn heartbeat(&self, request: Request) -> Result<Reply, RpcError> {
        let request: HeartbeatRequest = request.decode()?;
        let term = self.group.require_leader()?;
        if request.changed.len() > CHANGED_MAX {
            let message = format!(
                "{} changes in a heartbeat, at most {CHANGED_MAX}",
                request.changed.len()
            );
            return Err(RpcError::new(ErrorCode::TooLarge, message));
        }
        let report_replicas = self.controllers.heartbeat(&request)?;
        let directions = self.directions(term, report_replicas)?;
        Ok(Reply::new(&HeartbeatReply { directions }))
    }

    pub(super) fn replica_report(&self, request: Request) -> Result<Reply, RpcError> {
        let request: ReplicaReportRequest = request.decode()?;
        self.group.require_leader()?;
        if request.replicas.len() > REPORT_PAGE_MAX {
            let message = format!(
                "{} replicas in a page, at most {REPORT_PAGE_MAX}",
                request.replicas.len()
            );
            return Err(RpcError::new(ErrorCode::TooLarge, message));
        }
        self.controllers.replica_report(&request)?;
        Ok(Reply::new(&ReplicaReportReply {}))
    }

    fn founded_cluster_id(&self) -> Result<Vec<u8>, RpcError> {
        let store = self.group.state().store();
        let cluster = store.snapshot().cluster_record().map_err(internal)?;
        if cluster.cluster_id.is_empty() {
            return Err(RpcError::new(
                ErrorCode::Unavailable,
                "the cluster is not founded yet",
            ));
        }
        Ok(cluster.cluster_id)
    }

    fn directions(&self, term: u64, report_replicas: bool) -> Result<ClusterDirections, RpcError> {
        let store = self.group.state().store();
        let cluster = store.snapshot().cluster_record().map_err(internal)?;
        let time_ms = grants::cluster_time_ms(&self.clock, &cluster);
        let namenodes = self
            .group
            .members()
            .into_iter()
            .map(|member| member.address)
            .collect();
        grants::directions(&cluster, term, time_ms, namenodes, report_replicas)
    }
}

fn check_registration(request: &RegisterDatanodeRequest) -> Result<(), RpcError> {
    let texts = [
        &request.address,
        &request.host,
        &request.rack,
        &request.local_socket,
        &request.version,
        &request.http_address,
    ];
    let fits = texts.iter().all(|text| text.len() <= TEXT_BYTES_MAX);
    if request.uuid.len() != 16
        || request.boot_nonce.len() != 16
        || !fits
        || request.address.is_empty()
    {
        let message = "a datanode registers with a uuid and a nonce of 16 bytes, an address, and texts of at most 255 bytes";
        return Err(RpcError::new(ErrorCode::InvalidArgument, message));
    }
    Ok(())
}
