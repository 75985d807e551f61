//! Uploads: local files become files of the cluster, wholly or not at all, and what was written is compared by checksum
//! with what was read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cairn_client::{AttributeChange, FileChecksum, FileSystem, WriteOptions};
use cairn_daemon::blocking;
use cairn_protocol::ErrorCode;
use cairn_protocol::buffer;
use cairn_protocol::checksum::{Crc32c, crc32c};
use cairn_protocol::ids::InodeId;
use cairn_protocol::limits::BUFFER_BYTES;
use cairn_protocol::messages::operation::IfExists;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::local_remove::Stored;
use super::local_walk::{self, Item, What};
use super::local_write::kept_mode;
use super::{LARGE_AT_ONCE, PIECES_BETWEEN, SMALL_BYTES, lent_mode, mode_to_fill};
use crate::output::{escape, is_directory};
use crate::progress::Progress;
use crate::session::{Session, about, local_error};
use crate::walk::{Crew, MANY};

/// How to upload.
#[derive(Clone, Debug)]
pub(crate) struct UploadOptions {
    /// Replace files that exist.
    pub(crate) overwrite: bool,
    /// Keep mode, times and, for the superuser, owner.
    pub(crate) preserve: bool,
    /// Replicas; 0 inherits.
    pub(crate) replication: u32,
    /// On all disks before it counts as done.
    pub(crate) sync: bool,
    /// Symbolic links that are named become links.
    pub(crate) links: bool,
    /// No progress even on a terminal.
    pub(crate) quiet: bool,
    /// Tell what was stored, one record for each file.
    pub(crate) tell: bool,
}

/// What tasks share.
struct Upload {
    fs: FileSystem,
    options: UploadOptions,
    umask: u32,
    uid: u32,
    gid: u32,
    large: Semaphore,
    progress: Progress,
}

/// An item that is stored. A directory's attributes are set when nothing in it changes any more.
struct Done {
    directory: Option<Directory>,
    item: Item,
}

struct Directory {
    inode: InodeId,
    /// Its mode in the end, if it was made with another one.
    mode: Option<u32>,
}

/// What a run has stored so far.
#[derive(Default)]
struct Results {
    unfinished: Vec<(Directory, Item)>,
    stored: Vec<Stored>,
}

type Uploaded = Result<Done, String>;

/// Uploads all sources, each to the remote path beside it, and tells what is stored if that is wanted. Failures are reported;
/// the rest goes on.
pub(crate) async fn upload(
    session: &mut Session,
    sources: Vec<(PathBuf, Vec<u8>)>,
    options: UploadOptions,
) -> Vec<Stored> {
    let upload = Arc::new(Upload::new(session, options));
    let (sender, mut items) = local_walk::queue();
    let mut walker = JoinSet::new();
    let links = upload.options.links;
    walker.spawn(blocking(move || local_walk::walk(sources, links, &sender)));
    let mut crew = Crew::new(MANY);
    let mut results = Results::default();
    while let Some(item) = items.recv().await {
        match item {
            Ok(item) => {
                if matches!(item.what, What::File | What::Stream) {
                    upload.progress.expect(item.metadata.len());
                }
                if let Some(result) = crew.start(upload.clone().one(item)).await {
                    upload.note(session, result, &mut results);
                }
            }
            Err(text) => upload.progress.suspend(|| session.report(text)),
        }
    }
    while let Some(result) = crew.next().await {
        upload.note(session, result, &mut results);
    }
    finish(session, &upload, results.unfinished).await;
    results.stored
}

/// Gives directories their modes, owners and times.
async fn finish(session: &mut Session, upload: &Arc<Upload>, unfinished: Vec<(Directory, Item)>) {
    let mut crew = Crew::new(MANY);
    for (directory, item) in unfinished {
        let upload = upload.clone();
        let finished = crew
            .start(async move { upload.finish(&directory, &item).await })
            .await;
        finished.and_then(|result| session.check(result));
    }
    while let Some(result) = crew.next().await {
        session.check(result);
    }
}

/// Uploads standard input, whose end is not known, as one file.
pub(crate) async fn upload_stdin(
    session: &Session,
    remote: &[u8],
    options: UploadOptions,
) -> Result<(), String> {
    let upload = Upload::new(session, options);
    upload.progress.expect(0);
    let write = WriteOptions {
        mode: 0o666 & !session.umask,
        ..upload.write_options()
    };
    let name = Path::new("standard input");
    upload
        .stream(Box::new(io::stdin()), name, remote, write)
        .await
        .map(|_| ())
}

