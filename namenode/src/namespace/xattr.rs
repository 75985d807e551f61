//! Extended attributes: the names that there may be, and who may read and write them.
//!
//! ```text
//! user.*                      who may read or write the file; only files and directories have them
//! trusted.*                   the superuser; nobody else sees them
//! security.*                  everybody reads, the superuser writes
//! system.posix_acl_access,    everybody reads, the owner writes: access control lists, which lie in the inode
//! system.posix_acl_default
//! ```

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::{Caller, InodeKind, Location};

use super::acl::Acl;
use super::error::OpError;
use super::permission::{self, READ, SETGID, STICKY, WRITE};
use super::{inode, path};
use crate::store::records::InodeRecord;

const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
const PERMISSION_BITS: u32 = 0o777;
/// Longest name.
const NAME_BYTES_MAX: usize = 255;
/// Largest value.
pub(super) const VALUE_BYTES_MAX: usize = 64 << 10;
/// Largest sum of names and values of one inode.
pub(super) const INODE_BYTES_MAX: u64 = 1 << 20;
/// Most attributes of one inode: bounds what is swept with it.
pub(super) const COUNT_MAX: u32 = 4096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    User,
    Trusted,
    Security,
    Acl,
}

fn namespace_of(name: &[u8], location: &Location) -> Result<Namespace, OpError> {
    if name.len() > NAME_BYTES_MAX {
        let message = format!(
            "{}: name of an extended attribute of {} bytes, at most {NAME_BYTES_MAX} are allowed",
            path::show(location),
            name.len()
        );
        return Err(OpError::new(ErrorCode::NameTooLong, message));
    }
    let shown = || {
        format!(
            "{}: extended attribute {}",
            path::show(location),
            path::show_bytes(name)
        )
    };
    if name.contains(&0) {
        return Err(OpError::new(ErrorCode::InvalidArgument, shown()));
    }
    if name == ACCESS_ACL || name == DEFAULT_ACL {
        return Ok(Namespace::Acl);
    }
    let prefixes: [(&[u8], Namespace); 3] = [
        (b"user.", Namespace::User),
        (b"trusted.", Namespace::Trusted),
        (b"security.", Namespace::Security),
    ];
    match prefixes.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        Some((prefix, namespace)) if name.len() > prefix.len() => Ok(*namespace),
        Some(_) => Err(OpError::new(ErrorCode::InvalidArgument, shown())),
        None => Err(OpError::new(ErrorCode::NotSupported, shown())),
    }
}

fn may_have_user(record: &InodeRecord) -> bool {
    inode::is_file(record) || inode::is_directory(record)
}

/// Fails unless the caller may read this attribute; what is hidden is not there.
pub(super) fn check_read(
    caller: &Caller,
    location: &Location,
    record: &InodeRecord,
    name: &[u8],
) -> Result<(), OpError> {
    match namespace_of(name, location)? {
        Namespace::User if !may_have_user(record) => Err(missing(location, name)),
        Namespace::User => inode::check_access(caller, location, record, READ),
        Namespace::Trusted if caller.uid != 0 => Err(missing(location, name)),
        Namespace::Trusted | Namespace::Security | Namespace::Acl => Ok(()),
    }
}

/// Fails unless the caller may set and remove this attribute.
pub(super) fn check_write(
    caller: &Caller,
    location: &Location,
    record: &InodeRecord,
    name: &[u8],
) -> Result<(), OpError> {
    let permitted = match namespace_of(name, location)? {
        Namespace::User => {
            let sticky = inode::is_directory(record) && record.mode & STICKY != 0;
            if !may_have_user(record) || (sticky && !permission::owns(caller, record)) {
                false
            } else {
                inode::check_access(caller, location, record, WRITE)?;
                true
            }
        }
        Namespace::Trusted | Namespace::Security => caller.uid == 0,
        Namespace::Acl if record.kind == InodeKind::Symlink as i32 => {
            return Err(path::failure(ErrorCode::NotSupported, location));
        }
        Namespace::Acl => permission::owns(caller, record),
    };
    if permitted {
        Ok(())
    } else {
        Err(path::failure(ErrorCode::NotPermitted, location))
    }
}

/// The access control list that an attribute of this name is; `None` for other names. Empty if there is none.
pub(super) fn acl<'a>(record: &'a InodeRecord, name: &[u8]) -> Option<&'a [u8]> {
    match name {
        ACCESS_ACL => Some(&record.acl),
        DEFAULT_ACL => Some(&record.default_acl),
        _ => None,
    }
}

/// Takes the access control list away that an attribute of this name is; `None` for other names, false if there is none.
pub(super) fn remove_acl(record: &mut InodeRecord, name: &[u8]) -> Option<bool> {
    let list = match name {
        ACCESS_ACL => &mut record.acl,
        DEFAULT_ACL => &mut record.default_acl,
        _ => return None,
    };
    Some(!std::mem::take(list).is_empty())
}

/// Sets an access control list, and the mode that it stands for.
pub(super) fn set_acl(
    caller: &Caller,
    location: &Location,
    record: &mut InodeRecord,
    (name, value): (&[u8], &[u8]),
) -> Result<(), OpError> {
    let Some(list) = Acl::parse(value) else {
        let message = format!("{}: not an access control list", path::show(location));
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    };
    if name == DEFAULT_ACL {
        if !inode::is_directory(record) {
            return Err(path::failure(ErrorCode::PermissionDenied, location));
        }
        record.default_acl = list.encode();
        return Ok(());
    }
    record.mode = record.mode & !PERMISSION_BITS | list.mode();
    if caller.uid != 0 && !permission::in_group(caller, record.gid) {
        record.mode &= !SETGID;
    }
    record.acl = if list.is_minimal() {
        Vec::new()
    } else {
        list.encode()
    };
    Ok(())
}

/// Names of the access control lists of an inode.
pub(super) fn acl_names(record: &InodeRecord) -> impl Iterator<Item = &'static [u8]> {
    let lists = [
        (ACCESS_ACL, record.acl.is_empty()),
        (DEFAULT_ACL, record.default_acl.is_empty()),
    ];
    lists
        .into_iter()
        .filter_map(|(name, empty)| (!empty).then_some(name))
}

/// Whether a list of names shows this one to the caller.
pub(super) fn is_listed(caller: &Caller, name: &[u8]) -> bool {
    caller.uid == 0 || !name.starts_with(b"trusted.")
}

/// There is no such attribute, or none that the caller may see.
pub(super) fn missing(location: &Location, name: &[u8]) -> OpError {
    let message = format!("{}: {}", path::show(location), path::show_bytes(name));
    OpError::new(ErrorCode::NoAttribute, message)
}
