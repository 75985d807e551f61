//! Namenodes: only the leader answers, and it remembers outcomes.

use std::future::pending;
use std::sync::Arc;

use cairn_protocol::checksum::crc32c;
use cairn_protocol::messages::admin::AdminReply;
use cairn_protocol::messages::common::{Attributes, ClusterSettings, Extent, InodeKind};
use cairn_protocol::messages::operation::{
    AllocateChunk, ChunkGrant, Commit, CommitExtent, CommitPlace, Create, Done, InodeOutcome,
    OperationKind, OutcomeKind,
};
use cairn_protocol::messages::query::{
    ChunkLocation, Extents, LocatedExtent, LocatedExtents, QueryKind, QueryReply, QueryRequest,
    QueryResult,
};
use cairn_protocol::messages::session::{
    ClusterInfo, KeepAliveReply, KeepAliveRequest, MutateReply, MutateRequest, NamenodeAddress,
    OpenSessionReply, OpenSessionRequest, ReportReplicasReply, ReportReplicasRequest, SyncReply,
    SyncRequest,
};
use cairn_protocol::rpc::{FramedStream, Hello, Peer, Reply, Request, RpcError, Service};
use cairn_protocol::{ErrorCode, Failure, Method};

use super::{CLUSTER, FakeChunk, FakeInode, FakeSession, Interrupted, Shared, State, name};

pub struct FakeNamenode {
    pub shared: Arc<Shared>,
    pub index: usize,
}

impl Service for FakeNamenode {
    fn hello(&self, _theirs: &Hello) -> Result<Hello, Failure> {
        if self.shared.state().faults.distrusting.contains(&self.index) {
            return Err(ErrorCode::Unauthenticated.into());
        }
        Ok(Hello::new("namenode", Some(CLUSTER), self.index as u64 + 1))
    }

    async fn call(&self, _peer: &Peer, request: Request) -> Result<Reply, RpcError> {
        let method = Method::from_number(request.method).ok_or(ErrorCode::Malformed)?;
        if method == Method::FoundCluster {
            let failure = self.shared.state().faults.foundings.pop();
            return match failure {
                Some(failure) => Err(failure.into()),
                None => pending().await,
            };
        }
        let mut state = self.shared.state();
        if method != Method::ClusterInfo && state.leader != self.index {
            let leader = state.namenodes[state.leader].clone();
            return Err(RpcError::not_leader(
                (!state.faults.silent_followers).then_some(leader),
            ));
        }
        match method {
            Method::ClusterInfo => Ok(Reply::new(&cluster_info(&state))),
            Method::OpenSession => Ok(Reply::new(&open_session(&mut state, request.decode()?))),
            Method::KeepAlive => {
                let request: KeepAliveRequest = request.decode()?;
                live_session(&mut state, request.session)?;
                state.keep_alives += 1;
                if state.faults.refused_keep_alives > 0 {
                    state.faults.refused_keep_alives -= 1;
                    return Err(ErrorCode::SessionExpired.into());
                }
                let ttl_ms = state.session_ttl_ms;
                Ok(Reply::new(&KeepAliveReply { ttl_ms }))
            }
            Method::Mutate => Ok(Reply::new(&mutate(&mut state, request.decode()?)?)),
            Method::Query => Ok(Reply::new(&query(&mut state, request.decode()?)?)),
            Method::Sync => {
                state.syncs += 1;
                let SyncRequest { inode, .. } = request.decode()?;
                let version = match state.faults.deaf_to_claims {
                    true => 0,
                    false => state.inodes[&inode].version,
                };
                Ok(Reply::new(&SyncReply { version }))
            }
            Method::ReportReplicas => {
                let request: ReportReplicasRequest = request.decode()?;
                state.reports.extend(request.replicas);
                Ok(Reply::new(&ReportReplicasReply {}))
            }
            Method::RemoveNamenode => match state.faults.removals.pop() {
                Some(failure) => Err(failure.into()),
                None => Ok(Reply::new(&AdminReply {})),
            },
            _ => Err(ErrorCode::NotSupported.into()),
        }
    }

    async fn stream(&self, _peer: &Peer, _stream: FramedStream) {}
}

fn cluster_info(state: &State) -> ClusterInfo {
    let namenodes = state.namenodes.iter().enumerate();
    let address = |(index, address): (usize, &String)| NamenodeAddress {
        namenode: index as u64 + 1,
        address: address.clone(),
    };
    ClusterInfo {
        members_index: 1,
        cluster_id: CLUSTER.to_vec(),
        namenodes: namenodes.map(address).collect(),
        leader: 0,
        settings: ClusterSettings {
            chunk_size: state.chunk_size,
            replication: state.replication,
            session_ttl_ms: 60_000,
            ..ClusterSettings::default()
        },
        time_ms: 1_000_000,
    }
}

