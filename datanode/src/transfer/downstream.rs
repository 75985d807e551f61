//! The rest of a pipeline, as one datanode sees it: opened before upstream is answered, fed with the very frames that
//! arrived, and heard for acknowledgements on its own way back, which data never blocks.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;

use cairn_protocol::frame::{Flags, Frame};
use cairn_protocol::ids::DatanodeId;
use cairn_protocol::messages::transfer::{OpenWrite, OpenWriteReply, PacketAck};
use cairn_protocol::net::{Role, Tls};
use cairn_protocol::rpc::{ConnectionOptions, FrameReceiver, FrameSender, FramedStream, Hello};
use cairn_protocol::{ErrorCode, Failure, Method, trace};

use super::progress::{Progress, StreamFailure};

/// How long a datanode may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the last datanode of a pipeline may take to open its replica or to acknowledge what it was sent. Each one
/// before it waits longer by a step, so that the neighbour of a stalled datanode is the one that names it.
const TAIL_TIMEOUT: Duration = Duration::from_secs(10);
const HOP_TIMEOUT_STEP: Duration = Duration::from_secs(4);

/// How often a silent pipeline is looked at.
const STALL_CHECK: Duration = Duration::from_secs(1);

/// The next datanode and those behind it.
pub(super) struct Downstream {
    pub(super) to: FrameSender,
    pub(super) from: FrameReceiver,
    pub(super) datanode: DatanodeId,
    /// Longest silence while it owes an acknowledgement.
    pub(super) stall_timeout: Duration,
}

/// How datanodes of pipelines connect to the next one.
pub(crate) fn downstream_options(tls: Option<Tls>) -> ConnectionOptions {
    ConnectionOptions {
        connect_timeout: CONNECT_TIMEOUT,
        tls,
        expects: Some(Role::Datanode),
        ..ConnectionOptions::default()
    }
}

/// Opens the part of the pipeline behind this datanode; `open` names it alone. Fails with the datanode that refused or
/// cannot be reached.
pub(super) async fn open(
    open: &OpenWrite,
    hello: Hello,
    options: &ConnectionOptions,
) -> Result<Option<Downstream>, StreamFailure> {
    let Some(next) = open.pipeline.first() else {
        return Ok(None);
    };
    let datanode = DatanodeId(next.datanode.datanode);
    let wait = TAIL_TIMEOUT + HOP_TIMEOUT_STEP * (open.pipeline.len() as u32 - 1);
    let failed = |failure: Failure| StreamFailure { datanode, failure };
    let stream = FramedStream::connect(&next.datanode.address, hello, options);
    let (mut to, mut from) = stream.await.map_err(failed)?.split();
    let mut header = open.encode_to_vec();
    trace::carry(&mut header);
    let frame = Frame {
        method: Method::OpenWrite.into(),
        header: header.into(),
        ..Frame::default()
    };
    to.send(frame).await.map_err(failed)?;
    let reply = match timeout(wait, from.recv()).await {
        Ok(reply) => reply.map_err(failed)?,
        Err(_) => return Err(failed(silent(wait))),
    };
    let reply = reply.ok_or_else(|| failed(hung_up()))?;
    let reply: OpenWriteReply = reply
        .into_reply()
        .and_then(|reply| Ok(reply.decode()?))
        .map_err(|error| failed(error.failure))?;
    match stated_failure(reply.failed_datanode, reply.code, reply.message) {
        Some(failure) => Err(failure),
        None => Ok(Some(Downstream {
            to,
            from,
            datanode,
            stall_timeout: wait,
        })),
    }
}

/// What a reply or acknowledgement says of a failure; `None` if it has none.
fn stated_failure(datanode: u64, code: u32, message: String) -> Option<StreamFailure> {
    if datanode == 0 && code == 0 {
        return None;
    }
    let code = ErrorCode::from_number(code).unwrap_or(ErrorCode::Internal);
    Some(StreamFailure {
        datanode: DatanodeId(datanode),
        failure: Failure::new(code, message),
    })
}

fn silent(wait: Duration) -> Failure {
    Failure::new(
        ErrorCode::TimedOut,
        format!("no answer from downstream within {wait:?}"),
    )
}

fn hung_up() -> Failure {
    Failure::new(ErrorCode::ConnectionLost, "the next datanode hung up")
}

/// A frame on its way downstream, with the number of its packet.
pub(super) struct Forward {
    pub sequence: u64,
    pub frame: Frame,
}

/// Sends what arrives in `queue`, frames that are ready together in one write, until the queue is closed.
pub(super) async fn forward(
    mut queue: mpsc::Receiver<Forward>,
    to: &mut FrameSender,
    datanode: DatanodeId,
    progress: &Progress,
) {
    while let Some(first) = queue.recv().await {
        let result = async {
            let mut next = Some(first);
            while let Some(Forward { sequence, frame }) = next {
                progress.forwarded(sequence);
                to.feed(frame).await?;
                next = queue.try_recv().ok();
            }
            to.flush().await
        };
        if let Err(failure) = result.await {
            return progress.fail(datanode, failure);
        }
    }
}

