//! Walks over a local tree on a thread, and hands over what is to be uploaded: directories before what they hold.
//!
//! Symbolic links that are named are followed if they lead anywhere and nothing else is asked for; those found on the way are
//! kept as they are. Pipes and devices are read only if they are named.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{SetOnce, mpsc};

use crate::paths::join;
use crate::session::local_error;

/// Items that wait for a free hand.
const QUEUE: usize = 1024;

/// Opens once its directory exists (true) or never will (false).
pub(crate) type Gate = Arc<SetOnce<bool>>;

/// Something to upload.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) local: PathBuf,
    pub(crate) remote: Vec<u8>,
    pub(crate) metadata: Metadata,
    /// The directory that must exist first.
    pub(crate) above: Option<Gate>,
    pub(crate) what: What,
}

/// What it is.
#[derive(Debug)]
pub(crate) enum What {
    Directory(Gate),
    File,
    /// A pipe or a device.
    Stream,
    Symlink(PathBuf),
}

/// An item, or why there is none.
pub(crate) type Walked = Result<Item, String>;

/// A walk over several sources, each with the remote path that it becomes. Blocks; ends early when nobody listens.
pub(crate) fn queue() -> (mpsc::Sender<Walked>, mpsc::Receiver<Walked>) {
    mpsc::channel(QUEUE)
}

/// Sends everything. Blocks.
pub(crate) fn walk(sources: Vec<(PathBuf, Vec<u8>)>, links: bool, sender: &mpsc::Sender<Walked>) {
    for (local, remote) in sources {
        let own = fs::symlink_metadata(&local);
        let metadata = match fs::metadata(&local) {
            // A link that leads nowhere can only be kept.
            Err(_) if own.is_ok() => own,
            _ if links => own,
            followed => followed,
        };
        if visit(local, remote, metadata, None, sender).is_none() {
            return;
        }
    }
}

/// `None` when nobody listens any more.
fn visit(
    local: PathBuf,
    remote: Vec<u8>,
    metadata: std::io::Result<Metadata>,
    above: Option<Gate>,
    sender: &mpsc::Sender<Walked>,
) -> Option<()> {
    let mut stack: Vec<(fs::ReadDir, Vec<u8>, Gate)> = Vec::new();
    if let Some(opened) = hand_over(local, remote, metadata, above, sender)? {
        stack.push(opened);
    }
    while let Some((entries, remote, gate)) = stack.last_mut() {
        let Some(entry) = entries.next() else {
            stack.pop();
            continue;
        };
        let opened = match entry {
            Ok(entry) => {
                let remote = join(remote, entry.file_name().as_bytes());
                let (path, gate) = (entry.path(), gate.clone());
                hand_over(path, remote, entry.metadata(), Some(gate), sender)?
            }
            Err(error) => {
                let text = format!("{}: {error}", crate::output::escape(remote));
                sender.blocking_send(Err(text)).ok()?;
                None
            }
        };
        stack.extend(opened);
    }
    Some(())
}

/// Sends one item; a directory comes back opened.
fn hand_over(
    local: PathBuf,
    remote: Vec<u8>,
    metadata: std::io::Result<Metadata>,
    above: Option<Gate>,
    sender: &mpsc::Sender<Walked>,
) -> Option<Option<(fs::ReadDir, Vec<u8>, Gate)>> {
    let mut opened = None;
    let named = above.is_none();
    let walked = describe(&local, metadata, named).map(|(metadata, what)| {
        if let (What::Directory(gate), Ok(entries)) = (&what, fs::read_dir(&local)) {
            opened = Some((entries, remote.clone(), gate.clone()));
        }
        Item {
            local: local.clone(),
            remote,
            metadata,
            above,
            what,
        }
    });
    let unreadable =
        matches!(&walked, Ok(Item { what: What::Directory(_), .. }) if opened.is_none());
    sender.blocking_send(walked).ok()?;
    if unreadable {
        let error = fs::read_dir(&local).err();
        let text = error.map_or_else(String::new, |error| local_error(&local, &error));
        sender.blocking_send(Err(text)).ok()?;
    }
    Some(opened)
}

fn describe(
    local: &Path,
    metadata: std::io::Result<Metadata>,
    named: bool,
) -> Result<(Metadata, What), String> {
    let metadata = metadata.map_err(|error| local_error(local, &error))?;
    let kind = metadata.file_type();
    let what = if kind.is_dir() {
        What::Directory(Gate::default())
    } else if kind.is_file() {
        What::File
    } else if named && (kind.is_fifo() || kind.is_char_device() || kind.is_block_device()) {
        What::Stream
    } else if kind.is_symlink() {
        let target = fs::read_link(local).map_err(|error| local_error(local, &error))?;
        What::Symlink(target)
    } else {
        let name = crate::output::escape(local.as_os_str().as_bytes());
        return Err(format!("{name}: neither a file nor a directory, left out"));
    };
    Ok((metadata, what))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::{What, queue, walk};

    #[test]
    fn directories_come_before_what_they_hold_and_links_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "x").unwrap();
        symlink("..", root.join("a/loop")).unwrap();
        let (sender, mut receiver) = queue();
        let missing = directory.path().join("missing");
        walk(
            vec![(root, b"/r".to_vec()), (missing, b"/m".to_vec())],
            false,
            &sender,
        );
        drop(sender);
        let (mut seen, mut errors) = (Vec::new(), Vec::new());
        while let Some(walked) = receiver.blocking_recv() {
            match walked {
                Ok(item) => {
                    let kind = match item.what {
                        What::Directory(_) => 'd',
                        What::File => 'f',
                        What::Stream => 'p',
                        What::Symlink(_) => 'l',
                    };
                    assert_eq!(item.above.is_none(), item.remote == b"/r");
                    seen.push((String::from_utf8(item.remote).unwrap(), kind));
                }
                Err(text) => errors.push(text),
            }
        }
        let at = |path: &str| seen.iter().position(|(seen, _)| seen == path).unwrap();
        assert!(at("/r") < at("/r/a") && at("/r/a") < at("/r/a/b"));
        assert_eq!(seen[at("/r/a/b/file")].1, 'f');
        assert_eq!(seen[at("/r/a/loop")].1, 'l');
        assert_eq!(seen.len(), 5);
        assert!(errors.len() == 1 && errors[0].ends_with("missing: No such file or directory"));
    }
    #[test]
    fn named_links_are_followed_unless_asked_for_or_dangling() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        std::fs::write(place("file"), "x").unwrap();
        symlink("file", place("link")).unwrap();
        symlink("nowhere", place("dangling")).unwrap();
        let null = std::path::PathBuf::from("/dev/null");
        for (source, links, expected) in [
            (place("link"), false, "File"),
            (place("link"), true, "Symlink"),
            (place("dangling"), false, "Symlink"),
            (null, true, "Stream"),
        ] {
            let (sender, mut receiver) = queue();
            walk(vec![(source, b"/x".to_vec())], links, &sender);
            let item = receiver.blocking_recv().unwrap().unwrap();
            let what = format!("{:?}", item.what);
            assert!(what.starts_with(expected), "{what} is not {expected}");
        }
    }
}
