//! Checks of single records of the tables of files: inode, dirent, extent, xattr, map owner, orphan, claim, detached, dead map.

use cairn_protocol::ids::{ChunkId, InodeId, MapId};
use prost::Message;

use super::Page;
use crate::namespace::extents::{self, INLINE_EXTENTS_MAX};
use crate::namespace::{acl, inode};
use crate::store::chunk_use::UseOwner;
use crate::store::records::{ExtentRecord, InodeRecord};
use crate::store::{self, KeyKind, Read, StoreError};

/// True if the key is of one of these tables.
pub(super) fn check(
    read: &impl Read,
    key: &[u8],
    value: &[u8],
    page: &mut Page,
) -> Result<bool, StoreError> {
    let kind = key[0];
    if kind == KeyKind::Inode as u8 {
        let id = store::inode::decode(key)?;
        let record = InodeRecord::decode(value).map_err(|error| {
            StoreError::Inconsistent(format!("inode {id} cannot be decoded: {error}"))
        })?;
        check_inode(read, id, &record, page)?;
    } else if kind == KeyKind::Dirent as u8 {
        check_dirent(read, key, page)?;
    } else if kind == KeyKind::Extent as u8 {
        let (map, extent) = store::extent::decode_pair(key, value)?;
        check_mapped_extent(read, map, &extent, page)?;
    } else if kind == KeyKind::Xattr as u8 {
        let (id, _) = store::xattr::decode(key)?;
        if store::inode::get(read, id)?.is_none_or(|inode| inode.xattr_count == 0) {
            page.problem(
                "I2",
                format!("attribute of inode {id}, which is gone or counts none"),
            );
        }
    } else if kind == KeyKind::MapOwner as u8 {
        let map = store::map_owner::decode(key)?;
        check_map_owner(read, map, page)?;
    } else if kind == KeyKind::Orphan as u8 {
        check_orphan(read, store::orphan::decode(key)?, page)?;
    } else if kind == KeyKind::Claim as u8 {
        let (session, id) = store::claim::decode(key)?;
        let orphan = store::orphan::get(read, id)?;
        if orphan.is_none_or(|orphan| !orphan.claims.contains(&session.0)) {
            page.problem(
                "I2",
                format!("claim of session {session} on inode {id} has no orphan"),
            );
        }
    } else if kind == KeyKind::Detached as u8 {
        let id = store::detached::decode(key)?;
        let detached = store::inode::get(read, id)?
            .is_some_and(|record| inode::is_directory(&record) && record.nlink == 0);
        if !detached {
            page.problem(
                "I2",
                format!("detached inode {id} is no directory without a name"),
            );
        }
    } else if kind == KeyKind::DeadMap as u8 {
        let map = store::dead_map::decode(key)?;
        if store::map_owner::get(read, map)?.is_some() {
            page.problem("I4", format!("dead map {map} has an owner"));
        }
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn check_inode(
    read: &impl Read,
    id: InodeId,
    record: &InodeRecord,
    page: &mut Page,
) -> Result<(), StoreError> {
    page.inodes += 1;
    if record.nlink == 0 {
        let kept = store::orphan::contains(read, id)? || store::detached::contains(read, id)?;
        if !kept {
            page.problem(
                "I2",
                format!("inode {id} has no name and is neither orphan nor detached"),
            );
        }
    } else if inode::is_directory(record) && id != InodeId::ROOT {
        let parent = store::inode::get(read, InodeId(record.parent))?;
        if !parent.is_some_and(|parent| inode::is_directory(&parent)) {
            page.problem(
                "I2",
                format!("directory {id} has no parent {}", record.parent),
            );
        }
    }
    if record.delegated_to != 0 && !inode::is_directory(record) {
        let message = format!(
            "inode {id} is delegated to session {} and no directory",
            record.delegated_to
        );
        page.problem("I11", message);
    }
    if !acl::agrees(record) {
        page.problem(
            "I2",
            format!(
                "access control list of inode {id} is damaged, or says something else than its mode"
            ),
        );
    }
    if record.map != 0 {
        let owner = store::map_owner::get(read, MapId(record.map))?;
        if owner.is_none_or(|owner| owner.inode != id.0) || !record.inline_extents.is_empty() {
            page.problem(
                "I4",
                format!("inode {id} does not own its map {}", record.map),
            );
        }
        return Ok(());
    }
    check_inline(read, id, record, page)
}

fn check_inline(
    read: &impl Read,
    id: InodeId,
    record: &InodeRecord,
    page: &mut Page,
) -> Result<(), StoreError> {
    let mut end = 0;
    for extent in &record.inline_extents {
        if extent.offset_in_file < end {
            page.problem("I3", format!("extents of inode {id} overlap before {end}"));
        }
        end = extents::end(extent);
        check_extent(read, UseOwner::Inode(id), extent, page)?;
    }
    let covered: u64 = record
        .inline_extents
        .iter()
        .map(|extent| extent.length)
        .sum();
    if end > record.size
        || covered != record.allocated
        || record.inline_extents.len() > INLINE_EXTENTS_MAX
    {
        page.problem(
            "I3",
            format!("extents of inode {id} do not fit its size or allocation"),
        );
    }
    Ok(())
}

/// Every extent lies in the committed bytes of a chunk (I3), and has its use there (I4).
fn check_extent(
    read: &impl Read,
    owner: UseOwner,
    extent: &ExtentRecord,
    page: &mut Page,
) -> Result<(), StoreError> {
    page.extents += 1;
    let id = ChunkId(extent.chunk);
    let end = extent.offset_in_chunk.checked_add(extent.length);
    let chunk = store::chunk::get(read, id)?;
    let inside = chunk.is_some_and(|chunk| end.is_some_and(|end| end <= chunk.length));
    if !inside || extent.length == 0 {
        let message = format!("extent {extent:?} of {owner:?} lies outside its chunk's bytes");
        page.problem("I3", message);
    }
    let expected = extents::use_of(owner, extent);
    if store::chunk_use::get(read, id, &expected)? != Some(expected) {
        page.problem("I4", format!("extent {extent:?} of {owner:?} has no use"));
    }
    Ok(())
}

fn check_mapped_extent(
    read: &impl Read,
    map: MapId,
    extent: &ExtentRecord,
    page: &mut Page,
) -> Result<(), StoreError> {
    check_extent(read, UseOwner::Map(map), extent, page)?;
    let before = store::extent::last_before(read, map, extent.offset_in_file)?;
    if before.is_some_and(|before| extents::end(&before) > extent.offset_in_file) {
        page.problem(
            "I3",
            format!("extents of map {map} overlap at {}", extent.offset_in_file),
        );
    }
    let owner = store::map_owner::get(read, map)?;
    let Some(owner) = owner else {
        if store::dead_map::get(read, map)?.is_none() {
            page.problem("I4", format!("map {map} has an extent and no owner"));
        }
        return Ok(());
    };
    let inode = store::inode::get(read, InodeId(owner.inode))?;
    if inode.is_none_or(|inode| extents::end(extent) > inode.size) {
        page.problem(
            "I3",
            format!("extent of map {map} reaches beyond inode {}", owner.inode),
        );
    }
    Ok(())
}

fn check_map_owner(read: &impl Read, map: MapId, page: &mut Page) -> Result<(), StoreError> {
    let owner = store::map_owner::get(read, map)?.map_or(0, |owner| owner.inode);
    let inode = store::inode::get(read, InodeId(owner))?;
    if inode.is_none_or(|inode| inode.map != map.0) {
        page.problem("I4", format!("inode {owner} does not use its map {map}"));
    }
    Ok(())
}

fn check_dirent(read: &impl Read, key: &[u8], page: &mut Page) -> Result<(), StoreError> {
    let (parent, name) = store::dirent::decode(key)?;
    let text = String::from_utf8_lossy(name);
    let directory = store::inode::get(read, parent)?;
    if !directory.is_some_and(|record| inode::is_directory(&record)) {
        page.problem(
            "I2",
            format!("entry {text:?} lies in inode {parent}, which is no directory"),
        );
    }
    let Some(dirent) = store::dirent::get(read, parent, name)? else {
        return Ok(());
    };
    let Some(child) = store::inode::get(read, InodeId(dirent.inode))? else {
        page.problem(
            "I2",
            format!(
                "entry {text:?} of {parent} names inode {}, which is gone",
                dirent.inode
            ),
        );
        return Ok(());
    };
    let misplaced = inode::is_directory(&child) && child.parent != parent.0;
    if child.kind != dirent.kind || child.nlink == 0 || misplaced {
        let message = format!(
            "entry {text:?} of {parent} and inode {} disagree",
            dirent.inode
        );
        page.problem("I2", message);
    }
    Ok(())
}

fn check_orphan(read: &impl Read, id: InodeId, page: &mut Page) -> Result<(), StoreError> {
    if store::inode::get(read, id)?.is_none_or(|inode| inode.nlink != 0) {
        page.problem("I2", format!("orphan {id} is gone or has a name"));
    }
    let claims = store::orphan::get(read, id)?
        .map(|orphan| orphan.claims)
        .unwrap_or_default();
    for session in claims {
        if !store::claim::contains(read, session.into(), id)? {
            page.problem(
                "I2",
                format!("orphan {id} lists session {session}, which has no claim"),
            );
        }
    }
    Ok(())
}
