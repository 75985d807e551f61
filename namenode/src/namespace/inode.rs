//! Records of inodes as people see them: attributes, times, version, and the right to change content.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind, Location};
use cairn_protocol::messages::operation::{InodeOutcome, OutcomeKind, OutcomeValue};

use super::acl;
use super::context::{Context, Stamp};
use super::error::OpError;
use super::path::{self, Node};
use super::permission::{self, WRITE};
use crate::store::records::InodeRecord;
use crate::store::{self, Txn};

/// Largest size of a file: offsets are signed in POSIX.
pub(super) const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// What a umask can take away.
const UMASK_BITS: u32 = 0o777;

/// Most replicas that anybody may ask for.
pub(super) const REPLICATION_MAX: u32 = 16;

/// A new inode. All its times are those of the stamp.
pub(super) fn new(kind: InodeKind, mode: u32, uid: u32, gid: u32, stamp: Stamp) -> InodeRecord {
    InodeRecord {
        kind: kind as i32,
        mode: mode & permission::MODE_MASK,
        uid,
        gid,
        mtime_ns: stamp.at_ns,
        version: stamp.index,
        ..InodeRecord::default()
    }
}

/// A new inode for a name in `directory`, with the mode, group and access control lists that it inherits.
pub(super) fn made_in(
    ctx: &Context,
    directory: &InodeRecord,
    kind: InodeKind,
    mode: u32,
) -> InodeRecord {
    let default = &directory.default_acl;
    let (mode, acl) = if kind == InodeKind::Symlink {
        (mode, Vec::new())
    } else if default.is_empty() {
        (mode & !(ctx.caller.umask & UMASK_BITS), Vec::new())
    } else {
        acl::inherit(default, mode)
    };
    let (mode, gid) = permission::inherit(&ctx.caller, directory, kind, mode);
    let mut record = new(kind, mode, ctx.caller.uid, gid, ctx.stamp);
    record.acl = acl;
    if kind == InodeKind::Directory {
        record.default_acl.clone_from(default);
    }
    record
}

/// Whether it is a directory.
pub(super) fn is_directory(inode: &InodeRecord) -> bool {
    inode.kind == InodeKind::Directory as i32
}

/// Whether it is a regular file.
pub(super) fn is_file(inode: &InodeRecord) -> bool {
    inode.kind == InodeKind::File as i32
}

/// Times are stored as differences; they wrap, so that every pair of times has one.
fn delta(time_ns: u64, mtime_ns: u64) -> i64 {
    time_ns.wrapping_sub(mtime_ns).cast_signed()
}

fn absolute(delta_ns: i64, mtime_ns: u64) -> u64 {
    mtime_ns.wrapping_add(delta_ns.cast_unsigned())
}

/// Last change of content or attributes.
pub(super) fn ctime_ns(inode: &InodeRecord) -> u64 {
    absolute(inode.ctime_delta_ns, inode.mtime_ns)
}

/// Last read, as far as anybody recorded it.
pub(super) fn atime_ns(inode: &InodeRecord) -> u64 {
    absolute(inode.atime_delta_ns, inode.mtime_ns)
}

/// Creation.
pub(super) fn btime_ns(inode: &InodeRecord) -> u64 {
    absolute(inode.btime_delta_ns, inode.mtime_ns)
}

/// Sets the modification time; the other times stay.
pub(super) fn set_mtime(inode: &mut InodeRecord, time_ns: u64) {
    let (atime, ctime, btime) = (atime_ns(inode), ctime_ns(inode), btime_ns(inode));
    inode.mtime_ns = time_ns;
    inode.atime_delta_ns = delta(atime, time_ns);
    inode.ctime_delta_ns = delta(ctime, time_ns);
    inode.btime_delta_ns = delta(btime, time_ns);
}

/// Sets the access time; the other times stay.
pub(super) fn set_atime(inode: &mut InodeRecord, time_ns: u64) {
    inode.atime_delta_ns = delta(time_ns, inode.mtime_ns);
}

/// The time of a change. It does not go back: what a client did by itself may be told after what others did meanwhile.
pub(super) fn now(inode: &InodeRecord, stamp: Stamp) -> u64 {
    stamp.at_ns.max(ctime_ns(inode))
}

/// Marks a change of the inode: ctime and version. The version grows with every change, also with two in one
/// log entry: a compare-and-swap on it must notice both.
pub(super) fn touch(inode: &mut InodeRecord, stamp: Stamp) {
    inode.ctime_delta_ns = delta(now(inode, stamp), inode.mtime_ns);
    inode.version = stamp.index.max(inode.version.saturating_add(1));
}

/// Marks a change of content: mtime (`mtime_ns`, or now if that is 0), ctime and version.
pub(super) fn touch_content(inode: &mut InodeRecord, stamp: Stamp, mtime_ns: u64) {
    let mtime_ns = match mtime_ns {
        0 => now(inode, stamp),
        mtime_ns => mtime_ns,
    };
    set_mtime(inode, mtime_ns);
    touch(inode, stamp);
}

/// Stores a file whose bytes or size are other ones, with a new mtime (`mtime_ns`, or now if that is 0).
pub(super) fn store_content(txn: &mut Txn, ctx: &Context, node: &mut Node, mtime_ns: u64) {
    touch_content(&mut node.inode, ctx.stamp, mtime_ns);
    store::inode::note_content(txn, node.id, &node.inode);
    store::inode::put(txn, node.id, &node.inode);
}