fn open_session(state: &mut State, request: OpenSessionRequest) -> OpenSessionReply {
    let session = match state.nonces.get(&request.nonce) {
        Some(session) => *session,
        None => {
            let session = state.id();
            state.nonces.insert(request.nonce, session);
            let fresh = FakeSession {
                alive: true,
                outcomes: Default::default(),
            };
            state.sessions.insert(session, fresh);
            session
        }
    };
    OpenSessionReply {
        session,
        ttl_ms: state.session_ttl_ms,
    }
}

fn live_session(state: &mut State, session: u64) -> Result<&mut FakeSession, Failure> {
    let session = state
        .sessions
        .get_mut(&session)
        .filter(|session| session.alive);
    session.ok_or(ErrorCode::SessionExpired.into())
}

fn mutate(state: &mut State, request: MutateRequest) -> Result<MutateReply, RpcError> {
    let kind = request
        .operation
        .and_then(|op| op.kind)
        .ok_or(ErrorCode::Malformed)?;
    let what = name(&kind);
    state
        .attempts
        .push((request.session, request.sequence, what));
    if let OperationKind::Commit(_) = kind {
        state.committers.push(request.caller);
    }
    if state.faults.lost_answers == 0 && state.faults.unproved > 0 {
        state.faults.unproved -= 1;
        return Err(ErrorCode::Unauthenticated.into());
    }
    live_session(state, request.session)?;
    let interrupted = state
        .faults
        .interrupted
        .take_if(|(which, _)| *which == what);
    if let Some((_, Interrupted::Before)) = interrupted {
        live_session(state, request.session)?.alive = false;
        return Err(ErrorCode::Unavailable.into());
    }
    let changed = match &kind {
        OperationKind::Commit(commit) => commit.location.inode,
        _ => 0,
    };
    let session = live_session(state, request.session)?;
    session.outcomes = session.outcomes.split_off(&request.lowest_unanswered);
    let outcome = match session.outcomes.get(&request.sequence) {
        Some(outcome) => outcome.clone(),
        None => {
            let refusal = state
                .faults
                .refusals
                .get_mut(what)
                .and_then(|refusals| refusals.pop());
            let outcome = match refusal {
                Some(failure) => Err(failure),
                None => apply(state, kind),
            };
            if outcome.is_ok() {
                state.applied.push(what);
            }
            let session = live_session(state, request.session)?;
            session.outcomes.insert(request.sequence, outcome.clone());
            outcome
        }
    };
    if let Some((_, Interrupted::LongAfter)) = interrupted
        && let Some(file) = state.inodes.get_mut(&changed)
    {
        cut(file, 0, u64::MAX);
        file.size = 0;
        file.version += 1;
    }
    if interrupted.is_some() {
        live_session(state, request.session)?.alive = false;
        return Err(ErrorCode::Unavailable.into());
    }
    if state.faults.lost_answers > 0 {
        state.faults.lost_answers -= 1;
        return Err(ErrorCode::Unavailable.into());
    }
    Ok(MutateReply {
        outcome: Some(outcome?.into()),
        applied_index: 1,
        changed_index: 1,
    })
}

fn apply(state: &mut State, kind: OperationKind) -> Result<OutcomeKind, Failure> {
    match kind {
        OperationKind::Create(create) => apply_create(state, create),
        OperationKind::Mkdir(mkdir) => {
            let directory = FakeInode {
                kind: InodeKind::Directory as i32,
                ..Default::default()
            };
            let inode = state.id();
            state.inodes.insert(inode, directory);
            state.names.insert(mkdir.location.path, inode);
            Ok(outcome(state, inode, 0))
        }
        OperationKind::Link(link) => {
            if link.if_exists == 0 && state.names.contains_key(&link.location.path) {
                return Err(ErrorCode::AlreadyExists.into());
            }
            let inode = find(state, &link.source)?;
            state.names.insert(link.location.path, inode);
            Ok(outcome(state, inode, 0))
        }
        OperationKind::Commit(commit) => apply_commit(state, commit),
        OperationKind::Truncate(truncate) => {
            let inode = find(state, &truncate.location)?;
            let file = state.inodes.get_mut(&inode).ok_or(ErrorCode::NotFound)?;
            file.size = truncate.size;
            file.version += 1;
            cut(file, truncate.size, u64::MAX);
            Ok(outcome(state, inode, 0))
        }
        OperationKind::AllocateChunk(allocate) => apply_allocate(state, allocate),
        OperationKind::ReturnChunk(back) => {
            let chunk = state
                .chunks
                .get_mut(&back.chunk)
                .ok_or(ErrorCode::NotFound)?;
            if chunk.epoch != back.epoch || chunk.data.len() as u64 != back.length {
                return Err(ErrorCode::StaleEpoch.into());
            }
            chunk.epoch += 1;
            state.returned.push(back.chunk);
            Ok(OutcomeKind::Done(Done {}))
        }
        OperationKind::SealChunk(seal) => {
            let chunk = state
                .chunks
                .get_mut(&seal.chunk)
                .ok_or(ErrorCode::NotFound)?;
            chunk.sealed = true;
            state.seals.push((seal.chunk, seal.failed));
            Ok(OutcomeKind::Done(Done {}))
        }
        OperationKind::SetAttributes(set) => {
            let inode = find(state, &set.location)?;
            let file = state.inodes.get_mut(&inode).ok_or(ErrorCode::NotFound)?;
            file.mode = set.mode.unwrap_or(file.mode);
            Ok(outcome(state, inode, 0))
        }
        OperationKind::ReleaseInode(_) => Ok(OutcomeKind::Done(Done {})),
        OperationKind::CloseSession(_) => Ok(OutcomeKind::Done(Done {})),
        _ => Err(ErrorCode::NotSupported.into()),
    }
}

