//! The opening of a write stream: who may write, whether there is room, the replica, and the pipeline behind it.
//!
//! Upstream is answered only when the whole pipeline stands, or with the datanode that refused and why.

use std::collections::BTreeSet;
use std::time::Duration;

use prost::Message;
use tokio::time::timeout;

use cairn_daemon::telemetry::prometheus_client::metrics::gauge::Gauge;
use cairn_protocol::frame::{Flags, Frame};
use cairn_protocol::ids::{ChunkId, DatanodeId, Epoch, Incarnation};
use cairn_protocol::messages::transfer::{OpenWrite, OpenWriteReply};
use cairn_protocol::rpc::{FrameReceiver, FrameSender, FramedStream, Peer, RpcError};
use cairn_protocol::trace::RpcSpan;
use cairn_protocol::{ErrorCode, Failure, Method, trace};

use super::Transfer;
use super::budget::Reservation;
use super::downstream;
use super::progress::StreamFailure;
use super::receiver::{self, WriteStream};
use crate::cluster::Known;
use crate::replicas::WriterRequest;

/// A connection that wants to write says what within this time.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest window that a stream may ask for.
const WINDOW_BYTES_MAX: u32 = 16 << 20;

/// The largest chunk that any cluster has.
const CAPACITY_MAX: u64 = 128 << 20;

/// The longest pipeline.
const PIPELINE_MAX: usize = 16;

/// Serves one stream connection until it ends.
pub(crate) async fn serve(transfer: &Transfer, stream: FramedStream) {
    let peer = stream.peer().clone();
    let (to, mut from) = stream.split();
    let Ok(Ok(Some(frame))) = timeout(FIRST_FRAME_TIMEOUT, from.recv()).await else {
        tracing::debug!(
            peer = peer.address,
            "stream connection without a first frame"
        );
        return;
    };
    let span = RpcSpan::begin(&peer, frame.method, &frame.header);
    let written = write(transfer, &peer, &frame, to, from);
    let result = trace::within(span.context(), written).await;
    span.end(&result);
}

/// Carries out what a stream's first frame asks for. Fails with what the other end has been told already.
async fn write(
    transfer: &Transfer,
    other: &Peer,
    frame: &Frame,
    mut to: FrameSender,
    from: FrameReceiver,
) -> Result<(), RpcError> {
    let peer = other.address.as_str();
    match open(transfer, frame).await {
        Ok((stream, reservation)) => {
            // Its token was good.
            other.standing.prove();
            send_reply(&mut to, frame, None).await?;
            let _counted = Counted::new(&transfer.metrics.write_streams);
            let ended = receiver::run(stream, to, from).await;
            drop(reservation);
            Ok(ended?)
        }
        Err(Refusal::Stated(failure)) => {
            transfer.metrics.stream_failed(&failure.failure);
            super::audit(other, "write", &failure.failure);
            tracing::debug!(peer, datanode = %failure.datanode, error = %failure.failure, "write stream refused");
            let refusal = failure.failure.clone().into();
            // Upstream may be gone: then nobody misses the answer.
            let _ = send_reply(&mut to, frame, Some(failure)).await;
            let _ = to.finish().await;
            Err(refusal)
        }
        Err(Refusal::Bare(failure)) => {
            tracing::debug!(peer, error = %failure, "write stream not understood");
            let error = RpcError::from(failure);
            let _ = to
                .send(Frame::error(frame.method, frame.request_id, &error))
                .await;
            let _ = to.finish().await;
            Err(error)
        }
    }
}

/// One open stream in the gauge, however it ends: returning, by a panic, or dropped.
struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Why a stream does not open.
enum Refusal {
    /// A datanode of the pipeline says no.
    Stated(StreamFailure),
    /// We do not know yet who we are, or did not understand the question.
    Bare(Failure),
}

