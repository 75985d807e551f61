//! Positional reads of a file.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind};
use cairn_protocol::{ErrorCode, Failure};

use super::extents::{ExtentPage, PageExtent, Piece};
use super::local::{Found, LocalReplicas};
use super::replica::{self, READ_BYTES};
use super::sequential::ReadStream;
use crate::error::{Error, Result, Subject};
use crate::file_system::FileSystem;
use crate::namenode::lock;
use crate::place::Place;
use crate::retry::Backoff;

/// What part of its patience an operation waits for datanodes that do not serve now: they start again within seconds, or stay dead.
const RETURN_PATIENCE_DIVISOR: u32 = 6;

/// Most bytes of one [`Reader::read_at`]: for more, [`Reader::stream`] keeps memory bounded.
pub const READ_AT_BYTES_MAX: usize = 64 << 20;

/// Most pages of extents that an open file keeps.
const PAGES_MAX: usize = 32;

/// How often pages of one version are looked for without a pause.
const PINS_AT_ONCE: u32 = 3;

/// Zeros for holes, shared by all.
static ZEROS: [u8; READ_BYTES as usize] = [0; READ_BYTES as usize];

/// An open file. Cheap to clone: clones share what is known of the file.
///
/// It reads as of its last fetched extents: those of the open, fetched again when tokens expire, at the end of the file as
/// then known, and by [`Reader::refresh`]. All its futures are cancel-safe.
#[derive(Clone)]
pub struct Reader {
    inner: Arc<Inner>,
}

struct Inner {
    fs: FileSystem,
    subject: Subject,
    inode: InodeId,
    /// Held for a look-up or an exchange.
    pages: Mutex<Pages>,
}

/// Where the bytes of a range are, all as of one version of the file.
pub(crate) struct Pinned {
    /// One after the other: from the first byte of the range to its last, or to the end of the file.
    pages: Vec<Arc<ExtentPage>>,
}

impl Pinned {
    /// The file then. There is always a page.
    pub(crate) fn attributes(&self) -> &Attributes {
        &self.pages[0].attributes
    }

    fn page(&self, offset: u64) -> Option<&ExtentPage> {
        let page = self.pages.iter().find(|page| page.range.contains(&offset));
        page.map(|page| &**page)
    }
}

/// What is known of the extents.
struct Pages {
    latest: Arc<ExtentPage>,
    /// Others of the same version of the file, newest first.
    others: VecDeque<Arc<ExtentPage>>,
    /// Grows whenever all is forgotten: what was asked before that is not kept.
    generation: u64,
}

impl Pages {
    fn new(page: ExtentPage) -> Self {
        Self {
            latest: Arc::new(page),
            others: VecDeque::new(),
            generation: 0,
        }
    }

    fn find(&self, offset: u64, now_ms: u64) -> Option<Arc<ExtentPage>> {
        std::iter::once(&self.latest)
            .chain(&self.others)
            .find(|page| page.range.contains(&offset) && page.is_fresh(now_ms))
            .cloned()
    }

    fn keep(&mut self, page: Arc<ExtentPage>) {
        let before = std::mem::replace(&mut self.latest, page);
        let latest = &self.latest;
        self.others.push_front(before);
        self.others.retain(|other| {
            let overlaps =
                other.range.start < latest.range.end && latest.range.start < other.range.end;
            other.attributes.version == latest.attributes.version
                && !other.range.is_empty()
                && !overlaps
        });
        self.others.truncate(PAGES_MAX - 1);
    }

    fn forget(&mut self) {
        self.generation += 1;
        self.others.clear();
        self.latest = Arc::new(ExtentPage::unknown(self.latest.attributes.clone()));
    }
}

impl FileSystem {
    /// Opens a file for reading: one request to the namenode. Cancel-safe.
    pub async fn open(&self, place: impl Into<Place>) -> Result<Reader> {
        let (page, subject) = ExtentPage::fetch(self, &place.into(), 0).await?;
        if page.attributes.kind == InodeKind::Directory as i32 {
            return Err(Error::refused(&subject, ErrorCode::IsADirectory));
        }
        if page.attributes.kind != InodeKind::File as i32 {
            return Err(Error::invalid(&subject, "not a regular file"));
        }
        let inode = InodeId(page.attributes.inode);
        let pages = Mutex::new(Pages::new(page));
        Ok(Reader {
            inner: Arc::new(Inner {
                fs: self.clone(),
                subject,
                inode,
                pages,
            }),
        })
    }

