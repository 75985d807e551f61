//! How members reach each other: the Raft library's requests as calls of our own protocol.
//!
//! Bodies are postcard of openraft 0.10's types, tagged with the encoding's number in [`RaftEnvelope`]; they travel in the
//! frame's payload, because a batch of entries may be larger than a header. Every envelope names sender and receiver, so
//! that a process that took over an address never answers for its predecessor.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::messages::admin::{RaftAnswer, RaftEnvelope};
use cairn_protocol::rpc::{Peers, RpcError};
use cairn_protocol::{ErrorCode, Method};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize as SerializeDerive};

use super::room::Room;
use super::snapshot;
use super::state_machine::Snapshot;
use super::types::{Member, NodeId, SnapshotHandle, TypeConfig, Vote};

/// Encoding of the bodies: postcard of openraft 0.10.
pub(super) const ENCODING: u32 = 1;

/// Requests take at least this long to be given up: an idle machine may be slow to wake up, and a lost
/// connection is noticed at once anyway.
const TIMEOUT_MIN: Duration = Duration::from_millis(500);

/// A vote and its kind: both travel as `RaftVote`.
#[derive(SerializeDerive, Deserialize)]
#[serde(bound = "")]
pub(super) struct Ballot {
    /// Ask only whether the vote would be granted.
    pub pre_vote: bool,
    pub request: VoteRequest<TypeConfig>,
}

/// Makes the connections of one member to the others.
#[derive(Clone)]
pub struct Network {
    own_id: NodeId,
    peers: Peers,
    room: Arc<Room>,
}

impl Network {
    /// `peers` is shared with everything else that this namenode sends to other namenodes.
    pub(super) fn new(own_id: NodeId, peers: Peers, room: Arc<Room>) -> Self {
        Self {
            own_id,
            peers,
            room,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Link {
        Link {
            own_id: self.own_id,
            target,
            address: Arc::from(node.address.as_str()),
            peers: self.peers.clone(),
            room: self.room.clone(),
        }
    }
}

/// One member's way to another.
#[derive(Clone)]
pub struct Link {
    own_id: NodeId,
    target: NodeId,
    address: Arc<str>,
    peers: Peers,
    room: Arc<Room>,
}

impl Link {
    fn envelope(&self, body: Vec<u8>) -> RaftEnvelope {
        RaftEnvelope {
            encoding: ENCODING,
            body,
            from: self.own_id,
            to: self.target,
        }
    }

    /// Sends one request. The library tells a target that is away (`Unreachable`: wait before the next try) from a
    /// request that was lost (`Network`: try again).
    async fn call<Req: Serialize, Rep: DeserializeOwned>(
        &self,
        method: Method,
        request: &Req,
        timeout: Duration,
    ) -> Result<Rep, RPCError<TypeConfig>> {
        let body = postcard::to_stdvec(request)
            .map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let timeout = timeout.max(TIMEOUT_MIN);
        let envelope = self.envelope(Vec::new());
        let reply = self
            .peers
            .call(
                &self.address,
                method.into(),
                &envelope,
                Bytes::from(body),
                timeout,
            )
            .await
            .map_err(rpc_error)?;
        if let Ok(RaftAnswer { disk_low }) = reply.decode() {
            self.room.heard(self.target, disk_low);
        }
        postcard::from_bytes(&reply.payload)
            .map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    /// Sends one piece of a snapshot; the answer to the last one is the receiver's vote.
    pub(super) async fn send_piece(
        &self,
        header: &snapshot::Piece,
        data: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        let body = postcard::to_stdvec(header).map_err(|error| {
            RpcError::new(
                ErrorCode::Internal,
                format!("encode snapshot piece: {error}"),
            )
        })?;
        let envelope = self.envelope(body);
        let reply = self
            .peers
            .call(
                &self.address,
                Method::RaftSnapshot.into(),
                &envelope,
                data,
                timeout,
            )
            .await?;
        Ok(reply.payload)
    }
}

fn rpc_error(error: RpcError) -> RPCError<TypeConfig> {
    match error.code() {
        ErrorCode::ConnectionLost | ErrorCode::TimedOut => {
            RPCError::Network(NetworkError::new(&error))
        }
        _ => RPCError::Unreachable(Unreachable::new(&error)),
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Method::RaftAppend, &rpc, option.hard_ttl()).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let ballot = Ballot {
            pre_vote: false,
            request,
        };
        self.call(Method::RaftVote, &ballot, option.hard_ttl())
            .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let ballot = Ballot {
            pre_vote: true,
            request,
        };
        self.call(Method::RaftVote, &ballot, option.hard_ttl())
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = snapshot::send(self, vote, &snapshot) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Method::RaftTransfer, &request, option.hard_ttl())
            .await
    }
}

/// Encodes an answer.
pub(super) fn encode_body<T: Serialize>(body: &T) -> Result<Bytes, RpcError> {
    postcard::to_stdvec(body)
        .map(Bytes::from)
        .map_err(|error| RpcError::new(ErrorCode::Internal, format!("encode raft body: {error}")))
}

/// An I/O error of our own disk while sending, as the library wants it.
pub(super) fn storage_error(error: io::Error) -> StreamingError<TypeConfig> {
    StreamingError::Network(NetworkError::new(&error))
}

/// A failed piece.
pub(super) fn streaming_error(error: RpcError) -> StreamingError<TypeConfig> {
    match rpc_error(error) {
        RPCError::Unreachable(error) => StreamingError::Unreachable(error),
        RPCError::Network(error) => StreamingError::Network(error),
        RPCError::Timeout(error) => StreamingError::Timeout(error),
        RPCError::RemoteError(error) => StreamingError::Network(NetworkError::new(&error)),
    }
}
