//! What the leader orders: exact incarnations, present terms, and copies that only count when they are whole.

use super::harness::{Cluster, TERM, data, incarnation};
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::ChunkId;
use cairn_protocol::messages::datanode::{
    CopyPiece, CopyReplica, CopySource, DeleteReplica, InstructionKind, SealReplica, SyncReplica,
    VerifyReplica,
};
use cairn_protocol::token::GrantKind;

const DELETE: InstructionKind = InstructionKind::Delete(DeleteReplica {});

fn seal(length: u64) -> InstructionKind {
    InstructionKind::Seal(SealReplica { epoch: 1, length })
}

#[tokio::test]
async fn a_seal_cuts_ends_the_stream_and_may_be_repeated() {
    let cluster = Cluster::start(1).await;
    let incarnation = incarnation(1);
    let mut client = cluster
        .open(cluster.open_write(1, 1, 0, &[0]))
        .await
        .unwrap();
    client.send(&data(1000, 1)).await;
    client.acknowledged().await.unwrap();
    for _ in 0..2 {
        let state = cluster
            .instruct(0, 1, incarnation, seal(600))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (state.sealed, state.length, state.incarnation),
            (true, 600, incarnation)
        );
    }
    client.send(b"late").await;
    assert!(client.acknowledged().await.is_err());
    assert!(cluster.read(0, 1, 0, 600).await == data(1000, 1)[..600]);
    let other = cluster
        .instruct(0, 1, incarnation, seal(500))
        .await
        .unwrap_err();
    assert_eq!(other, ErrorCode::Sealed);
}

#[tokio::test]
async fn another_incarnation_an_old_term_or_a_bad_token_changes_nothing() {
    let cluster = Cluster::start(1).await;
    let incarnation = incarnation(1);
    cluster.write(1, &[0], b"data").await;
    for kind in [
        seal(4),
        DELETE,
        InstructionKind::Sync(SyncReplica { through: 4 }),
    ] {
        let wrong = cluster
            .instruct(0, 1, incarnation + 1, kind)
            .await
            .unwrap_err();
        assert_eq!(wrong, ErrorCode::PreconditionFailed);
    }
    let deposed = cluster.instruction(0, TERM - 1, 1, incarnation, DELETE);
    assert_eq!(
        cluster.instruct_with(0, deposed).await.unwrap_err(),
        ErrorCode::StaleTerm
    );
    let mut raised = cluster.instruction(0, TERM, 1, incarnation, DELETE);
    raised.term += 1;
    assert_eq!(
        cluster.instruct_with(0, raised).await.unwrap_err(),
        ErrorCode::BadToken
    );
    let mut bearer = cluster.instruction(0, TERM, 1, incarnation, DELETE);
    bearer.token = cluster.token(1, GrantKind::Read { offset: 0, len: 4 });
    assert_eq!(
        cluster.instruct_with(0, bearer).await.unwrap_err(),
        ErrorCode::BadToken
    );
    let state = cluster.nodes[0].datanode.store().find(ChunkId(1)).unwrap();
    assert_eq!(
        (state.length, state.state),
        (4, crate::chunk_store::ReplicaState::Open)
    );
    for _ in 0..2 {
        assert_eq!(cluster.instruct(0, 1, incarnation, DELETE).await, Ok(None));
    }
    // A newer leader has spoken: the one before is over.
    let newer = cluster.instruction(0, TERM + 1, 1, incarnation, DELETE);
    cluster.instruct_with(0, newer).await.unwrap();
    assert_eq!(
        cluster.instruct(0, 1, incarnation, DELETE).await,
        Err(ErrorCode::StaleTerm)
    );
}