    /// Reads a whole file of at most 64 MiB. Cancel-safe.
    pub async fn read_file(&self, place: impl Into<Place>) -> Result<Bytes> {
        let reader = self.open(place).await?;
        let size = reader.attributes().size;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        reader.read_at(0, length).await
    }
}

impl Reader {
    /// Of a regular file whose attributes are known. Nothing is fetched before the first read.
    pub(crate) fn unfetched(fs: &FileSystem, attributes: &Attributes) -> Self {
        let inode = InodeId(attributes.inode);
        let pages = Mutex::new(Pages::new(ExtentPage::unknown(attributes.clone())));
        Self {
            inner: Arc::new(Inner {
                fs: fs.clone(),
                subject: Subject::Inode(inode),
                inode,
                pages,
            }),
        }
    }

    /// Forgets the extents: the next read fetches them again.
    pub(crate) fn forget(&self) {
        lock(&self.inner.pages).forget();
    }

    /// The first byte at or after `offset` that is in an extent; `None` if there is none.
    pub(crate) async fn next_data(&self, mut offset: u64) -> Result<Option<u64>> {
        loop {
            let page = self.page_at(offset).await?;
            if offset >= page.range.end {
                return Ok(None);
            }
            match page.piece(offset, u64::MAX) {
                Piece::Bytes { .. } => return Ok(Some(offset)),
                Piece::Hole { length } => offset += length,
            }
        }
    }

    /// The first byte at or after `offset` that is in no extent, which may be the end of the file; `None` beyond that.
    pub(crate) async fn next_hole(&self, offset: u64) -> Result<Option<u64>> {
        let mut at = offset;
        loop {
            let page = self.page_at(at).await?;
            if at >= page.range.end {
                return Ok((at > offset).then_some(at));
            }
            match page.piece(at, u64::MAX) {
                Piece::Hole { .. } => return Ok(Some(at)),
                Piece::Bytes { length, .. } => at += length,
            }
        }
    }

    /// The file as of its last fetched extents.
    pub fn attributes(&self) -> Attributes {
        self.page().attributes.clone()
    }

    /// Which file it is, whatever its name is now.
    pub fn inode(&self) -> InodeId {
        self.inner.inode
    }

    /// Fetches attributes and extents again: what has been committed by now is seen from now on.
    pub async fn refresh(&self) -> Result<Attributes> {
        Ok(self.fetch(0).await?.attributes.clone())
    }

