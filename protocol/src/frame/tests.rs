//! Round trips, golden bytes, and every way to be fed nonsense.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::executor::block_on;
use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Flags, Frame, FrameError, FrameLimits, FrameQueue, FrameReader, FrameWriter, PREAMBLE_BYTES,
};
use crate::buffer::ALIGNMENT;
use crate::limits::{BULK_BYTES_MIN, HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::{ErrorCode, Failure};

/// Gives its bytes in pieces of the sizes named, over and over, as a network might.
struct Trickle {
    bytes: Bytes,
    sizes: Vec<usize>,
    turn: usize,
    largest_ask: usize,
}

impl Trickle {
    fn new(bytes: impl Into<Bytes>, sizes: Vec<usize>) -> Self {
        Self {
            bytes: bytes.into(),
            sizes,
            turn: 0,
            largest_ask: 0,
        }
    }
}

impl AsyncRead for Trickle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.sizes[self.turn % self.sizes.len()];
        self.turn += 1;
        self.largest_ask = self.largest_ask.max(buf.remaining());
        let len = size.min(buf.remaining()).min(self.bytes.len());
        buf.put_slice(&self.bytes.split_to(len));
        Poll::Ready(Ok(()))
    }
}

/// Takes at most `step` bytes at a time.
#[derive(Default)]
struct Sink {
    bytes: Vec<u8>,
    step: usize,
    writes: usize,
}

impl AsyncWrite for Sink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let len = buf.len().min(self.step);
        self.bytes.extend_from_slice(&buf[..len]);
        self.writes += 1;
        Poll::Ready(Ok(len))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut left = self.step;
        for buf in bufs {
            let len = buf.len().min(left);
            self.bytes.extend_from_slice(&buf[..len]);
            left -= len;
        }
        self.writes += 1;
        Poll::Ready(Ok(self.step - left))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn encode(frames: &[Frame], step: usize) -> Vec<u8> {
    let mut writer = FrameWriter::new(Sink {
        step,
        ..Sink::default()
    });
    for frame in frames {
        writer.queue().push(frame.clone()).unwrap();
    }
    block_on(writer.flush()).unwrap();
    assert_eq!(writer.queued_bytes(), 0);
    writer.sink.bytes
}

fn decode_all(bytes: &[u8], sizes: Vec<usize>) -> (Vec<Frame>, Result<(), FrameError>) {
    let mut reader = FrameReader::new(Trickle::new(bytes.to_vec(), sizes));
    let mut frames = Vec::new();
    let result = loop {
        match block_on(reader.next()) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let allowed = PREAMBLE_BYTES + HEADER_BYTES_MAX + PAYLOAD_BYTES_MAX;
    assert!(
        reader.source.largest_ask <= allowed,
        "a read into {} bytes",
        reader.source.largest_ask
    );
    (frames, result)
}

fn frame(header: &'static [u8], payload: impl Into<Bytes>) -> Frame {
    let header = Bytes::from_static(header);
    Frame {
        method: 0x1234,
        flags: Flags::REPLY,
        request_id: 7,
        header,
        payload: payload.into(),
    }
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let payload_len = proptest::prop_oneof![
        4 => 0usize..300,
        2 => 15_000usize..40_000,
        1 => 60_000usize..1_100_000,
    ];
    let header = prop::collection::vec(any::<u8>(), 0..400);
    (
        any::<u16>(),
        0u8..8,
        any::<u64>(),
        header,
        payload_len,
        any::<u8>(),
    )
        .prop_map(|(method, flags, request_id, header, payload_len, fill)| {
            let payload: Vec<u8> = (0..payload_len)
                .map(|index| fill ^ (index % 251) as u8)
                .collect();
            Frame {
                method,
                flags: Flags(flags),
                request_id,
                header: header.into(),
                payload: payload.into(),
            }
        })
}

#[test]
fn bytes_are_golden() {
    let bytes = encode(&[frame(b"hd", &b"payload"[..])], usize::MAX);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let preamble = "ca120100\
                    917499a9\
                    1234010000000000\
                    0000000000000007\
                    0000000200000007";
    assert_eq!(hex, format!("{preamble}{}{}", "6864", "7061796c6f6164"));
}

#[test]
fn small_frames_leave_in_one_write_and_arrive_in_one_read() {
    let mut writer = FrameWriter::new(Sink {
        step: usize::MAX,
        ..Sink::default()
    });
    for _ in 0..500 {
        writer
            .queue()
            .push(frame(b"header", &b"payload"[..]))
            .unwrap();
    }
    block_on(writer.flush()).unwrap();
    assert_eq!(writer.sink.writes, 1);
    let mut reader = FrameReader::new(Trickle::new(writer.sink.bytes, vec![usize::MAX]));
    assert!(block_on(reader.fill()).unwrap());
    let mut count = 0;
    while reader.next_buffered().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 500);
}

