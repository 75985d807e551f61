//! Answers that the kernel may keep: each says for how long.

use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, UNIX_EPOCH};

use cairn_protocol::messages::common::Attributes;
use cairn_protocol::messages::query::ListingEntry;
use fuser::{Errno, FileAttr, FileType, INodeNo, ReplyAttr, ReplyDirectoryPlus, ReplyEntry};

use super::convert::file_attr;
use super::{Adapter, GENERATION, Refuse, cookie, entry_index};
use crate::fs::{MountedFs, Outcome};
use crate::told::{Answer, Asked, Told};

/// Most entries of one answer whose attributes have to be asked for one by one.
const ASKED_MAX: usize = 64;

impl Adapter {
    /// Answers with what a name means that this mount has made.
    pub(super) fn answer_entry(
        &self,
        reply: ReplyEntry,
        (parent, name): (INodeNo, &OsStr),
        work: impl Future<Output = Outcome<Attributes>> + Send + 'static,
    ) {
        let (fs, asked, name) = (self.fs.clone(), self.fs.told.asked(), name.to_owned());
        let answered = async move {
            match work.await {
                Ok(attributes) => {
                    let answer = fs.told.answer_change(asked);
                    reply_entry(reply, &fs, &answer, (parent, &name), &attributes);
                }
                Err(errno) => reply.refuse(Errno::from_i32(errno)),
            }
        };
        self.run(answered);
    }

    /// Answers with attributes.
    pub(super) fn answer_attr(
        &self,
        reply: ReplyAttr,
        kind: for<'a> fn(&'a Told, Asked) -> Answer<'a>,
        work: impl Future<Output = Outcome<Attributes>> + Send + 'static,
    ) {
        let (fs, asked) = (self.fs.clone(), self.fs.told.asked());
        self.answer(reply, work, move |reply, attributes| {
            let answer = kind(&fs.told, asked);
            let keep = fs.keep_attributes(&answer, &attributes);
            reply.attr(&keep, &file_attr(&attributes));
        });
    }
}

fn reply_entry(
    reply: ReplyEntry,
    fs: &MountedFs,
    answer: &Answer<'_>,
    (parent, name): (INodeNo, &OsStr),
    attributes: &Attributes,
) {
    let keep_name = answer.name(parent.0, name.as_bytes());
    let keep = fs.keep_attributes(answer, attributes);
    reply.entry_with_ttls(&keep, &keep_name, &file_attr(attributes), GENERATION);
}

/// What a name means, or that it means nothing: the kernel keeps that, too.
pub(super) fn reply_lookup(
    reply: ReplyEntry,
    fs: &MountedFs,
    asked: Asked,
    (parent, name): (INodeNo, &OsStr),
    found: Outcome<Attributes>,
) {
    let answer = fs.told.answer(asked);
    match found {
        Ok(attributes) => reply_entry(reply, fs, &answer, (parent, name), &attributes),
        Err(libc::ENOENT) => {
            let keep = answer.name(parent.0, name.as_bytes());
            reply.entry_with_ttls(&Duration::ZERO, &keep, &NOTHING, GENERATION);
        }
        Err(errno) => reply.refuse(Errno::from_i32(errno)),
    }
}

/// Answers at once if it is known that a name means nothing; else returns the reply.
pub(super) fn reply_if_nothing(
    reply: ReplyEntry,
    fs: &MountedFs,
    asked: Asked,
    (parent, name): (INodeNo, &OsStr),
) -> Option<ReplyEntry> {
    let answer = fs.told.answer(asked);
    if !answer.means_nothing(parent.0, name.as_bytes()) {
        return Some(reply);
    }
    let keep = answer.name(parent.0, name.as_bytes());
    reply.entry_with_ttls(&Duration::ZERO, &keep, &NOTHING, GENERATION);
    None
}

/// Number 0 says that a name means nothing.
const NOTHING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

/// Asks for attributes of those that have none. Entries that are gone since they were listed stay without; those for which it
/// would take too long are cut off, and the kernel asks again from there.
pub(super) async fn with_attributes(
    fs: &MountedFs,
    mut entries: Vec<ListingEntry>,
) -> Vec<ListingEntry> {
    let mut asked = 0;
    for index in 0..entries.len() {
        if entries[index].attributes.is_some() {
            continue;
        }
        if asked == ASKED_MAX {
            entries.truncate(index);
            break;
        }
        asked += 1;
        entries[index].attributes = fs.attributes(entries[index].inode).await.ok();
    }
    entries
}

/// Fills an answer with a directory's own two entries, if they are still to come, and its others. Returns how many of these
/// it took, and whether there was no room for another one; nothing if it came to none.
pub(super) fn add_entries(
    reply: &mut ReplyDirectoryPlus,
    fs: &MountedFs,
    answer: &Answer<'_>,
    own: Option<&Attributes>,
    (offset, entries): (u64, &[ListingEntry]),
    directory: INodeNo,
) -> Option<(usize, bool)> {
    let zero = Duration::ZERO;
    if let Some(own) = own {
        // The kernel takes nothing but the number from these two.
        let mut attr = file_attr(own);
        if offset == 0 && reply.add(attr.ino, 1, ".", &zero, &attr, GENERATION) {
            return None;
        }
        attr.ino = INodeNo(own.parent.max(1));
        if offset <= 1 && reply.add(attr.ino, 2, "..", &zero, &attr, GENERATION) {
            return None;
        }
    }
    let first = entry_index(offset);
    for (count, entry) in entries.iter().enumerate() {
        // Gone since it was listed: a name that has no inode is not told.
        let Some(attributes) = &entry.attributes else {
            continue;
        };
        let attr = file_attr(attributes);
        let keep = answer.name(directory.0, &entry.name);
        let keep = keep.min(fs.keep_attributes(answer, attributes));
        let (name, cookie) = (OsStr::from_bytes(&entry.name), cookie(first + count));
        if reply.add(attr.ino, cookie, name, &keep, &attr, GENERATION) {
            return Some((count, true));
        }
    }
    Some((entries.len(), false))
}