#[tokio::test]
async fn a_sync_is_confirmed_and_a_verification_finds_nothing_wrong() {
    let cluster = Cluster::start(1).await;
    cluster.write(1, &[0], &data(100_000, 2)).await;
    let sync = InstructionKind::Sync(SyncReplica { through: 90_000 });
    let state = cluster
        .instruct(0, 1, incarnation(1), sync)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(state.synced_length, 100_000);
    let beyond = InstructionKind::Sync(SyncReplica { through: 100_001 });
    assert_eq!(
        cluster.instruct(0, 1, incarnation(1), beyond).await,
        Err(ErrorCode::WrongLength)
    );
    let verify = InstructionKind::Verify(VerifyReplica {});
    let state = cluster
        .instruct(0, 1, incarnation(1), verify)
        .await
        .unwrap()
        .unwrap();
    assert!(!state.bad);
}

#[tokio::test]
async fn a_sealed_replica_is_copied_and_counts_once_it_is_whole() {
    let cluster = Cluster::start(3).await;
    let written = data((2 << 20) + 77_777, 3);
    let length = written.len() as u64;
    cluster.write(1, &[0], &written).await;
    cluster.seal(0, 1, length).await;
    let dead = cluster.nodes[2].target();
    cluster.nodes[2].tasks.kill();
    let copy = || {
        InstructionKind::Copy(CopyReplica {
            epoch: 1,
            length,
            sources: vec![dead.clone(), cluster.nodes[0].target()],
            token: cluster.token(
                1,
                GrantKind::Read {
                    offset: 0,
                    len: length,
                },
            ),
            ..CopyReplica::default()
        })
    };
    let id = cluster.nodes[1].id;
    for _ in 0..2 {
        cluster
            .instruct(1, 1, incarnation(id), copy())
            .await
            .unwrap();
    }
    let there = |state: &cairn_protocol::messages::datanode::ReplicaState| {
        state.sealed && state.length == length && state.incarnation == incarnation(id)
    };
    cluster
        .namenode
        .until(|heard| heard.changed.get(&(id, 1)).is_some_and(there))
        .await;
    assert!(cluster.read(1, 1, 2 << 20, 77_777).await == written[2 << 20..]);
    let state = cluster
        .instruct(1, 1, incarnation(id), copy())
        .await
        .unwrap()
        .unwrap();
    assert!(there(&state));
    let other = cluster.instruct(1, 1, incarnation(id) + 1, copy()).await;
    assert_eq!(other, Err(ErrorCode::PreconditionFailed));
}

#[tokio::test]
async fn sources_that_are_bad_in_different_places_make_a_whole_copy_together() {
    let cluster = Cluster::start(3).await;
    let written = data(4 << 20, 5);
    let length = written.len() as u64;
    cluster.write(1, &[0, 1], &written).await;
    for (index, offset) in [(0, 10), (1, 3 << 20)] {
        cluster.seal(index, 1, length).await;
        let folder = cluster.volume(index).join("chunks/01");
        let path = folder.join("0000000000000001.data");
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        let flipped = [!written[offset as usize]];
        std::os::unix::fs::FileExt::write_all_at(&file, &flipped, offset).unwrap();
    }
    let copy = || {
        InstructionKind::Copy(CopyReplica {
            epoch: 1,
            length,
            sources: vec![cluster.nodes[0].target(), cluster.nodes[1].target()],
            token: cluster.token(
                1,
                GrantKind::Read {
                    offset: 0,
                    len: length,
                },
            ),
            ..CopyReplica::default()
        })
    };
    let id = cluster.nodes[2].id;
    cluster
        .instruct(2, 1, incarnation(id), copy())
        .await
        .unwrap();
    cluster
        .namenode
        .until(|heard| {
            let state = heard.changed.get(&(id, 1));
            state.is_some_and(|state| state.sealed && state.length == length)
        })
        .await;
    for offset in (0..length).step_by(1 << 20) {
        let expected = &written[offset as usize..][..1 << 20];
        assert!(cluster.read(2, 1, offset, 1 << 20).await == expected);
    }
    // The leader hears of both, to have them looked at: their own datanodes do not know yet.
    let bad = [0, 1].map(|index| (1, cluster.nodes[index].id));
    cluster
        .namenode
        .until(|heard| {
            bad.iter()
                .all(|source| heard.failed_sources.contains(source))
        })
        .await;
}

