//! Removes local files that were uploaded: those alone, and only as they were uploaded. What appeared or changed since it was
//! looked at is in no cluster, so it stays and is told.
//!
//! Between the last look at a file and its removal is a moment in which nothing can be noticed; a program that keeps a file open
//! can write to it even later. Both are the caller's to avoid.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::local_walk::{Item, What};
use crate::session::local_error;

/// Something local that is in the cluster, as it was before it was read.
#[derive(Debug)]
pub(crate) struct Stored {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Directory,
    File(Stamp),
    /// What gives bytes only once was not copied, but drained.
    Stream,
}

/// Tells a file from another, and from itself with other content.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Stored {
    pub(crate) fn of(item: &Item) -> Self {
        let kind = match item.what {
            What::Directory(_) => Kind::Directory,
            What::File | What::Symlink(_) => Kind::File(Stamp::of(&item.metadata)),
            What::Stream => Kind::Stream,
        };
        Self {
            path: item.local.clone(),
            kind,
        }
    }
}

/// Removes what is stored, and tells what had to stay. Of a symbolic link among the `named`, the link goes and what it leads to
/// stays. Blocks.
pub(crate) fn remove_stored(named: Vec<PathBuf>, mut stored: Vec<Stored>) -> Vec<String> {
    let links: Vec<PathBuf> = named.into_iter().filter(|path| path.is_symlink()).collect();
    // What is in a directory has a longer path than the directory, and comes before it.
    stored.sort_by(|a, b| b.path.cmp(&a.path));
    let mut left = Vec::new();
    for Stored { path, kind } in stored {
        let removed = match links.iter().find(|link| path.starts_with(link)) {
            Some(link) if *link == path => remove_link(&path, &kind),
            Some(_) => Ok(()),
            None => remove(&path, &kind),
        };
        left.extend(removed.err());
    }
    left
}

fn remove(path: &Path, kind: &Kind) -> Result<(), String> {
    let stamp = match kind {
        Kind::Directory => return fs::remove_dir(path).map_err(|error| local_error(path, &error)),
        Kind::Stream => return Ok(()),
        Kind::File(stamp) => stamp,
    };
    remove_if(path, fs::symlink_metadata(path), stamp)
}

/// Removes a link whose target was stored, if it still leads there.
fn remove_link(path: &Path, kind: &Kind) -> Result<(), String> {
    match kind {
        Kind::Directory => fs::remove_file(path).map_err(|error| local_error(path, &error)),
        Kind::Stream => Ok(()),
        Kind::File(stamp) => {
            let own = fs::symlink_metadata(path);
            let is_itself = own.as_ref().is_ok_and(|own| Stamp::of(own) == *stamp);
            remove_if(
                path,
                if is_itself { own } else { fs::metadata(path) },
                stamp,
            )
        }
    }
}

fn remove_if(path: &Path, now: io::Result<Metadata>, stamp: &Stamp) -> Result<(), String> {
    let fail = |error: io::Error| local_error(path, &error);
    if Stamp::of(&now.map_err(fail)?) != *stamp {
        let changed = io::Error::other("has changed since it was read, and stays");
        return Err(fail(changed));
    }
    fs::remove_file(path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use super::{Stored, remove_stored};
    use crate::transfer::local_walk::{queue, walk};

    /// What an upload of these would have stored.
    fn stored(sources: &[PathBuf], links: bool) -> Vec<Stored> {
        let (sender, mut receiver) = queue();
        let sources = sources.iter().map(|path| (path.clone(), b"/x".to_vec()));
        walk(sources.collect(), links, &sender);
        drop(sender);
        let mut stored = Vec::new();
        while let Some(item) = receiver.blocking_recv() {
            stored.push(Stored::of(&item.unwrap()));
        }
        stored
    }

    fn tree(at: &Path) {
        fs::create_dir_all(at.join("a/b")).unwrap();
        fs::write(at.join("a/b/file"), "x").unwrap();
        fs::write(at.join("a/other"), "y").unwrap();
        symlink("nowhere", at.join("a/link")).unwrap();
    }

    #[test]
    fn all_that_was_stored_goes() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        tree(&root);
        fs::hard_link(root.join("a/other"), root.join("twin")).unwrap();
        let all = stored(std::slice::from_ref(&root), false);
        assert_eq!(remove_stored(vec![root.clone()], all), [""; 0]);
        assert!(!root.exists());
    }

    #[test]
    fn what_came_or_changed_since_stays() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        tree(&root);
        let all = stored(std::slice::from_ref(&root), false);
        fs::write(root.join("a/b/new"), "new").unwrap();
        fs::write(root.join("a/other"), "y and more").unwrap();
        let left = remove_stored(vec![root.clone()], all);
        let place = |name: &str, why: &str| format!("{}: {why}", root.join(name).display());
        let (full, changed) = (
            "Directory not empty",
            "has changed since it was read, and stays",
        );
        let mut expected = [
            format!("{}: {full}", root.display()),
            place("a", full),
            place("a/b", full),
            place("a/other", changed),
        ];
        expected.reverse();
        assert_eq!(left, expected);
        assert_eq!(fs::read(root.join("a/b/new")).unwrap(), b"new");
        assert_eq!(fs::read(root.join("a/other")).unwrap(), b"y and more");
        assert!(!root.join("a/b/file").exists() && !root.join("a/link").is_symlink());
    }

    #[test]
    fn another_file_under_the_name_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (file, newer) = (directory.path().join("f"), directory.path().join("g"));
        fs::write(&file, "old").unwrap();
        let all = stored(std::slice::from_ref(&file), false);
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&newer, "new").unwrap();
        let times = fs::FileTimes::new().set_modified(time);
        let opened = fs::File::options().write(true).open(&newer).unwrap();
        opened.set_times(times).unwrap();
        fs::rename(&newer, &file).unwrap();
        assert_eq!(remove_stored(vec![file.clone()], all).len(), 1);
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }

    #[test]
    fn of_a_named_link_the_link_goes() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        tree(&place("root"));
        symlink("root", place("to-tree")).unwrap();
        symlink("root/a/other", place("to-file")).unwrap();
        symlink("root", place("kept-as-link")).unwrap();
        for (links, names) in [
            (false, vec!["to-tree", "to-file"]),
            (true, vec!["kept-as-link"]),
        ] {
            let named: Vec<PathBuf> = names.iter().map(|name| place(name)).collect();
            let all = stored(&named, links);
            assert_eq!(remove_stored(named.clone(), all), [""; 0]);
            assert!(named.iter().all(|path| !path.is_symlink()));
        }
        assert!(place("root/a/b/file").exists() && place("root/a/other").exists());
        let pipe = PathBuf::from("/dev/null");
        let all = stored(std::slice::from_ref(&pipe), false);
        assert_eq!(remove_stored(vec![pipe.clone()], all), [""; 0]);
        assert!(pipe.exists());
    }
}
