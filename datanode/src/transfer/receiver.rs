//! One write stream: packets come from upstream, go to the disk and downstream at the same time, and acknowledgements
//! flow back when both have them.
//!
//! Five parts run concurrently inside the connection's task and meet only in [`Progress`]: the *intake* reads and
//! verifies packets, the *writer* appends them (many at once when they queue), the *forwarder* sends the same bytes on, the
//! *collector* hears downstream, and the *responder* acknowledges. The stream ends when the responder has sent its last
//! word. Whatever was acknowledged by then stays; the replica stays open with what was written.
//!
//! Nothing here waits for another stream: the window's memory was reserved at the opening, every hop has a connection
//! of its own, and acknowledgements travel on a direction that carries no data.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use cairn_protocol::ids::DatanodeId;
use cairn_protocol::rpc::{FrameReceiver, FrameSender};
use cairn_protocol::{ErrorCode, Failure};

use super::downstream::{self, Downstream, Forward, ack_frame};
use super::packet::Packet;
use super::progress::{Progress, StreamFailure};
use crate::metrics::Metrics;
use crate::replicas::Writer;

/// Packets that may be in flight whatever their size; bytes are bounded by the window.
const PACKETS_IN_FLIGHT_MAX: usize = 4096;

/// The writer takes no more than this into one batch, so that acknowledgements keep flowing.
const BATCH_BYTES: usize = 1 << 20;

/// After this many bytes of input the other parts get their turn, even if there is more to read.
const TURN_BYTES: usize = 256 << 10;

/// How long a stream that ends may take to tell upstream, and to swallow what upstream had sent already: closing a
/// socket with unread bytes would reset it, and the reset could overtake the last word.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// A stream whose pipeline stands.
pub(super) struct WriteStream {
    pub(super) datanode: DatanodeId,
    pub(super) start: u64,
    pub(super) capacity: u64,
    pub(super) window_bytes: usize,
    pub(super) writer: Writer,
    pub(super) downstream: Option<Downstream>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) shutdown: CancellationToken,
}

/// Runs a stream to its end. Fails with what upstream has been told already.
pub(super) async fn run(
    stream: WriteStream,
    to: FrameSender,
    mut from: FrameReceiver,
) -> Result<(), Failure> {
    let WriteStream {
        datanode,
        writer,
        downstream,
        metrics,
        shutdown,
        ..
    } = stream;
    let progress = Progress::new(downstream.is_none());
    let (to_writer, written) = mpsc::channel(PACKETS_IN_FLIGHT_MAX);
    let (to_downstream, forwarded) = mpsc::channel(PACKETS_IN_FLIGHT_MAX);
    let intake = Intake {
        datanode,
        next_sequence: 1,
        next_offset: stream.start,
        capacity: stream.capacity,
        window_bytes: stream.window_bytes,
        in_flight: VecDeque::new(),
        in_flight_bytes: 0,
        to_writer,
        to_downstream: downstream.is_some().then_some(to_downstream),
        progress: &progress,
        metrics: &metrics,
    };
    let parts = async {
        tokio::join!(
            intake.run(&mut from),
            write(&writer, written, datanode, &progress),
            behind(downstream, forwarded, &progress),
            fenced(&writer, &shutdown, datanode, &progress),
        );
    };
    // The parts are dropped where they stand: nothing follows that could miss what they held.
    tokio::select! {
        biased;
        () = respond(to, &progress) => {}
        () = parts => {}
        () = hopeless(&progress) => {}
    }
    let Some(StreamFailure { datanode, failure }) = progress.failure() else {
        return Ok(());
    };
    metrics.stream_failed(&failure);
    tracing::debug!(%datanode, error = %failure, "write stream failed");
    let swallow = async { while let Ok(Some(_)) = from.recv().await {} };
    let _ = timeout(GOODBYE_TIMEOUT, swallow).await;
    Err(failure)
}

/// The forwarder and the collector, if there is somebody behind us.
async fn behind(
    downstream: Option<Downstream>,
    queue: mpsc::Receiver<Forward>,
    progress: &Progress,
) {
    let Some(Downstream {
        mut to,
        mut from,
        datanode,
        stall_timeout,
    }) = downstream
    else {
        return;
    };
    tokio::join!(
        downstream::forward(queue, &mut to, datanode, progress),
        downstream::collect(&mut from, datanode, stall_timeout, progress),
    );
}

/// Ends the stream when a newer writer, a seal or a deletion takes the replica away, or the daemon stops. Never returns.
async fn fenced(
    writer: &Writer,
    shutdown: &CancellationToken,
    datanode: DatanodeId,
    progress: &Progress,
) {
    let (code, text) = tokio::select! {
        biased;
        () = shutdown.cancelled() => (ErrorCode::Unavailable, "the datanode is stopping"),
        () = writer.ended() => (ErrorCode::StaleEpoch, "a newer writer, a seal or a deletion ended this stream"),
    };
    progress.fail(datanode, Failure::new(code, text));
    std::future::pending().await
}

/// Returns when a failed stream could not tell upstream in time: upstream does not read.
async fn hopeless(progress: &Progress) {
    progress.beyond(u64::MAX).await;
    sleep(GOODBYE_TIMEOUT).await;
}

