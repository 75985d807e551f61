//! Frames to a byte stream: small ones gathered into one buffer, large payloads written from where they are.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{Flags, Frame, FrameError, FrameLimits, PREAMBLE_BYTES, Preamble};
use crate::limits::HEADER_BYTES_MAX;
use crate::trace::{FIELD_BYTES, TraceContext};

/// Payloads from this size on are not copied next to their header.
const COPY_BYTES_MAX: usize = 16 << 10;

/// Most pieces in one system call.
const PIECES_MAX: usize = 64;

/// A queue that was once longer gives its buffer back when it is empty.
const TAIL_BYTES_KEPT: usize = 256 << 10;

/// Encoded frames that wait to be written.
#[derive(Debug, Default)]
pub struct FrameQueue {
    /// Complete pieces, in order.
    pub(super) pieces: VecDeque<Bytes>,
    /// Bytes after the last piece, still growing.
    tail: BytesMut,
    len: usize,
}

impl FrameQueue {
    /// Nothing queued.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if none wait.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a frame. Over the limits it is refused, and the queue stays as it was.
    pub fn push(&mut self, frame: Frame) -> Result<(), FrameError> {
        FrameLimits::default().check(frame.header.len(), frame.payload.len())?;
        let start = self.start_frame(frame.header.len());
        self.tail.extend_from_slice(&frame.header);
        self.finish_frame(
            start,
            frame.method,
            frame.flags,
            frame.request_id,
            frame.payload,
        );
        Ok(())
    }

    /// Adds a frame whose header is `message`, encoded in place. Over the limits it is refused, and the queue stays as
    /// it was.
    pub fn push_message(
        &mut self,
        method: u16,
        flags: Flags,
        request_id: u64,
        message: &impl Message,
        payload: Bytes,
    ) -> Result<(), FrameError> {
        self.push_traced(method, flags, request_id, message, payload, None)
    }

    /// The same with the context that the request was made in, if there is one and the header has room for it.
    pub(crate) fn push_traced(
        &mut self,
        method: u16,
        flags: Flags,
        request_id: u64,
        message: &impl Message,
        payload: Bytes,
        context: Option<TraceContext>,
    ) -> Result<(), FrameError> {
        let message_len = message.encoded_len();
        let context = context.filter(|_| message_len + FIELD_BYTES <= HEADER_BYTES_MAX);
        let header_len = message_len + context.map_or(0, |_| FIELD_BYTES);
        FrameLimits::default().check(header_len, payload.len())?;
        let start = self.start_frame(header_len);
        message
            .encode(&mut self.tail)
            .expect("room for the message was reserved");
        if let Some(context) = context {
            self.tail.extend_from_slice(&context.to_field());
        }
        self.finish_frame(start, method, flags, request_id, payload);
        Ok(())
    }

    /// Makes room for a preamble and a header; returns where the frame starts in `tail`.
    fn start_frame(&mut self, header_len: usize) -> usize {
        let start = self.tail.len();
        self.tail.reserve(PREAMBLE_BYTES + header_len);
        self.tail.extend_from_slice(&[0; PREAMBLE_BYTES]);
        start
    }

    fn finish_frame(
        &mut self,
        start: usize,
        method: u16,
        flags: Flags,
        request_id: u64,
        payload: Bytes,
    ) {
        Preamble::seal(
            &mut self.tail[start..],
            method,
            flags,
            request_id,
            payload.len(),
        );
        self.len += self.tail.len() - start + payload.len();
        if payload.len() < COPY_BYTES_MAX {
            self.tail.extend_from_slice(&payload);
        } else {
            self.pieces.push_back(self.tail.split().freeze());
            self.pieces.push_back(payload);
        }
    }

    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; PIECES_MAX]) -> usize {
        let all = self
            .pieces
            .iter()
            .map(Bytes::as_ref)
            .chain([self.tail.as_ref()]);
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(all.filter(|piece| !piece.is_empty())) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                return;
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
        self.tail.advance(written);
        if self.tail.is_empty() {
            if self.tail.capacity() > TAIL_BYTES_KEPT {
                self.tail = BytesMut::new();
            } else {
                self.tail.clear();
            }
        }
    }
}

/// Writes frames. Nothing leaves before [`FrameWriter::flush`].
#[derive(Debug)]
pub struct FrameWriter<W> {
    pub(super) sink: W,
    queue: FrameQueue,
    /// True from a write until the sink has passed it on: a sink under TLS may keep some.
    unflushed: bool,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Frames to `sink`.
    pub fn new(sink: W) -> Self {
        Self {
            sink,
            queue: FrameQueue::new(),
            unflushed: false,
        }
    }

    /// The frames that wait: add to them, or exchange them for others when all have been written.
    pub fn queue(&mut self) -> &mut FrameQueue {
        &mut self.queue
    }

    /// How many bytes wait; at least one while the sink keeps some.
    pub fn queued_bytes(&self) -> usize {
        self.queue.len().max(usize::from(self.unflushed))
    }

    /// Writes all that is queued. Cancel-safe: what was not written stays queued, to the byte.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            let count = self.queue.slices(&mut slices);
            let written = if count == 1 {
                self.sink.write(&slices[0]).await?
            } else {
                self.sink.write_vectored(&slices[..count]).await?
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.queue.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            self.sink.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Writes all that is queued and tells the other end that nothing follows.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.sink.shutdown().await
    }
}