    /// Reads at most `length` bytes from `offset`; fewer only at the end of the file. Holes read as zeros. All bytes are of one
    /// version of the file: those of a commit are all there, or none.
    pub async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        if length > READ_AT_BYTES_MAX {
            let message = format!("{length} bytes at once, at most {READ_AT_BYTES_MAX}");
            let failure = Failure::new(ErrorCode::InvalidArgument, message);
            return Err(Error::refused(&self.inner.subject, failure));
        }
        let range = offset..offset.saturating_add(length as u64);
        let mut backoff = self.backoff();
        loop {
            let pinned = self.pin(range.clone()).await?;
            if let Some(bytes) = self.read_range(&pinned, range.clone()).await? {
                return Ok(bytes);
            }
            self.wait_for_calm(&mut backoff).await?;
        }
    }

    async fn read_range(&self, pinned: &Pinned, range: Range<u64>) -> Result<Option<Bytes>> {
        let length = range.end - range.start;
        let Some(first) = self.read_pinned(pinned, range.start, length, false).await? else {
            return Ok(None);
        };
        if first.len() as u64 == length || first.is_empty() {
            return Ok(Some(first));
        }
        let mut all = BytesMut::with_capacity((length as usize).min(first.len() * 2));
        all.extend_from_slice(&first);
        while (all.len() as u64) < length {
            let (at, left) = (range.start + all.len() as u64, length - all.len() as u64);
            match self.read_pinned(pinned, at, left, false).await? {
                None => return Ok(None),
                Some(piece) if piece.is_empty() => break,
                Some(piece) => all.extend_from_slice(&piece),
            }
        }
        Ok(Some(all.freeze()))
    }

    /// Reads into `buffer` from `offset`; returns how many bytes, fewer only at the end of the file. All are of one version
    /// of the file.
    pub async fn read_at_into(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let range = offset..offset.saturating_add(buffer.len() as u64);
        let mut backoff = self.backoff();
        loop {
            let pinned = self.pin(range.clone()).await?;
            if let Some(filled) = self.read_range_into(&pinned, offset, buffer).await? {
                return Ok(filled);
            }
            self.wait_for_calm(&mut backoff).await?;
        }
    }

    async fn read_range_into(
        &self,
        pinned: &Pinned,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<Option<usize>> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset.saturating_add(filled as u64);
            let wanted = (buffer.len() - filled) as u64;
            let Some(piece) = self.read_pinned(pinned, at, wanted, false).await? else {
                return Ok(None);
            };
            if piece.is_empty() {
                break;
            }
            buffer[filled..filled + piece.len()].copy_from_slice(&piece);
            filled += piece.len();
        }
        Ok(Some(filled))
    }

    /// Where the bytes of a range are, as of one version of the file. Beyond its end as last heard of it is asked again.
    pub(crate) async fn pin(&self, range: Range<u64>) -> Result<Pinned> {
        let mut backoff = self.backoff();
        let mut attempts = 0;
        loop {
            if let Some(pinned) = self.pin_once(&range).await? {
                return Ok(pinned);
            }
            attempts += 1;
            if attempts > PINS_AT_ONCE {
                self.wait_for_calm(&mut backoff).await?;
            }
        }
    }

    /// `None` if the file changed between two pages.
    async fn pin_once(&self, range: &Range<u64>) -> Result<Option<Pinned>> {
        let mut pages: Vec<Arc<ExtentPage>> = Vec::with_capacity(1);
        let mut at = range.start;
        loop {
            let page = self.page_at(at).await?;
            let first = pages.first().unwrap_or(&page);
            if first.attributes.version != page.attributes.version {
                return Ok(None);
            }
            let end = page.range.end;
            pages.push(page);
            if end <= at || end >= range.end {
                return Ok(Some(Pinned { pages }));
            }
            at = end;
        }
    }

    pub(crate) fn backoff(&self) -> Backoff<'_> {
        let core = self.inner.fs.core();
        Backoff::new(&core.namenode.randomness, core.config.timeouts.patience)
    }

    /// Before another look at a file that has just changed.
    pub(crate) async fn wait_for_calm(&self, backoff: &mut Backoff<'_>) -> Result<()> {
        if backoff.pause().await {
            return Ok(());
        }
        let message = "the file changes faster than it can be read";
        let failure = Failure::new(ErrorCode::Unavailable, message);
        Err(Error::refused(&self.inner.subject, failure))
    }

    /// The file from `offset` to its end, read ahead.
    pub fn stream(&self, offset: u64) -> ReadStream {
        ReadStream::new(
            self.clone(),
            offset,
            self.inner.fs.core().config.read_ahead_bytes,
        )
    }

    /// A range as it is known to be, if it is in one extent whose replica on this machine can be read. Blocks for the disk. Where nobody knows yet whether it can, that is asked in the background.
    pub(crate) fn read_local(&self, offset: u64, length: u64) -> Option<Bytes> {
        let core = self.inner.fs.core();
        let page = lock(&self.inner.pages).find(offset, core.namenode.cluster_time_ms())?;
        let Piece::Bytes {
            extent,
            offset_in_extent,
            length: found,
        } = page.piece(offset, length)
        else {
            return None;
        };
        if found < length {
            return None;
        }
        let range = match core.local.find(&extent.extent) {
            Found::Here(range) => range,
            Found::NotHere => return None,
            Found::Unknown => {
                LocalReplicas::want(core, extent);
                return None;
            }
        };
        let begin = extent.extent.offset_in_chunk + offset_in_extent;
        match range.read(begin..begin + length) {
            Ok(bytes) => bytes,
            Err(error) => {
                let chunk = extent.extent.chunk;
                tracing::warn!(chunk, %error, "replica cannot be read from its file");
                LocalReplicas::refuse(core, &extent.extent, &range);
                None
            }
        }
    }

    /// Bytes of one extent or hole from `offset`, at most `length` and at most 1 MiB; none only at the end of the file.
    pub(crate) async fn read_piece(
        &self,
        offset: u64,
        length: u64,
        sequential: bool,
    ) -> Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let page = self.page_at(offset).await?;
        if offset >= page.range.end {
            return Ok(Bytes::new());
        }
        let read = self.read_from(&page, offset, length, sequential).await?;
        Ok(read.0)
    }

    /// The same as of the version that is pinned; `None` if its bytes are gone by now. None are beyond the pinned range.
    pub(crate) async fn read_pinned(
        &self,
        pinned: &Pinned,
        offset: u64,
        length: u64,
        sequential: bool,
    ) -> Result<Option<Bytes>> {
        let Some(page) = pinned.page(offset).filter(|_| length > 0) else {
            return Ok(Some(Bytes::new()));
        };
        let (bytes, version) = self.read_from(page, offset, length, sequential).await?;
        Ok((version == page.attributes.version).then_some(bytes))
    }

    /// Bytes of a page, or else of the file as it is now; and the version that they are of.
    async fn read_from(
        &self,
        page: &ExtentPage,
        offset: u64,
        length: u64,
        sequential: bool,
    ) -> Result<(Bytes, u64)> {
        let length = length.min(READ_BYTES);
        let version = page.attributes.version;
        let (first_failure, wanted) = match page.piece(offset, length) {
            Piece::Hole { length } => return Ok((zeros(length), version)),
            Piece::Bytes {
                extent,
                offset_in_extent,
                length,
            } => {
                match self
                    .read_extent(extent, offset_in_extent, length, sequential)
                    .await
                {
                    Ok(bytes) => return Ok((bytes, version)),
                    Err(failure) => (failure, length),
                }
            }
        };
        // The file may have been compacted, or the tokens expired: once more, with what is true now. Datanodes that are
        // starting or cannot be reached may come back: they are asked again, for a while.
        tracing::debug!(offset, error = %first_failure, "no replica served, extents fetched again");
        let core = self.inner.fs.core();
        let patience = core.config.timeouts.patience / RETURN_PATIENCE_DIVISOR;
        let mut backoff = Backoff::new(&core.namenode.randomness, patience);
        loop {
            let page = self.fetch(offset).await?;
            let version = page.attributes.version;
            let (extent, offset_in_extent, length) = match page.piece(offset, wanted) {
                Piece::Hole { length } => return Ok((zeros(length), version)),
                Piece::Bytes {
                    extent,
                    offset_in_extent,
                    length,
                } => (extent, offset_in_extent, length),
            };
            let read = self.read_extent(extent, offset_in_extent, length, sequential);
            match read.await {
                Ok(bytes) => return Ok((bytes, version)),
                Err(failure) if failure.code.is_retryable() && backoff.pause().await => {}
                Err(failure) => {
                    return Err(Error::DataLost {
                        subject: self.inner.subject.clone(),
                        offset,
                        length,
                        failure,
                    });
                }
            }
        }
    }

    async fn read_extent(
        &self,
        extent: &PageExtent,
        offset_in_extent: u64,
        length: u64,
        sequential: bool,
    ) -> std::result::Result<Bytes, Failure> {
        let range = offset_in_extent..offset_in_extent + length;
        replica::read(self.inner.fs.core(), extent, range, sequential).await
    }

    /// The size as known at `offset`: at the end of the file it is asked again.
    pub(crate) async fn size_at(&self, offset: u64) -> Result<u64> {
        Ok(self.page_at(offset).await?.attributes.size)
    }

    /// A page that describes `offset`, or the file's end.
    pub(crate) async fn page_at(&self, offset: u64) -> Result<Arc<ExtentPage>> {
        let now_ms = self.inner.fs.core().namenode.cluster_time_ms();
        let known = lock(&self.inner.pages).find(offset, now_ms);
        match known {
            Some(page) => Ok(page),
            None => self.fetch(offset).await,
        }
    }

    /// The page that begins at `offset`, as the file is now.
    pub(crate) async fn fetch(&self, offset: u64) -> Result<Arc<ExtentPage>> {
        let generation = lock(&self.inner.pages).generation;
        let place = Place::Inode(self.inner.inode);
        let fetched = ExtentPage::fetch(&self.inner.fs, &place, offset).await;
        let (page, _) = fetched.map_err(|error| match error {
            Error::Refused { failure, .. } => Error::refused(&self.inner.subject, failure),
            other => other,
        })?;
        let page = Arc::new(page);
        let mut pages = lock(&self.inner.pages);
        if pages.generation == generation {
            pages.keep(page.clone());
        }
        Ok(page)
    }

    fn page(&self) -> Arc<ExtentPage> {
        lock(&self.inner.pages).latest.clone()
    }

    pub(crate) fn subject(&self) -> &Subject {
        &self.inner.subject
    }
}

fn zeros(length: u64) -> Bytes {
    let length = usize::try_from(length)
        .unwrap_or(usize::MAX)
        .min(ZEROS.len());
    Bytes::from_static(&ZEROS[..length])
}
