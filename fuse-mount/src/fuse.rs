//! The kernel's requests and replies. Translates numbers, flags and names; everything else is in `fs.rs`.
//!
//! What needs no wait is answered by the thread that took the request. Any other is answered by a task of its own, counted by a tracker, so
//! that a slow one holds nobody up.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::SystemTime;

use bytes::Bytes;
use cairn_client::AttributeChange;
use cairn_protocol::messages::common::{Attributes, InodeKind};
use cairn_protocol::messages::operation::{RenameMode, XattrMode};
use cairn_protocol::messages::query::ListingEntry;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents,
    PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

mod convert;
mod replies;

use self::convert::{
    file_attr, file_type, lock_mode, lock_type, nanoseconds, open_flags, reply_xattr,
};
use self::replies::{add_entries, reply_if_nothing, reply_lookup, with_attributes};
use crate::fs::{LockCall, MountedFs, NewAttributes, Outcome, Requester};
use crate::process::Thread;
use crate::told::Told;

/// Largest request, and what the kernel can put into one.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Block size that programs are told.
const BLOCK_BYTES: u32 = 4096;
/// Requests that the kernel sends on its own account before it waits for answers.
const BACKGROUND_MAX: u16 = 64;
/// Inode numbers are never used again.
const GENERATION: Generation = Generation(0);

/// One mount, as fuser sees it.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) fs: Arc<MountedFs>,
    pub(crate) runtime: Handle,
    pub(crate) tasks: TaskTracker,
    /// One permit for each thread of the mount that may wait for a disk.
    pub(crate) disk_reads: Semaphore,
}

/// Replies that can say no.
trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => { $(impl Refuse for $reply {
        fn refuse(self, errno: Errno) { self.error(errno); }
    })* };
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLock,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

impl Adapter {
    /// Begins at once, in this thread: what needs no wait is answered here. The rest is a task.
    fn run(&self, answered: impl Future<Output = ()> + Send + 'static) {
        let _runtime = self.runtime.enter();
        let mut answered = Box::pin(answered);
        // Whoever waits is polled again as a task, which is then the one to wake.
        let mut context = Context::from_waker(Waker::noop());
        if answered.as_mut().poll(&mut context).is_pending() {
            self.tasks.spawn(answered);
        }
    }

    /// Bytes of a replica on this machine, read by this thread: a few may wait for the disk, the others go on.
    fn read_here(&self, inode: INodeNo, offset: u64, length: usize) -> Option<Bytes> {
        let _one = self.disk_reads.try_acquire().ok()?;
        let _runtime = self.runtime.enter();
        self.fs.read_here(inode.0, offset, length)
    }

    /// Answers when `work` is done.
    fn answer<R: Refuse, T: Send>(
        &self,
        reply: R,
        work: impl Future<Output = Outcome<T>> + Send + 'static,
        accept: impl FnOnce(R, T) + Send + 'static,
    ) {
        let answered = async move {
            match work.await {
                Ok(value) => accept(reply, value),
                Err(errno) => reply.refuse(Errno::from_i32(errno)),
            }
        };
        self.run(answered);
    }
}

/// Offsets 1 and 2 are behind the two entries that the cluster does not list.
fn entry_index(offset: u64) -> usize {
    usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX)
}

/// The offset behind the entry of this index.
fn cookie(index: usize) -> u64 {
    index as u64 + 3
}

/// Entries from an offset on, and the directory itself if its own two entries are still to come.
async fn read_directory(
    fs: &MountedFs,
    inode: INodeNo,
    handle: FileHandle,
    offset: u64,
    attributes: bool,
) -> Outcome<(Option<Attributes>, Vec<ListingEntry>)> {
    let own = match offset {
        0 | 1 => Some(fs.attributes(inode.0).await?),
        _ => None,
    };
    let index = entry_index(offset);
    let entries = fs.read_directory(handle.0, index, attributes).await?;
    if let Some(own) = &own {
        fs.note_read_of(own.clone());
    }
    Ok((own, entries))
}

fn requester(request: &Request) -> Requester {
    Requester {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
        umask: 0,
    }
}

/// The same for one that makes something.
fn maker(request: &Request, umask: u32) -> Requester {
    Requester {
        umask: umask & 0o777,
        ..requester(request)
    }
}

