//! New replicas from other datanodes' sealed ones: pulled in windows, verified, synced, sealed; only then they count. A copy of
//! compaction is put together from pieces of several chunks in the same way.
//!
//! A copy that does not finish leaves nothing: its destination is invisible until it is sealed, and is removed when the
//! copy fails or at the next start. The leader hears of the sealed replica in the next heartbeat.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use cairn_daemon::Tasks;
use cairn_protocol::checksum::crc32c;
use cairn_protocol::ids::{ChunkId, DatanodeId, Epoch, Incarnation};
use cairn_protocol::limits::BUFFER_BYTES;
use cairn_protocol::messages::common::DatanodeAddress;
use cairn_protocol::messages::transfer::{PacketHeader, ReadReplica, ReadReply};
use cairn_protocol::rpc::Peers;
use cairn_protocol::{ErrorCode, Failure, Method};

use super::packet::Packet;
use crate::chunk_store::BlockChecksum;
use crate::metrics::Metrics;
use crate::replicas::{Replicas, Writer};

/// How long a source may take to send one window.
const READ_TIMEOUT: Duration = Duration::from_secs(8);

/// Copies that may wait for their turn; more are refused, and the leader asks again.
const ORDERS_MAX: usize = 1024;

/// Failures remembered until the leader asks again.
const FAILURES_MAX: usize = 1024;

/// What to copy, and from where.
#[derive(Clone, Debug)]
pub(crate) struct CopyOrder {
    pub chunk: ChunkId,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub length: u64,
    pub sources: Vec<CopySource>,
    /// In their order in the copy; together they are `length` bytes.
    pub pieces: Vec<Piece>,
}

/// A chunk that is read.
#[derive(Clone, Debug)]
pub(crate) struct CopySource {
    pub chunk: ChunkId,
    /// Best first.
    pub datanodes: Vec<DatanodeAddress>,
    /// Read token for the whole chunk.
    pub token: Vec<u8>,
}

/// A range of one of the sources.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub source: usize,
    pub offset: u64,
    pub length: u64,
}

/// The copies that are being made. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Copies {
    shared: Arc<Shared>,
}

struct Shared {
    tasks: Tasks,
    shutdown: CancellationToken,
    replicas: Replicas,
    peers: Peers,
    metrics: Arc<Metrics>,
    /// One permit per copy that runs.
    running: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Waiting or running.
    active: BTreeMap<ChunkId, (Incarnation, CancellationToken)>,
    /// Told to whoever asks for the copy again.
    failed: BTreeMap<ChunkId, (Incarnation, Failure)>,
}

impl Copies {
    /// At most `copies_max` at once.
    pub(crate) fn new(
        tasks: &Tasks,
        replicas: Replicas,
        peers: Peers,
        metrics: Arc<Metrics>,
        copies_max: usize,
    ) -> Self {
        let shared = Shared {
            tasks: tasks.clone(),
            shutdown: tasks.shutdown_token(),
            replicas,
            peers,
            metrics,
            running: Semaphore::new(copies_max),
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Begins a copy, unless it runs already. If the last attempt at it failed, says so instead, once.
    pub(crate) fn start(&self, order: CopyOrder) -> Result<(), Failure> {
        let busy = |text: &str| Err(Failure::new(ErrorCode::Overloaded, text));
        let cancel = self.shared.shutdown.child_token();
        {
            let mut state = self.shared.lock();
            match state.active.get(&order.chunk) {
                Some((incarnation, _)) if *incarnation == order.incarnation => return Ok(()),
                Some((_, other)) => {
                    other.cancel();
                    return busy("a copy of another incarnation is being given up");
                }
                None => {}
            }
            if let Some((incarnation, failure)) = state.failed.remove(&order.chunk)
                && incarnation == order.incarnation
            {
                return Err(failure);
            }
            if state.active.len() >= ORDERS_MAX {
                return busy("too many copies wait on this datanode");
            }
            let entry = (order.incarnation, cancel.clone());
            state.active.insert(order.chunk, entry);
        }
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.request("copy", async move {
            let mut active = Active {
                shared: &shared,
                order: &order,
                result: Err(Failure::new(ErrorCode::Internal, "the copy was lost")),
            };
            active.result = shared.run(&order, &cancel).await;
            active.result.clone()
        });
        Ok(())
    }

    /// Gives up the copy of this incarnation, if it is being made. What it has made is removed soon after.
    pub(crate) fn cancel(&self, chunk: ChunkId, incarnation: Incarnation) {
        if let Some((active, cancel)) = self.shared.lock().active.get(&chunk)
            && *active == incarnation
        {
            cancel.cancel();
        }
    }
}

/// A copy that waits or runs: its place is free again however it ends, even by a panic.
struct Active<'a> {
    shared: &'a Shared,
    order: &'a CopyOrder,
    result: Result<(), Failure>,
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.shared.finished(self.order, &self.result);
    }
}

