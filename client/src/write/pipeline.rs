//! One append stream through the datanodes of one open chunk.
//!
//! A pipeline is driven by whoever owns it: it has no task. Packets are pushed, then [`Pipeline::progress`] writes them and
//! returns how far all replicas have acknowledged. After any failure it is over; what was acknowledged stays so.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::frame::{Flags, Frame};
use cairn_protocol::messages::operation::{
    AllocateChunk, ChunkGrant, OperationKind, OutcomeKind, ReturnChunk, SealChunk,
};
use cairn_protocol::messages::transfer::{OpenWrite, OpenWriteReply, PacketAck, PacketHeader};
use cairn_protocol::rpc::{FrameReceiver, FrameSender};
use cairn_protocol::{ErrorCode, Failure, Method, trace};
use futures::FutureExt;
use prost::Message;
use tokio::time::{Instant, sleep_until, timeout};

use super::packet::Packet;
use crate::error::{Error, Result, Subject};
use crate::file_system::Core;

/// Most packets in flight, however small they are.
const PACKETS_MAX: usize = 64;

/// How long to listen on a connection that can no longer be written to.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a pipeline is over.
#[derive(Clone, Debug)]
pub(crate) struct PipelineFailure {
    /// The datanode that failed; 0 if nobody knows.
    pub(crate) datanode: u64,
    pub(crate) failure: Failure,
}

/// An open pipeline.
pub(crate) struct Pipeline {
    pub(crate) chunk: u64,
    pub(crate) epoch: u64,
    capacity: u64,
    window_bytes: u64,
    /// Blamed when the connection itself fails.
    first_datanode: u64,
    stall_timeout: Duration,
    sender: FrameSender,
    receiver: FrameReceiver,
    last_sequence: u64,
    /// End of the last packet pushed.
    sent_to: u64,
    /// End of the last packet that all replicas have.
    acked_to: u64,
    /// End of the last packet that all replicas have fsynced, with everything before it.
    synced_to: u64,
    /// Packets that are pushed and not acknowledged.
    in_flight: VecDeque<InFlight>,
    unflushed: bool,
    /// Why nothing more can be written.
    broken: Option<Failure>,
    progress_at: Instant,
}

struct InFlight {
    sequence: u64,
    /// Where in the chunk it ends.
    end: u64,
    /// Its acknowledgement says that it is on the disks.
    sync: bool,
}

/// Asks for a chunk to append to.
pub(crate) async fn allocate(
    core: &Core,
    subject: &Subject,
    replication: u32,
    whole: bool,
    exclude: Vec<u64>,
) -> Result<ChunkGrant> {
    let host = core.datanodes.host().to_owned();
    let allocate = AllocateChunk {
        replication,
        whole,
        exclude,
        host,
    };
    match core
        .sessions
        .mutate(subject, OperationKind::AllocateChunk(allocate))
        .await?
    {
        OutcomeKind::Chunk(grant) if !grant.targets.is_empty() && grant.start <= grant.capacity => {
            Ok(grant)
        }
        _ => Err(Error::unexpected(subject)),
    }
}

/// Tells the namenode that nothing more goes into a chunk, and which datanodes failed us.
pub(crate) async fn seal(core: &Core, subject: &Subject, chunk: u64, epoch: u64, failed: u64) {
    let failed = if failed == 0 {
        Vec::new()
    } else {
        vec![failed]
    };
    let seal = OperationKind::SealChunk(SealChunk {
        chunk,
        epoch,
        failed,
    });
    if let Err(error) = core.sessions.mutate(subject, seal).await {
        // The namenode seals it by itself when a replica stays away or the session ends.
        tracing::debug!(chunk, %error, "chunk not sealed");
    }
}

impl Pipeline {
    /// Connects to the first datanode, which connects to the next, and so on. Not cancel-safe: the chunk is then sealed when the
    /// session ends.
    pub(crate) async fn open(
        core: &Core,
        grant: &ChunkGrant,
        window_bytes: usize,
    ) -> std::result::Result<Self, PipelineFailure> {
        let limit = core.config.timeouts.pipeline;
        let first_datanode = grant
            .targets
            .first()
            .map_or(0, |target| target.datanode.datanode);
        let blame_first = |failure| PipelineFailure {
            datanode: first_datanode,
            failure,
        };
        match timeout(limit, Self::dial(core, grant, window_bytes)).await {
            Ok(Ok(pipeline)) => Ok(pipeline),
            Ok(Err(Refusal::Named(failure))) => Err(failure),
            Ok(Err(Refusal::Connection(failure))) => Err(blame_first(failure)),
            Err(_) => {
                let message = format!("no pipeline within {limit:?}");
                Err(blame_first(Failure::new(ErrorCode::TimedOut, message)))
            }
        }
    }