/// What `stat` tells.
pub(super) fn attributes(id: InodeId, inode: &InodeRecord) -> Attributes {
    let directory = is_directory(inode);
    let size = match inode.kind {
        kind if kind == InodeKind::Directory as i32 => inode.entry_count,
        kind if kind == InodeKind::Symlink as i32 => inode.symlink_target.len() as u64,
        _ => inode.size,
    };
    Attributes {
        inode: id.0,
        kind: inode.kind,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        nlink: inode.nlink,
        size,
        atime_ns: atime_ns(inode),
        mtime_ns: inode.mtime_ns,
        ctime_ns: ctime_ns(inode),
        rdev: inode.rdev,
        replication: inode.replication,
        version: inode.version,
        allocated: inode.allocated,
        symlink_target: inode.symlink_target.clone(),
        parent: if directory && id != InodeId::ROOT {
            inode.parent
        } else {
            0
        },
        btime_ns: btime_ns(inode),
        has_acl: !inode.acl.is_empty() || !inode.default_acl.is_empty(),
    }
}

/// The outcome of an operation that is done and left this inode behind; callers fill in what else they have
/// to tell.
pub(super) fn outcome(node: &Node) -> InodeOutcome {
    InodeOutcome {
        attributes: attributes(node.id, &node.inode),
        offset_in_file: 0,
        done: true,
        length_done: 0,
        created: false,
        synced_since: None,
    }
}

/// [`outcome`], wrapped.
pub(super) fn answer(node: &Node) -> OutcomeValue {
    OutcomeKind::Inode(outcome(node)).into()
}

/// Fails unless the caller may use the inode so. Who names it by id alone has opened it before: as on an NFS
/// server, an owner may then read and write whatever the mode says now, for a program may create a file
/// read-only and write it through its handle.
pub(super) fn check_access(
    caller: &cairn_protocol::messages::common::Caller,
    location: &Location,
    inode: &InodeRecord,
    mask: u32,
) -> Result<(), OpError> {
    let by_handle = location.path.is_empty() && is_file(inode) && caller.uid == inode.uid;
    if by_handle || permission::allows(caller, inode, mask) {
        Ok(())
    } else {
        Err(path::failure(ErrorCode::PermissionDenied, location))
    }
}

/// For every change of content: fails unless the caller may write, and takes set-user-id and set-group-id
/// away as a write by anybody but the superuser does.
pub(super) fn check_write_and_clear_suid(
    ctx: &Context,
    location: &Location,
    inode: &mut InodeRecord,
) -> Result<(), OpError> {
    check_access(&ctx.caller, location, inode, WRITE)?;
    if ctx.caller.uid != 0 {
        inode.mode = permission::without_set_ids(inode.mode);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        atime_ns, attributes, btime_ns, ctime_ns, new, set_atime, set_mtime, touch, touch_content,
    };
    use crate::namespace::context::Stamp;
    use cairn_protocol::ids::InodeId;
    use cairn_protocol::messages::common::InodeKind;
    use proptest::prelude::{any, proptest};

    fn stamp(at_ns: u64, index: u64) -> Stamp {
        Stamp {
            time_ns: u64::MAX,
            index,
            at_ns,
        }
    }

    #[test]
    fn a_new_inode_has_one_time_four_times_over() {
        let inode = new(InodeKind::File, 0o17_7777, 1, 2, stamp(77, 5));
        let seen = attributes(InodeId(9), &inode);
        assert_eq!(
            (seen.mtime_ns, seen.ctime_ns, seen.atime_ns, seen.btime_ns),
            (77, 77, 77, 77)
        );
        assert_eq!(
            (seen.inode, seen.mode, seen.uid, seen.gid, seen.version),
            (9, 0o7777, 1, 2, 5)
        );
    }

    #[test]
    fn the_version_grows_twice_in_one_entry() {
        let mut inode = new(InodeKind::File, 0, 0, 0, stamp(1, 5));
        touch(&mut inode, stamp(1, 5));
        assert_eq!(inode.version, 6);
        touch(&mut inode, stamp(1, 6));
        assert_eq!(inode.version, 7);
        touch(&mut inode, stamp(1, 100));
        assert_eq!(inode.version, 100);
    }

    #[test]
    fn what_is_told_late_takes_no_time_back() {
        let mut inode = new(InodeKind::Directory, 0, 0, 0, stamp(10, 1));
        touch_content(&mut inode, stamp(20, 2), 0);
        touch_content(&mut inode, stamp(15, 3), 0);
        assert_eq!((inode.mtime_ns, ctime_ns(&inode)), (20, 20));
        // Whoever says a time gets it.
        touch_content(&mut inode, stamp(30, 4), 5);
        assert_eq!((inode.mtime_ns, ctime_ns(&inode)), (5, 30));
    }

    proptest! {
        #[test]
        fn each_time_is_independent_of_the_others(
            born in any::<u64>(), mtime in any::<u64>(), atime in any::<u64>(), change in any::<u64>(),
        ) {
            let mut inode = new(InodeKind::File, 0, 0, 0, stamp(born, 1));
            set_atime(&mut inode, atime);
            set_mtime(&mut inode, mtime);
            touch(&mut inode, stamp(change, 2));
            assert_eq!(inode.mtime_ns, mtime);
            assert_eq!(atime_ns(&inode), atime);
            assert_eq!(ctime_ns(&inode), change.max(born));
            assert_eq!(btime_ns(&inode), born);
        }
    }
}
