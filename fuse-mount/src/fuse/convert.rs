//! Numbers, flags and attributes between the kernel's form and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_protocol::messages::common::{Attributes, InodeKind};
use cairn_protocol::messages::lock::LockMode;
use fuser::{Errno, FileAttr, FileType, FopenFlags, INodeNo, ReplyXattr};

use super::BLOCK_BYTES;

/// Nanoseconds since 1970.
fn time(ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(ns)
}

/// Nanoseconds since 1970; times before that are 1970.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn file_type(kind: i32) -> FileType {
    match InodeKind::try_from(kind) {
        Ok(InodeKind::Directory) => FileType::Directory,
        Ok(InodeKind::Symlink) => FileType::Symlink,
        Ok(InodeKind::Fifo) => FileType::NamedPipe,
        Ok(InodeKind::Socket) => FileType::Socket,
        Ok(InodeKind::CharDevice) => FileType::CharDevice,
        Ok(InodeKind::BlockDevice) => FileType::BlockDevice,
        Ok(InodeKind::File | InodeKind::Unspecified) | Err(_) => FileType::RegularFile,
    }
}

pub(super) fn file_attr(attributes: &Attributes) -> FileAttr {
    let kind = file_type(attributes.kind);
    FileAttr {
        ino: INodeNo(attributes.inode),
        size: attributes.size,
        blocks: attributes.allocated.div_ceil(512),
        atime: time(attributes.atime_ns),
        mtime: time(attributes.mtime_ns),
        ctime: time(attributes.ctime_ns),
        crtime: time(attributes.btime_ns),
        kind,
        perm: (attributes.mode & 0o7777) as u16,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev as u32,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// What `l_type` of `fcntl` wishes for.
pub(super) fn lock_mode(kind: i32) -> Option<LockMode> {
    match kind {
        libc::F_RDLCK => Some(LockMode::Read),
        libc::F_WRLCK => Some(LockMode::Write),
        libc::F_UNLCK => Some(LockMode::Unlocked),
        _ => None,
    }
}

/// And what it says of a lock that is there.
pub(super) fn lock_type(mode: LockMode) -> i32 {
    match mode {
        LockMode::Read => libc::F_RDLCK,
        LockMode::Write => libc::F_WRLCK,
        LockMode::Unlocked => libc::F_UNLCK,
    }
}

pub(super) fn open_flags(flags: i32, unchanged: bool) -> FopenFlags {
    let mut open = FopenFlags::empty();
    if flags & libc::O_APPEND != 0 {
        // The kernel's own idea of the end may be behind: bytes go where the cluster says.
        open |= FopenFlags::FOPEN_DIRECT_IO;
    } else if unchanged {
        open |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    open
}

/// A value, or its length if there is room for nothing.
pub(super) fn reply_xattr(reply: ReplyXattr, value: &[u8], room: u32) {
    match u32::try_from(value.len()) {
        Ok(length) if room == 0 => reply.size(length),
        Ok(length) if length <= room => reply.data(value),
        Ok(_) | Err(_) => reply.error(Errno::ERANGE),
    }
}
