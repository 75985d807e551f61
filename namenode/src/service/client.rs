//! Sessions, mutations, reads and syncs of clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_protocol::ids::{ChunkId, DatanodeId, Sequence, SessionId};
use cairn_protocol::messages::common::{Caller, Location};
use cairn_protocol::messages::operation::{
    AllocateChunk, OperationKind, OutcomeKind, OutcomeValue,
};
use cairn_protocol::messages::query::{
    Extents, Freshness, QueryKind, QueryReply, QueryRequest, QueryResult,
};
use cairn_protocol::messages::session::{
    ClusterInfo, KeepAliveReply, KeepAliveRequest, MutateReply, MutateRequest, NamenodeAddress,
    OpenSessionReply, OpenSessionRequest, ReportReplicasReply, ReportReplicasRequest, SyncReply,
    SyncRequest,
};
use cairn_protocol::rpc::{Peer, Reply, Request, RpcError};
use cairn_protocol::{ErrorCode, Failure};

use super::principal::Principal;
use super::{NamenodeService, grants, internal, outcome_failure, recall};
use crate::consensus::state_machine::operation_is_unknown;
use crate::namespace::command::{ClientCommand, CommandKind, OpenSession, Placement};
use crate::namespace::{self, OpError};
use crate::store::records::ReplicaRecord;
use crate::store::{Read, chunk, outcome, session};

/// Longest name of a client.
const CLIENT_NAME_BYTES_MAX: usize = 255;
/// Of the address of a client's machine; addresses are shorter.
const HOST_CHARS_MAX: usize = 60;
/// Supplementary groups of a caller.
const GROUPS_MAX: usize = 1024;
/// Replicas that one call may report as failed: a client reports those of one read.
const EVIDENCE_MAX: usize = 256;
/// Extents looked at in one step of a sync.
const SYNC_PAGE: u32 = 4096;

impl NamenodeService {
    pub(super) fn cluster_info(&self) -> Result<Reply, RpcError> {
        let store = self.group.state().store();
        let cluster = store.snapshot().cluster_record().map_err(internal)?;
        let time_ms = grants::cluster_time_ms(&self.clock, &cluster);
        let Some(settings) = cluster.settings else {
            return Err(RpcError::new(
                ErrorCode::Unavailable,
                format!(
                    "the namenode at {own} belongs to no cluster: dfs namenode found {own} founds one, dfs namenode add {own} adds it \
                     to one",
                    own = self.address
                ),
            ));
        };
        // Read first: the members may be newer than it says, never older.
        let members_index = self.group.state().members_index();
        let namenodes = self
            .group
            .members()
            .into_iter()
            .map(|member| NamenodeAddress {
                namenode: member.id,
                address: member.address,
            })
            .collect();
        let leader = self.group.leadership().borrow().leader.unwrap_or(0);
        Ok(Reply::new(&ClusterInfo {
            cluster_id: cluster.cluster_id,
            namenodes,
            leader,
            settings,
            time_ms,
            members_index,
        }))
    }

    pub(super) async fn open_session(
        &self,
        peer: &Peer,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let OpenSessionRequest { client_name, nonce } = request.decode()?;
        self.group.require_leader()?;
        if client_name.len() > CLIENT_NAME_BYTES_MAX || nonce.len() != 16 {
            let message = "a client's name has at most 255 bytes, its nonce 16";
            return Err(RpcError::new(ErrorCode::InvalidArgument, message));
        }
        let host = peer.address.rsplit_once(':').map_or("", |(host, _)| host);
        let host: String = host.chars().take(HOST_CHARS_MAX).collect();
        let (controllers, from) = (Arc::clone(&self.controllers), host.clone());
        cairn_daemon::blocking(move || controllers.admit_session(&from)).await?;
        let command = CommandKind::OpenSession(OpenSession {
            client_name,
            nonce,
            host,
            owner: principal.owner(),
        });
        let proposed = self.group.propose(command).await?;
        if let Some(failure) = outcome_failure(&proposed.outcome) {
            return Err(failure.into());
        }
        let session = proposed.outcome.id;
        self.controllers.opened_session(SessionId(session));
        Ok(Reply::new(&OpenSessionReply {
            session,
            ttl_ms: self.session_ttl_ms()?,
        }))
    }