    async fn dial(
        core: &Core,
        grant: &ChunkGrant,
        window_bytes: usize,
    ) -> std::result::Result<Self, Refusal> {
        let first = grant
            .targets
            .first()
            .map(|target| target.datanode.clone())
            .unwrap_or_default();
        let stream = core.datanodes.stream(&first.address).await?;
        let (mut sender, mut receiver) = stream.split();
        let open = OpenWrite {
            chunk: grant.chunk,
            epoch: grant.epoch,
            start: grant.start,
            capacity: grant.capacity,
            token: grant.token.clone(),
            pipeline: grant.targets.clone(),
            window_bytes: window_bytes as u32,
            cluster_id: core.namenode.cluster_id().unwrap_or_default().to_vec(),
        };
        let mut header = open.encode_to_vec();
        trace::carry(&mut header);
        sender
            .send(Frame {
                method: Method::OpenWrite as u16,
                header: header.into(),
                ..Frame::default()
            })
            .await?;
        let Some(frame) = receiver.recv().await? else {
            return Err(Failure::new(ErrorCode::ConnectionLost, "pipeline closed at once").into());
        };
        let reply = frame.into_reply().map_err(|error| error.failure)?;
        let reply: OpenWriteReply = reply.decode()?;
        if reply.code != 0 || reply.failed_datanode != 0 {
            let failure = wire_failure(reply.code, reply.message);
            return Err(Refusal::Named(PipelineFailure {
                datanode: reply.failed_datanode,
                failure,
            }));
        }
        Ok(Self {
            chunk: grant.chunk,
            epoch: grant.epoch,
            capacity: grant.capacity,
            window_bytes: window_bytes as u64,
            first_datanode: first.datanode,
            stall_timeout: core.config.timeouts.pipeline,
            sender,
            receiver,
            last_sequence: 0,
            sent_to: grant.start,
            acked_to: grant.start,
            synced_to: 0,
            in_flight: VecDeque::new(),
            unflushed: false,
            broken: None,
            progress_at: Instant::now(),
        })
    }

    /// True if a packet of `length` bytes fits into the chunk.
    pub(crate) fn has_room(&self, length: u64) -> bool {
        self.sent_to
            .checked_add(length)
            .is_some_and(|end| end <= self.capacity)
    }

    /// True if a packet of `length` bytes may be pushed now.
    pub(crate) fn has_credit(&self, length: u64) -> bool {
        let in_flight = self.sent_to - self.acked_to;
        self.in_flight.len() < PACKETS_MAX
            && (in_flight == 0 || in_flight + length <= self.window_bytes)
    }

    /// Packets that are pushed and not acknowledged.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How far all replicas have acknowledged.
    pub(crate) fn acked_to(&self) -> u64 {
        self.acked_to
    }

    /// How far all replicas have fsynced the chunk, as far as packets asked for it.
    pub(crate) fn synced_to(&self) -> u64 {
        self.synced_to
    }

    /// Queues a packet, and returns where in the chunk it goes. With `sync` it is acknowledged once all replicas have fsynced
    /// through its end. The caller has asked for room and credit. If the connection is broken, [`Pipeline::progress`] tells.
    pub(crate) fn push(&mut self, packet: &Packet, sync: bool) -> u64 {
        let offset = self.sent_to;
        let header = packet.header(self.last_sequence + 1, offset, sync);
        self.push_frame(header, packet.bytes.clone());
        offset
    }

    fn push_frame(&mut self, header: PacketHeader, payload: Bytes) {
        if self.in_flight.is_empty() {
            self.progress_at = Instant::now();
        }
        self.last_sequence = header.sequence;
        self.sent_to += payload.len() as u64;
        self.in_flight.push_back(InFlight {
            sequence: header.sequence,
            end: self.sent_to,
            sync: header.sync,
        });
        let frame = Frame {
            method: Method::Packet as u16,
            flags: Flags::NONE,
            request_id: 0,
            header: header.encode_to_vec().into(),
            payload,
        };
        self.unflushed = true;
        // Polled once, to queue the frame: what is not written now is written by `progress`.
        if let Some(Err(failure)) = self.sender.feed(frame).now_or_never() {
            self.broken = Some(failure);
        }
    }

    /// Writes what is queued and waits for the next acknowledgement; returns how far all replicas have acknowledged. Waits
    /// forever if nothing is in flight. Cancel-safe.
    pub(crate) async fn progress(&mut self) -> std::result::Result<u64, PipelineFailure> {
        if self.broken.is_none() {
            match self.exchange().await {
                Ok(Some(frame)) => return self.acknowledge(frame),
                Ok(None) => {
                    let failure = Failure::new(ErrorCode::ConnectionLost, "pipeline closed");
                    return Err(self.connection_failed(failure));
                }
                Err(failure) => self.broken = Some(failure),
            }
        }
        self.last_words().await
    }

