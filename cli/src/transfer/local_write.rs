//! Files on the local disk that appear under their names complete, or not at all.

use std::fs::{self, DirBuilder, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cairn_protocol::messages::common::Attributes;
use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, renameat_with, utimensat};
use rustix::io::Errno;

use super::mode_to_fill;

/// What a local path means to somebody who writes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A name that is given, or taken over, when the file is complete.
    File(PathBuf),
    /// A pipe, a device, or a file that this process was handed open: written in place.
    Stream(PathBuf),
}

impl Target {
    /// Follows symbolic links, as cp does; a link that leads nowhere is its own target. Blocks.
    pub(crate) fn find(path: &Path) -> Self {
        let link = fs::read_link(path);
        let Ok(metadata) = fs::metadata(path) else {
            return Self::File(path.to_path_buf());
        };
        // `/dev/stdout` and the like: what they name may have another name, or none.
        let handed = link.as_ref().is_ok_and(|to| to.starts_with("/proc"))
            || path
                .parent()
                .and_then(|directory| directory.canonicalize().ok())
                .is_some_and(|directory| directory.starts_with("/proc"));
        let regular = metadata.is_file() || metadata.is_dir();
        if !regular || (handed && metadata.is_file()) {
            return Self::Stream(path.to_path_buf());
        }
        match link.and_then(|_| fs::canonicalize(path)) {
            Ok(real) if metadata.is_file() => Self::File(real),
            _ => Self::File(path.to_path_buf()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Stream(path) => path,
        }
    }
}

/// A file that is being written beside its final name; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Unnamed {
    file: File,
    temporary: Option<PathBuf>,
    name: PathBuf,
}

impl Unnamed {
    /// Makes it where `target` says. The umask applies to `mode`. Blocks.
    pub(crate) fn create(target: &Target, mode: u32) -> io::Result<Self> {
        let name = match target {
            Target::File(name) => name.as_path(),
            Target::Stream(name) => return Self::existing(name),
        };
        let mut hidden = std::ffi::OsString::from(format!(".{:016x}.", rand::random::<u64>()));
        // The end of a long name has no room.
        let base = name
            .file_name()
            .filter(|base| base.len() <= 200)
            .unwrap_or_default();
        hidden.push(base);
        hidden.push(".part");
        let temporary = name.with_file_name(hidden);
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(mode & 0o777)
            .open(&temporary)?;
        Ok(Self {
            file,
            temporary: Some(temporary),
            name: name.to_path_buf(),
        })
    }

    /// What takes bytes as they come has no other name meanwhile.
    fn existing(name: &Path) -> io::Result<Self> {
        Ok(Self {
            file: OpenOptions::new().write(true).truncate(true).open(name)?,
            temporary: None,
            name: name.to_path_buf(),
        })
    }

    /// Adds bytes. Blocks.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Gives it the attributes of `like`. Only the superuser can keep a foreign owner; for others it is theirs, and its set-id
    /// bits go. Blocks.
    pub(crate) fn preserve(&self, like: &Attributes) -> io::Result<()> {
        if self.temporary.is_none() {
            // A device keeps its own.
            return Ok(());
        }
        preserve(&self.file, like)
    }

    /// Gives it its name; fails with `AlreadyExists` unless it may replace what has it. Blocks.
    pub(crate) fn name(mut self, replace: bool) -> io::Result<()> {
        let Some(temporary) = self.temporary.take() else {
            return Ok(());
        };
        let named = rename(&temporary, &self.name, replace);
        if named.is_err() {
            self.temporary = Some(temporary);
        }
        named
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing depends on it; what cannot be removed is recognised by its name.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    if replace {
        return fs::rename(from, to);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems cannot do it in one step.
        Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(to).is_err() => {
            fs::rename(from, to)
        }
        Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        renamed => Ok(renamed?),
    }
}

/// Makes a directory that its owner can fill, of something with this mode; the umask applies. Whether it is new. Blocks.
pub(crate) fn make_directory(path: &Path, mode: u32) -> io::Result<bool> {
    match DirBuilder::new().mode(mode_to_fill(mode, 0)).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
        made => made.map(|()| true),
    }
}

/// Takes bits away from a directory's mode. Blocks.
pub(crate) fn take_back(path: &Path, bits: u32) -> io::Result<()> {
    let directory = File::open(path)?;
    let mode = directory.metadata()?.permissions().mode();
    directory.set_permissions(Permissions::from_mode(mode & 0o7777 & !bits))
}