#[test]
fn bulk_payloads_are_aligned_and_written_from_where_they_are() {
    let payload = Bytes::from(vec![3; BULK_BYTES_MIN]);
    let mut queue = FrameQueue::new();
    queue.push(frame(b"", payload.clone())).unwrap();
    assert_eq!(queue.pieces[1].as_ptr(), payload.as_ptr());
    let (frames, result) = decode_all(&encode(&[frame(b"x", payload.clone())], 1000), vec![977]);
    result.unwrap();
    assert_eq!(frames[0].payload, payload);
    assert_eq!(frames[0].payload.as_ptr() as usize % ALIGNMENT, 0);
}

#[test]
fn frames_over_the_limits_are_refused_by_both_sides() {
    let mut queue = FrameQueue::new();
    let big = frame(b"", vec![0; PAYLOAD_BYTES_MAX + 1]);
    let error = Failure::from(queue.push(big).unwrap_err());
    assert_eq!(error.code, ErrorCode::TooLarge);
    assert_eq!(
        error.message,
        "payload of 4194305 bytes, at most 4194304 are allowed"
    );
    let header = Frame {
        header: vec![0; HEADER_BYTES_MAX + 1].into(),
        ..Frame::default()
    };
    assert!(matches!(
        queue.push(header),
        Err(FrameError::TooLarge { part: "header", .. })
    ));
    assert!(queue.is_empty());

    let bytes = encode(&[frame(b"header", vec![0; 100])], usize::MAX);
    let limits = [(5, 100), (6, 99), (6, 100)].map(|(header_bytes_max, payload_bytes_max)| {
        let mut reader = FrameReader::new(Trickle::new(bytes.clone(), vec![9]));
        reader.set_limits(FrameLimits {
            header_bytes_max,
            payload_bytes_max,
        });
        block_on(reader.next())
            .map_err(|error| error.code())
            .map(|frame| frame.is_some())
    });
    assert_eq!(
        limits,
        [Err(ErrorCode::TooLarge), Err(ErrorCode::TooLarge), Ok(true)]
    );
}

#[test]
fn each_damage_has_its_name() {
    let good = encode(&[frame(b"header", &b"payload"[..])], usize::MAX);
    let damaged = |index: usize| {
        let mut bytes = good.clone();
        bytes[index] ^= 0x80;
        decode_all(&bytes, vec![100]).1.unwrap_err()
    };
    assert!(matches!(damaged(0), FrameError::BadMagic(0x4A12)));
    assert!(matches!(damaged(2), FrameError::Version(0x81)));
    assert!(matches!(damaged(3), FrameError::Malformed(_)));
    assert!(matches!(damaged(4), FrameError::Checksum));
    assert!(matches!(damaged(8), FrameError::Checksum));
    assert!(matches!(damaged(10), FrameError::Malformed(_)));
    assert!(matches!(damaged(12), FrameError::Malformed(_)));
    assert!(matches!(damaged(16), FrameError::Checksum));
    assert!(matches!(
        damaged(24),
        FrameError::TooLarge { part: "header", .. }
    ));
    assert!(matches!(
        damaged(28),
        FrameError::TooLarge {
            part: "payload",
            ..
        }
    ));
    assert!(matches!(damaged(PREAMBLE_BYTES), FrameError::Checksum));
    assert_eq!(FrameError::Version(9).code(), ErrorCode::VersionMismatch);
}

#[test]
fn an_end_inside_a_frame_is_told_from_one_between_frames() {
    let bytes = encode(&[frame(b"header", vec![1; 50_000])], usize::MAX);
    for len in [1, 31, 32, 35, 38, 39, 20_000, bytes.len() - 1] {
        let (frames, result) = decode_all(&bytes[..len], vec![4096]);
        assert!(frames.is_empty());
        assert!(matches!(result, Err(FrameError::Truncated)), "cut at {len}");
    }
    let (frames, result) = decode_all(&bytes, vec![4096]);
    assert_eq!(frames.len(), 1);
    result.unwrap();
}

proptest! {
    #[test]
    fn frames_come_back_however_the_network_cuts_them(
        frames in prop::collection::vec(any_frame(), 0..12),
        sizes in prop::collection::vec(1usize..100_000, 1..8),
        step in 1000usize..200_000,
    ) {
        let (decoded, result) = decode_all(&encode(&frames, step), sizes);
        prop_assert_eq!(decoded, frames);
        result.unwrap();
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000), size in 1usize..500) {
        let (frames, _) = decode_all(&bytes, vec![size]);
        assert!(frames.is_empty());
    }

    #[test]
    fn mutated_and_cut_frames_never_panic_and_never_pass_for_others(
        frame in any_frame(),
        mutations in prop::collection::vec((0usize..PREAMBLE_BYTES + 400, 1u8..), 1..4),
        cut in 0usize..100_000,
        size in 1usize..5000,
    ) {
        let mut bytes = encode(&[frame.clone(), frame.clone()], usize::MAX);
        for (index, mask) in mutations {
            let index = index % (PREAMBLE_BYTES + frame.header.len());
            bytes[index] ^= mask;
        }
        bytes.truncate(bytes.len().saturating_sub(cut % 1000));
        for decoded in decode_all(&bytes, vec![size]).0 {
            // Mutations can undo each other; whatever passes is what was sent, as far as the frame's CRC reaches.
            prop_assert_eq!(&decoded.header, &frame.header);
            prop_assert_eq!(decoded.request_id, frame.request_id);
        }
    }
}
