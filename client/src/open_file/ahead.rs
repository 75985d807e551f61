//! Read-ahead of an open file: blocks of 1 MiB are on their way before somebody asks for them, while reads go on where the
//! ones before ended. Readers may arrive a little out of order, as those of a kernel do.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::Inner;
use crate::error::Result;
use crate::namenode::lock;
use crate::read::reader::Reader;
use crate::read::replica::READ_BYTES;

/// How far a read may lie from where the ones before ended and still belong to them.
const NEAR_BYTES: u64 = 2 << 20;
/// The same in reads of the present size: small ones in the same few megabytes are not in order yet.
const NEAR_READS: u64 = 16;
/// Reads in order before anything is read ahead.
const READS_MIN: u32 = 2;
/// Blocks that are kept behind the reader, for reads that come late.
const BLOCKS_BEHIND: u64 = 2;
/// A block that nobody asked for is dropped after this long.
const UNUSED_MAX: Duration = Duration::from_secs(3);

/// A block's bytes, and the version of the file that they are of; nothing if they could not be read: whoever needs them then
/// asks, and hears why.
type Coming = Shared<BoxFuture<'static, Option<(Bytes, u64)>>>;

/// See the module.
#[derive(Default)]
pub(super) struct Ahead(Mutex<Run>);

#[derive(Default)]
struct Run {
    /// Where the furthest read ended.
    to: u64,
    reads: u32,
    blocks: BTreeMap<u64, Block>,
    next_block: u64,
}

struct Block {
    number: u64,
    coming: Coming,
}

/// Bytes that count as read ahead until the last slice of them is gone, whoever has it.
struct Counted {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Ahead {
    /// Forgets what was read ahead: the file has changed.
    pub(super) fn clear(&self) {
        lock(&self.0).blocks.clear();
    }

    /// Bytes at `offset`, at most `length`, from a block of this version of the file that was read ahead; `None` if there is
    /// none. Cancel-safe.
    pub(super) async fn read(&self, offset: u64, length: u64, version: u64) -> Option<Bytes> {
        let index = offset / READ_BYTES;
        let coming = lock(&self.0).blocks.get(&index)?.coming.clone();
        let (block, _) = coming.await.filter(|(_, of)| *of == version)?;
        let at = (offset - index * READ_BYTES) as usize;
        let end = block.len().min(at.saturating_add(length as usize));
        (at < end).then(|| block.slice(at..end))
    }

    /// True if the block around `offset` was read ahead, or is on its way.
    pub(super) fn has(&self, offset: u64) -> bool {
        lock(&self.0).blocks.contains_key(&(offset / READ_BYTES))
    }

    /// Notes a read, and asks for what will follow it in a file of `size` committed bytes.
    pub(super) fn note(&self, file: &Arc<Inner>, offset: u64, length: u64, size: u64) {
        let core = file.fs.core();
        let depth = core.config.read_ahead_bytes as u64 / READ_BYTES;
        let end = offset.saturating_add(length);
        let mut run = lock(&self.0);
        let reach = NEAR_BYTES.min(length.saturating_mul(NEAR_READS));
        let near =
            offset <= run.to.saturating_add(reach / 8) && end.saturating_add(reach) >= run.to;
        if !near {
            run.blocks.clear();
            (run.to, run.reads) = (end, 1);
            return;
        }
        run.to = run.to.max(end);
        run.reads = run.reads.saturating_add(1);
        if run.reads < READS_MIN {
            return;
        }
        let first = run.to / READ_BYTES;
        let keep = first.saturating_sub(BLOCKS_BEHIND);
        run.blocks = run.blocks.split_off(&keep);
        let depth = depth.min(u64::from(run.reads) - 1);
        for index in first..first + depth {
            let start = index * READ_BYTES;
            if start >= size {
                return;
            }
            if run.blocks.contains_key(&index) {
                continue;
            }
            let permit = core.read_ahead.clone();
            let Ok(permit) = permit.try_acquire_many_owned(READ_BYTES as u32) else {
                return;
            };
            let number = run.next_block;
            run.next_block += 1;
            let range = start..size.min(start + READ_BYTES);
            let coming = fetch(file, index, number, range, permit);
            run.blocks.insert(index, Block { number, coming });
        }
    }

    fn drop_unused(&self, index: u64, number: u64) {
        let mut run = lock(&self.0);
        if run
            .blocks
            .get(&index)
            .is_some_and(|block| block.number == number)
        {
            run.blocks.remove(&index);
        }
    }
}

/// Reads a block in a task of its own, which then waits a while and drops it.
fn fetch(
    file: &Arc<Inner>,
    index: u64,
    number: u64,
    range: Range<u64>,
    permit: OwnedSemaphorePermit,
) -> Coming {
    let (sender, receiver) = oneshot::channel();
    let reader = file.reader.clone();
    let closing = file.fs.core().closing.clone();
    let weak = Arc::downgrade(file);
    file.fs.core().background.spawn(async move {
        // Who needs the bytes and does not find them asks for them, and hears what is wrong.
        let read = read_block(&reader, range).await.unwrap_or_default();
        let block = read.map(|(bytes, version)| {
            let counted = Counted {
                bytes,
                _permit: permit,
            };
            (Bytes::from_owner(counted), version)
        });
        // Nobody may want it any more.
        let _ = sender.send(block);
        let _ = timeout(UNUSED_MAX, closing.cancelled()).await;
        if let Some(file) = weak.upgrade() {
            file.ahead.drop_unused(index, number);
        }
    });
    receiver.map(|block| block.ok().flatten()).boxed().shared()
}

async fn read_block(reader: &Reader, range: Range<u64>) -> Result<Option<(Bytes, u64)>> {
    let pinned = reader.pin(range.clone()).await?;
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let left = range.end - at;
        match reader.read_pinned(&pinned, at, left, true).await? {
            None => return Ok(None),
            Some(piece) if piece.is_empty() => break,
            Some(piece) => {
                at += piece.len() as u64;
                pieces.push(piece);
            }
        }
    }
    let block = match pieces.as_slice() {
        [only] => only.clone(),
        pieces => pieces.concat().into(),
    };
    Ok(Some((block, pinned.attributes().version)))
}
