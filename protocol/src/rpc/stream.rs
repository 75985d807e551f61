//! A connection as two ends of frames, and the handshake that opens every connection.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::connection::ConnectionOptions;
use super::hello::{ConnectionKind, Hello, Peer};
use super::message::RpcError;
use super::standing::Standing;
use crate::frame::{Flags, Frame, FrameError, FrameLimits, FrameReader, FrameWriter};
use crate::limits::{HANDSHAKE_TIMEOUT, HELLO_BYTES_MAX};
use crate::method::Method;
use crate::net::{Proof, ReadHalf, Stream, TcpStream, WriteHalf, connect};
use crate::{ErrorCode, Failure};

/// Bytes that may wait in a [`FrameSender`] before `feed` writes them.
const FEED_BYTES_MAX: usize = 256 << 10;

/// A lingering close reads no more than this, and for no longer than that, from an end that was told to go away.
const LINGER_READS_MAX: usize = 64;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// An opened connection that carries the frames of one stream.
#[derive(Debug)]
pub struct FramedStream {
    sender: FrameSender,
    receiver: FrameReceiver,
    peer: Peer,
}

impl FramedStream {
    /// Connects, introduces this process as `hello` and checks who answers, all within the options' `connect_timeout`.
    pub async fn connect(
        address: &str,
        hello: Hello,
        options: &ConnectionOptions,
    ) -> Result<Self, Failure> {
        Self::open(address, hello, ConnectionKind::Stream, options).await
    }

    pub(super) async fn open(
        address: &str,
        hello: Hello,
        kind: ConnectionKind,
        options: &ConnectionOptions,
    ) -> Result<Self, Failure> {
        let hello = hello.with_kind(kind);
        match timeout(options.connect_timeout, Self::dial(address, hello, options)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(
                ErrorCode::TimedOut,
                format!("connect to {address}"),
            )),
        }
    }

    async fn dial(
        address: &str,
        hello: Hello,
        options: &ConnectionOptions,
    ) -> Result<Self, Failure> {
        let stream = connect(address).await.map_err(|error| {
            Failure::new(
                ErrorCode::Unavailable,
                format!("connect to {address}: {error}"),
            )
        })?;
        let (stream, proof) = match &options.tls {
            None => (Stream::Plain(stream), Proof::Clear),
            Some(tls) => tls.connect(address, stream).await?,
        };
        if let Some(role) = options.expects.filter(|role| !proof.allows(*role)) {
            let message = format!("{address} has no certificate of a {}", role.name());
            return Err(Failure::new(ErrorCode::Unauthenticated, message));
        }
        let (mut sender, mut receiver) = halves(stream);
        receiver.limit_to_hello();
        let queue = sender.writer.queue();
        queue.push_message(Method::Hello as u16, Flags::NONE, 0, &hello, Bytes::new())?;
        let sent = sender.flush().await;
        let answer = receiver.recv().await;
        // Who refuses our certificate says so, and does not wait for the hello to arrive.
        let refused = |failure: &Failure| failure.code == ErrorCode::Unauthenticated;
        if !answer.as_ref().is_err_and(refused) {
            sent?;
        }
        let Some(answer) = answer? else {
            return Err(Failure::new(
                ErrorCode::ConnectionLost,
                format!("{address} hung up on our hello"),
            ));
        };
        if answer.method != Method::Hello as u16 || !answer.flags.contains(Flags::REPLY) {
            return Err(Failure::new(
                ErrorCode::Malformed,
                format!("{address} did not answer our hello"),
            ));
        }
        let theirs: Hello = answer
            .into_reply()
            .map_err(|error| error.failure)?
            .decode()?;
        theirs.check_role(proof).map_err(|failure| {
            Failure::new(failure.code, format!("{address}: {}", failure.message))
        })?;
        let version = hello.agree(&theirs)?;
        receiver.limit_to_frames();
        let peer = Peer {
            address: address.to_owned(),
            hello: theirs,
            version,
            proof,
            standing: Standing::default(),
        };
        Ok(Self {
            sender,
            receiver,
            peer,
        })
    }

    /// The server's half of the handshake. `answer` decides about the other end's hello and gives ours; a refusal is told to
    /// the other end before the connection closes.
    pub(super) async fn accept(
        (stream, proof): (Stream, Proof),
        address: String,
        standing: Standing,
        answer: impl FnOnce(&Hello) -> Result<Hello, Failure>,
    ) -> Result<(Self, ConnectionKind), Failure> {
        let (mut sender, mut receiver) = halves(stream);
        receiver.limit_to_hello();
        let agreed = match timeout(HANDSHAKE_TIMEOUT, receiver.recv()).await {
            Ok(Ok(Some(frame))) => judge(frame, proof, answer),
            Ok(Ok(None)) => {
                return Err(Failure::new(
                    ErrorCode::ConnectionLost,
                    "hung up without a hello",
                ));
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::new(ErrorCode::TimedOut, "no hello")),
        };
        let (theirs, ours, version, kind) = match agreed {
            Ok(agreed) => agreed,
            Err(failure) => {
                close_with_error(sender, receiver, &failure.clone().into()).await;
                return Err(failure);
            }
        };
        sender.writer.queue().push_message(
            Method::Hello as u16,
            Flags::REPLY,
            0,
            &ours,
            Bytes::new(),
        )?;
        match timeout(HANDSHAKE_TIMEOUT, sender.flush()).await {
            Ok(flushed) => flushed?,
            Err(_) => return Err(Failure::new(ErrorCode::TimedOut, "hello was not taken")),
        }
        receiver.limit_to_frames();
        let peer = Peer {
            address,
            hello: theirs,
            version,
            proof,
            standing,
        };
        Ok((
            Self {
                sender,
                receiver,
                peer,
            },
            kind,
        ))
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The two directions, which different tasks may own.
    pub fn split(self) -> (FrameSender, FrameReceiver) {
        (self.sender, self.receiver)
    }
}

