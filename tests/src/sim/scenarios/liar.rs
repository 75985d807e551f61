//! A client that claims bytes that are not its own, or not there at all. The namenode believes nothing that it cannot check,
//! and what others wrote stays as it is.

use std::time::Duration;

use anyhow::{bail, ensure};
use bytes::Bytes;
use cairn_client::FileSystem;
use cairn_protocol::messages::common::{Caller, Location};
use cairn_protocol::messages::operation::{
    AllocateChunk, ChunkGrant, Commit, CommitExtent, CommitPlace, OperationKind, OutcomeKind,
    ReturnChunk, SealChunk,
};
use cairn_protocol::messages::session::{
    MutateReply, MutateRequest, OpenSessionReply, OpenSessionRequest,
};
use cairn_protocol::rpc::{ConnectionOptions, Hello, Peers, RpcError};
use cairn_protocol::{ErrorCode, Method};

use super::replicas::write;
use super::stage::Stage;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Speaks the protocol itself, so that it can say anything.
struct Liar {
    peers: Peers,
    leader: String,
    session: u64,
    sequence: u64,
}

impl Liar {
    async fn new(leader: String, cluster: [u8; 16]) -> anyhow::Result<Self> {
        let peers = Peers::new(
            Hello::new("client", Some(cluster), 0),
            ConnectionOptions::default(),
        );
        let open = OpenSessionRequest {
            client_name: "liar".to_owned(),
            nonce: vec![7; 16],
        };
        let (reply, _) = peers
            .call_typed::<OpenSessionReply>(
                &leader,
                Method::OpenSession.into(),
                &open,
                Bytes::new(),
                TIMEOUT,
            )
            .await?;
        Ok(Self {
            peers,
            leader,
            session: reply.session,
            sequence: 0,
        })
    }

    async fn say(&mut self, kind: OperationKind) -> Result<Option<OutcomeKind>, RpcError> {
        self.sequence += 1;
        let request = MutateRequest {
            session: self.session,
            sequence: self.sequence,
            lowest_unanswered: self.sequence,
            caller: Caller::default(),
            operation: Some(kind.into()),
        };
        let method = Method::Mutate.into();
        let (reply, _) = self
            .peers
            .call_typed::<MutateReply>(&self.leader, method, &request, Bytes::new(), TIMEOUT)
            .await?;
        Ok(reply.outcome.and_then(|outcome| outcome.kind))
    }

    async fn chunk(&mut self) -> anyhow::Result<ChunkGrant> {
        let allocate = AllocateChunk {
            replication: 3,
            whole: true,
            ..AllocateChunk::default()
        };
        match self.say(OperationKind::AllocateChunk(allocate)).await? {
            Some(OutcomeKind::Chunk(grant)) => Ok(grant),
            other => bail!("no chunk but {other:?}"),
        }
    }

    /// Says something that must be refused.
    async fn lie(&mut self, what: &str, kind: OperationKind) -> anyhow::Result<()> {
        match self.say(kind).await {
            Err(error) if !error.code().is_retryable() && error.code() != ErrorCode::Internal => {
                Ok(())
            }
            Err(error) => bail!("{what}: {error}"),
            Ok(_) => bail!("{what} was believed"),
        }
    }
}

fn commit(path: &str, extent: CommitExtent) -> OperationKind {
    OperationKind::Commit(Commit {
        location: Location::path(path.as_bytes()),
        extents: vec![extent],
        place: CommitPlace::At as i32,
        ..Commit::default()
    })
}

pub(super) fn lies(stage: &mut Stage) -> anyhow::Result<()> {
    write(stage, "/c0/victim", 1, 30_000)?;
    let leader = stage.leader()?;
    let leader = format!("{}:9000", stage.cluster.namenodes[leader].name);
    stage.act(move |fs| async move {
        fs.create("/c0/loot", 0o644, Default::default()).await?;
        let mut liar = Liar::new(leader, fs.cluster_id()).await?;
        lie_in_commits(&fs, &mut liar).await?;
        lie_in_seals(&fs, &mut liar).await?;
        ensure!(
            fs.stat("/c0/loot").await?.size == 0,
            "a lie became part of a file"
        );
        Ok(())
    })?;
    stage.expect("/c0/loot", &[], false);
    stage.pass(4_000)?;
    stage.finish()
}