impl Upload {
    fn new(session: &Session, options: UploadOptions) -> Self {
        Self {
            fs: session.fs.clone(),
            progress: Progress::new(options.quiet),
            options,
            umask: session.umask,
            uid: session.uid,
            gid: session.gid,
            large: Semaphore::new(LARGE_AT_ONCE),
        }
    }

    fn note(&self, session: &mut Session, result: Uploaded, results: &mut Results) {
        match result {
            Ok(Done { directory, item }) => {
                if self.options.tell {
                    results.stored.push(Stored::of(&item));
                }
                let preserve = self.options.preserve;
                if let Some(directory) = directory.filter(|one| preserve || one.mode.is_some()) {
                    results.unfinished.push((directory, item));
                }
            }
            // What lies below a directory that failed says nothing of its own.
            Err(text) if text.is_empty() => session.fail(),
            Err(text) => self.progress.suspend(|| session.report(text)),
        }
    }

    async fn one(self: Arc<Self>, item: Item) -> Uploaded {
        let possible = match &item.above {
            Some(gate) => *gate.wait().await,
            None => true,
        };
        if let What::Directory(gate) = &item.what {
            let made = if possible {
                self.directory(&item).await
            } else {
                Err(String::new())
            };
            // Nobody else opens this gate.
            let _ = gate.set(made.is_ok());
            let directory = Some(made?);
            return Ok(Done { directory, item });
        }
        if !possible {
            return Err(String::new());
        }
        match &item.what {
            What::Symlink(target) => self.symlink(&item, target).await?,
            _ => self.file(&item).await?,
        }
        Ok(Done {
            directory: None,
            item,
        })
    }