fn apply_create(state: &mut State, create: Create) -> Result<OutcomeKind, Failure> {
    if !create.orphan && create.if_exists == 0 && state.names.contains_key(&create.location.path) {
        return Err(ErrorCode::AlreadyExists.into());
    }
    check_extents(state, &create.extents)?;
    let inode = state.id();
    let mut file = FakeInode {
        kind: create.kind,
        mode: create.mode,
        ..Default::default()
    };
    add_extents(&mut file, &create.extents, 0);
    state.inodes.insert(inode, file);
    if !create.orphan {
        state.names.insert(create.location.path, inode);
    }
    Ok(outcome_with(state, inode, 0, (&create.extents, 0)))
}

pub(super) fn apply_commit(state: &mut State, commit: Commit) -> Result<OutcomeKind, Failure> {
    check_extents(state, &commit.extents)?;
    let inode = find(state, &commit.location)?;
    let file = state.inodes.get_mut(&inode).ok_or(ErrorCode::NotFound)?;
    let base = if commit.place == CommitPlace::Append as i32 {
        file.size
    } else {
        0
    };
    let before = file.version;
    add_extents(file, &commit.extents, base);
    let brought = (commit.extents.as_slice(), before);
    Ok(outcome_with(state, inode, base, brought))
}

fn check_extents(state: &State, extents: &[CommitExtent]) -> Result<(), Failure> {
    for extent in extents {
        let chunk = state.chunks.get(&extent.chunk).ok_or(ErrorCode::NotFound)?;
        if chunk.sealed {
            return Err(ErrorCode::Sealed.into());
        }
        if chunk.epoch != extent.epoch {
            return Err(ErrorCode::StaleEpoch.into());
        }
        let start = extent.offset_in_chunk as usize;
        let bytes = chunk.data.get(start..start + extent.length as usize);
        let bytes = bytes.expect("only acknowledged bytes are committed");
        assert_eq!(
            crc32c(bytes),
            extent.crc32c,
            "a commit names the CRC of its bytes"
        );
        let end = extent.offset_in_chunk + extent.length;
        assert!(
            !extent.synced || chunk.synced >= end,
            "only what replicas have synced is said to be"
        );
    }
    Ok(())
}

fn add_extents(file: &mut FakeInode, extents: &[CommitExtent], base: u64) {
    for extent in extents {
        let extent = Extent {
            offset_in_file: base + extent.offset_in_file,
            chunk: extent.chunk,
            offset_in_chunk: extent.offset_in_chunk,
            length: extent.length,
            crc32c: extent.crc32c,
            crc_known: true,
        };
        let end = extent.offset_in_file + extent.length;
        cut(file, extent.offset_in_file, end);
        file.size = file.size.max(end);
        file.extents.push(extent);
    }
    file.extents.sort_by_key(|extent| extent.offset_in_file);
    file.version += 1;
}

/// Takes the bytes from `start` to `end` out of a file.
pub(super) fn cut(file: &mut FakeInode, start: u64, end: u64) {
    let mut left = Vec::new();
    for extent in file.extents.drain(..) {
        let (first, last) = (extent.offset_in_file, extent.offset_in_file + extent.length);
        for (from, to) in [(first, last.min(start)), (first.max(end), last)] {
            if from < to {
                left.push(Extent {
                    offset_in_file: from,
                    offset_in_chunk: extent.offset_in_chunk + from - first,
                    length: to - from,
                    ..extent
                });
            }
        }
    }
    file.extents = left;
}