    pub(super) async fn keep_alive(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let KeepAliveRequest { session } = request.decode()?;
        self.check_session(principal, session)?;
        self.group.require_leader()?;
        // Who was deposed without having heard of it must not say that a session lives: another may hold its locks by now.
        self.group.linearize().await?;
        if !self.controllers.keep_alive(SessionId(session)) {
            // Only committed state says that a session is over; a leader that is not ready yet must not.
            self.group.require_leader()?;
            let store = self.group.state().store();
            let record = session::get(&store.snapshot(), SessionId(session)).map_err(internal)?;
            let code = match record {
                Some(record) if !record.ended => ErrorCode::Unavailable,
                _ => ErrorCode::SessionExpired,
            };
            return Err(RpcError::new(code, format!("session {session}")));
        }
        Ok(Reply::new(&KeepAliveReply {
            ttl_ms: self.session_ttl_ms()?,
        }))
    }

    fn session_ttl_ms(&self) -> Result<u64, RpcError> {
        let store = self.group.state().store();
        let cluster = store.snapshot().cluster_record().map_err(internal)?;
        Ok(cluster.settings.unwrap_or_default().session_ttl_ms)
    }

    pub(crate) async fn mutate(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let request: MutateRequest = request.decode()?;
        let caller = self.caller(principal, request.caller).await?;
        // The leader knows every session that anybody was told of: nobody is there before its owner.
        self.group.require_leader()?;
        if !self.check_session(principal, request.session)? {
            let message = format!("session {}", request.session);
            return Err(RpcError::new(ErrorCode::SessionExpired, message));
        }
        let Some(operation) = request.operation else {
            let message = "a mutation without an operation, or one that this version does not know";
            return Err(RpcError::new(ErrorCode::NotSupported, message));
        };
        if operation_is_unknown(&operation) {
            let message = "an operation that this version does not know";
            return Err(RpcError::new(ErrorCode::NotSupported, message));
        }
        let placement = match &operation.kind {
            Some(OperationKind::AllocateChunk(allocate)) => {
                let placed = self.place(allocate);
                // A retry of what has happened needs no place: apply answers it from memory.
                if placed.is_err() && self.is_remembered(request.session, request.sequence)? {
                    None
                } else {
                    placed?
                }
            }
            Some(OperationKind::RemoveTree(remove)) => {
                let caller = Caller {
                    session: request.session,
                    ..caller.clone()
                };
                let checked = self.check_remove_tree(&caller, &remove.location).await;
                // A retry of what has happened finds no tree any more: apply answers it from memory.
                if !self.is_remembered(request.session, request.sequence)? {
                    checked?;
                }
                None
            }
            Some(_) => None,
            None => {
                let message = "this version does not know the operation";
                return Err(RpcError::new(ErrorCode::NotSupported, message));
            }
        };
        let command = ClientCommand {
            session: request.session,
            sequence: request.sequence,
            lowest_unanswered: request.lowest_unanswered,
            caller,
            operation,
            placement,
        };
        let proposed = self.propose_recalling(command).await?;
        if let Some(failure) = outcome_failure(&proposed.outcome) {
            return Err(failure.into());
        }
        let mut value = proposed.outcome.value;
        self.complete(&mut value)?;
        Ok(Reply::new(&MutateReply {
            outcome: value,
            applied_index: proposed.index,
            changed_index: self.changed_by_others(request.session),
        }))
    }

    fn changed_by_others(&self, session: u64) -> u64 {
        let feed = self.group.state().feed();
        feed.changed_by_others(SessionId(session))
    }

