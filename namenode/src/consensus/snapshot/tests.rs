//! Snapshots that arrive: whatever comes, and whenever the process ends, the state is the old one or the new one as a whole, and
//! the log begins where it ends.

mod pieces;
mod stopping;
mod stopping_disk;
mod together;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cairn_daemon::disk::{Disk, RealDisk};
use cairn_protocol::checksum::crc32c;
use cairn_protocol::rpc::RpcError;

use super::{Piece, Receiver, build, install, list_files};
use crate::consensus::state::State;
use crate::consensus::state_machine::{Snapshot, encode_applied};
use crate::consensus::types::{LeaderId, LogId, Membership, NodeId, StoredMembership, Vote};
use crate::store::{Read, StoreOptions};

const LEADER: NodeId = 9;

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

fn vote(term: u64) -> Vote {
    Vote {
        leader_id: LeaderId {
            term,
            voted_for: LEADER,
        },
        committed: true,
    }
}

fn open(disk: Arc<dyn Disk>, directory: &Path) -> State {
    State::open(disk, directory, StoreOptions::small()).unwrap()
}

/// A state as after this entry: every number in it is the entry's index.
fn fill(state: &State, reached: LogId) {
    let members = Membership::new_with_defaults(vec![[LEADER].into()], [LEADER]);
    let members = StoredMembership::new(Some(log_id(1, 0)), members);
    let store = state.store();
    let mut txn = store.begin();
    txn.cluster_mut().file_count = reached.index;
    txn.cluster_mut().chunk_count = reached.index;
    txn.commit(encode_applied(reached, &members).unwrap())
        .unwrap();
    state.advance(reached, members, Vec::new(), Vec::new());
}

/// Index of the entry that all of the state is as after.
fn content(state: &State) -> u64 {
    let cluster = state.store().snapshot().cluster_record().unwrap();
    assert_eq!(cluster.file_count, cluster.chunk_count);
    let applied = state.applied_log_id().map_or(0, |log_id| log_id.index);
    assert_eq!(cluster.file_count, applied);
    applied
}

/// What a leader has to send.
async fn snapshot_of(directory: &Path, reached: LogId) -> Snapshot {
    let state = Arc::new(open(Arc::new(RealDisk), directory));
    fill(&state, reached);
    build(&state).await.unwrap()
}

fn pieces_of(snapshot: &Snapshot, vote: Vote, piece_bytes: usize) -> Vec<(Piece, Bytes)> {
    let mut pieces = Vec::new();
    for (file, _) in list_files(&snapshot.snapshot.directory).unwrap() {
        let bytes = std::fs::read(snapshot.snapshot.directory.join(&file)).unwrap();
        let mut offset = 0;
        let runs = bytes.chunks(piece_bytes).map(Bytes::copy_from_slice);
        let runs: Vec<Bytes> = match bytes.is_empty() {
            true => vec![Bytes::new()],
            false => runs.collect(),
        };
        for data in runs {
            let piece = Piece {
                vote,
                meta: snapshot.meta.clone(),
                sequence: pieces.len() as u64,
                file: file.clone(),
                offset,
                crc32c: crc32c(&data),
                last: false,
            };
            offset += data.len() as u64;
            pieces.push((piece, data));
        }
    }
    pieces.last_mut().unwrap().0.last = true;
    pieces
}

/// Sends all, and tells where the complete snapshot is.
async fn receive(
    receiver: &mut Receiver,
    state: &Arc<State>,
    pieces: &[(Piece, Bytes)],
) -> Result<Option<Snapshot>, RpcError> {
    let mut complete = None;
    for (piece, data) in pieces {
        complete = receiver.receive(state, piece.clone(), data.clone()).await?;
    }
    Ok(complete)
}

async fn receive_and_install(state: &Arc<State>, pieces: &[(Piece, Bytes)]) -> Result<(), String> {
    let received = receive(&mut Receiver::default(), state, pieces).await;
    let complete = received.map_err(|error| error.to_string())?;
    let Snapshot { meta, snapshot } = complete.expect("the last piece was sent");
    let installed = install(state, &meta, snapshot).await;
    installed.map_err(|error| error.to_string())
}
