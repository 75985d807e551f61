//! Mode bits and access control lists: who may read, write, search, delete and change what. uid 0 may all that Linux lets it.

use cairn_protocol::messages::common::{Caller, InodeKind};

use super::acl;
use crate::store::Directory;
use crate::store::records::InodeRecord;

/// Bits of a question, as in access(2).
pub(super) const READ: u32 = 4;
/// Write.
pub(super) const WRITE: u32 = 2;
/// Search a directory, execute a file.
pub(super) const EXECUTE: u32 = 1;

/// All bits that a mode may have.
pub(super) const MODE_MASK: u32 = 0o7777;
/// Set-user-id.
pub(super) const SETUID: u32 = 0o4000;
/// Set-group-id; on a directory: what is created in it gets its group.
pub(super) const SETGID: u32 = 0o2000;
/// Only owners delete from this directory.
pub(super) const STICKY: u32 = 0o1000;
const GROUP_EXECUTE: u32 = 0o010;
const ANY_EXECUTE: u32 = 0o111;

/// Whether the caller is in a group.
pub(super) fn in_group(caller: &Caller, gid: u32) -> bool {
    caller.gid == gid || caller.groups.contains(&gid)
}

/// Whether the caller owns the inode or is the superuser.
pub(super) fn owns(caller: &Caller, inode: &InodeRecord) -> bool {
    caller.uid == 0 || caller.uid == inode.uid
}

/// Whether mode and access control list give the caller all bits of `mask`. The first class that fits decides (POSIX): an owner
/// without a bit does not get it as one of the others.
pub(super) fn allows(caller: &Caller, inode: &InodeRecord, mask: u32) -> bool {
    let mask = mask & (READ | WRITE | EXECUTE);
    if caller.uid == 0 {
        let directory = inode.kind == InodeKind::Directory as i32;
        return mask & EXECUTE == 0 || directory || inode.mode & ANY_EXECUTE != 0;
    }
    let owner = (inode.uid, inode.gid);
    if inode.acl.is_empty() {
        class_bits(caller, inode.mode, owner) & mask == mask
    } else {
        acl::allows(&inode.acl, caller, owner, mask)
    }
}

/// Whether the caller may look names up in a directory.
pub(super) fn may_search(caller: &Caller, directory: &Directory) -> bool {
    let Directory { mode, uid, gid, .. } = *directory;
    caller.uid == 0 || class_bits(caller, mode, (uid, gid)) & EXECUTE != 0
}

/// The bits of the class that the caller belongs to.
fn class_bits(caller: &Caller, mode: u32, (uid, gid): (u32, u32)) -> u32 {
    let shift = if caller.uid == uid {
        6
    } else if in_group(caller, gid) {
        3
    } else {
        0
    };
    mode >> shift
}

/// Whether a sticky directory forbids the caller to remove or rename this entry.
pub(super) fn sticky_forbids(
    caller: &Caller,
    directory: &InodeRecord,
    entry: &InodeRecord,
) -> bool {
    directory.mode & STICKY != 0 && !owns(caller, entry) && !owns(caller, directory)
}

/// The mode of a file after somebody else than the superuser changed its content, or anybody its owner.
/// Set-group-id without group execution meant mandatory locking once and is left alone, as Linux does.
pub(super) fn without_set_ids(mode: u32) -> u32 {
    let mode = mode & !SETUID;
    if mode & GROUP_EXECUTE != 0 {
        mode & !SETGID
    } else {
        mode
    }
}