    fn is_remembered(&self, session: u64, sequence: u64) -> Result<bool, RpcError> {
        let store = self.group.state().store();
        let found = outcome::get(&store.snapshot(), SessionId(session), Sequence(sequence));
        Ok(found.map_err(internal)?.is_some())
    }

    fn place(&self, allocate: &AllocateChunk) -> Result<Option<Placement>, RpcError> {
        self.controllers.place(allocate).map(Some)
    }

    /// Adds to an outcome what is not replicated with it.
    fn complete(&self, value: &mut Option<OutcomeValue>) -> Result<(), RpcError> {
        if let Some(OutcomeValue {
            kind: Some(OutcomeKind::Chunk(grant)),
        }) = value
        {
            let store = self.group.state().store();
            grants::complete_chunk_grant(&store.snapshot(), &self.clock, grant)?;
        }
        Ok(())
    }

    /// Apply detaches a tree in one step, so who may not remove something in it is found out before, page by page.
    async fn check_remove_tree(
        &self,
        caller: &Caller,
        location: &Location,
    ) -> Result<(), RpcError> {
        if caller.uid == 0 {
            return Ok(());
        }
        self.group.linearize().await?;
        let (session, until) = (caller.session.into(), recall::patience());
        let store = self.group.state().store();
        loop {
            let (store, caller, location) = (store.clone(), caller.clone(), location.clone());
            let checked = cairn_daemon::blocking(move || {
                namespace::check_remove_tree(&store.snapshot(), &caller, &location)
            });
            match checked.await {
                Err(OpError::Delegated(directory)) => {
                    self.recall(directory, session, until).await?;
                }
                checked => return checked.map_err(op_error),
            }
        }
    }

    pub(super) async fn query(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let request: QueryRequest = request.decode()?;
        let mut caller = self.caller(principal, request.caller).await?;
        if matches!(principal, Principal::Believed) {
            caller.session = request.session;
        }
        let Some(kind) = request.kind else {
            let message = "a query without a kind, or one that this version does not know";
            return Err(RpcError::new(ErrorCode::NotSupported, message));
        };
        match Freshness::try_from(request.freshness) {
            Ok(Freshness::Linearizable) => self.group.linearize().await?,
            Ok(Freshness::Stale) => {}
            Err(_) => return Err(RpcError::new(ErrorCode::Malformed, "unknown freshness")),
        }
        let until = recall::patience();
        let store = self.group.state().store();
        let (applied_index, snapshot, changed_index, mut result) = loop {
            let applied_index = self.applied_index();
            let snapshot = store.snapshot();
            // After the snapshot: whatever is in it has been noted.
            let changed_index = self.changed_by_others(request.session);
            match namespace::query(&snapshot, &caller, &kind) {
                Ok(result) => break (applied_index, snapshot, changed_index, result),
                Err(OpError::Delegated(directory)) => {
                    // Whose session it is has to be proved only where it makes a difference.
                    let unproved = caller.session == 0 && request.session != 0;
                    if unproved && self.check_session(principal, request.session)? {
                        caller.session = request.session;
                    } else {
                        self.recall(directory, caller.session.into(), until).await?;
                    }
                }
                Err(error) => return Err(op_error(error)),
            }
        };
        match &mut result {
            QueryResult::LocatedExtents(located) => {
                let bare = matches!(
                    &kind,
                    QueryKind::Extents(Extents {
                        without_locations: true,
                        ..
                    })
                );
                if !bare {
                    let order = |ids: &[u64]| self.order(ids);
                    grants::complete_extents(&snapshot, &self.clock, located, order)?;
                }
            }
            QueryResult::Space(space) => {
                let all = self.controllers.space();
                space.capacity_bytes = all.capacity_bytes;
                space.used_bytes = all.used_bytes;
                space.available_bytes = all.available_bytes;
            }
            QueryResult::Attributes(_)
            | QueryResult::Listing(_)
            | QueryResult::Value(_)
            | QueryResult::LockTest(_)
            | QueryResult::LockListing(_)
            | QueryResult::Names(_) => {}
        }
        Ok(Reply::new(&QueryReply {
            applied_index,
            changed_index,
            members_index: self.group.state().members_index(),
            result: Some(result),
        }))
    }

