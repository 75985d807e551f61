//! Downloads: files of the cluster become local files, wholly or not at all. The client library verifies every byte.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cairn_client::FileSystem;
use cairn_daemon::blocking;
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::{Attributes, InodeKind};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::local_write::{
    Target, Unnamed, make_directory, preserve_directory, preserve_link, take_back,
};
use super::{LARGE_AT_ONCE, PIECES_BETWEEN, SMALL_BYTES, lent_mode};
use crate::output::{escape, kind};
use crate::progress::Progress;
use crate::session::{Session, local_error};
use crate::walk::{Crew, Found, MANY, Step, Walk};

/// How to download.
#[derive(Clone, Debug)]
pub(crate) struct DownloadOptions {
    /// Replace files that exist.
    pub(crate) overwrite: bool,
    /// Keep mode, times and, for the superuser, owner.
    pub(crate) preserve: bool,
    /// Symbolic links that are named become links.
    pub(crate) links: bool,
    /// No progress even on a terminal.
    pub(crate) quiet: bool,
}

/// What tasks share.
struct Download {
    fs: FileSystem,
    options: DownloadOptions,
    large: Semaphore,
    progress: Progress,
}

/// Downloads all sources, each to the local target beside it. Failures are reported; the rest goes on.
pub(crate) async fn download(
    session: &mut Session,
    sources: Vec<(Vec<u8>, Target)>,
    options: DownloadOptions,
) {
    let download = Arc::new(Download {
        fs: session.fs.clone(),
        progress: Progress::new(options.quiet),
        options,
        large: Semaphore::new(LARGE_AT_ONCE),
    });
    let mut crew = Crew::new(MANY);
    let mut directories = Vec::new();
    for (remote, local) in sources {
        match download.named(&remote).await {
            Ok(attributes) => {
                let source = Source { remote, local };
                download
                    .tree(session, source, attributes, &mut crew, &mut directories)
                    .await;
            }
            Err(error) => download.report(session, error),
        }
    }
    while let Some(result) = crew.next().await {
        download.note(session, result);
    }
    // What is deepest first, so that nothing changes a directory any more.
    for directory in directories.into_iter().rev() {
        let local = directory.local.clone();
        let preserve = download.options.preserve;
        let finished = blocking(move || directory.finish(preserve)).await;
        session.check(finished.map_err(|error| local_error(&local, &error)));
    }
}

/// A directory that is being filled.
struct Directory {
    local: PathBuf,
    attributes: Attributes,
    /// It was not there before.
    is_new: bool,
}

impl Directory {
    /// When nothing in it changes any more. Blocks.
    fn finish(&self, preserve: bool) -> io::Result<()> {
        if preserve {
            return preserve_directory(&self.local, &self.attributes);
        }
        match lent_mode(self.attributes.mode) {
            lent if lent != 0 && self.is_new => take_back(&self.local, lent),
            _ => Ok(()),
        }
    }
}

struct Source {
    remote: Vec<u8>,
    local: Target,
}

type Downloaded = Result<(), String>;

impl Download {
    fn report(&self, session: &mut Session, error: impl std::fmt::Display) {
        self.progress.suspend(|| session.report(error));
    }

    fn note(&self, session: &mut Session, result: Downloaded) {
        if let Err(text) = result {
            self.report(session, text);
        }
    }

    /// What is named is followed if it is a link that leads anywhere, unless links are asked for; what is found below is
    /// kept as it is.
    async fn named(&self, remote: &[u8]) -> cairn_client::Result<Attributes> {
        let own = self.fs.stat_link(remote).await?;
        if kind(&own) != InodeKind::Symlink || self.options.links {
            return Ok(own);
        }
        match self.fs.stat(remote).await {
            Err(error) if error.code() == ErrorCode::NotFound => Ok(own),
            followed => followed,
        }
    }

