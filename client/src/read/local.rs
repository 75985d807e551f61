//! Replicas on this machine, read without a datanode in between: it tells which file a sealed replica is in and the checksums of its
//! blocks, and whoever may open that file reads it.
//!
//! The system decides who may open a datanode's files: as a rule root and the datanode's own user, whom no token keeps from them. A path
//! is only a hint, as it may mean something else here (a container): every block that leaves this file has passed its CRC, which came over the
//! datanode's own connection. Whatever goes wrong, the range is read through datanodes for a while; they find out what it was.
//!
//! A sealed replica never changes, and an open file stays whole when it is deleted. So what is known of it needs no news; it is kept for
//! a few minutes, no longer than a token, and bounded. This is the one place of the client that opens files, and it blocks; in the
//! simulator, where replicas are in no file, nothing can be opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::checksum::crc32c;
use cairn_protocol::messages::common::{DatanodeAddress, Extent};
use cairn_protocol::messages::session::FailedReplica;
use cairn_protocol::messages::transfer::{LocateReplica, LocateReply};
use cairn_protocol::{ErrorCode, Failure, Method};
use tokio::time::{Instant, sleep};

use super::extents::PageExtent;
use super::replica::report;
use crate::datanodes::ReadKind;
use crate::file_system::Core;
use crate::namenode::lock;

/// Extents below this size are not worth a question.
const EXTENT_BYTES_MIN: u64 = 64 << 10;
/// How long a file is kept open without being asked for anew.
const LIFE: Duration = Duration::from_secs(300);
/// How long a range that cannot be read here is not tried again. Extents become sealed within minutes.
const REFUSED_LIFE: Duration = Duration::from_secs(30);
/// Only what was not used for this long makes room.
const UNUSED_MIN: Duration = Duration::from_secs(5);
/// How long nobody looks for room where there was none.
const FULL_PAUSE: Duration = Duration::from_secs(1);
const SWEEP_PAUSE: Duration = Duration::from_secs(60);
/// Most ranges, files and checksum blocks (eight bytes each) that are kept.
const RANGES_MAX: usize = 4096;
const FILES_MAX: usize = 256;
const BLOCKS_MAX: usize = 8 << 20;
/// The largest block that there is.
const BLOCK_BYTES_MAX: u64 = 64 << 10;

/// An open replica.
#[derive(Debug)]
struct LocalFile {
    file: File,
    /// Whose it is.
    datanode: u64,
    /// When it is closed: the replica may have been deleted, and its bytes take space until then.
    until: Instant,
}

/// A range of one replica that can be read here.
#[derive(Debug)]
pub(crate) struct LocalRange {
    file: Arc<LocalFile>,
    /// Where in the chunk, and in the file, the first block begins.
    offset: u64,
    blocks: Vec<Block>,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    /// Counted from the range's offset.
    end: u32,
    crc32c: u32,
}

/// Chunk, and where in it an extent begins.
type Key = (u64, u64);

/// See the module.
#[derive(Default)]
pub(crate) struct LocalReplicas(Mutex<State>);

#[derive(Default)]
struct State {
    ranges: BTreeMap<Key, Known>,
    blocks: usize,
    /// Until then everything is in use: nobody looks again whether there is room.
    full_until: Option<Instant>,
    sweeping: bool,
}

struct Known {
    /// `None` while it is asked for, or after it was refused.
    range: Option<Arc<LocalRange>>,
    until: Instant,
    used_at: Instant,
}

/// What is known of an extent's bytes on this machine.
pub(crate) enum Found {
    Here(Arc<LocalRange>),
    /// Nobody has asked yet.
    Unknown,
    /// Somebody asks, or was refused.
    NotHere,
}

impl LocalReplicas {
    pub(crate) fn find(&self, extent: &Extent) -> Found {
        if extent.length < EXTENT_BYTES_MIN {
            return Found::NotHere;
        }
        let now = Instant::now();
        let mut state = lock(&self.0);
        match state.ranges.get_mut(&key(extent)) {
            Some(known) if now < known.until => {
                known.used_at = now;
                known.range.clone().map_or(Found::NotHere, Found::Here)
            }
            _ => Found::Unknown,
        }
    }

    /// The extent is read through datanodes for a while, and the namenode is told: its bytes here cannot be read, or are not what they
    /// should be.
    pub(crate) fn refuse(core: &Core, extent: &Extent, range: &LocalRange) {
        let now = Instant::now();
        lock(&core.local.0).put(key(extent), None, now, now + REFUSED_LIFE);
        let failed = FailedReplica {
            chunk: extent.chunk,
            datanode: range.file.datanode,
            code: ErrorCode::ChecksumMismatch as u32,
        };
        report(core, vec![failed]);
    }