/// Takes acknowledgements, the last packet's included. Gives up when they stay away for too long.
pub(super) async fn collect(
    from: &mut FrameReceiver,
    datanode: DatanodeId,
    stall_timeout: Duration,
    progress: &Progress,
) {
    loop {
        let frame = match timeout(STALL_CHECK, from.recv()).await {
            Err(_) if progress.downstream_stalls(stall_timeout) => {
                return progress.fail(datanode, silent(stall_timeout));
            }
            Err(_) => continue,
            Ok(Ok(Some(frame))) => frame,
            Ok(Ok(None)) => return progress.fail(datanode, hung_up()),
            Ok(Err(failure)) => return progress.fail(datanode, failure),
        };
        if let Err(failure) = take_ack(frame, datanode, progress) {
            return progress.fail(failure.datanode, failure.failure);
        }
        if progress.downstream_done() {
            return;
        }
    }
}

fn take_ack(frame: Frame, datanode: DatanodeId, progress: &Progress) -> Result<(), StreamFailure> {
    let malformed = |text: &str| StreamFailure {
        datanode,
        failure: Failure::new(ErrorCode::Malformed, text),
    };
    if frame.flags.contains(Flags::ERROR) {
        let failure = frame
            .into_reply()
            .map_or_else(|error| error.failure, |_| hung_up());
        return Err(StreamFailure { datanode, failure });
    }
    if Method::from_number(frame.method) != Some(Method::PacketAck) {
        return Err(malformed(
            "downstream sent something else than acknowledgements",
        ));
    }
    let ack: PacketAck = Message::decode(frame.header)
        .map_err(|_| malformed("an acknowledgement that cannot be read"))?;
    if !progress.downstream(ack.sequence) {
        return Err(malformed("downstream acknowledged what it was not sent"));
    }
    stated_failure(ack.failed_datanode, ack.code, ack.message).map_or(Ok(()), Err)
}

/// The frame that tells upstream how far all are, and who failed if somebody did.
pub(super) fn ack_frame(sequence: u64, failure: Option<&StreamFailure>) -> Frame {
    let mut ack = PacketAck {
        sequence,
        ..PacketAck::default()
    };
    if let Some(StreamFailure { datanode, failure }) = failure {
        ack.failed_datanode = datanode.0;
        ack.code = failure.code as u32;
        ack.message.clone_from(&failure.message);
    }
    let header: Bytes = ack.encode_to_vec().into();
    Frame {
        method: Method::PacketAck.into(),
        flags: Flags::REPLY,
        header,
        ..Frame::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::{Progress, ack_frame, take_ack};
    use crate::transfer::progress::StreamFailure;
    use cairn_protocol::frame::Frame;
    use cairn_protocol::ids::DatanodeId;
    use cairn_protocol::rpc::RpcError;
    use cairn_protocol::{ErrorCode, Failure, Method};

    const NEXT: DatanodeId = DatanodeId(2);

    fn sent(sequence: u64) -> Progress {
        let progress = Progress::new(false);
        progress.forwarded(sequence);
        progress
    }

    #[test]
    fn a_failure_further_down_keeps_the_name_of_who_failed() {
        let progress = sent(5);
        let failed = StreamFailure {
            datanode: DatanodeId(3),
            failure: Failure::new(ErrorCode::DiskFailed, "sdb"),
        };
        assert_eq!(
            take_ack(ack_frame(4, Some(&failed)), NEXT, &progress),
            Err(failed)
        );
        // What it acknowledged before counts.
        progress.written(5);
        assert_eq!(progress.acknowledged().sequence, 4);
    }

    #[test]
    fn a_neighbour_that_makes_no_sense_is_the_one_that_failed() {
        let of = |frame| take_ack(frame, NEXT, &sent(5)).unwrap_err();
        let error = RpcError::new(ErrorCode::Unavailable, "stopping");
        let frames = [
            (ack_frame(6, None), ErrorCode::Malformed),
            (
                Frame {
                    method: Method::Packet.into(),
                    ..ack_frame(1, None)
                },
                ErrorCode::Malformed,
            ),
            (
                Frame::error(Method::OpenWrite.into(), 0, &error),
                ErrorCode::Unavailable,
            ),
        ];
        for (frame, code) in frames {
            let failure = of(frame);
            assert_eq!((failure.datanode, failure.failure.code), (NEXT, code));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_acknowledgements_never_panic(header in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = take_ack(Frame { header: header.into(), ..ack_frame(0, None) }, NEXT, &sent(5));
        }
    }
}