fn apply_allocate(state: &mut State, allocate: AllocateChunk) -> Result<OutcomeKind, Failure> {
    let all = 1..=state.datanodes.len() as u64;
    let usable: Vec<u64> = all.filter(|id| !allocate.exclude.contains(id)).collect();
    let asked = if allocate.replication == 0 {
        state.replication
    } else {
        allocate.replication
    };
    let targets: Vec<u64> = usable.into_iter().take(asked as usize).collect();
    if targets.len() < asked as usize {
        return Err(ErrorCode::NotEnoughDatanodes.into());
    }
    let id = state.id();
    let chunk = FakeChunk {
        epoch: 1,
        sealed: false,
        targets: targets.clone(),
        data: Vec::new(),
        synced: 0,
        blocks: Vec::new(),
    };
    state.chunks.insert(id, chunk);
    Ok(OutcomeKind::Chunk(ChunkGrant {
        chunk: id,
        epoch: 1,
        start: 0,
        capacity: state.chunk_size,
        targets: targets.into_iter().map(|id| state.target(id)).collect(),
        token: b"append".to_vec(),
    }))
}

fn outcome(state: &State, inode: u64, offset_in_file: u64) -> OutcomeKind {
    let attributes = attributes(state, inode);
    OutcomeKind::Inode(InodeOutcome {
        attributes,
        offset_in_file,
        done: true,
        length_done: 0,
        created: true,
        synced_since: None,
    })
}

/// The same after an operation that brought these extents to what was this version.
fn outcome_with(
    state: &State,
    inode: u64,
    base: u64,
    (extents, before): (&[CommitExtent], u64),
) -> OutcomeKind {
    let mut kind = outcome(state, inode, base);
    let all_synced = !extents.is_empty() && extents.iter().all(|extent| extent.synced);
    if let OutcomeKind::Inode(outcome) = &mut kind
        && !state.faults.deaf_to_claims
    {
        outcome.synced_since = all_synced.then_some(before);
    }
    kind
}

fn attributes(state: &State, inode: u64) -> Attributes {
    let file = &state.inodes[&inode];
    Attributes {
        inode,
        kind: file.kind,
        mode: file.mode,
        size: file.size,
        version: file.version,
        replication: state.replication,
        ..Attributes::default()
    }
}

fn find(
    state: &State,
    location: &cairn_protocol::messages::common::Location,
) -> Result<u64, Failure> {
    match location.inode {
        0 => state
            .names
            .get(&location.path)
            .copied()
            .ok_or(ErrorCode::NotFound.into()),
        inode if state.inodes.contains_key(&inode) => Ok(inode),
        _ => Err(ErrorCode::NotFound.into()),
    }
}

fn query(state: &mut State, request: QueryRequest) -> Result<QueryReply, Failure> {
    state.queries += 1;
    let result = match request.kind.ok_or(ErrorCode::Malformed)? {
        QueryKind::Stat(stat) => {
            QueryResult::Attributes(attributes(state, find(state, &stat.location)?))
        }
        QueryKind::Access(access) => {
            QueryResult::Attributes(attributes(state, find(state, &access.location)?))
        }
        QueryKind::Extents(extents) => QueryResult::LocatedExtents(located(state, extents)?),
        _ => return Err(ErrorCode::NotSupported.into()),
    };
    Ok(QueryReply {
        members_index: 1,
        applied_index: 1,
        changed_index: 1,
        result: Some(result),
    })
}

fn located(state: &State, query: Extents) -> Result<LocatedExtents, Failure> {
    let inode = find(state, &query.location)?;
    let end = query.offset.saturating_add(query.length);
    let in_range = |extent: &&Extent| {
        extent.offset_in_file < end && extent.offset_in_file + extent.length > query.offset
    };
    let mut reply = LocatedExtents {
        attributes: attributes(state, inode),
        ..LocatedExtents::default()
    };
    // Two extents per page, so that pages matter.
    let all: Vec<&Extent> = state.inodes[&inode]
        .extents
        .iter()
        .filter(in_range)
        .collect();
    reply.more = all.len() > 2;
    for extent in all.into_iter().take(2) {
        let chunk = &state.chunks[&extent.chunk];
        reply.extents.push(LocatedExtent {
            extent: *extent,
            token: b"read".to_vec(),
            chunk_index: reply.chunks.len() as u32,
        });
        reply.chunks.push(ChunkLocation {
            chunk: extent.chunk,
            datanodes: chunk.targets.clone(),
            sealed: chunk.sealed,
            epoch: chunk.epoch,
        });
    }
    reply.datanodes = (1..=state.datanodes.len() as u64)
        .map(|id| state.address(id))
        .collect();
    reply.expires_at_ms = 2_000_000;
    Ok(reply)
}