async fn open(transfer: &Transfer, frame: &Frame) -> Result<(WriteStream, Reservation), Refusal> {
    let malformed = |text: &str| Refusal::Bare(Failure::new(ErrorCode::Malformed, text));
    if Method::from_number(frame.method) != Some(Method::OpenWrite) {
        return Err(malformed("a stream connection begins with OpenWrite"));
    }
    let mut request = OpenWrite::decode(frame.header.as_ref())
        .map_err(|_| malformed("OpenWrite that cannot be read"))?;
    let known = transfer.cluster.known().map_err(Refusal::Bare)?;
    let datanode = known.identity.datanode;
    let ours = |failure: Failure| Refusal::Stated(StreamFailure { datanode, failure });
    check(&request, &known).map_err(ours)?;
    let reservation = transfer
        .budget
        .reserve(request.window_bytes)
        .map_err(ours)?;
    let wanted = WriterRequest {
        chunk: ChunkId(request.chunk),
        incarnation: Incarnation(request.pipeline.remove(0).incarnation),
        epoch: Epoch(request.epoch),
        start: request.start,
    };
    // Our replica and the pipeline behind us open at the same time; if one fails, the other is left as it is: an open
    // replica without bytes is for the namenode to seal or to delete.
    let (writer, downstream) = tokio::join!(
        transfer.replicas.open_writer(wanted),
        downstream::open(&request, known.hello(), &transfer.downstream)
    );
    let writer = writer.map_err(ours)?;
    let downstream = downstream.map_err(Refusal::Stated)?;
    let stream = WriteStream {
        datanode,
        start: request.start,
        capacity: request.capacity,
        window_bytes: request.window_bytes as usize,
        writer,
        downstream,
        metrics: transfer.metrics.clone(),
        shutdown: transfer.shutdown.clone(),
    };
    Ok((stream, reservation))
}

/// Everything that can be refused without touching a disk.
fn check(request: &OpenWrite, known: &Known) -> Result<(), Failure> {
    let invalid = |text: String| Err(Failure::new(ErrorCode::InvalidArgument, text));
    if request.cluster_id != known.identity.cluster {
        return Err(ErrorCode::WrongCluster.into());
    }
    let us = known.identity.datanode;
    match request
        .pipeline
        .first()
        .map(|target| DatanodeId(target.datanode.datanode))
    {
        Some(first) if first == us => {}
        Some(first) => return invalid(format!("datanode {first} was meant, this one is {us}")),
        None => return invalid("a pipeline without datanodes".to_owned()),
    }
    let ids = request
        .pipeline
        .iter()
        .map(|target| target.datanode.datanode);
    if ids.collect::<BTreeSet<u64>>().len() < request.pipeline.len() {
        return invalid("a pipeline that names a datanode twice".to_owned());
    }
    if request.pipeline.len() > PIPELINE_MAX {
        return invalid(format!(
            "a pipeline of {} datanodes, at most {PIPELINE_MAX}",
            request.pipeline.len()
        ));
    }
    if !(1..=WINDOW_BYTES_MAX).contains(&request.window_bytes) {
        return invalid(format!(
            "a window of {} bytes, 1 to {WINDOW_BYTES_MAX}",
            request.window_bytes
        ));
    }
    if request.capacity > CAPACITY_MAX || request.start > request.capacity {
        let (start, capacity) = (request.start, request.capacity);
        return invalid(format!(
            "start {start}, capacity {capacity}, at most {CAPACITY_MAX}"
        ));
    }
    let (chunk, epoch) = (ChunkId(request.chunk), Epoch(request.epoch));
    if !known
        .verify(&request.token)?
        .covers_append(chunk, epoch, request.start)
    {
        let text = format!(
            "token does not allow to append to chunk {chunk} at epoch {epoch} from {}",
            request.start
        );
        return Err(Failure::new(ErrorCode::BadToken, text));
    }
    Ok(())
}

async fn send_reply(
    to: &mut FrameSender,
    question: &Frame,
    failure: Option<StreamFailure>,
) -> Result<(), Failure> {
    let reply = match failure {
        None => OpenWriteReply::default(),
        Some(StreamFailure { datanode, failure }) => OpenWriteReply {
            failed_datanode: datanode.0,
            code: failure.code as u32,
            message: failure.message,
        },
    };
    let header = reply.encode_to_vec().into();
    let (method, request_id) = (question.method, question.request_id);
    to.send(Frame {
        method,
        flags: Flags::REPLY,
        request_id,
        header,
        ..Frame::default()
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::{Counted, Gauge};

    #[test]
    fn a_stream_that_panics_is_not_counted_as_open_for_ever() {
        let gauge = Gauge::default();
        let stream = std::panic::catch_unwind(|| {
            let _counted = Counted::new(&gauge);
            assert_eq!(gauge.get(), 0, "open");
        });
        assert!(stream.is_err());
        assert_eq!(gauge.get(), 0);
    }
}
