//! A file from some offset on, read ahead: several ranges are on their way while the first is used.

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;

use super::reader::Reader;
use super::replica::READ_BYTES;
use crate::error::Result;

/// The bytes of a file in order. Memory is bounded by the read-ahead of [`crate::ClusterConfig`].
///
/// ```no_run
/// # async fn example(fs: cairn_client::FileSystem) -> Result<(), cairn_client::Error> {
/// let mut bytes = 0;
/// let mut stream = fs.open("/large").await?.stream(0);
/// while let Some(piece) = stream.next().await? {
///     bytes += piece.len();
/// }
/// println!("{bytes} bytes");
/// # Ok(())
/// # }
/// ```
pub struct ReadStream {
    reader: Reader,
    /// Requests on their way, in order of the file: at most `depth`.
    ahead: FuturesOrdered<BoxFuture<'static, Ahead>>,
    depth: usize,
    /// First byte that is not yet asked for.
    asked_to: u64,
    /// Where the caller is.
    offset: u64,
}

/// A range that was asked for: where it begins, and what came.
struct Ahead {
    start: u64,
    result: Result<Bytes>,
}

impl ReadStream {
    pub(crate) fn new(reader: Reader, offset: u64, read_ahead_bytes: usize) -> Self {
        let depth = (read_ahead_bytes / READ_BYTES as usize).max(1);
        Self {
            reader,
            ahead: FuturesOrdered::new(),
            depth,
            asked_to: offset,
            offset,
        }
    }

    /// Where in the file the next piece begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes, at most 1 MiB; `None` at the end of the file, which is asked for again with each call. After an error
    /// the same bytes are tried again. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.ahead.is_empty() {
                self.asked_to = self.offset;
            }
            self.ask_ahead().await?;
            let Some(ahead) = self.ahead.next().await else {
                return Ok(None);
            };
            if ahead.start != self.offset {
                // The range before came short, because the file did: what was asked for then does not follow.
                self.ahead = FuturesOrdered::new();
                continue;
            }
            match ahead.result {
                Ok(bytes) if !bytes.is_empty() => {
                    self.offset += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                // The file has become shorter.
                Ok(_) => {
                    self.ahead = FuturesOrdered::new();
                    return Ok(None);
                }
                Err(error) => {
                    self.ahead = FuturesOrdered::new();
                    return Err(error);
                }
            }
        }
    }

    async fn ask_ahead(&mut self) -> Result<()> {
        while self.ahead.len() < self.depth {
            let size = if self.ahead.is_empty() {
                self.reader.size_at(self.asked_to).await?
            } else {
                self.reader.attributes().size
            };
            if self.asked_to >= size {
                return Ok(());
            }
            let (start, length) = (self.asked_to, READ_BYTES.min(size - self.asked_to));
            // At multiples of 1 MiB requests coincide with packets and with the datanodes' own buffers.
            let length = length.min(READ_BYTES - start % READ_BYTES);
            let reader = self.reader.clone();
            self.ahead.push_back(Box::pin(async move {
                Ahead {
                    start,
                    result: read_all(reader, start, length).await,
                }
            }));
            self.asked_to += length;
        }
        Ok(())
    }
}

/// All of a range, or less only where the file has become shorter.
async fn read_all(reader: Reader, start: u64, length: u64) -> Result<Bytes> {
    let first = reader.read_piece(start, length, true).await?;
    if first.len() as u64 == length || first.is_empty() {
        return Ok(first);
    }
    let mut all = Vec::with_capacity(length as usize);
    all.extend_from_slice(&first);
    while (all.len() as u64) < length {
        let left = length - all.len() as u64;
        let piece = reader
            .read_piece(start + all.len() as u64, left, true)
            .await?;
        if piece.is_empty() {
            break;
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.into())
}