    /// The next frame, while what is queued is written.
    async fn exchange(&mut self) -> std::result::Result<Option<Frame>, Failure> {
        let waiting = !self.in_flight.is_empty() || self.unflushed;
        let deadline = self.progress_at + self.stall_timeout;
        loop {
            tokio::select! {
                biased;
                frame = self.receiver.recv() => return frame,
                flushed = self.sender.flush(), if self.unflushed => {
                    flushed?;
                    self.unflushed = false;
                }
                () = sleep_until(deadline), if waiting => {
                    let message = format!("no acknowledgement for {:?}", self.stall_timeout);
                    return Err(Failure::new(ErrorCode::TimedOut, message));
                }
            }
        }
    }

    /// The connection is broken. Perhaps an acknowledgement that says which datanode failed came before that.
    async fn last_words(&mut self) -> std::result::Result<u64, PipelineFailure> {
        match timeout(LAST_WORDS_TIMEOUT, self.receiver.recv()).await {
            Ok(Ok(Some(frame))) => self.acknowledge(frame),
            Ok(Ok(None) | Err(_)) | Err(_) => {
                let failure = self
                    .broken
                    .clone()
                    .unwrap_or(ErrorCode::ConnectionLost.into());
                Err(self.connection_failed(failure))
            }
        }
    }

    fn acknowledge(&mut self, frame: Frame) -> std::result::Result<u64, PipelineFailure> {
        let reply = frame
            .into_reply()
            .map_err(|error| self.connection_failed(error.failure))?;
        let ack: PacketAck = reply
            .decode()
            .map_err(|failure| self.connection_failed(failure))?;
        if ack.sequence > self.last_sequence {
            let failure = Failure::new(ErrorCode::Malformed, "acknowledgement of an unsent packet");
            return Err(self.connection_failed(failure));
        }
        while let Some(packet) = self
            .in_flight
            .pop_front_if(|packet| packet.sequence <= ack.sequence)
        {
            self.acked_to = packet.end;
            if packet.sync {
                self.synced_to = packet.end;
            }
            self.progress_at = Instant::now();
        }
        if ack.failed_datanode != 0 || ack.code != 0 {
            let failure = wire_failure(ack.code, ack.message);
            return Err(PipelineFailure {
                datanode: ack.failed_datanode,
                failure,
            });
        }
        Ok(self.acked_to)
    }

    /// Ends the stream cleanly and gives the chunk back, for the next writer to go on in. Nothing is in flight, and everything
    /// that the caller wants of the chunk is committed.
    pub(crate) async fn give_back(mut self, core: &Core, subject: &Subject) {
        let length = self.acked_to;
        let (chunk, epoch) = (self.chunk, self.epoch);
        if let Err(failure) = self.end().await {
            tracing::debug!(chunk, error = %failure.failure, "pipeline did not end cleanly");
            return seal(core, subject, chunk, epoch, failure.datanode).await;
        }
        let back = OperationKind::ReturnChunk(ReturnChunk {
            chunk,
            epoch,
            length,
        });
        if let Err(error) = core.sessions.mutate(subject, back).await {
            // The namenode seals it by itself when it is idle or the session ends.
            tracing::debug!(chunk, %error, "chunk not returned");
        }
    }

    async fn end(&mut self) -> std::result::Result<(), PipelineFailure> {
        if !self.in_flight.is_empty() {
            let failure = Failure::new(ErrorCode::WouldBlock, "packets are in flight");
            return Err(PipelineFailure {
                datanode: 0,
                failure,
            });
        }
        let last = PacketHeader {
            sequence: self.last_sequence + 1,
            offset_in_chunk: self.sent_to,
            last: true,
            ..PacketHeader::default()
        };
        self.push_frame(last, Bytes::new());
        while !self.in_flight.is_empty() {
            self.progress().await?;
        }
        Ok(())
    }

    fn connection_failed(&self, failure: Failure) -> PipelineFailure {
        PipelineFailure {
            datanode: self.first_datanode,
            failure,
        }
    }
}

/// Why a pipeline could not be opened.
enum Refusal {
    /// A datanode says which one of them it was.
    Named(PipelineFailure),
    /// The first datanode, or the way to it.
    Connection(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Connection(failure)
    }
}

fn wire_failure(code: u32, message: String) -> Failure {
    let code = ErrorCode::from_number(code).unwrap_or(ErrorCode::Internal);
    Failure::new(code, message)
}
