//! Positional reads of a file.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind};
use cairn_protocol::{ErrorCode, Failure};

use super::extents::{ExtentPage, PageExtent, Piece};
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

    /// Reads at most `length` bytes from `offset`; fewer only at the end of the file. Holes read as zeros.
    pub async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        if length > READ_AT_BYTES_MAX {
            let message = format!("{length} bytes at once, at most {READ_AT_BYTES_MAX}");
            let failure = Failure::new(ErrorCode::InvalidArgument, message);
            return Err(Error::refused(&self.inner.subject, failure));
        }
        let first = self.read_piece(offset, length as u64, false).await?;
        if first.len() == length || first.is_empty() {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(length.min(first.len() * 2));
        all.extend_from_slice(&first);
        while all.len() < length {
            let at = offset.saturating_add(all.len() as u64);
            let piece = self
                .read_piece(at, (length - all.len()) as u64, false)
                .await?;
            if piece.is_empty() {
                break;
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Reads into `buffer` from `offset`; returns how many bytes, fewer only at the end of the file.
    pub async fn read_at_into(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset.saturating_add(filled as u64);
            let wanted = (buffer.len() - filled) as u64;
            let piece = self.read_piece(at, wanted, false).await?;
            if piece.is_empty() {
                break;
            }
            buffer[filled..filled + piece.len()].copy_from_slice(&piece);
            filled += piece.len();
        }
        Ok(filled)
    }

    /// The file from `offset` to its end, read ahead.
    pub fn stream(&self, offset: u64) -> ReadStream {
        ReadStream::new(
            self.clone(),
            offset,
            self.inner.fs.core().config.read_ahead_bytes,
        )
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
        let length = length.min(READ_BYTES);
        let page = self.page_at(offset).await?;
        if offset >= page.range.end {
            return Ok(Bytes::new());
        }
        let (first_failure, wanted) = match page.piece(offset, length) {
            Piece::Hole { length } => return Ok(zeros(length)),
            Piece::Bytes {
                extent,
                offset_in_extent,
                length,
            } => {
                match self
                    .read_extent(extent, offset_in_extent, length, sequential)
                    .await
                {
                    Ok(bytes) => return Ok(bytes),
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
            let (extent, offset_in_extent, length) = match page.piece(offset, wanted) {
                Piece::Hole { length } => return Ok(zeros(length)),
                Piece::Bytes {
                    extent,
                    offset_in_extent,
                    length,
                } => (extent, offset_in_extent, length),
            };
            let read = self.read_extent(extent, offset_in_extent, length, sequential);
            match read.await {
                Ok(bytes) => return Ok(bytes),
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