    async fn directory(&self, item: &Item) -> Result<Directory, String> {
        let mode = mode_to_fill(item.metadata.mode(), self.umask);
        match self.fs.mkdir(&item.remote, mode).await {
            Ok(made) => {
                let lent = lent_mode(item.metadata.mode());
                Ok(Directory {
                    inode: InodeId(made.inode),
                    mode: (lent != 0).then_some(made.mode & !lent),
                })
            }
            Err(error) if error.code() == ErrorCode::AlreadyExists => {
                let existing = self
                    .fs
                    .stat(&item.remote)
                    .await
                    .map_err(|error| error.to_string())?;
                if is_directory(&existing) {
                    Ok(Directory {
                        inode: InodeId(existing.inode),
                        mode: None,
                    })
                } else {
                    Err(error.to_string())
                }
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn symlink(&self, item: &Item, target: &Path) -> Result<(), String> {
        let target = target.as_os_str().as_bytes();
        let made = match self.fs.symlink(target, &item.remote).await {
            Err(error) if error.code() == ErrorCode::AlreadyExists && self.options.overwrite => {
                self.fs
                    .unlink(&item.remote)
                    .await
                    .map_err(|error| error.to_string())?;
                self.fs.symlink(target, &item.remote).await
            }
            made => made,
        };
        let made = made.map_err(|error| error.to_string())?;
        if self.options.preserve {
            let (atime_ns, mtime_ns) = times(item);
            let owner = self.changes_owner(item).then_some(&item.metadata);
            let change = AttributeChange {
                uid: owner.map(MetadataExt::uid),
                gid: owner.map(MetadataExt::gid),
                atime_ns: Some(atime_ns),
                mtime_ns: Some(mtime_ns),
                ..AttributeChange::default()
            };
            let kept = self.fs.set_attributes(InodeId(made.inode), change).await;
            kept.map_err(|error| about(&item.remote, &error))?;
        }
        Ok(())
    }

    async fn file(&self, item: &Item) -> Result<(), String> {
        if matches!(item.what, What::Stream) {
            return self.pipe(item).await;
        }
        let inode = if item.metadata.len() < SMALL_BYTES {
            self.small(item).await?
        } else {
            self.large(item).await?
        };
        let set_id = item.metadata.mode() & 0o7000 != 0;
        if self.options.preserve && (set_id || self.changes_owner(item)) {
            self.preserve(inode, item).await?;
        }
        self.progress.file_done();
        Ok(())
    }

    fn write_options(&self) -> WriteOptions {
        let if_exists = if self.options.overwrite {
            IfExists::Replace
        } else {
            IfExists::Fail
        };
        let (replication, sync) = (self.options.replication, self.options.sync);
        WriteOptions {
            if_exists,
            replication,
            sync,
            ..WriteOptions::default()
        }
    }

    fn options_for(&self, item: &Item) -> WriteOptions {
        let options = self.write_options();
        if !self.options.preserve {
            return WriteOptions {
                mode: item.metadata.mode() & 0o777 & !self.umask,
                ..options
            };
        }
        let (atime_ns, mtime_ns) = times(item);
        WriteOptions {
            mode: item.metadata.mode() & 0o777,
            atime_ns,
            mtime_ns,
            ..options
        }
    }

    async fn small(&self, item: &Item) -> Result<InodeId, String> {
        let local = item.local.clone();
        let read = blocking(move || read_small(&local)).await;
        let (content, file) = read.map_err(|error| local_error(&item.local, &error))?;
        if let Some(file) = file {
            // It has grown since it was listed.
            let reader = Box::new(io::Cursor::new(content).chain(file));
            return self
                .stream(reader, &item.local, &item.remote, self.options_for(item))
                .await;
        }
        let (crc32c, length) = (crc32c(&content), content.len() as u64);
        let write = async {
            let mut writer = self
                .fs
                .create_writer(&item.remote, self.options_for(item))?;
            writer.write_bytes(content.into()).await?;
            writer.close_verified(FileChecksum { crc32c, length }).await
        };
        let attributes = write.await.map_err(|error| error.to_string())?;
        self.progress.advance(length);
        Ok(InodeId(attributes.inode))
    }

    /// What has no length of its own: read to its end, like standard input.
    async fn pipe(&self, item: &Item) -> Result<(), String> {
        let local = item.local.clone();
        let file = blocking(move || File::open(&local)).await;
        let file = file.map_err(|error| local_error(&item.local, &error))?;
        let options = WriteOptions {
            mode: 0o666 & !self.umask,
            ..self.write_options()
        };
        self.stream(Box::new(file), &item.local, &item.remote, options)
            .await?;
        self.progress.file_done();
        Ok(())
    }

    async fn large(&self, item: &Item) -> Result<InodeId, String> {
        let _turn = self.large.acquire().await;
        // Better known before than after many bytes.
        if !self.options.overwrite && self.fs.stat_link(&item.remote).await.is_ok() {
            return Err(format!(
                "{}: {}",
                escape(&item.remote),
                ErrorCode::AlreadyExists.text()
            ));
        }
        let local = item.local.clone();
        let file = blocking(move || File::open(&local)).await;
        let file = file.map_err(|error| local_error(&item.local, &error))?;
        self.stream(
            Box::new(file),
            &item.local,
            &item.remote,
            self.options_for(item),
        )
        .await
    }

    /// Writes all that `reader` gives. The name appears at the end.
    async fn stream(
        &self,
        reader: Box<dyn Read + Send>,
        name: &Path,
        remote: &[u8],
        options: WriteOptions,
    ) -> Result<InodeId, String> {
        let mut writer = self
            .fs
            .create_writer(remote, options)
            .map_err(|error| error.to_string())?;
        let (sender, mut pieces) = mpsc::channel(PIECES_BETWEEN);
        let mut thread = JoinSet::new();
        thread.spawn(blocking(move || read_pieces(reader, &sender)));
        while let Some(piece) = pieces.recv().await {
            let length = piece.len() as u64;
            writer
                .write_bytes(piece)
                .await
                .map_err(|error| error.to_string())?;
            self.progress.advance(length);
        }
        let crc = match thread.join_next().await {
            Some(Ok(read)) => read.map_err(|error| local_error(name, &error))?,
            _ => {
                return Err(format!(
                    "{}: reading was cut off",
                    escape(name.as_os_str().as_bytes())
                ));
            }
        };
        let length = writer.written();
        let expected = FileChecksum {
            crc32c: crc,
            length,
        };
        let attributes = writer.close_verified(expected).await;
        let attributes = attributes.map_err(|error| error.to_string())?;
        Ok(InodeId(attributes.inode))
    }

    async fn finish(&self, directory: &Directory, item: &Item) -> Result<(), String> {
        if self.options.preserve {
            return self.preserve(directory.inode, item).await;
        }
        let change = AttributeChange {
            mode: directory.mode,
            ..AttributeChange::default()
        };
        let changed = self.fs.set_attributes(directory.inode, change).await;
        changed
            .map(|_| ())
            .map_err(|error| about(&item.remote, &error))
    }

    /// Only the superuser gives files away.
    fn changes_owner(&self, item: &Item) -> bool {
        let metadata = &item.metadata;
        self.uid == 0 && (metadata.uid() != self.uid || metadata.gid() != self.gid)
    }

    /// Owner first, because a change of owner takes set-id bits away.
    async fn preserve(&self, inode: InodeId, item: &Item) -> Result<(), String> {
        let metadata = &item.metadata;
        let fail = |error: &cairn_client::Error| about(&item.remote, error);
        let owner = (metadata.uid(), metadata.gid());
        if self.changes_owner(item) {
            let change = AttributeChange {
                uid: Some(owner.0),
                gid: Some(owner.1),
                ..AttributeChange::default()
            };
            self.fs
                .set_attributes(inode, change)
                .await
                .map_err(|error| fail(&error))?;
        }
        let mode = preserved_mode(&self.fs, inode, metadata.mode(), owner);
        let mode = mode.await.map_err(|error| fail(&error))?;
        let (atime_ns, mtime_ns) = times(item);
        let change = AttributeChange {
            mode: Some(mode),
            atime_ns: Some(atime_ns),
            mtime_ns: Some(mtime_ns),
            ..AttributeChange::default()
        };
        self.fs
            .set_attributes(inode, change)
            .await
            .map(|_| ())
            .map_err(|error| fail(&error))
    }
}

/// The mode of a copy in the cluster of something with this mode, user and group: its own may be others, such as the group of a
/// directory that gives its group to what is made in it.
pub(crate) async fn preserved_mode(
    fs: &FileSystem,
    copy: InodeId,
    mode: u32,
    owner: (u32, u32),
) -> cairn_client::Result<u32> {
    if mode & 0o6000 == 0 {
        return Ok(mode & 0o7777);
    }
    let made = fs.stat(copy).await?;
    Ok(kept_mode(mode, owner == (made.uid, made.gid)))
}

/// Times in the cluster begin in 1970, and 0 means now.
fn times(item: &Item) -> (u64, u64) {
    let nanoseconds = |seconds: i64, rest: i64| {
        let total = i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        u64::try_from(total.max(1)).unwrap_or(u64::MAX)
    };
    let metadata = &item.metadata;
    let atime = nanoseconds(metadata.atime(), metadata.atime_nsec());
    (atime, nanoseconds(metadata.mtime(), metadata.mtime_nsec()))
}

/// The content of a small file; of one that is not small any more, its beginning and the rest to read.
fn read_small(path: &Path) -> io::Result<(Vec<u8>, Option<File>)> {
    let mut file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len())
        .unwrap_or(0)
        .min(SMALL_BYTES as usize);
    let mut content = Vec::with_capacity(length + 1);
    file.by_ref().take(SMALL_BYTES).read_to_end(&mut content)?;
    let more = content.len() as u64 == SMALL_BYTES;
    Ok((content, more.then_some(file)))
}

/// Reads to the end, in whole buffers; the CRC32C of everything. Ends early when nobody takes the pieces.
fn read_pieces(mut reader: Box<dyn Read + Send>, sender: &mpsc::Sender<Bytes>) -> io::Result<u32> {
    let mut crc = Crc32c::new();
    loop {
        let mut piece = buffer::pool().take(BUFFER_BYTES);
        let mut filled = 0;
        while filled < BUFFER_BYTES {
            match reader.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            return Ok(crc.value());
        }
        piece.truncate(filled);
        crc.update(&piece);
        if sender.blocking_send(piece.freeze()).is_err() {
            return Ok(crc.value());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use cairn_protocol::checksum::crc32c;
    use tokio::sync::mpsc;

    use super::{SMALL_BYTES, read_pieces, read_small};

    #[test]
    fn pieces_are_whole_buffers_with_the_checksum_of_everything() {
        let content: Vec<u8> = (0..2_500_000_u32).map(|n| n as u8).collect();
        let (sender, mut receiver) = mpsc::channel(8);
        let crc = read_pieces(Box::new(Cursor::new(content.clone())), &sender).unwrap();
        drop(sender);
        let mut pieces = Vec::new();
        while let Some(piece) = receiver.blocking_recv() {
            pieces.push(piece);
        }
        assert_eq!(crc, crc32c(&content));
        assert_eq!(
            pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(),
            [1 << 20, 1 << 20, 402_848]
        );
        assert_eq!(pieces.concat(), content);
    }

    #[test]
    fn a_file_that_has_grown_is_read_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        std::fs::write(&path, "abc").unwrap();
        let (content, rest) = read_small(&path).unwrap();
        assert!(content == b"abc" && rest.is_none());
        std::fs::write(&path, vec![1; SMALL_BYTES as usize + 5]).unwrap();
        let (content, rest) = read_small(&path).unwrap();
        assert!(content.len() as u64 == SMALL_BYTES && rest.is_some());
    }
}
