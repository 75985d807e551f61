//! The one frame format of every connection between our processes.
//!
//! ```text
//! 0   magic        u16  0xCA12
//! 2   version      u8   1
//! 3   reserved     u8   0
//! 4   crc          u32  CRC32C over bytes 8..32 and the header, which lie side by side
//! 8   method       u16
//! 10  flags        u8   bit 0 reply, bit 1 error, bit 2 last; others 0
//! 11  reserved     u8   0
//! 12  reserved     u32  0
//! 16  request id   u64
//! 24  header len   u32  at most 1 MiB
//! 28  payload len  u32  at most 4 MiB
//! 32  header            a prost message
//! ..  payload           raw bytes
//! ```
//! All integers are big-endian. The frame does not checksum its payload: chunk data carries the CRC of each checksum
//! block in the header, from the client's memory to the reader's, and any other payload brings its own. Nothing that
//! arrives makes the decoder panic or allocate beyond the limits; a frame that cannot be understood ends its connection.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;
use std::io;

use bytes::{Buf, BufMut, Bytes};

use crate::checksum::crc32c;
use crate::limits::{HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::{ErrorCode, Failure, net};

pub use read::FrameReader;
pub use write::{FrameQueue, FrameWriter};

/// Length of what comes before the header.
pub const PREAMBLE_BYTES: usize = 32;

const MAGIC: u16 = 0xCA12;
const VERSION: u8 = 1;
/// The CRC covers what comes from here on, up to the payload.
const CRC_FROM: usize = 8;

/// One message on a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// What is asked, or was asked.
    pub method: u16,
    /// Reply, error, last.
    pub flags: Flags,
    /// Pairs a reply with its request; on a streaming connection its meaning is the stream's.
    pub request_id: u64,
    /// A prost message. May share memory with its neighbours: copy what is kept for long.
    pub header: Bytes,
    /// Raw bytes. From 32 KiB on they are alone in an aligned, pooled buffer, at its start.
    pub payload: Bytes,
}

/// The flags of a frame. Unknown ones are refused: they would mean something that we do not know.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// No flag: a request.
    pub const NONE: Self = Self(0);
    /// An answer.
    pub const REPLY: Self = Self(1);
    /// The header is an error reply.
    pub const ERROR: Self = Self(2);
    /// Nothing follows on this stream.
    pub const LAST: Self = Self(4);

    /// Both sets of flags together.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if every flag of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    const fn known() -> u8 {
        Self::REPLY.0 | Self::ERROR.0 | Self::LAST.0
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::REPLY, "reply"),
            (Self::ERROR, "error"),
            (Self::LAST, "last"),
        ];
        f.debug_set()
            .entries(
                names
                    .iter()
                    .filter(|(flag, _)| self.contains(*flag))
                    .map(|(_, name)| name),
            )
            .finish()
    }
}

/// Why a frame could not be read or written. Every one of them ends the connection.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed.
    #[error("connection broke")]
    Io(#[from] io::Error),
    /// The connection ended inside a frame.
    #[error("connection ended inside a frame")]
    Truncated,
    /// Not our protocol at all.
    #[error("not a frame: it starts with {0:#06x}")]
    BadMagic(u16),
    /// A frame layout that we do not know.
    #[error("frame version {0}, this process speaks {VERSION}")]
    Version(u8),
    /// Over a limit.
    #[error("{part} of {len} bytes, at most {max} are allowed")]
    TooLarge {
        /// `header` or `payload`.
        part: &'static str,
        /// What was announced.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The preamble or header changed on its way.
    #[error("frame checksum does not match")]
    Checksum,
    /// Fields that make no sense.
    #[error("malformed frame: {0}")]
    Malformed(&'static str),
}

impl FrameError {
    /// The code under which the other end learns of it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Io(_) | Self::Truncated => ErrorCode::ConnectionLost,
            Self::Version(_) => ErrorCode::VersionMismatch,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::BadMagic(_) | Self::Checksum | Self::Malformed(_) => ErrorCode::Malformed,
        }
    }
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        if let FrameError::Io(source) = &error
            && let Some(why) = net::refused_certificate(source)
        {
            return Self::new(ErrorCode::Unauthenticated, why);
        }
        let message = match &error {
            FrameError::Io(source) => format!("{error}: {source}"),
            other => other.to_string(),
        };
        Self::new(error.code(), message)
    }
}

