//! Extended attributes: the names that there may be, and who may read and write them.
//!
//! ```text
//! user.*                      who may read or write the file; only files and directories have them
//! trusted.*                   the superuser; nobody else sees them
//! security.*                  everybody reads, the superuser writes
//! system.posix_acl_access,    everybody reads, the owner writes; stored, not yet obeyed
//! system.posix_acl_default
//! ```

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::{Caller, InodeKind, Location};

use super::error::OpError;
use super::permission::{self, READ, STICKY, WRITE};
use super::{inode, path};
use crate::store::records::InodeRecord;

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
    if name == b"system.posix_acl_access" || name == b"system.posix_acl_default" {
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

/// Whether a list of names shows this one to the caller.
pub(super) fn is_listed(caller: &Caller, name: &[u8]) -> bool {
    caller.uid == 0 || !name.starts_with(b"trusted.")
}

/// There is no such attribute, or none that the caller may see.
pub(super) fn missing(location: &Location, name: &[u8]) -> OpError {
    let message = format!("{}: {}", path::show(location), path::show_bytes(name));
    OpError::new(ErrorCode::NoAttribute, message)
}