type Agreed = (Hello, Hello, u32, ConnectionKind);

fn judge(
    frame: Frame,
    proof: Proof,
    answer: impl FnOnce(&Hello) -> Result<Hello, Failure>,
) -> Result<Agreed, Failure> {
    if frame.method != Method::Hello as u16 || frame.flags != Flags::NONE || frame.request_id != 0 {
        return Err(Failure::new(
            ErrorCode::Malformed,
            "a connection starts with a hello",
        ));
    }
    let theirs: Hello = frame
        .into_reply()
        .map_err(|error| error.failure)?
        .decode()?;
    let kind = theirs.connection_kind()?;
    theirs.check_role(proof)?;
    let ours = answer(&theirs)?;
    let version = ours.agree(&theirs)?;
    Ok((theirs, ours, version, kind))
}

fn halves(stream: Stream) -> (FrameSender, FrameReceiver) {
    let (read, write) = stream.into_split();
    (
        FrameSender {
            writer: FrameWriter::new(write),
        },
        FrameReceiver {
            reader: FrameReader::new(read),
        },
    )
}

/// Tells the other end why, then closes. Reads on for a moment: closing a socket with unread bytes would reset the
/// connection, and the reset could overtake the explanation.
pub(super) async fn close_with_error(
    mut sender: FrameSender,
    mut receiver: FrameReceiver,
    error: &RpcError,
) {
    let explain_and_linger = async {
        sender
            .writer
            .queue()
            .push(Frame::error(Method::Hello as u16, 0, error))?;
        sender.writer.shutdown().await?;
        receiver.reader.discard(LINGER_READS_MAX).await?;
        Ok::<(), FrameError>(())
    };
    // The other end may be gone, or never listen: then nobody misses the explanation.
    let _ = timeout(LINGER_TIMEOUT, explain_and_linger).await;
}

/// Refuses a connection before its hello has been read.
pub(super) async fn refuse(stream: TcpStream, error: &RpcError) {
    let (sender, receiver) = halves(stream.into());
    close_with_error(sender, receiver, error).await;
}

/// The direction away from this process.
#[derive(Debug)]
pub struct FrameSender {
    pub(super) writer: FrameWriter<WriteHalf>,
}

impl FrameSender {
    /// Queues a frame and writes all that is queued. If the future is dropped, what was not yet written stays queued.
    pub async fn send(&mut self, frame: Frame) -> Result<(), Failure> {
        self.writer.queue().push(frame)?;
        self.flush().await
    }

    /// Queues a frame; writes only when much is queued. [`FrameSender::flush`] writes the rest.
    pub async fn feed(&mut self, frame: Frame) -> Result<(), Failure> {
        self.writer.queue().push(frame)?;
        if self.writer.queued_bytes() >= FEED_BYTES_MAX {
            self.flush().await
        } else {
            Ok(())
        }
    }

    /// Sends several frames, gathered into few writes.
    pub async fn send_all(
        &mut self,
        frames: impl IntoIterator<Item = Frame>,
    ) -> Result<(), Failure> {
        for frame in frames {
            self.feed(frame).await?;
        }
        self.flush().await
    }

    /// Writes all that is queued. Cancel-safe.
    pub async fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.writer.flush().await.map_err(FrameError::Io)?)
    }

    /// Writes all that is queued and tells the other end that nothing follows.
    pub async fn finish(mut self) -> Result<(), Failure> {
        Ok(self.writer.shutdown().await.map_err(FrameError::Io)?)
    }
}

/// The direction towards this process.
#[derive(Debug)]
pub struct FrameReceiver {
    pub(super) reader: FrameReader<ReadHalf>,
}

impl FrameReceiver {
    /// The next frame; `None` after the other end's last one. Cancel-safe.
    pub async fn recv(&mut self) -> Result<Option<Frame>, Failure> {
        Ok(self.reader.next().await?)
    }

    /// The next frame if all of it has already been read: to act on a burst as a whole. Never waits.
    pub fn recv_buffered(&mut self) -> Result<Option<Frame>, Failure> {
        Ok(self.reader.next_buffered()?)
    }

    fn limit_to_hello(&mut self) {
        self.reader.set_limits(FrameLimits {
            header_bytes_max: HELLO_BYTES_MAX,
            payload_bytes_max: 0,
        });
    }

    fn limit_to_frames(&mut self) {
        self.reader.set_limits(FrameLimits::default());
    }
}
