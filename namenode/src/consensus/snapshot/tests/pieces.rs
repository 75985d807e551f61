//! Pieces that are damaged, come twice, out of order, or belong to another snapshot.

use cairn_protocol::ErrorCode;

use super::*;
use crate::consensus::snapshot::PIECE_BYTES;

/// Small, so that there are many.
const PIECE: usize = 1000;

/// A follower as after entry 5, and the pieces of a snapshot as after entry 20.
async fn follower(directory: &Path) -> (Arc<State>, Vec<(Piece, Bytes)>) {
    let snapshot = snapshot_of(&directory.join("leader"), log_id(2, 20)).await;
    let state = Arc::new(open(Arc::new(RealDisk), &directory.join("follower")));
    fill(&state, log_id(1, 5));
    (state, pieces_of(&snapshot, vote(2), PIECE))
}

async fn send(
    receiver: &mut Receiver,
    state: &Arc<State>,
    (piece, data): &(Piece, Bytes),
) -> Result<(), ErrorCode> {
    let received = receiver.receive(state, piece.clone(), data.clone()).await;
    received.map(|_| ()).map_err(|error| error.code())
}

#[tokio::test]
async fn a_whole_snapshot_takes_the_place_of_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let (state, pieces) = follower(directory.path()).await;
    assert!(pieces.len() > 3);
    receive_and_install(&state, &pieces).await.unwrap();
    assert_eq!(content(&state), 20);
}

#[tokio::test]
async fn a_damaged_piece_is_refused_and_the_right_one_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (state, pieces) = follower(directory.path()).await;
    let mut receiver = Receiver::default();
    for (piece, data) in &pieces {
        if !data.is_empty() {
            let mut damaged = data.to_vec();
            damaged[data.len() / 2] ^= 1;
            for data in [Bytes::from(damaged), data.slice(1..)] {
                let refused = send(&mut receiver, &state, &(piece.clone(), data)).await;
                assert_eq!(refused, Err(ErrorCode::ChecksumMismatch));
            }
        }
        if !piece.last {
            let sent = (piece.clone(), data.clone());
            assert_eq!(send(&mut receiver, &state, &sent).await, Ok(()));
        }
    }
    assert_eq!(content(&state), 5);
    let last = receive(&mut receiver, &state, &pieces[pieces.len() - 1..]).await;
    assert!(last.unwrap().is_some());
}

#[tokio::test]
async fn a_piece_that_comes_twice_or_too_early_starts_the_transfer_over() {
    let directory = tempfile::tempdir().unwrap();
    let (state, pieces) = follower(directory.path()).await;
    let mut receiver = Receiver::default();
    for wrong in [1, 3, pieces.len() - 1] {
        assert_eq!(send(&mut receiver, &state, &pieces[0]).await, Ok(()));
        assert_eq!(send(&mut receiver, &state, &pieces[1]).await, Ok(()));
        let refused = send(&mut receiver, &state, &pieces[wrong]).await;
        assert_eq!(refused, Err(ErrorCode::Unavailable));
        // What would have followed does not any more.
        let refused = send(&mut receiver, &state, &pieces[2]).await;
        assert_eq!(refused, Err(ErrorCode::Unavailable));
    }
    assert_eq!(content(&state), 5);
    let complete = receive(&mut receiver, &state, &pieces).await.unwrap();
    assert!(complete.is_some());
}

#[tokio::test]
async fn pieces_of_two_snapshots_never_make_one() {
    let directory = tempfile::tempdir().unwrap();
    let (state, pieces) = follower(directory.path()).await;
    let other = snapshot_of(&directory.path().join("other"), log_id(2, 30)).await;
    let other = pieces_of(&other, vote(2), PIECE);
    let of_another_leader = |(piece, data): &(Piece, Bytes)| {
        let piece = Piece {
            vote: vote(3),
            ..piece.clone()
        };
        (piece, data.clone())
    };
    let mut receiver = Receiver::default();
    for intruder in [other[1].clone(), of_another_leader(&pieces[1])] {
        assert_eq!(send(&mut receiver, &state, &pieces[0]).await, Ok(()));
        let refused = send(&mut receiver, &state, &intruder).await;
        assert_eq!(refused, Err(ErrorCode::Unavailable));
    }
    // One that begins takes the place of one that was not finished.
    assert_eq!(send(&mut receiver, &state, &pieces[0]).await, Ok(()));
    assert_eq!(send(&mut receiver, &state, &pieces[1]).await, Ok(()));
    receive_and_install(&state, &other).await.unwrap();
    assert_eq!(content(&state), 30);
}

#[tokio::test]
async fn what_is_not_the_announced_state_is_not_handed_to_the_library() {
    let directory = tempfile::tempdir().unwrap();
    let (state, pieces) = follower(directory.path()).await;
    // Another place in the log than the files have.
    let mut announced = pieces.clone();
    for (piece, _) in &mut announced {
        piece.meta.last_log_id = Some(log_id(2, 21));
    }
    // One file is missing, and nobody noticed.
    let without = |name: &str| {
        let kept = pieces
            .iter()
            .filter(|(piece, _)| !piece.file.starts_with(name));
        let mut left: Vec<(Piece, Bytes)> = kept.cloned().collect();
        for (sequence, (piece, _)) in left.iter_mut().enumerate() {
            piece.sequence = sequence as u64;
            piece.last = false;
        }
        left.last_mut().unwrap().0.last = true;
        left
    };
    for wrong in [announced, without("CURRENT"), without("MANIFEST")] {
        let refused = receive(&mut Receiver::default(), &state, &wrong).await;
        assert_eq!(refused.unwrap_err().code(), ErrorCode::ChecksumMismatch);
        assert_eq!(content(&state), 5);
    }
    receive_and_install(&state, &pieces).await.unwrap();
    assert_eq!(content(&state), 20);
}

#[tokio::test]
async fn a_piece_reaches_neither_outside_its_folder_nor_beyond_its_size() {
    let directory = tempfile::tempdir().unwrap();
    let (state, pieces) = follower(directory.path()).await;
    let (first, data) = &pieces[0];
    let long = "x".repeat(65);
    for file in ["", ".", "..", "../a", "a/b", "/etc/passwd", "a\0", &long] {
        let piece = Piece {
            file: file.to_owned(),
            ..first.clone()
        };
        let refused = send(&mut Receiver::default(), &state, &(piece, data.clone())).await;
        assert_eq!(refused, Err(ErrorCode::Malformed), "{file:?}");
    }
    let large = Bytes::from(vec![0; PIECE_BYTES + 1]);
    let piece = Piece {
        crc32c: crc32c(&large),
        ..first.clone()
    };
    let refused = send(&mut Receiver::default(), &state, &(piece, large)).await;
    assert_eq!(refused, Err(ErrorCode::TooLarge));
    // Bytes that do not follow those before.
    let piece = Piece {
        offset: u64::MAX,
        ..first.clone()
    };
    let gap = (piece, data.clone());
    assert!(send(&mut Receiver::default(), &state, &gap).await.is_err());
    assert_eq!(content(&state), 5);
}
