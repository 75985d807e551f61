//! Frames from a byte stream: many small ones per system call, large payloads without a copy.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Frame, FrameError, FrameLimits, PREAMBLE_BYTES, Preamble};
use crate::buffer::{self, Buffer, BufferPool};
use crate::limits::BULK_BYTES_MIN;

/// How much is read at once while frames are small.
const READ_BYTES: usize = 64 << 10;

/// Below this much room the buffer is moved to its front, or replaced while frames still share it.
const READ_BYTES_MIN: usize = 8 << 10;

/// Reads frames. A payload of 32 KiB or more lands in an aligned buffer of its own, straight from the socket, so that
/// the same bytes can go to disk and to the next datanode.
///
/// Every method is cancel-safe: what has been read stays in the reader.
#[derive(Debug)]
pub struct FrameReader<R> {
    pub(super) source: R,
    /// Read and not yet taken.
    unread: BytesMut,
    /// A bulk frame whose payload is still arriving.
    arriving: Option<Arriving>,
    /// What the frame at the start of `unread` needs, so that it is asked for in one read.
    missing: usize,
    limits: FrameLimits,
    pool: BufferPool,
}

#[derive(Debug)]
struct Arriving {
    preamble: Preamble,
    header: Bytes,
    payload: Buffer,
    filled: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Frames from `source`, within the default limits.
    pub fn new(source: R) -> Self {
        Self {
            source,
            unread: BytesMut::new(),
            arriving: None,
            missing: PREAMBLE_BYTES,
            limits: FrameLimits::default(),
            pool: buffer::pool().clone(),
        }
    }

    /// Changes what is accepted from the next frame on.
    pub fn set_limits(&mut self, limits: FrameLimits) {
        self.limits = limits;
    }

    /// The next frame; `None` when the stream ended between two frames.
    pub async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.next_buffered()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// The next frame if all of it has been read, without waiting.
    pub fn next_buffered(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.arriving.is_some() {
            return Ok(self.take_arrived());
        }
        let Some(preamble) = Preamble::decode(&self.unread, &self.limits)? else {
            self.missing = PREAMBLE_BYTES - self.unread.len();
            return Ok(None);
        };
        let bulk = preamble.payload_len >= BULK_BYTES_MIN;
        let wanted = preamble.head_len() + if bulk { 0 } else { preamble.payload_len };
        if self.unread.len() < wanted {
            self.missing = wanted - self.unread.len();
            return Ok(None);
        }
        preamble.verify(&self.unread[..preamble.head_len()])?;
        self.unread.advance(PREAMBLE_BYTES);
        let mut header = self.unread.split_to(wanted - PREAMBLE_BYTES).freeze();
        if !bulk {
            let payload = header.split_off(preamble.header_len);
            return Ok(Some(preamble.frame(header, payload)));
        }
        self.start_bulk(preamble, header);
        Ok(self.take_arrived())
    }

    /// Reads once; false at the end of the stream.
    pub async fn fill(&mut self) -> Result<bool, FrameError> {
        let read = match &mut self.arriving {
            Some(arriving) if arriving.filled < arriving.payload.len() => {
                let read = self
                    .source
                    .read(&mut arriving.payload[arriving.filled..])
                    .await?;
                arriving.filled += read;
                read
            }
            _ => {
                let room = self.unread.capacity() - self.unread.len();
                if room < self.missing.max(READ_BYTES_MIN) {
                    self.unread.reserve(self.missing.max(READ_BYTES));
                }
                self.source.read_buf(&mut self.unread).await?
            }
        };
        if read == 0 && (self.arriving.is_some() || !self.unread.is_empty()) {
            return Err(FrameError::Truncated);
        }
        Ok(read > 0)
    }

    fn start_bulk(&mut self, preamble: Preamble, header: Bytes) {
        let mut payload = self.pool.take(preamble.payload_len);
        let filled = self.unread.len().min(payload.len());
        payload[..filled].copy_from_slice(&self.unread.split_to(filled));
        self.arriving = Some(Arriving {
            preamble,
            header,
            payload,
            filled,
        });
    }

    fn take_arrived(&mut self) -> Option<Frame> {
        let arrived = self
            .arriving
            .take_if(|arriving| arriving.filled == arriving.payload.len())?;
        Some(
            arrived
                .preamble
                .frame(arrived.header, arrived.payload.freeze()),
        )
    }

    /// Throws away what still arrives, until the end of the stream or `reads_max` reads later.
    pub async fn discard(&mut self, reads_max: usize) -> Result<(), FrameError> {
        self.arriving = None;
        for _ in 0..reads_max {
            self.unread.clear();
            self.unread.reserve(READ_BYTES_MIN);
            if self.source.read_buf(&mut self.unread).await? == 0 {
                break;
            }
        }
        Ok(())
    }
}