fn lock_call(
    (inode, handle): (INodeNo, FileHandle),
    owner: LockOwner,
    (start, end): (u64, u64),
    kind: i32,
    pid: u32,
) -> Outcome<LockCall> {
    Ok(LockCall {
        inode: inode.0,
        handle: handle.0,
        owner: owner.0,
        mode: lock_mode(kind).ok_or(libc::EINVAL)?,
        start,
        end,
        pid,
    })
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each is a refinement that an older kernel may lack.
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_MAX_PAGES,
            // Without these the kernel would grant locks by itself, to its own processes alone.
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_FLOCK_LOCKS,
            // The kernel checks access control lists, and the cluster keeps them in step with modes; a umask counts only in
            // directories that have no default list, and only the cluster knows which these are.
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
            // A target never changes, and inode numbers are not used again.
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Else it asks for security.capability before each write. `fs` takes the bits away.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            // For handles that append; it then also keeps their pages in step with other handles'.
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ];
        for flag in wanted {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let asked = self.fs.told.asked();
        let Some(reply) = reply_if_nothing(reply, &self.fs, asked, (parent, name)) else {
            return;
        };
        let (fs, name) = (self.fs.clone(), name.to_owned());
        let answered = async move {
            let found = fs.lookup(parent.0, name.as_bytes()).await;
            reply_lookup(reply, &fs, asked, (parent, &name), found);
        };
        self.run(answered);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let asked = self.fs.told.asked();
        if let Some(known) = self.fs.told.remembered(inode.0) {
            let answer = self.fs.told.answer(asked);
            let keep = self.fs.keep_attributes(&answer, &known);
            return reply.attr(&keep, &file_attr(&known));
        }
        let fs = self.fs.clone();
        self.answer_attr(
            reply,
            Told::answer,
            async move { fs.attributes(inode.0).await },
        );
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let specific = |time: Option<TimeOrNow>| match time {
            Some(TimeOrNow::SpecificTime(time)) => Some(nanoseconds(time)),
            Some(TimeOrNow::Now) | None => None,
        };
        let change = AttributeChange {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            atime_ns: specific(atime),
            mtime_ns: specific(mtime),
            atime_now: matches!(atime, Some(TimeOrNow::Now)),
            mtime_now: matches!(mtime, Some(TimeOrNow::Now)),
            ..AttributeChange::default()
        };
        let new = NewAttributes { change, size };
        let (fs, who) = (self.fs.clone(), requester(request));
        self.answer_attr(reply, Told::answer_change, async move {
            fs.set_attributes(who, inode.0, new).await
        });
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        let work = async move { fs.readlink(inode.0).await };
        self.answer(reply, work, |reply, target| reply.data(&target));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => InodeKind::File,
            libc::S_IFIFO => InodeKind::Fifo,
            libc::S_IFSOCK => InodeKind::Socket,
            libc::S_IFCHR => InodeKind::CharDevice,
            libc::S_IFBLK => InodeKind::BlockDevice,
            _ => return reply.error(Errno::EINVAL),
        };
        let (fs, who, bytes) = (
            self.fs.clone(),
            maker(request, umask),
            name.as_bytes().to_vec(),
        );
        self.answer_entry(reply, (parent, name), async move {
            fs.make_node(who, parent.0, &bytes, kind, mode & 0o7777, rdev)
                .await
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (fs, who, bytes) = (
            self.fs.clone(),
            maker(request, umask),
            name.as_bytes().to_vec(),
        );
        self.answer_entry(reply, (parent, name), async move {
            fs.mkdir(who, parent.0, &bytes, mode & 0o7777).await
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        let work = async move { fs.unlink(parent.0, &name).await };
        self.answer(reply, work, |reply, ()| reply.ok());
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        let work = async move { fs.rmdir(parent.0, &name).await };
        self.answer(reply, work, |reply, ()| reply.ok());
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (fs, who, bytes) = (
            self.fs.clone(),
            requester(request),
            name.as_bytes().to_vec(),
        );
        let target = target.as_os_str().as_bytes().to_vec();
        self.answer_entry(reply, (parent, name), async move {
            fs.symlink(who, parent.0, &bytes, &target).await
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(Errno::EINVAL);
        };
        let fs = self.fs.clone();
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        let work = async move {
            fs.rename((parent.0, &name), (new_parent.0, &new_name), mode)
                .await
        };
        self.answer(reply, work, |reply, ()| reply.ok());
    }

    fn link(
        &self,
        _request: &Request,
        inode: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (fs, bytes) = (self.fs.clone(), name.as_bytes().to_vec());
        self.answer_entry(reply, (parent, name), async move {
            fs.link(inode.0, parent.0, &bytes).await
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, name, who) = (
            self.fs.clone(),
            name.as_bytes().to_vec(),
            maker(request, umask),
        );
        let exclusive = flags & libc::O_EXCL != 0;
        let (asked, handle) = (fs.told.asked(), FileHandle(fs.new_handle()));
        let answered = async move {
            let made = fs.create(who, parent.0, &name, mode & 0o7777, exclusive);
            match made.await {
                Ok(attributes) => {
                    fs.opened_as(attributes.inode, handle.0);
                    let answer = fs.told.answer_change(asked);
                    // New, so the kernel has no pages of it.
                    answer.pages(attributes.inode);
                    let keep = answer.name(parent.0, &name);
                    let keep = keep.min(fs.keep_attributes(&answer, &attributes));
                    let (attr, open) = (file_attr(&attributes), open_flags(flags, false));
                    reply.created(&keep, &attr, GENERATION, handle, open);
                }
                Err(errno) => reply.refuse(Errno::from_i32(errno)),
            }
        };
        self.run(answered);
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, handle) = (self.fs.clone(), FileHandle(self.fs.new_handle()));
        let work = async move {
            let unchanged = fs.open(inode.0).await?;
            fs.opened_as(inode.0, handle.0);
            if unchanged && flags.0 & libc::O_ACCMODE != libc::O_WRONLY {
                fs.note_read_in_cache(inode.0);
            }
            Ok(unchanged)
        };
        self.answer(reply, work, move |reply, unchanged| {
            reply.opened(handle, open_flags(flags.0, unchanged));
        });
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Some(bytes) = self.read_here(inode, offset, size as usize) {
            return reply.data(&bytes);
        }
        let fs = self.fs.clone();
        let work = async move { fs.read(inode.0, offset, size as usize).await };
        self.answer(reply, work, |reply, bytes| reply.data(&bytes));
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (fs, bytes) = (self.fs.clone(), Bytes::copy_from_slice(data));
        // Never more than REQUEST_BYTES_MAX.
        let length = data.len() as u32;
        // Pages of a memory map go where they were, however the file was opened.
        let from_cache = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let append = flags.0 & libc::O_APPEND != 0 && !from_cache;
        let drop_set_ids = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let work = async move {
            if append {
                let appended = fs.append(inode.0, offset, bytes, drop_set_ids).await;
                appended.map(drop)
            } else {
                fs.write(inode.0, offset, bytes, drop_set_ids).await
            }
        };
        self.answer(reply, work, move |reply, ()| reply.written(length));
    }

    fn flush(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.flush_for(inode.0, handle.0, owner.0).await };
        self.answer(reply, work, |reply, ()| reply.ok());
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.release_for(inode.0, handle.0).await };
        self.answer(reply, work, |reply, ()| reply.ok());
    }

    fn getlk(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        let pid = request.pid();
        let call = lock_call((inode, handle), owner, (start, end), kind, pid);
        let fs = self.fs.clone();
        let work = async move { fs.get_lock(call?).await };
        self.answer(reply, work, move |reply, holder| match holder {
            Some(holder) => {
                let kind = lock_type(holder.mode());
                reply.locked(holder.start, holder.end, kind, holder.pid);
            }
            None => reply.locked(start, end, libc::F_UNLCK, 0),
        });
    }

    fn setlk(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let call = lock_call((inode, handle), owner, (start, end), kind, pid);
        let (fs, thread) = (self.fs.clone(), Thread(request.pid()));
        let work = async move { fs.set_lock(call?, thread, sleep).await };
        self.answer(reply, work, |reply, ()| reply.ok());
    }

    fn fsync(&self, _: &Request, inode: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        let work = async move { fs.sync_for(inode.0, handle.0).await };
        self.answer(reply, work, |reply, ()| reply.ok());
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let handle = self.fs.open_directory(inode.0);
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (fs, index) = (self.fs.clone(), entry_index(offset));
        let answered = async move {
            let found = read_directory(&fs, inode, handle, offset, false).await;
            let (own, entries) = match found {
                Ok(found) => found,
                Err(errno) => return reply.refuse(Errno::from_i32(errno)),
            };
            if let Some(own) = own {
                let directory = FileType::Directory;
                let parent = INodeNo(own.parent.max(1));
                if offset == 0 && reply.add(inode, 1, directory, ".")
                    || offset <= 1 && reply.add(parent, 2, directory, "..")
                {
                    return reply.ok();
                }
            }
            let mut to = index;
            for entry in &entries {
                let next = cookie(to);
                let name = OsStr::from_bytes(&entry.name);
                if reply.add(INodeNo(entry.inode), next, file_type(entry.kind), name) {
                    break;
                }
                to += 1;
            }
            fs.told_directory(handle.0, to, false).await;
            reply.ok();
        };
        self.run(answered);
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (fs, index) = (self.fs.clone(), entry_index(offset));
        let asked = fs.told.asked();
        let answered = async move {
            let found = read_directory(&fs, inode, handle, offset, true).await;
            let (own, entries) = match found {
                Ok((own, entries)) => (own, with_attributes(&fs, entries).await),
                Err(errno) => return reply.refuse(Errno::from_i32(errno)),
            };
            let Some(directory) = fs.directory(handle.0) else {
                return reply.refuse(Errno::EBADF);
            };
            let telling = directory.telling().await;
            let answer = fs.told.answer(asked);
            let added = add_entries(
                &mut reply,
                &fs,
                &answer,
                own.as_ref(),
                (offset, &entries),
                inode,
            );
            if let Some((count, full)) = added {
                telling.told(index + count, full);
            }
            reply.ok();
        };
        self.run(answered);
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.close_directory(handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // What the cluster has been told is on the disks of a majority.
        let fs = self.fs.clone();
        let work = async move { fs.sync_names().await };
        self.answer(reply, work, |reply, ()| reply.ok());
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let fs = self.fs.clone();
        self.answer(reply, async move { fs.space().await }, |reply, space| {
            let unit = u64::from(BLOCK_BYTES) * u64::from(space.replication.max(1));
            let free = space.available_bytes / unit;
            let blocks = free + space.used_bytes / unit;
            let inodes_max = u64::from(u32::MAX);
            let inodes_free = inodes_max.saturating_sub(space.inode_count);
            reply.statfs(
                blocks,
                free,
                free,
                inodes_max,
                inodes_free,
                BLOCK_BYTES,
                255,
                BLOCK_BYTES,
            );
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            0 => XattrMode::Set,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        let (fs, name, value) = (self.fs.clone(), name.as_bytes().to_vec(), value.to_vec());
        let who = requester(request);
        let work = async move { fs.set_xattr(who, inode.0, &name, &value, mode).await };
        self.answer(reply, work, |reply, ()| reply.ok());
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if let Some(errno) = self.fs.get_xattr_at_once(inode.0, name.as_bytes()) {
            return reply.error(Errno::from_i32(errno));
        }
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        let work = async move { fs.get_xattr(inode.0, &name).await };
        self.answer(reply, work, move |reply, value| {
            reply_xattr(reply, &value, size)
        });
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let fs = self.fs.clone();
        let work = async move { fs.list_xattrs(inode.0).await };
        self.answer(reply, work, move |reply, names| {
            reply_xattr(reply, &names, size)
        });
    }

    fn removexattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        let work = async move { fs.remove_xattr(inode.0, &name).await };
        self.answer(reply, work, |reply, ()| reply.ok());
    }

    fn fallocate(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (fs, who) = (self.fs.clone(), requester(request));
        let work = async move { fs.allocate(who, inode.0, (offset, length), mode).await };
        self.answer(reply, work, |reply, ()| reply.ok());
    }

    /// There are none for files: answered without a word, because terminals are asked for wherever something is opened.
    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// Files are always ready; the kernel does not ask again.
    fn poll(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let fs = self.fs.clone();
        let work = async move { fs.seek(inode.0, offset, data).await };
        self.answer(reply, work, |reply, found| match i64::try_from(found) {
            Ok(found) => reply.offset(found),
            Err(_) => reply.error(Errno::EOVERFLOW),
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        source: INodeNo,
        _source_handle: FileHandle,
        source_offset: u64,
        target: INodeNo,
        _target_handle: FileHandle,
        target_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (fs, who) = (self.fs.clone(), requester(request));
        let (from, to) = ((source.0, source_offset), (target.0, target_offset));
        let work = async move { fs.copy_range(who, from, to, length).await };
        self.answer(reply, work, |reply, copied| {
            // At most COPY_BYTES_MAX.
            reply.written(u32::try_from(copied).unwrap_or(u32::MAX));
        });
    }
}