impl State {
    /// Keeps a failure until somebody asks. If there are too many, another one is forgotten: that copy is then tried again.
    fn remember(&mut self, chunk: ChunkId, failure: (Incarnation, Failure)) {
        if self.failed.len() >= FAILURES_MAX && !self.failed.contains_key(&chunk) {
            self.failed.pop_first();
        }
        self.failed.insert(chunk, failure);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code inside can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finished(&self, order: &CopyOrder, result: &Result<(), Failure>) {
        let mut state = self.lock();
        state.active.remove(&order.chunk);
        if let Err(failure) = result {
            tracing::debug!(chunk = %order.chunk, incarnation = %order.incarnation, error = %failure, "copy not made");
            state.remember(order.chunk, (order.incarnation, failure.clone()));
        }
    }

    /// Only waiting is ever cut short, never work on a disk: so what was begun is always cleaned up.
    async fn run(&self, order: &CopyOrder, cancel: &CancellationToken) -> Result<(), Failure> {
        let (chunk, incarnation) = (order.chunk, order.incarnation);
        let _turn = unless(cancel, self.running.acquire())
            .await?
            .expect("nobody closes the semaphore");
        let created = self.replicas.create_copy(chunk, incarnation, order.epoch);
        let writer = created.await?;
        let result = match self.fill(order, &writer, cancel).await {
            Ok(()) => {
                self.replicas
                    .seal_copy(chunk, order.epoch, order.length)
                    .await
            }
            Err(failure) => Err(failure),
        };
        if result.is_err() {
            // What cannot be removed now is removed at the next start.
            let _ = self.replicas.delete(chunk, incarnation, ()).await;
        }
        result
    }

    async fn fill(
        &self,
        order: &CopyOrder,
        writer: &Writer,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut offset = 0;
        for piece in &order.pieces {
            let Some(source) = order.sources.get(piece.source) else {
                return Err(invalid("a piece of a source that is not named"));
            };
            self.fill_piece(source, piece, offset, writer, cancel)
                .await?;
            offset += piece.length;
        }
        if offset == order.length {
            Ok(())
        } else {
            Err(invalid("the pieces of a copy are not as long as the copy"))
        }
    }

    /// Pulls windows from the first datanode that has them, changing over where it left off. Each window is asked of all before
    /// the copy is given up: they may be bad in different places.
    async fn fill_piece(
        &self,
        source: &CopySource,
        piece: &Piece,
        to: u64,
        writer: &Writer,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut done = 0;
        let mut failures = 0;
        let mut datanodes = source.datanodes.iter().cycle();
        let Some(mut from) = datanodes.next() else {
            return Err(invalid("a copy without sources"));
        };
        while done < piece.length {
            let rest = piece.offset.saturating_add(done)..piece.offset.saturating_add(piece.length);
            match unless(cancel, self.window(source, from, rest, to + done)).await? {
                Ok(packet) => {
                    self.metrics.copied(packet.payload.len());
                    done += packet.payload.len() as u64;
                    failures = 0;
                    writer.append(vec![packet], false).await?;
                }
                Err(failure) => {
                    let datanode = DatanodeId(from.datanode);
                    tracing::info!(chunk = %source.chunk, %datanode, error = %failure, "source of a copy failed");
                    if is_evidence(failure.code) {
                        let changes = self.replicas.changes();
                        changes.note_source(source.chunk, datanode, failure.code);
                    }
                    failures += 1;
                    if failures == source.datanodes.len() {
                        return Err(failure);
                    }
                    from = datanodes.next().unwrap_or(from);
                }
            }
        }
        Ok(())
    }

    /// The next bytes of `rest`, verified, to go to `to` in the copy.
    async fn window(
        &self,
        source: &CopySource,
        from: &DatanodeAddress,
        rest: Range<u64>,
        to: u64,
    ) -> Result<Packet, Failure> {
        let request = ReadReplica {
            chunk: source.chunk.0,
            offset: rest.start,
            length: (rest.end - rest.start).min(BUFFER_BYTES as u64) as u32,
            token: source.token.clone(),
            sequential: true,
        };
        let call = self.peers.call_typed::<ReadReply>(
            &from.address,
            Method::ReadReplica.into(),
            &request,
            Bytes::new(),
            READ_TIMEOUT,
        );
        let (reply, payload) = call.await.map_err(|error| error.failure)?;
        window_packet(&rest, to, reply, payload)
    }
}

/// The replica that was read may be bad: the leader should have it looked at. Anything else says more about its datanode, or the way
/// to it.
fn is_evidence(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::ChecksumMismatch
            | ErrorCode::Malformed
            | ErrorCode::NoReplica
            | ErrorCode::WrongLength
            | ErrorCode::DiskFailed
    )
}

fn invalid(text: &str) -> Failure {
    Failure::new(ErrorCode::InvalidArgument, text)
}