    /// Asks in the background where the bytes of an extent are, if a replica is on this machine and there is room to remember it.
    pub(crate) fn want(core: &Arc<Core>, wanted: &PageExtent) {
        let host = core.datanodes.host();
        let here = |replica: &&DatanodeAddress| {
            !host.is_empty() && replica.host == host && !core.datanodes.is_avoided(&replica.address)
        };
        let Some(datanode) = wanted.replicas.iter().find(here).cloned() else {
            return;
        };
        let (now, extent) = (Instant::now(), wanted.extent);
        {
            let mut state = lock(&core.local.0);
            let key = key(&extent);
            let asked = state
                .ranges
                .get(&key)
                .is_some_and(|known| now < known.until);
            if asked || !state.make_room(now) {
                return;
            }
            state.put(key, None, now, now + REFUSED_LIFE);
        }
        let (task_core, token) = (core.clone(), wanted.token.to_vec());
        core.background.spawn(async move {
            let core = task_core;
            match locate(&core, &extent, &datanode, token).await {
                Ok(range) => keep(&core, &extent, range),
                Err(error) => {
                    tracing::debug!(chunk = extent.chunk, %error, "replica is not read from its file");
                }
            }
        });
    }

    fn file_of(&self, chunk: u64, datanode: u64) -> Option<Arc<LocalFile>> {
        let now = Instant::now();
        let state = lock(&self.0);
        let mut of_chunk = state.ranges.range((chunk, 0)..=(chunk, u64::MAX));
        let file = of_chunk.find_map(|(_, known)| {
            let file = &known.range.as_ref()?.file;
            (file.datanode == datanode && now < file.until).then_some(file)
        });
        file.cloned()
    }
}

impl State {
    fn put(&mut self, key: Key, range: Option<Arc<LocalRange>>, now: Instant, until: Instant) {
        self.remove(&key);
        self.blocks += range.as_ref().map_or(0, |range| range.blocks.len());
        let used_at = now;
        self.ranges.insert(
            key,
            Known {
                range,
                until,
                used_at,
            },
        );
    }

    fn remove(&mut self, key: &Key) {
        let known = self.ranges.remove(key);
        let range = known.and_then(|known| known.range);
        self.blocks -= range.map_or(0, |range| range.blocks.len());
    }

    /// Makes room for one more range, if what is there is not in use.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.full_until.is_some_and(|until| now < until) {
            return false;
        }
        while self.is_full() {
            let oldest = self.ranges.iter().min_by_key(|(_, known)| known.used_at);
            let Some((&key, known)) = oldest else {
                return true;
            };
            if now < known.used_at + UNUSED_MIN {
                self.full_until = Some(now + FULL_PAUSE);
                return false;
            }
            self.remove(&key);
        }
        true
    }

    fn is_full(&self) -> bool {
        if self.ranges.len() >= RANGES_MAX || self.blocks >= BLOCKS_MAX {
            return true;
        }
        if self.ranges.len() < FILES_MAX {
            return false;
        }
        let open = self
            .ranges
            .iter()
            .filter(|(_, known)| known.range.is_some());
        let chunks: BTreeSet<u64> = open.map(|((chunk, _), _)| *chunk).collect();
        chunks.len() >= FILES_MAX
    }

    fn sweep(&mut self, now: Instant) {
        let over = self.ranges.iter().filter(|(_, known)| known.until <= now);
        let over: Vec<Key> = over.map(|(key, _)| *key).collect();
        over.iter().for_each(|key| self.remove(key));
    }
}

fn key(extent: &Extent) -> Key {
    (extent.chunk, extent.offset_in_chunk)
}

/// Remembers a range, and sees to it that it is forgotten.
fn keep(core: &Arc<Core>, extent: &Extent, range: LocalRange) {
    let (now, until) = (Instant::now(), range.file.until);
    let sweep = {
        let mut state = lock(&core.local.0);
        state.put(key(extent), Some(Arc::new(range)), now, until);
        !std::mem::replace(&mut state.sweeping, true)
    };
    if !sweep {
        return;
    }
    let (local, closing) = (core.local.clone(), core.closing.clone());
    core.background.spawn(async move {
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled() => return,
                () = sleep(SWEEP_PAUSE) => {}
            }
            let mut state = lock(&local.0);
            state.sweep(Instant::now());
            if state.ranges.is_empty() {
                state.sweeping = false;
                return;
            }
        }
    });
}

