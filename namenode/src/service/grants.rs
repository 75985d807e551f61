//! Tokens and addresses: what answers need besides replicated state.

use std::collections::BTreeMap;

use cairn_daemon::Clock;
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, DatanodeId, Epoch};
use cairn_protocol::messages::common::DatanodeAddress;
use cairn_protocol::messages::datanode::{ClusterDirections, TokenKeyMessage};
use cairn_protocol::messages::operation::ChunkGrant;
use cairn_protocol::messages::query::LocatedExtents;
use cairn_protocol::rpc::RpcError;
use cairn_protocol::token::{self, Grant, GrantKind};

use super::internal;
use crate::keys::key_ring;
use crate::store::records::{ClusterRecord, DatanodeRecord};
use crate::store::{Read, StoreError, datanode};

/// How long a token to read is good. Clients ask again in time; revoking a right takes this long.
const READ_TOKEN_LIFE_MS: u64 = 15 * 60 * 1000;
/// How long an append token is good for opening a stream.
const APPEND_TOKEN_LIFE_MS: u64 = 5 * 60 * 1000;

/// The cluster's time: this machine's clock, but never before what the log has stamped already.
pub(super) fn cluster_time_ms(clock: &Clock, cluster: &ClusterRecord) -> u64 {
    clock.now_ns().max(cluster.last_stamp_ns) / 1_000_000
}

/// What every answer to a datanode carries.
pub(super) fn directions(
    cluster: &ClusterRecord,
    term: u64,
    time_ms: u64,
    namenodes: Vec<String>,
    report_replicas: bool,
) -> Result<ClusterDirections, RpcError> {
    let Some(settings) = cluster.settings.clone() else {
        return Err(RpcError::new(
            ErrorCode::Unavailable,
            "the cluster is not founded yet",
        ));
    };
    let keys = cluster
        .keys
        .iter()
        .map(|key| TokenKeyMessage {
            id: key.id,
            secret: key.secret.clone(),
        })
        .collect();
    Ok(ClusterDirections {
        term,
        time_ms,
        keys,
        settings,
        report_replicas,
        namenodes,
    })
}

/// A datanode as clients are told of it.
pub(super) fn address(id: DatanodeId, record: DatanodeRecord) -> DatanodeAddress {
    DatanodeAddress {
        datanode: id.0,
        address: record.address,
        host: record.host,
        rack: record.rack,
        local_socket: record.local_socket,
        http_address: record.http_address,
    }
}

fn address_of(read: &impl Read, id: DatanodeId) -> Result<Option<DatanodeAddress>, StoreError> {
    Ok(datanode::get(read, id)?.map(|record| address(id, record)))
}

/// Completes a chunk to append to: addresses and the append token, neither of which is replicated with the outcome.
pub(super) fn complete_chunk_grant(
    read: &impl Read,
    clock: &Clock,
    grant: &mut ChunkGrant,
) -> Result<(), RpcError> {
    let cluster = read.cluster_record().map_err(internal)?;
    let now_ms = cluster_time_ms(clock, &cluster);
    let keys = key_ring(&cluster, now_ms)?;
    for target in &mut grant.targets {
        let id = DatanodeId(target.datanode.datanode);
        match address_of(read, id).map_err(internal)? {
            Some(address) => target.datanode = address,
            None => {
                let message = format!("datanode {id} was removed meanwhile");
                return Err(RpcError::new(ErrorCode::NotEnoughDatanodes, message));
            }
        }
    }
    let kind = GrantKind::Append {
        epoch: Epoch(grant.epoch),
        start: grant.start,
    };
    let expires_at_ms = now_ms + APPEND_TOKEN_LIFE_MS;
    grant.token = token::mint(
        &keys,
        &Grant {
            chunk: ChunkId(grant.chunk),
            kind,
            expires_at_ms,
        },
    );
    Ok(())
}

/// Completes extents to read: a token for each, the datanodes' addresses, and an order of replicas to try.
pub(super) fn complete_extents(
    read: &impl Read,
    clock: &Clock,
    located: &mut LocatedExtents,
    order: impl Fn(&[u64]) -> Vec<u64>,
) -> Result<(), RpcError> {
    let cluster = read.cluster_record().map_err(internal)?;
    let now_ms = cluster_time_ms(clock, &cluster);
    let keys = key_ring(&cluster, now_ms)?;
    let expires_at_ms = now_ms + READ_TOKEN_LIFE_MS;
    located.expires_at_ms = expires_at_ms;
    for one in &mut located.extents {
        let extent = &one.extent;
        let kind = GrantKind::Read {
            offset: extent.offset_in_chunk,
            len: extent.length,
        };
        one.token = token::mint(
            &keys,
            &Grant {
                chunk: ChunkId(extent.chunk),
                kind,
                expires_at_ms,
            },
        );
    }
    let mut addresses = BTreeMap::new();
    for chunk in &mut located.chunks {
        chunk.datanodes = order(&chunk.datanodes);
        for id in &chunk.datanodes {
            if !addresses.contains_key(id)
                && let Some(address) = address_of(read, DatanodeId(*id)).map_err(internal)?
            {
                addresses.insert(*id, address);
            }
        }
    }
    located.datanodes = addresses.into_values().collect();
    Ok(())
}
