//! Snapshots: RocksDB checkpoints (hard links), streamed in pieces with checksums to members that lag too far.
//!
//! On disk, below the namenode's directory:
//!
//! ```text
//! snapshots/<index>/            a finished checkpoint; built under snapshots/building first
//! snapshots/incoming/           what arrives from a leader, piece by piece
//! snapshots/retired/            an older checkpoint on its way out
//! ```
//!
//! Start-up removes all that is not finished. The library builds one, installs one and asks for the current one whenever it likes, and
//! ends the process if that fails: they take turns ([`State::snapshots_turn`]).
//!
//! A checkpoint names its own place in the log (the applied state is one of its keys), so a snapshot can never be taken for
//! another one, and what arrived is looked at before the library hears of it. Installing: all files synced, older checkpoints
//! retired, renamed to `state/<n+1>`, then one durable switch of `state/CURRENT`, a checkpoint, and then the library resets the log.
//! A crash in between leaves the old state, or the new one with an old log; start-up cuts the log and makes a checkpoint if there
//! is none. So older ones go before the switch: one that is older than the log's beginning would help nobody, and would be sent.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_daemon::blocking::blocking;
use cairn_daemon::disk::{Caching, Disk, OpenMode};
use cairn_protocol::checksum::crc32c;
use cairn_protocol::rpc::RpcError;
use cairn_protocol::{ErrorCode, Failure};
use openraft::errors::StreamingError;
use openraft::raft::SnapshotResponse;
use serde::{Deserialize, Serialize};

use super::incoming;
use super::network::{self, Link};
use super::state::State;
use super::state_machine::{Snapshot, decode_applied};
use super::types::{SnapshotHandle, SnapshotMeta, TypeConfig, Vote};
use crate::store::Store;

/// Bytes of one piece.
const PIECE_BYTES: usize = 1 << 20;
/// One piece is written and synced by the receiver within this time, or the sender starts over.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest file name of a checkpoint.
const NAME_BYTES_MAX: usize = 64;

/// The header of one piece; its bytes are the frame's payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub(super) struct Piece {
    /// The sender's vote: a deposed leader's snapshot is refused.
    pub vote: Vote,
    /// What the snapshot stands for.
    pub meta: SnapshotMeta,
    /// 0, 1, 2, …; 0 starts over.
    pub sequence: u64,
    /// File that the bytes belong to, plain name.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// CRC32C of the bytes.
    pub crc32c: u32,
    /// Nothing follows: install.
    pub last: bool,
}

/// Makes a checkpoint of the state as it is now, and removes older ones.
pub(super) async fn build(state: &Arc<State>) -> io::Result<Snapshot> {
    let state = state.clone();
    blocking(move || {
        let _turn = state.snapshots_turn();
        checkpoint(&state)
    })
    .await
}

fn checkpoint(state: &State) -> io::Result<Snapshot> {
    let root = state.directory().join("snapshots");
    let building = root.join("building");
    remove_if_there(&building)?;
    state
        .store()
        .checkpoint(&building)
        .map_err(io::Error::other)?;
    let meta = meta_of(&building)?;
    let index = meta.last_log_id.map_or(0, |log_id| log_id.index);
    let finished = root.join(index.to_string());
    remove_if_there(&finished)?;
    std::fs::rename(&building, &finished)?;
    state.disk().sync_dir(&root)?;
    remove_older(state.disk(), &root, index)?;
    Ok(Snapshot {
        meta,
        snapshot: SnapshotHandle {
            directory: finished,
        },
    })
}

/// The newest finished checkpoint, if there is one.
pub(super) async fn current(state: &Arc<State>) -> io::Result<Option<Snapshot>> {
    let state = state.clone();
    blocking(move || {
        let _turn = state.snapshots_turn();
        let root = state.directory().join("snapshots");
        let mut newest: Option<u64> = None;
        for entry in std::fs::read_dir(&root)? {
            let name = entry?.file_name();
            newest = newest.max(name.to_str().and_then(|name| name.parse().ok()));
        }
        let Some(index) = newest else { return Ok(None) };
        let directory = root.join(index.to_string());
        let meta = meta_of(&directory)?;
        Ok(Some(Snapshot {
            meta,
            snapshot: SnapshotHandle { directory },
        }))
    })
    .await
}