/// What a reader accepts. Smaller before the other end has introduced itself.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// Largest header.
    pub header_bytes_max: usize,
    /// Largest payload.
    pub payload_bytes_max: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self {
            header_bytes_max: HEADER_BYTES_MAX,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
        }
    }
}

impl FrameLimits {
    fn check(&self, header_len: usize, payload_len: usize) -> Result<(), FrameError> {
        if header_len > self.header_bytes_max {
            return Err(FrameError::TooLarge {
                part: "header",
                len: header_len,
                max: self.header_bytes_max,
            });
        }
        if payload_len > self.payload_bytes_max {
            return Err(FrameError::TooLarge {
                part: "payload",
                len: payload_len,
                max: self.payload_bytes_max,
            });
        }
        Ok(())
    }
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Preamble {
    flags: Flags,
    method: u16,
    request_id: u64,
    header_len: usize,
    payload_len: usize,
    crc: u32,
}

impl Preamble {
    /// Fills in the preamble of `frame`, which already holds room for it, followed by the whole header. The lengths
    /// have been checked against the limits, which are far below 4 GiB.
    fn seal(frame: &mut [u8], method: u16, flags: Flags, request_id: u64, payload_len: usize) {
        let header_len = frame.len() - PREAMBLE_BYTES;
        let mut fields = &mut frame[CRC_FROM..PREAMBLE_BYTES];
        fields.put_u16(method);
        fields.put_u8(flags.0);
        fields.put_u8(0);
        fields.put_u32(0);
        fields.put_u64(request_id);
        fields.put_u32(header_len as u32);
        fields.put_u32(payload_len as u32);
        let crc = crc32c(&frame[CRC_FROM..]);
        let mut fields = &mut frame[..CRC_FROM];
        fields.put_u16(MAGIC);
        fields.put_u8(VERSION);
        fields.put_u8(0);
        fields.put_u32(crc);
    }

    /// Reads the preamble at the start of `bytes`; `None` if there is not yet enough of it.
    fn decode(mut bytes: &[u8], limits: &FrameLimits) -> Result<Option<Self>, FrameError> {
        if bytes.len() < PREAMBLE_BYTES {
            return Ok(None);
        }
        let magic = bytes.get_u16();
        if magic != MAGIC {
            return Err(FrameError::BadMagic(magic));
        }
        let version = bytes.get_u8();
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let mut reserved = u32::from(bytes.get_u8());
        let crc = bytes.get_u32();
        let method = bytes.get_u16();
        let flags = bytes.get_u8();
        reserved |= u32::from(bytes.get_u8()) | bytes.get_u32();
        if flags & !Flags::known() != 0 || reserved != 0 {
            return Err(FrameError::Malformed("a reserved bit is set"));
        }
        let request_id = bytes.get_u64();
        let header_len = bytes.get_u32() as usize;
        let payload_len = bytes.get_u32() as usize;
        limits.check(header_len, payload_len)?;
        Ok(Some(Self {
            flags: Flags(flags),
            method,
            request_id,
            header_len,
            payload_len,
            crc,
        }))
    }

    /// Bytes before the payload.
    fn head_len(&self) -> usize {
        PREAMBLE_BYTES + self.header_len
    }

    /// Checks the CRC of a frame whose preamble and header are `head`.
    fn verify(&self, head: &[u8]) -> Result<(), FrameError> {
        if crc32c(&head[CRC_FROM..]) == self.crc {
            Ok(())
        } else {
            Err(FrameError::Checksum)
        }
    }

    fn frame(&self, header: Bytes, payload: Bytes) -> Frame {
        Frame {
            method: self.method,
            flags: self.flags,
            request_id: self.request_id,
            header,
            payload,
        }
    }
}
