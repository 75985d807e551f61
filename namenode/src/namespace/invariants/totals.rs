//! Checks of what only the sum of all records tells: link counts, entry counts, allocation, the cluster's counters.

use std::collections::BTreeMap;

use cairn_protocol::ids::{ChunkId, DatanodeId, InodeId, MapId, SessionId};
use cairn_protocol::messages::common::InodeKind;

use super::Page;
use crate::namespace::inode;
use crate::store::records::InodeRecord;
use crate::store::{self, KeyKind, Read, StoreError};

/// What the entries say about inodes.
#[derive(Default)]
struct Names {
    /// Names of each inode.
    links: BTreeMap<u64, u32>,
    /// Entries and subdirectories of each directory.
    entries: BTreeMap<u64, (u64, u32)>,
}

/// Checks all sums.
pub(super) fn check(read: &impl Read, page: &mut Page) -> Result<(), StoreError> {
    check_names(read, page)?;
    check_allocation(read, page)?;
    check_cluster(read, page)?;
    check_replica_counts(read, page)?;
    check_lock_counts(read, page)
}

fn collect_names(read: &impl Read) -> Result<Names, StoreError> {
    let mut names = Names::default();
    store::scan_kind(read, KeyKind::Dirent, &mut |key, value| {
        let (parent, name) = store::dirent::decode(key)?;
        let dirent = store::dirent::decode_value(parent, name, value)?;
        *names.links.entry(dirent.inode).or_default() += 1;
        let (entries, directories) = names.entries.entry(parent.0).or_default();
        *entries += 1;
        *directories += u32::from(dirent.kind == InodeKind::Directory as i32);
        Ok(true)
    })?;
    Ok(names)
}

fn check_names(read: &impl Read, page: &mut Page) -> Result<(), StoreError> {
    let names = collect_names(read)?;
    store::inode::scan(read, InodeId(0), &mut |id, record| {
        let links = names.links.get(&id.0).copied().unwrap_or(0);
        let (entries, directories) = names.entries.get(&id.0).copied().unwrap_or((0, 0));
        if inode::is_directory(&record) {
            let named = links == u32::from(record.nlink > 0 && id != InodeId::ROOT);
            let attached = record.nlink == 0 || record.nlink == 2 + directories;
            if !named || !attached || record.entry_count != entries {
                let message = format!(
                    "directory {id} has {links} names, {entries} entries, {directories} directories, \
                     and says {} links, {} entries",
                    record.nlink, record.entry_count
                );
                page.problem("I2", message);
            }
        } else if record.nlink != links {
            page.problem(
                "I2",
                format!("inode {id} has {links} names and says {}", record.nlink),
            );
        }
        Ok(true)
    })
}

fn check_allocation(read: &impl Read, page: &mut Page) -> Result<(), StoreError> {
    store::map_owner::scan(read, MapId(0), &mut |map, owner| {
        let mut covered = 0;
        store::extent::scan(read, map, 0, &mut |extent| {
            covered += extent.length;
            Ok(true)
        })?;
        let inode = store::inode::get(read, InodeId(owner.inode))?;
        if inode.is_none_or(|inode| inode.allocated != covered) {
            let message = format!(
                "inode {} covers {covered} bytes and says otherwise",
                owner.inode
            );
            page.problem("I4", message);
        }
        Ok(true)
    })
}

fn check_cluster(read: &impl Read, page: &mut Page) -> Result<(), StoreError> {
    let cluster = read.cluster_record()?;
    let (mut inodes, mut files, mut directories) = (0, 0, 0);
    store::inode::scan(read, InodeId(0), &mut |_, record: InodeRecord| {
        inodes += 1;
        files += u64::from(inode::is_file(&record));
        directories += u64::from(inode::is_directory(&record));
        Ok(true)
    })?;
    let (mut chunks, mut live, mut bytes) = (0, 0, 0);
    store::chunk::scan(read, ChunkId(0), &mut |_, chunk| {
        chunks += 1;
        live += chunk.live_bytes;
        bytes += chunk.length;
        Ok(true)
    })?;
    let found = [inodes, files, directories, chunks, live, bytes];
    let counted = [
        cluster.inode_count,
        cluster.file_count,
        cluster.directory_count,
        cluster.chunk_count,
        cluster.live_bytes,
        cluster.chunk_bytes,
    ];
    if found != counted {
        let message = format!(
            "inodes, files, directories, chunks, live and committed bytes are {found:?}, counted {counted:?}"
        );
        page.problem("I4", message);
    }
    Ok(())
}

fn check_replica_counts(read: &impl Read, page: &mut Page) -> Result<(), StoreError> {
    store::datanode::scan(read, DatanodeId(0), &mut |id, record| {
        let mut count = 0;
        store::replica::scan(read, id, ChunkId(0), &mut |_| {
            count += 1;
            Ok(true)
        })?;
        if record.replica_count != count {
            let message = format!(
                "datanode {id} holds {count} replicas and says {}",
                record.replica_count
            );
            page.problem("I5", message);
        }
        Ok(true)
    })
}

fn check_lock_counts(read: &impl Read, page: &mut Page) -> Result<(), StoreError> {
    store::session::scan(read, SessionId(0), &mut |id, record| {
        let mut count = 0;
        store::session_lock::scan(read, id, &mut |_| {
            count += 1;
            Ok(true)
        })?;
        if record.lock_count != count {
            let message = format!(
                "session {id} holds {count} locks and says {}",
                record.lock_count
            );
            page.problem("I10", message);
        }
        Ok(true)
    })
}