async fn lie_in_commits(fs: &FileSystem, liar: &mut Liar) -> anyhow::Result<()> {
    let located = fs.extents("/c0/victim", 0, 30_000).await?;
    let Some(theirs) = located.chunks.first() else {
        bail!("the victim has no chunk")
    };
    let honest = CommitExtent {
        chunk: theirs.chunk,
        epoch: theirs.epoch,
        length: 1_000,
        ..CommitExtent::default()
    };
    liar.lie(
        "a commit of a neighbour's bytes",
        commit("/c0/loot", honest),
    )
    .await?;
    let later = CommitExtent {
        epoch: theirs.epoch + 1,
        ..honest
    };
    liar.lie("a commit at an epoch to come", commit("/c0/loot", later))
        .await?;
    let nowhere = CommitExtent {
        chunk: 1 << 40,
        ..honest
    };
    liar.lie(
        "a commit of a chunk that does not exist",
        commit("/c0/loot", nowhere),
    )
    .await?;
    let grant = liar.chunk().await?;
    let own = CommitExtent {
        chunk: grant.chunk,
        epoch: grant.epoch,
        length: 10,
        ..honest
    };
    let beyond = CommitExtent {
        offset_in_chunk: grant.capacity,
        ..own
    };
    liar.lie(
        "a commit beyond the chunk's end",
        commit("/c0/loot", beyond),
    )
    .await?;
    let overflow = CommitExtent {
        offset_in_chunk: u64::MAX - 5,
        ..own
    };
    liar.lie("a commit that overflows", commit("/c0/loot", overflow))
        .await?;
    let empty = CommitExtent { length: 0, ..own };
    liar.lie("a commit of nothing", commit("/c0/loot", empty))
        .await?;
    let old = CommitExtent {
        epoch: grant.epoch.wrapping_sub(1),
        ..own
    };
    liar.lie("a commit at an epoch that is over", commit("/c0/loot", old))
        .await
}

/// Claims about replicas and lengths in chunks, its own and others'.
async fn lie_in_seals(fs: &FileSystem, liar: &mut Liar) -> anyhow::Result<()> {
    let located = fs.extents("/c0/victim", 0, 30_000).await?;
    let Some(theirs) = located.chunks.first() else {
        bail!("the victim has no chunk")
    };
    let seal = SealChunk {
        chunk: theirs.chunk,
        epoch: theirs.epoch,
        failed: theirs.datanodes.clone(),
    };
    liar.lie(
        "a seal of somebody else's chunk",
        OperationKind::SealChunk(seal),
    )
    .await?;
    let back = ReturnChunk {
        chunk: theirs.chunk,
        epoch: theirs.epoch,
        length: 5,
    };
    liar.lie(
        "a return of somebody else's chunk",
        OperationKind::ReturnChunk(back),
    )
    .await?;
    // Its own chunk, of which it says that it is longer than its replicas are, so that the next writer starts too far on.
    let grant = liar.chunk().await?;
    let back = ReturnChunk {
        chunk: grant.chunk,
        epoch: grant.epoch,
        length: grant.capacity / 2,
    };
    let _ = liar.say(OperationKind::ReturnChunk(back)).await;
    // And one whose replicas it says have all failed.
    let grant = liar.chunk().await?;
    let failed = grant
        .targets
        .iter()
        .map(|target| target.datanode.datanode)
        .collect();
    let seal = SealChunk {
        chunk: grant.chunk,
        epoch: grant.epoch,
        failed,
    };
    let _ = liar.say(OperationKind::SealChunk(seal)).await;
    for number in 0..3 {
        let path = format!("/c0/honest-{number}");
        fs.write_file(
            path.as_str(),
            Bytes::from(path.clone()),
            &Default::default(),
        )
        .await?;
        ensure!(
            fs.read_file(path.as_str()).await? == path.as_bytes(),
            "{path} differs"
        );
        fs.unlink(path.as_str()).await?;
    }
    Ok(())
}