    async fn tree(
        self: &Arc<Self>,
        session: &mut Session,
        source: Source,
        attributes: Attributes,
        crew: &mut Crew<Downloaded>,
        directories: &mut Vec<Directory>,
    ) {
        let mut walk = Walk::from(&self.fs, &source.remote, attributes);
        // Local paths of the directories that the walk is in.
        let mut above: Vec<PathBuf> = Vec::new();
        // Below a directory that could not be made.
        let mut skipping: Option<usize> = None;
        loop {
            let found = match walk.next().await {
                Ok(Some(Step::Enter(found))) => found,
                Ok(Some(Step::Leave(found))) => {
                    above.truncate(found.depth);
                    skipping = skipping.filter(|&depth| depth != found.depth);
                    continue;
                }
                Ok(None) => return,
                Err(error) => {
                    self.report(session, error);
                    continue;
                }
            };
            if skipping.is_some() {
                continue;
            }
            let target = match local_target(&above, &source, &found) {
                Ok(target) => target,
                Err(text) => {
                    self.report(session, text);
                    continue;
                }
            };
            if kind(&found.attributes) == InodeKind::Directory {
                let local = target.path().to_path_buf();
                let (path, mode) = (local.clone(), found.attributes.mode);
                let made = blocking(move || make_directory(&path, mode)).await;
                above.truncate(found.depth);
                above.push(local.clone());
                match made {
                    Ok(is_new) => directories.push(Directory {
                        local,
                        attributes: found.attributes,
                        is_new,
                    }),
                    Err(error) => {
                        self.report(session, local_error(&local, &error));
                        skipping = Some(found.depth);
                    }
                }
                continue;
            }
            if kind(&found.attributes) == InodeKind::File {
                self.progress.expect(found.attributes.size);
            }
            if let Some(result) = crew.start(self.clone().one(found, target)).await {
                self.note(session, result);
            }
        }
    }

    async fn one(self: Arc<Self>, found: Found, local: Target) -> Downloaded {
        match kind(&found.attributes) {
            InodeKind::File if found.attributes.size <= SMALL_BYTES => {
                self.small(&found, local).await
            }
            InodeKind::File => self.large(&found, local).await,
            InodeKind::Symlink => self.symlink(&found, local.path().to_path_buf()).await,
            _ => Err(format!(
                "{}: neither a file nor a directory, left out",
                escape(&found.path)
            )),
        }
    }

    async fn small(&self, found: &Found, local: Target) -> Downloaded {
        let reader = self
            .fs
            .open(&found.path)
            .await
            .map_err(|error| error.to_string())?;
        let attributes = reader.attributes();
        if attributes.size > SMALL_BYTES {
            // It has grown since it was listed.
            return self.large(found, local).await;
        }
        let content = reader
            .read_at(0, attributes.size as usize)
            .await
            .map_err(|error| error.to_string())?;
        self.progress.advance(content.len() as u64);
        let options = self.options.clone();
        let path = local.clone();
        let written = blocking(move || {
            let mut file = Unnamed::create(&path, attributes.mode)?;
            file.write(&content)?;
            finish(file, &attributes, &options)
        });
        written
            .await
            .map_err(|error| local_error(local.path(), &error))?;
        self.progress.file_done();
        Ok(())
    }

    async fn large(&self, found: &Found, local: Target) -> Downloaded {
        let _turn = self.large.acquire().await;
        // Better known before than after many bytes.
        let is_file = matches!(local, Target::File(_));
        if is_file && !self.options.overwrite && local.path().symlink_metadata().is_ok() {
            return Err(local_error(
                local.path(),
                &io::Error::from_raw_os_error(EXISTS),
            ));
        }
        let reader = self
            .fs
            .open(&found.path)
            .await
            .map_err(|error| error.to_string())?;
        let attributes = reader.attributes();
        let (sender, pieces) = mpsc::channel(PIECES_BETWEEN);
        let mut thread = JoinSet::new();
        let (path, options) = (local.clone(), self.options.clone());
        thread.spawn(blocking(move || {
            write_pieces(&path, pieces, &attributes, &options)
        }));
        let mut stream = reader.stream(0);
        loop {
            let piece = match stream.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => return Err(error.to_string()),
            };
            self.progress.advance(piece.len() as u64);
            if sender.send(Some(piece)).await.is_err() {
                // The thread has failed and says why.
                break;
            }
        }
        // The end, as opposed to a sender that went away half-way.
        let _ = sender.send(None).await;
        match thread.join_next().await {
            Some(Ok(written)) => {
                written.map_err(|error| local_error(local.path(), &error))?;
            }
            _ => return Err(format!("{}: writing was cut off", local.path().display())),
        }
        self.progress.file_done();
        Ok(())
    }

    async fn symlink(&self, found: &Found, local: PathBuf) -> Downloaded {
        let target = PathBuf::from(OsStr::from_bytes(&found.attributes.symlink_target));
        let (path, options) = (local.clone(), self.options.clone());
        let attributes = found.attributes.clone();
        let made = blocking(move || {
            match std::os::unix::fs::symlink(&target, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && options.overwrite => {
                    std::fs::remove_file(&path)?;
                    std::os::unix::fs::symlink(&target, &path)?;
                }
                made => made?,
            }
            match options.preserve {
                true => preserve_link(&path, &attributes),
                false => Ok(()),
            }
        });
        made.await.map_err(|error| local_error(&local, &error))
    }
}