/// Acknowledges until the last packet or a failure has been told. Errors end the stream as success does: whoever does
/// not hear an acknowledgement does not count on it.
async fn respond(mut to: FrameSender, progress: &Progress) {
    let mut told = 0;
    loop {
        let acknowledged = progress.beyond(told).await;
        let frame = ack_frame(acknowledged.sequence, acknowledged.failure.as_ref());
        if to.send(frame).await.is_err() {
            return;
        }
        told = acknowledged.sequence;
        if acknowledged.failure.is_some() || acknowledged.is_last {
            // Upstream may be gone already; it has its answer or will never have one.
            let _ = to.finish().await;
            return;
        }
    }
}

/// Appends what is queued, several packets at once when the disk is behind, and then syncs once if any of them asks for it.
async fn write(
    writer: &Writer,
    mut queue: mpsc::Receiver<Packet>,
    datanode: DatanodeId,
    progress: &Progress,
) {
    while let Some(first) = queue.recv().await {
        let mut bytes = first.payload.len();
        let mut sync = first.sync;
        let mut sequence = first.sequence;
        let mut batch = vec![first];
        while bytes < BATCH_BYTES {
            let Ok(packet) = queue.try_recv() else { break };
            bytes += packet.payload.len();
            sync |= packet.sync;
            sequence = packet.sequence;
            batch.push(packet);
        }
        match writer.append(batch, sync).await {
            Ok(()) => progress.written(sequence),
            Err(failure) => return progress.fail(datanode, failure),
        }
    }
}

/// The part that reads packets and holds them to the window.
struct Intake<'a> {
    datanode: DatanodeId,
    next_sequence: u64,
    next_offset: u64,
    capacity: u64,
    window_bytes: usize,
    /// Sequence and size of packets that are not acknowledged yet.
    in_flight: VecDeque<(u64, usize)>,
    in_flight_bytes: usize,
    to_writer: mpsc::Sender<Packet>,
    to_downstream: Option<mpsc::Sender<Forward>>,
    progress: &'a Progress,
    metrics: &'a Metrics,
}

impl Intake<'_> {
    /// Reads until the last packet, a failure, or the end of the connection. Dropping `self` closes the queues.
    async fn run(mut self, from: &mut FrameReceiver) {
        let mut since_turn = 0;
        loop {
            let frame = match from.recv().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return self.fail(ErrorCode::ConnectionLost, "upstream hung up"),
                Err(failure) => return self.progress.fail(self.datanode, failure),
            };
            let packet = match Packet::decode(&frame).and_then(|packet| self.check(packet)) {
                Ok(packet) => packet,
                Err(failure) => return self.progress.fail(self.datanode, failure),
            };
            if !self.admit(&packet).await {
                return;
            }
            let (last, size) = (packet.last, packet.payload.len());
            if last {
                self.progress.last(packet.sequence);
            }
            if let Some(downstream) = &self.to_downstream {
                let forward = Forward {
                    sequence: packet.sequence,
                    frame,
                };
                // Both queues hold all packets that may be in flight; a closed one belongs to a stream that has failed.
                let _ = downstream.send(forward).await;
            }
            let _ = self.to_writer.send(packet).await;
            if last {
                return;
            }
            since_turn += size;
            if since_turn >= TURN_BYTES {
                since_turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    fn fail(&self, code: ErrorCode, text: &str) {
        self.progress.fail(self.datanode, Failure::new(code, text));
    }

    /// Packets are numbered and contiguous, fit the window, and end within the chunk.
    fn check(&mut self, packet: Packet) -> Result<Packet, Failure> {
        if packet.sequence != self.next_sequence || packet.offset != self.next_offset {
            let text = format!(
                "packet {} at {} came, {} at {} was due",
                packet.sequence, packet.offset, self.next_sequence, self.next_offset
            );
            return Err(Failure::new(ErrorCode::Malformed, text));
        }
        if packet.payload.len() > self.window_bytes {
            // Its memory was not reserved.
            let text = format!(
                "a packet of {} bytes, the window has {}",
                packet.payload.len(),
                self.window_bytes
            );
            return Err(Failure::new(ErrorCode::InvalidArgument, text));
        }
        if packet.end() > self.capacity {
            let text = format!(
                "packet ends at {}, the chunk may have {} bytes",
                packet.end(),
                self.capacity
            );
            return Err(Failure::new(ErrorCode::InvalidArgument, text));
        }
        self.next_sequence += 1;
        self.next_offset = packet.end();
        Ok(packet)
    }

    /// Counts a packet against the window, and reads no further while it is full: a sender that ignores its credit is
    /// slowed down, never given memory that it did not reserve. False if the stream failed meanwhile.
    async fn admit(&mut self, packet: &Packet) -> bool {
        let size = packet.payload.len();
        self.metrics.received(size);
        loop {
            let acknowledged = self.progress.acknowledged();
            if acknowledged.failure.is_some() {
                return false;
            }
            while let Some((_, size)) = self
                .in_flight
                .pop_front_if(|(sequence, _)| *sequence <= acknowledged.sequence)
            {
                self.in_flight_bytes -= size;
            }
            let fits =
                self.in_flight_bytes + size <= self.window_bytes || self.in_flight.is_empty();
            if fits && self.in_flight.len() < PACKETS_IN_FLIGHT_MAX {
                break;
            }
            self.progress.beyond(acknowledged.sequence).await;
        }
        self.in_flight.push_back((packet.sequence, size));
        self.in_flight_bytes += size;
        if self.in_flight_bytes + size > self.window_bytes {
            self.metrics.window_filled();
        }
        true
    }
}