fn meta_of(directory: &Path) -> io::Result<SnapshotMeta> {
    let applied = Store::applied_of(directory).map_err(io::Error::other)?;
    let (last_log_id, last_membership) = decode_applied(applied.as_ref())?;
    Ok(SnapshotMeta {
        last_log_id,
        last_membership,
    })
}

fn remove_if_there(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes finished checkpoints below `index`, each at once: half of one would be taken for a whole one.
fn remove_older(disk: &dyn Disk, root: &Path, index: u64) -> io::Result<()> {
    let retired = root.join("retired");
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u64>().ok());
        if number.is_some_and(|number| number < index) {
            remove_if_there(&retired)?;
            std::fs::rename(entry.path(), &retired)?;
            disk.sync_dir(root)?;
            remove_if_there(&retired)?;
        }
    }
    Ok(())
}

/// Makes the folder of snapshots, and removes what a process that ended has left unfinished there. Blocks.
pub(super) fn prepare(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
    let root = directory.join("snapshots");
    disk.create_dir_all(&root)?;
    for unfinished in ["building", "incoming", "retired"] {
        remove_if_there(&root.join(unfinished))?;
    }
    Ok(())
}

/// Streams a snapshot to a member. One piece is in flight at a time: a lagging member must not take the disk and network
/// from those that work.
pub(super) async fn send(
    link: &Link,
    vote: Vote,
    snapshot: &Snapshot,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let files = list_files(&snapshot.snapshot.directory).map_err(network::storage_error)?;
    let mut sequence = 0;
    let mut reply = Bytes::new();
    for (number, (name, len)) in files.iter().enumerate() {
        let mut offset = 0;
        loop {
            let data = read_piece(snapshot.snapshot.directory.join(name), offset, *len)
                .await
                .map_err(network::storage_error)?;
            let end = offset + data.len() as u64;
            let piece = Piece {
                vote,
                meta: snapshot.meta.clone(),
                sequence,
                file: name.clone(),
                offset,
                crc32c: crc32c(&data),
                last: end >= *len && number + 1 == files.len(),
            };
            reply = link
                .send_piece(&piece, data, PIECE_TIMEOUT)
                .await
                .map_err(network::streaming_error)?;
            sequence += 1;
            offset = end;
            if offset >= *len {
                break;
            }
        }
    }
    incoming::decode_body(&reply).map_err(network::streaming_error)
}

fn list_files(directory: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| {
            io::Error::other(format!(
                "snapshot file with a strange name: {}",
                name.display()
            ))
        })?;
        files.push((name, entry.metadata()?.len()));
    }
    files.sort();
    Ok(files)
}

async fn read_piece(path: PathBuf, offset: u64, len: u64) -> io::Result<Bytes> {
    blocking(move || {
        use std::os::unix::fs::FileExt;
        let size = usize::try_from(len - offset)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        let mut data = vec![0; size];
        std::fs::File::open(&path)?.read_exact_at(&mut data, offset)?;
        Ok(Bytes::from(data))
    })
    .await
}

/// Collects the pieces of one snapshot at a time.
#[derive(Default)]
pub(super) struct Receiver {
    /// Sequence that must come next, and whose snapshot it is.
    expected: Option<(Vote, SnapshotMeta, u64)>,
}

