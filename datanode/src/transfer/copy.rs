//! New replicas from other datanodes' sealed ones: pulled in windows, verified, synced, sealed; only then they count.
//!
//! A copy that does not finish leaves nothing: its destination is invisible until it is sealed, and is removed when the
//! copy fails or at the next start. The leader hears of the sealed replica in the next heartbeat.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use cairn_daemon::Tasks;
use cairn_protocol::ids::{ChunkId, DatanodeId, Epoch, Incarnation};
use cairn_protocol::limits::BUFFER_BYTES;
use cairn_protocol::messages::common::DatanodeAddress;
use cairn_protocol::messages::transfer::{PacketHeader, ReadReplica, ReadReply};
use cairn_protocol::rpc::Peers;
use cairn_protocol::{ErrorCode, Failure, Method};

use super::packet::Packet;
use crate::metrics::Metrics;
use crate::replicas::{Replicas, Writer};

/// How long a source may take to send one window.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

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
    /// Best first.
    pub sources: Vec<DatanodeAddress>,
    pub token: Vec<u8>,
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
            let result = shared.run(&order, &cancel).await;
            shared.finished(&order, &result);
            result
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code inside can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finished(&self, order: &CopyOrder, result: &Result<(), Failure>) {
        let mut state = self.lock();
        state.active.remove(&order.chunk);
        if let Err(failure) = result {
            state
                .failed
                .insert(order.chunk, (order.incarnation, failure.clone()));
            if state.failed.len() > FAILURES_MAX {
                state.failed.pop_first();
            }
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
            let _ = self.replicas.delete(chunk, incarnation).await;
        }
        result
    }

    /// Pulls windows from the first source that has them, changing over where it left off.
    async fn fill(
        &self,
        order: &CopyOrder,
        writer: &Writer,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut offset = 0;
        let mut sources = order.sources.iter();
        let Some(mut source) = sources.next() else {
            return Err(Failure::new(
                ErrorCode::InvalidArgument,
                "a copy without sources",
            ));
        };
        while offset < order.length {
            match unless(cancel, self.window(order, source, offset)).await? {
                Ok(packet) => {
                    self.metrics.copied(packet.payload.len());
                    offset = packet.end();
                    writer.append(vec![packet], false).await?;
                }
                Err(failure) => {
                    let datanode = DatanodeId(source.datanode);
                    tracing::info!(chunk = %order.chunk, %datanode, error = %failure, "source of a copy failed");
                    source = sources.next().ok_or(failure)?;
                }
            }
        }
        Ok(())
    }

    /// The next bytes, verified.
    async fn window(
        &self,
        order: &CopyOrder,
        source: &DatanodeAddress,
        offset: u64,
    ) -> Result<Packet, Failure> {
        let length = (order.length - offset).min(BUFFER_BYTES as u64) as u32;
        let request = ReadReplica {
            chunk: order.chunk.0,
            offset,
            length,
            token: order.token.clone(),
            sequential: true,
        };
        let call = self.peers.call_typed::<ReadReply>(
            &source.address,
            Method::ReadReplica.into(),
            &request,
            Bytes::new(),
            READ_TIMEOUT,
        );
        let (reply, payload) = call.await.map_err(|error| error.failure)?;
        window_packet(offset, order.length, reply, payload)
    }
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

/// What of a reply comes next: its blocks from `offset` on. A source that sends something else is no source.
fn window_packet(
    offset: u64,
    end: u64,
    reply: ReadReply,
    payload: Bytes,
) -> Result<Packet, Failure> {
    let malformed =
        |text: &str| Failure::new(ErrorCode::Malformed, format!("source of a copy: {text}"));
    // Blocks below `offset` cannot be there: windows end at block ends, and the token covers the whole chunk.
    if reply.offset != offset || payload.is_empty() {
        return Err(malformed("sent another range than was asked for"));
    }
    let header = PacketHeader {
        sequence: 1,
        offset_in_chunk: offset,
        block_lengths: reply.block_lengths,
        block_crcs: reply.block_crcs,
        sync: false,
        last: false,
    };
    let packet = Packet::verified(header, payload)?;
    if packet.end() > end {
        Err(malformed("is longer than the seal"))
    } else {
        Ok(packet)
    }
}