    fn order(&self, ids: &[u64]) -> Vec<u64> {
        let replicas: Vec<ReplicaRecord> = ids
            .iter()
            .map(|id| ReplicaRecord {
                datanode: *id,
                incarnation: 0,
            })
            .collect();
        let ordered = self.controllers.order_replicas(&replicas, "");
        ordered.into_iter().map(|DatanodeId(id)| id).collect()
    }

    /// Every byte that the file uses becomes durable on every replica, whoever wrote it.
    pub(super) async fn sync(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let SyncRequest { inode, caller } = request.decode()?;
        self.caller(principal, caller).await?;
        self.group.require_leader()?;
        self.group.linearize().await?;
        let (version, needed) = self.chunks_to_sync(inode)?;
        self.controllers.sync_chunks(&needed).await?;
        Ok(Reply::new(&SyncReply { version }))
    }

    /// The chunks of a file that are not durable as far as the file uses them, and of which version of it that is true. Anybody
    /// may ask for durability of a file that they have open, so permissions do not count here.
    fn chunks_to_sync(&self, inode: u64) -> Result<(u64, Vec<(ChunkId, u64)>), RpcError> {
        let store = self.group.state().store();
        let snapshot = store.snapshot();
        let superuser = Caller::default();
        let mut needed: BTreeMap<ChunkId, u64> = BTreeMap::new();
        let mut offset = 0;
        let version = loop {
            let query = QueryKind::Extents(Extents {
                location: Location {
                    inode,
                    path: Vec::new(),
                },
                offset,
                length: u64::MAX - offset,
                limit: SYNC_PAGE,
                without_locations: true,
            });
            let QueryResult::LocatedExtents(page) =
                namespace::query(&snapshot, &superuser, &query).map_err(op_error)?
            else {
                return Err(internal("extents answered something else"));
            };
            for one in &page.extents {
                let end = one.extent.offset_in_chunk + one.extent.length;
                let through = needed.entry(ChunkId(one.extent.chunk)).or_default();
                *through = (*through).max(end);
                offset = one.extent.offset_in_file + one.extent.length;
            }
            if !page.more || page.extents.is_empty() {
                // All pages are of one snapshot.
                break page.attributes.version;
            }
        };
        let mut chunks = Vec::new();
        for (id, through) in needed {
            let record = chunk::get(&snapshot, id).map_err(internal)?;
            if record.is_none_or(|record| record.synced_length < through) {
                chunks.push((id, through));
            }
        }
        Ok((version, chunks))
    }

    pub(super) fn report_replicas(&self, request: Request) -> Result<Reply, RpcError> {
        let ReportReplicasRequest { replicas } = request.decode()?;
        if replicas.len() > EVIDENCE_MAX {
            let message = format!(
                "{} replicas in one report, at most {EVIDENCE_MAX} are allowed",
                replicas.len()
            );
            return Err(RpcError::new(ErrorCode::InvalidArgument, message));
        }
        self.group.require_leader()?;
        self.controllers.report_failed(&replicas);
        Ok(Reply::new(&ReportReplicasReply {}))
    }
}

pub(super) fn check_caller(caller: &Caller) -> Result<(), RpcError> {
    if caller.groups.len() > GROUPS_MAX {
        let message = format!(
            "{} groups of the caller, at most {GROUPS_MAX} are supported",
            caller.groups.len()
        );
        return Err(RpcError::new(ErrorCode::InvalidArgument, message));
    }
    Ok(())
}

/// A failed read: what the caller did wrong, or our own failure.
pub(super) fn op_error(error: OpError) -> RpcError {
    match error {
        OpError::Failure(failure) => failure.into(),
        OpError::Delegated(_) => RpcError::new(ErrorCode::Unavailable, error.to_string()),
        OpError::Store(error) => Failure::new(ErrorCode::Internal, error.to_string()).into(),
    }
}