async fn locate(
    core: &Core,
    extent: &Extent,
    datanode: &DatanodeAddress,
    token: Vec<u8>,
) -> Result<LocalRange, Failure> {
    let request = LocateReplica {
        chunk: extent.chunk,
        offset: extent.offset_in_chunk,
        length: extent.length,
        token,
    };
    let connection = core
        .datanodes
        .connection(&datanode.address, ReadKind::Bulk)
        .await?;
    let limit = core.config.timeouts.read;
    let reply = connection
        .call(Method::LocateReplica as u16, &request, Bytes::new(), limit)
        .await
        .map_err(|error| error.failure)?;
    let reply: LocateReply = reply.decode()?;
    let blocks = blocks(&request, &reply)?;
    let file = match core.local.file_of(extent.chunk, datanode.datanode) {
        Some(file) => file,
        None => {
            let opened = open(reply.path).await.map_err(|error| {
                let message = format!("cannot be opened here: {error}");
                Failure::new(ErrorCode::NotSupported, message)
            });
            Arc::new(LocalFile {
                file: opened?,
                datanode: datanode.datanode,
                until: Instant::now() + LIFE,
            })
        }
    };
    Ok(LocalRange {
        file,
        offset: reply.offset,
        blocks,
    })
}

/// The blocks of an answer, which have to lie in the range asked for.
fn blocks(request: &LocateReplica, reply: &LocateReply) -> Result<Vec<Block>, Failure> {
    let malformed = |message: &str| Failure::new(ErrorCode::Malformed, message);
    if reply.block_lengths.len() != reply.block_crcs.len() {
        return Err(malformed("as many lengths as CRCs"));
    }
    let mut blocks = Vec::with_capacity(reply.block_crcs.len());
    let mut end = 0_u64;
    for (&length, &crc32c) in reply.block_lengths.iter().zip(&reply.block_crcs) {
        if length == 0 || u64::from(length) > BLOCK_BYTES_MAX {
            return Err(malformed("a checksum block has 1 to 65,536 bytes"));
        }
        end += u64::from(length);
        let end = u32::try_from(end).map_err(|_| malformed("more than 4 GiB"))?;
        blocks.push(Block { end, crc32c });
    }
    let inside = reply.offset >= request.offset
        && reply
            .offset
            .checked_add(end)
            .is_some_and(|end| end <= request.offset + request.length);
    inside
        .then_some(blocks)
        .ok_or_else(|| malformed("blocks beyond the range"))
}

#[cfg(not(cairn_sim))]
async fn open(path: Vec<u8>) -> io::Result<File> {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    let opened =
        tokio::task::spawn_blocking(move || open_blocking(Path::new(&OsString::from_vec(path))));
    opened.await.map_err(io::Error::other)?
}

#[cfg(cairn_sim)]
async fn open(_path: Vec<u8>) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Opens a regular file, and nothing else that may be there.
#[cfg_attr(cairn_sim, expect(dead_code, reason = "nothing is opened there"))]
fn open_blocking(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    let mut options = std::fs::OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    // Only what is asked for is read; without this the system would read around it, too.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
    Ok(file)
}

impl LocalRange {
    /// Bytes of the chunk, which must lie in the extent: `None` if some are in no block that was told of. Fails if they cannot be read, or are
    /// not what they should be. Blocks.
    pub(crate) fn read(&self, range: Range<u64>) -> io::Result<Option<Bytes>> {
        let (Some(from), Some(to)) = (
            range.start.checked_sub(self.offset),
            range.end.checked_sub(self.offset),
        ) else {
            return Ok(None);
        };
        let first = self
            .blocks
            .partition_point(|block| u64::from(block.end) <= from);
        let begin = match first {
            0 => 0,
            first => self.blocks[first - 1].end,
        };
        let covers = |block: &&Block| u64::from(block.end) < to;
        let last = first + self.blocks[first..].iter().take_while(covers).count();
        let Some(end) = self.blocks.get(last).map(|block| block.end) else {
            return Ok(None);
        };
        let mut bytes = vec![0; (end - begin) as usize];
        self.file
            .file
            .read_exact_at(&mut bytes, self.offset + u64::from(begin))?;
        let mut at = begin;
        for block in &self.blocks[first..=last] {
            if crc32c(&bytes[(at - begin) as usize..(block.end - begin) as usize]) != block.crc32c {
                let offset = self.offset + u64::from(at);
                let message = format!("the checksum block at {offset} does not match");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            at = block.end;
        }
        let begin = u64::from(begin);
        let part = (from - begin) as usize..(to - begin) as usize;
        Ok(Some(Bytes::from(bytes).slice(part)))
    }
}

#[cfg(test)]
mod tests;