/// Waits for something, unless the copy is given up.
async fn unless<T>(
    cancel: &CancellationToken,
    wait: impl Future<Output = T>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => {
            Err(Failure::new(ErrorCode::Unavailable, "the copy was given up, or the datanode stops"))
        }
        done = wait => Ok(done),
    }
}

/// What of a reply comes next: the bytes of `rest` in it, verified by the blocks that they came in, and at `to` from now on. Blocks
/// that reach out of `rest` are cut and get checksums of their own. A source that sends something else is no source.
fn window_packet(
    rest: &Range<u64>,
    to: u64,
    reply: ReadReply,
    payload: Bytes,
) -> Result<Packet, Failure> {
    let malformed =
        |text: &str| Failure::new(ErrorCode::Malformed, format!("source of a copy: {text}"));
    let header = PacketHeader {
        sequence: 1,
        offset_in_chunk: reply.offset,
        block_lengths: reply.block_lengths,
        block_crcs: reply.block_crcs,
        sync: false,
        last: false,
    };
    let read = Packet::verified(header, payload)?;
    if read.offset > rest.start || read.end() <= rest.start {
        return Err(malformed("sent another range than was asked for"));
    }
    let cut = rest.start..read.end().min(rest.end);
    let bytes = (cut.start - read.offset) as usize..(cut.end - read.offset) as usize;
    let blocks = read.blocks.iter().filter_map(|block| {
        let (start, end) = (block.offset, block.offset + u64::from(block.length));
        let kept = start.max(cut.start)..end.min(cut.end);
        let length = kept
            .end
            .checked_sub(kept.start)
            .filter(|&length| length > 0)?;
        let is_whole = kept == (start..end);
        let from = (kept.start - read.offset) as usize;
        Some(BlockChecksum {
            offset: to + (kept.start - cut.start),
            length: length as u32,
            crc32c: if is_whole {
                block.crc32c
            } else {
                crc32c(&read.payload[from..from + length as usize])
            },
        })
    });
    Ok(Packet {
        offset: to,
        blocks: blocks.collect(),
        payload: read.payload.slice(bytes),
        ..read
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cairn_protocol::checksum::crc32c;
    use cairn_protocol::messages::transfer::ReadReply;

    use super::{FAILURES_MAX, State, window_packet};
    use cairn_protocol::ErrorCode;
    use cairn_protocol::ids::{ChunkId, Incarnation};

    fn reply(offset: u64, blocks: &[&[u8]]) -> (ReadReply, Bytes) {
        let reply = ReadReply {
            offset,
            block_lengths: blocks.iter().map(|block| block.len() as u32).collect(),
            block_crcs: blocks.iter().map(|block| crc32c(block)).collect(),
            ..ReadReply::default()
        };
        (reply, blocks.concat().into())
    }

    #[test]
    fn the_failure_that_was_just_added_is_not_the_one_that_is_forgotten() {
        let mut state = State::default();
        let failure = || (Incarnation(1), ErrorCode::TimedOut.into());
        let chunks = 1..=FAILURES_MAX as u64;
        chunks
            .rev()
            .for_each(|chunk| state.remember(ChunkId(chunk), failure()));
        state.remember(ChunkId(0), failure());
        assert_eq!(state.failed.len(), FAILURES_MAX);
        assert!(state.failed.contains_key(&ChunkId(0)));
    }

    #[test]
    fn a_whole_window_keeps_its_blocks() {
        let (reply, payload) = reply(10, &[b"abc", b"defg"]);
        let packet = window_packet(&(10..17), 10, reply, payload).unwrap();
        assert_eq!(packet.payload, "abcdefg");
        let blocks: Vec<_> = packet.blocks.iter().map(|b| (b.offset, b.length)).collect();
        assert_eq!(blocks, [(10, 3), (13, 4)]);
    }

    #[test]
    fn a_piece_is_cut_out_of_its_blocks_and_moves() {
        let (reply, payload) = reply(10, &[b"abc", b"de", b"fghi", b"jk"]);
        let packet = window_packet(&(11..17), 100, reply, payload).unwrap();
        assert_eq!(packet.payload, "bcdefg");
        let blocks: Vec<_> = packet
            .blocks
            .iter()
            .map(|b| (b.offset, b.length, b.crc32c))
            .collect();
        let expected = [
            (100, 2, crc32c(b"bc")),
            (102, 2, crc32c(b"de")),
            (104, 2, crc32c(b"fg")),
        ];
        assert_eq!(blocks, expected);
    }

    #[test]
    fn what_was_not_asked_for_or_does_not_match_is_refused() {
        let (good, payload) = reply(10, &[b"abc"]);
        assert!(window_packet(&(9..12), 0, good.clone(), payload.clone()).is_err());
        assert!(window_packet(&(13..14), 0, good.clone(), payload).is_err());
        assert!(window_packet(&(10..12), 0, good, Bytes::from_static(b"abd")).is_err());
    }
}