/// Mode and group of a new inode in `directory`, which passes its group on if it is set-group-id.
pub(super) fn inherit(
    caller: &Caller,
    directory: &InodeRecord,
    kind: InodeKind,
    mode: u32,
) -> (u32, u32) {
    let mode = mode & MODE_MASK;
    if directory.mode & SETGID == 0 {
        return (mode, caller.gid);
    }
    let gid = directory.gid;
    if kind == InodeKind::Directory {
        return (mode | SETGID, gid);
    }
    // Nobody makes a program that runs as a group that they are not in.
    let foreign = caller.uid != 0 && !in_group(caller, gid);
    if foreign && mode & GROUP_EXECUTE != 0 {
        (mode & !SETGID, gid)
    } else {
        (mode, gid)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        EXECUTE, READ, SETGID, WRITE, allows, inherit, owns, sticky_forbids, without_set_ids,
    };
    use crate::store::records::InodeRecord;
    use cairn_protocol::messages::common::{Caller, InodeKind};

    fn caller(uid: u32, gid: u32, groups: &[u32]) -> Caller {
        Caller {
            uid,
            gid,
            groups: groups.to_vec(),
            umask: 0,
            token: Vec::new(),
            session: 0,
        }
    }

    fn inode(kind: InodeKind, mode: u32, uid: u32, gid: u32) -> InodeRecord {
        InodeRecord {
            kind: kind as i32,
            mode,
            uid,
            gid,
            ..InodeRecord::default()
        }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let file = inode(InodeKind::File, 0o075, 10, 20);
        assert!(
            !allows(&caller(10, 20, &[]), &file, READ),
            "the owner has no bits"
        );
        assert!(allows(&caller(11, 20, &[]), &file, READ | WRITE | EXECUTE));
        assert!(
            allows(&caller(11, 21, &[5, 20]), &file, WRITE),
            "supplementary groups count"
        );
        assert!(allows(&caller(11, 21, &[]), &file, READ | EXECUTE));
        assert!(!allows(&caller(11, 21, &[]), &file, WRITE));
    }

    #[test]
    fn the_superuser_executes_only_what_somebody_may() {
        let root = caller(0, 0, &[]);
        assert!(allows(
            &root,
            &inode(InodeKind::File, 0, 1, 1),
            READ | WRITE
        ));
        assert!(!allows(
            &root,
            &inode(InodeKind::File, 0o666, 1, 1),
            EXECUTE
        ));
        assert!(allows(&root, &inode(InodeKind::File, 0o001, 1, 1), EXECUTE));
        assert!(allows(
            &root,
            &inode(InodeKind::Directory, 0, 1, 1),
            EXECUTE
        ));
    }

    #[test]
    fn sticky_directories_protect_entries_from_strangers() {
        let tmp = inode(InodeKind::Directory, 0o1777, 0, 0);
        let file = inode(InodeKind::File, 0o666, 10, 10);
        assert!(sticky_forbids(&caller(11, 11, &[]), &tmp, &file));
        assert!(!sticky_forbids(&caller(10, 10, &[]), &tmp, &file));
        assert!(!sticky_forbids(&caller(0, 0, &[]), &tmp, &file));
        let own = inode(InodeKind::Directory, 0o1777, 11, 0);
        assert!(!sticky_forbids(&caller(11, 11, &[]), &own, &file));
    }

    #[test]
    fn set_group_id_directories_pass_their_group_on() {
        let plain = inode(InodeKind::Directory, 0o777, 0, 50);
        let setgid = inode(InodeKind::Directory, 0o2777, 0, 50);
        let user = caller(10, 20, &[]);
        assert_eq!(
            inherit(&user, &plain, InodeKind::File, 0o2755),
            (0o2755, 20)
        );
        assert_eq!(inherit(&user, &setgid, InodeKind::File, 0o644), (0o644, 50));
        assert_eq!(
            inherit(&user, &setgid, InodeKind::File, 0o2755),
            (0o755, 50)
        );
        assert_eq!(
            inherit(&user, &setgid, InodeKind::Directory, 0o755),
            (0o755 | SETGID, 50)
        );
    }

    #[test]
    fn set_ids_go_but_not_the_mark_of_mandatory_locks() {
        assert_eq!(without_set_ids(0o6755), 0o755);
        assert_eq!(without_set_ids(0o6745), 0o2745);
        assert_eq!(without_set_ids(0o1777), 0o1777);
        assert!(owns(&caller(0, 0, &[]), &inode(InodeKind::File, 0, 9, 9)));
    }
}