impl Receiver {
    /// Takes a piece; on the last one, tells where the complete snapshot is. A piece that does not follow the one before starts
    /// the transfer over (the sender does, when it is told so).
    pub async fn receive(
        &mut self,
        state: &Arc<State>,
        piece: Piece,
        data: Bytes,
    ) -> Result<Option<Snapshot>, RpcError> {
        let follows = match &self.expected {
            Some((vote, meta, next)) => {
                *vote == piece.vote && *meta == piece.meta && *next == piece.sequence
            }
            None => false,
        };
        if piece.sequence != 0 && !follows {
            self.expected = None;
            return Err(RpcError::new(
                ErrorCode::Unavailable,
                "snapshot piece out of order: start over",
            ));
        }
        check(&piece, &data)?;
        let incoming = state.directory().join("snapshots").join("incoming");
        self.expected = Some((piece.vote, piece.meta.clone(), piece.sequence + 1));
        let written = {
            let (state, piece, incoming) = (state.clone(), piece.clone(), incoming.clone());
            blocking(move || write_piece(&state, &piece, &data, &incoming)).await
        };
        if let Err(error) = written {
            self.expected = None;
            return Err(RpcError::new(ErrorCode::DiskFailed, error.to_string()));
        }
        if !piece.last {
            return Ok(None);
        }
        self.expected = None;
        let (meta, received) = (piece.meta.clone(), incoming.clone());
        blocking(move || expect_meta(&received, &meta))
            .await
            .map_err(|error| RpcError::new(ErrorCode::ChecksumMismatch, error.to_string()))?;
        Ok(Some(Snapshot {
            meta: piece.meta,
            snapshot: SnapshotHandle {
                directory: incoming,
            },
        }))
    }
}

/// Nothing that arrives may reach outside the directory or be taken for other bytes.
fn check(piece: &Piece, data: &Bytes) -> Result<(), RpcError> {
    let name = &piece.file;
    let plain = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if !plain {
        return Err(Failure::new(ErrorCode::Malformed, "name of a snapshot file").into());
    }
    if data.len() > PIECE_BYTES {
        let text = format!("piece of {} bytes, at most {PIECE_BYTES}", data.len());
        return Err(Failure::new(ErrorCode::TooLarge, text).into());
    }
    if crc32c(data) != piece.crc32c {
        return Err(
            Failure::new(ErrorCode::ChecksumMismatch, format!("snapshot file {name}")).into(),
        );
    }
    Ok(())
}

fn write_piece(state: &State, piece: &Piece, data: &[u8], incoming: &Path) -> io::Result<()> {
    if piece.sequence == 0 {
        remove_if_there(incoming)?;
        state.disk().create_dir_all(incoming)?;
    }
    let path = incoming.join(&piece.file);
    let file = state
        .disk()
        .open(&path, OpenMode::CreateOrOpen, Caching::Buffered)?;
    if file.len()? != piece.offset {
        return Err(io::Error::other(format!(
            "{}: piece does not follow the last one",
            path.display()
        )));
    }
    file.write_all_at(data, piece.offset)?;
    file.sync_data()?;
    if piece.last {
        state.disk().sync_dir(incoming)?;
    }
    Ok(())
}

/// Fails unless this is a state, and the one that was announced: once the library has heard of it, what fails ends the process.
fn expect_meta(directory: &Path, meta: &SnapshotMeta) -> io::Result<()> {
    if meta_of(directory)? == *meta {
        return Ok(());
    }
    Err(io::Error::other(
        "received snapshot is not the one announced",
    ))
}

/// Puts a complete snapshot in place of the state. The caller (the library) applies nothing meanwhile.
pub(super) async fn install(
    state: &Arc<State>,
    meta: &SnapshotMeta,
    handle: SnapshotHandle,
) -> io::Result<()> {
    let (state, meta) = (state.clone(), meta.clone());
    blocking(move || {
        let _turn = state.snapshots_turn();
        expect_meta(&handle.directory, &meta)?;
        let root = state.directory().join("snapshots");
        let index = meta.last_log_id.map_or(0, |log_id| log_id.index);
        remove_older(state.disk(), &root, index)?;
        let disk = state.disk();
        state.replace(|path| disk.rename(&handle.directory, path))?;
        // The library asks for the current snapshot from now on.
        checkpoint(&state).map(|_| ())
    })
    .await
}

#[cfg(test)]
mod tests;