/// Gives a symbolic link the times of `like`, and its owner if we may. Blocks.
pub(crate) fn preserve_link(path: &Path, like: &Attributes) -> io::Result<()> {
    match lchown(path, Some(like.uid), Some(like.gid)) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
        _ => {}
    }
    let time = |ns: u64| Timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as _,
    };
    let times = Timestamps {
        last_access: time(like.atime_ns),
        last_modification: time(like.mtime_ns),
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Gives a directory the attributes of `like`. Blocks.
pub(crate) fn preserve_directory(path: &Path, like: &Attributes) -> io::Result<()> {
    preserve(&File::open(path)?, like)
}

/// Owner first, because a change of owner takes set-id bits away.
fn preserve(file: &File, like: &Attributes) -> io::Result<()> {
    let owner = match fchown(file, Some(like.uid), Some(like.gid)) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
        kept => kept.is_ok(),
    };
    let mode = kept_mode(like.mode, owner);
    file.set_permissions(Permissions::from_mode(mode))?;
    file.set_times(times(like))
}

fn times(like: &Attributes) -> FileTimes {
    let time = |ns: u64| SystemTime::UNIX_EPOCH + Duration::from_nanos(ns);
    FileTimes::new()
        .set_accessed(time(like.atime_ns))
        .set_modified(time(like.mtime_ns))
}

/// The mode of a copy. A program that runs as its owner or group would run as somebody else if they were not kept.
pub(crate) fn kept_mode(mode: u32, owner_is_kept: bool) -> u32 {
    mode & if owner_is_kept { 0o7777 } else { 0o1777 }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use cairn_protocol::messages::common::Attributes;

    use super::{Target, Unnamed};

    fn names(directory: &std::path::Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_file_appears_complete_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("x");
        let mut file = Unnamed::create(&Target::find(&name), 0o600).unwrap();
        file.write(b"half").unwrap();
        assert!(!name.exists());
        drop(file);
        assert!(names(directory.path()).is_empty());

        let mut file = Unnamed::create(&Target::find(&name), 0o600).unwrap();
        file.write(b"whole").unwrap();
        file.name(false).unwrap();
        assert_eq!(std::fs::read(&name).unwrap(), b"whole");
        assert_eq!(names(directory.path()), ["x"]);
    }

    #[test]
    fn what_exists_is_replaced_only_when_asked() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("x");
        std::fs::write(&name, "old").unwrap();
        let error = Unnamed::create(&Target::find(&name), 0o600)
            .unwrap()
            .name(false)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(
            (std::fs::read(&name).unwrap(), names(directory.path()).len()),
            (b"old".to_vec(), 1)
        );
        Unnamed::create(&Target::find(&name), 0o600)
            .unwrap()
            .name(true)
            .unwrap();
        assert_eq!(std::fs::read(&name).unwrap(), b"");
    }

    #[test]
    fn links_are_followed_and_devices_written_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        std::fs::write(place("file"), "").unwrap();
        for (link, to) in [("link", "file"), ("again", "link"), ("dangling", "nowhere")] {
            std::os::unix::fs::symlink(to, place(link)).unwrap();
        }
        let file = Target::File(place("file").canonicalize().unwrap());
        assert_eq!(Target::find(&place("link")), file);
        assert_eq!(Target::find(&place("again")), file);
        for own in ["dangling", "none", "."] {
            assert_eq!(Target::find(&place(own)), Target::File(place(own)));
        }
        let null = std::path::Path::new("/dev/null");
        assert_eq!(Target::find(null), Target::Stream(null.to_path_buf()));
        let mut device = Unnamed::create(&Target::find(null), 0o600).unwrap();
        device.write(b"gone").unwrap();
        device.preserve(&Attributes::default()).unwrap();
        device.name(false).unwrap();
        assert!(!std::fs::metadata(null).unwrap().is_file());
    }

    #[test]
    fn attributes_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("x");
        let own = std::fs::metadata(directory.path()).unwrap();
        let like = Attributes {
            mode: 0o640,
            uid: own.uid(),
            gid: own.gid(),
            atime_ns: 1_000_000_001,
            mtime_ns: 2_000_000_002,
            ..Attributes::default()
        };
        let file = Unnamed::create(&Target::find(&name), 0o600).unwrap();
        file.preserve(&like).unwrap();
        file.name(false).unwrap();
        let found = std::fs::metadata(&name).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o640);
        assert_eq!(
            (found.mtime(), found.mtime_nsec(), found.atime_nsec()),
            (2, 2, 1)
        );
    }
}