#[tokio::test]
async fn pieces_of_several_chunks_become_one_replica() {
    let cluster = Cluster::start(2).await;
    let (one, two) = (data(300_000, 6), data(200_000, 7));
    cluster.write(1, &[0], &one).await;
    cluster.write(2, &[0], &two).await;
    cluster.seal(0, 1, 300_000).await;
    cluster.seal(0, 2, 200_000).await;
    let source = |chunk, len| CopySource {
        chunk,
        sources: vec![cluster.nodes[0].target()],
        token: cluster.token(chunk, GrantKind::Read { offset: 0, len }),
    };
    let piece = |source_index, offset, length| CopyPiece {
        source_index,
        offset,
        length,
    };
    let expected = [&one[70_001..200_000], &two[..5], &one[..1]].concat();
    let length = expected.len() as u64;
    let copy = InstructionKind::Copy(CopyReplica {
        epoch: 1,
        length,
        pieces: vec![piece(0, 70_001, 129_999), piece(1, 0, 5), piece(0, 0, 1)],
        piece_sources: vec![source(1, 300_000), source(2, 200_000)],
        ..CopyReplica::default()
    });
    let id = cluster.nodes[1].id;
    cluster.instruct(1, 3, incarnation(id), copy).await.unwrap();
    cluster
        .namenode
        .until(|heard| {
            let state = heard.changed.get(&(id, 3));
            state.is_some_and(|state| state.sealed && state.length == length)
        })
        .await;
    assert!(cluster.read(1, 3, 0, length).await == expected);
}

#[tokio::test]
async fn a_copy_that_fails_leaves_nothing_and_says_why_when_asked_again() {
    let cluster = Cluster::start(2).await;
    cluster.write(1, &[0], b"short").await;
    cluster.seal(0, 1, 5).await;
    let copy = || {
        InstructionKind::Copy(CopyReplica {
            epoch: 1,
            length: 500,
            sources: vec![cluster.nodes[0].target()],
            token: cluster.token(
                1,
                GrantKind::Read {
                    offset: 0,
                    len: 500,
                },
            ),
            ..CopyReplica::default()
        })
    };
    let id = cluster.nodes[1].id;
    let failure = loop {
        match cluster.instruct(1, 1, incarnation(id), copy()).await {
            Ok(state) => assert_eq!(state, None),
            Err(code) => break code,
        }
    };
    assert_eq!(failure, ErrorCode::WrongLength);
    assert!(cluster.nodes[1].datanode.store().find(ChunkId(1)).is_none());
}

#[tokio::test]
async fn a_copy_that_is_deleted_while_it_is_made_leaves_nothing() {
    let cluster = Cluster::start(2).await;
    let length = 20 << 20;
    cluster.write(1, &[0], &data(length, 4)).await;
    cluster.seal(0, 1, length as u64).await;
    let id = cluster.nodes[1].id;
    let copy = |incarnation| {
        let copy = InstructionKind::Copy(CopyReplica {
            epoch: 1,
            length: length as u64,
            sources: vec![cluster.nodes[0].target()],
            token: cluster.token(
                1,
                GrantKind::Read {
                    offset: 0,
                    len: length as u64,
                },
            ),
            ..CopyReplica::default()
        });
        cluster.instruct(1, 1, incarnation, copy)
    };
    copy(incarnation(id)).await.unwrap();
    assert_eq!(
        cluster.instruct(1, 1, incarnation(id), DELETE).await,
        Ok(None)
    );
    // The next life of the replica is made as soon as the one before is gone.
    let next = incarnation(id) + 1;
    loop {
        match copy(next).await {
            Ok(Some(state)) => break assert_eq!((state.incarnation, state.sealed), (next, true)),
            Ok(None) | Err(ErrorCode::Overloaded) => tokio::task::yield_now().await,
            Err(code) => panic!("{code:?}"),
        }
    }
}