/// `EEXIST`, for the usual wording.
const EXISTS: i32 = 17;

/// Where something goes: the source's own local path, or its name in the local directory that it is in.
/// Only what was named is looked at more closely: what lies below replaces links, and never goes where they lead.
fn local_target(above: &[PathBuf], source: &Source, found: &Found) -> Result<Target, String> {
    if found.depth == 0 {
        return Ok(source.local.clone());
    }
    let name = found
        .path
        .rsplit(|&byte| byte == b'/')
        .next()
        .unwrap_or_default();
    // Such names cannot be made; a cluster that claims one must not lead us out of the directory.
    if name.is_empty() || name == b"." || name == b".." {
        return Err(format!(
            "{}: a name that no file can have",
            escape(&found.path)
        ));
    }
    match above.get(found.depth - 1) {
        Some(directory) => Ok(Target::File(directory.join(OsStr::from_bytes(name)))),
        None => Err(format!(
            "{}: not below {}",
            escape(&found.path),
            escape(&source.remote)
        )),
    }
}

fn write_pieces(
    path: &Target,
    mut pieces: mpsc::Receiver<Option<Bytes>>,
    attributes: &Attributes,
    options: &DownloadOptions,
) -> io::Result<()> {
    let mut file = Unnamed::create(path, attributes.mode)?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Some(piece) => file.write(&piece)?,
            None => return finish(file, attributes, options),
        }
    }
    // Whoever read has failed and says why.
    Ok(())
}

fn finish(file: Unnamed, attributes: &Attributes, options: &DownloadOptions) -> io::Result<()> {
    if options.preserve {
        file.preserve(attributes)?;
    }
    file.name(options.overwrite)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bytes::Bytes;
    use cairn_protocol::messages::common::Attributes;
    use tokio::sync::mpsc;

    use super::{DownloadOptions, Found, Source, Target, local_target, write_pieces};

    fn found(path: &str, depth: usize) -> Found {
        Found {
            path: path.into(),
            attributes: Attributes::default(),
            depth,
        }
    }

    #[test]
    fn nothing_leads_out_of_the_target() {
        let source = Source {
            remote: b"/r".to_vec(),
            local: Target::File(PathBuf::from("t")),
        };
        let above = [PathBuf::from("t"), PathBuf::from("t/a")];
        assert_eq!(
            local_target(&above, &source, &found("/r", 0)).unwrap(),
            Target::File(PathBuf::from("t"))
        );
        assert_eq!(
            local_target(&above, &source, &found("/r/a/b", 2)).unwrap(),
            Target::File(PathBuf::from("t/a/b"))
        );
        for bad in ["/r/..", "/r/.", "/r/"] {
            assert!(
                local_target(&above, &source, &found(bad, 1)).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn half_a_file_never_gets_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        let options = DownloadOptions {
            overwrite: false,
            preserve: false,
            links: false,
            quiet: true,
        };
        let attributes = Attributes {
            mode: 0o644,
            ..Attributes::default()
        };
        for (complete, exists) in [(false, false), (true, true)] {
            let (sender, receiver) = mpsc::channel(4);
            sender
                .blocking_send(Some(Bytes::from_static(b"half")))
                .unwrap();
            if complete {
                sender.blocking_send(None).unwrap();
            }
            drop(sender);
            write_pieces(&Target::File(path.clone()), receiver, &attributes, &options).unwrap();
            assert_eq!(path.exists(), exists);
            assert_eq!(
                std::fs::read_dir(directory.path()).unwrap().count(),
                usize::from(exists)
            );
        }
    }
}
