//! Listings, and what a file is made of: extents, their chunks, and where the replicas of those are.

use std::collections::BTreeMap;

use axum::Json;
use cairn_client::{Place, normalise};
use cairn_daemon::users::Users;
use cairn_protocol::messages::common::{Attributes, InodeKind};
use cairn_protocol::messages::query::{ChunkLocation, LocatedExtents};
use serde::Serialize;
use utoipa::ToSchema;

use super::asker::Asker;
use super::names::{below, encoded, shown};
use super::problem::{Answer, Problem, Problems};
use crate::error::known_attributes;

/// Entries of a page, unless fewer are asked for.
const ENTRIES_MAX: u64 = 1000;

/// What is known of a file, directory or link.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Entry {
    /// For people: bytes that are no text are escaped.
    name: String,
    /// Its path, percent-encoded as parameters and URLs of WebHDFS take it.
    path: String,
    inode: u64,
    /// `file`, `directory`, `symlink`, `fifo`, `socket` or `device`.
    kind: String,
    /// Bytes of a file, entries of a directory.
    size: u64,
    /// Bytes of a file that are stored: a sparse one has fewer than its size.
    allocated: u64,
    /// Permission bits, octal.
    mode: String,
    owner: String,
    group: String,
    /// Replicas that are asked for; 0 for what has no data.
    replication: u32,
    modified_ms: u64,
    created_ms: u64,
    /// Grows with each change.
    version: u64,
    /// Where a symbolic link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    target: Option<String>,
}

impl Entry {
    fn new(path: &[u8], attributes: &Attributes, users: &Users) -> Self {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        let is_link = attributes.kind == InodeKind::Symlink as i32;
        Self {
            name: shown(name),
            path: encoded(path),
            inode: attributes.inode,
            kind: kind(attributes.kind).to_owned(),
            size: attributes.size,
            allocated: attributes.allocated,
            mode: format!("{:o}", attributes.mode),
            owner: users.user_name(attributes.uid),
            group: users.group_name(attributes.gid),
            replication: attributes.replication,
            modified_ms: attributes.mtime_ns / 1_000_000,
            created_ms: attributes.btime_ns / 1_000_000,
            version: attributes.version,
            target: is_link.then(|| shown(&attributes.symlink_target)),
        }
    }
}

/// What an inode is.
pub(super) fn kind(kind: i32) -> &'static str {
    match InodeKind::try_from(kind) {
        Ok(InodeKind::File) => "file",
        Ok(InodeKind::Directory) => "directory",
        Ok(InodeKind::Symlink) => "symlink",
        Ok(InodeKind::Fifo) => "fifo",
        Ok(InodeKind::Socket) => "socket",
        Ok(InodeKind::CharDevice | InodeKind::BlockDevice) => "device",
        Ok(InodeKind::Unspecified) | Err(_) => "unknown",
    }
}

/// A page of a directory.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listing {
    /// The directory itself.
    directory: Entry,
    /// In order of their names, as bytes.
    entries: Vec<Entry>,
    /// Where the next page goes on: the parameter `after`. Absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<String>,
}

/// One page of a directory, with all that is known of its entries.
#[utoipa::path(get, path = "/files", tag = "files",
    params(
        ("path" = String, Query, description = "Absolute path of a directory", example = "/"),
        ("after" = Option<String>, Query, description = "From `next` of the page before"),
        ("limit" = Option<u32>, Query, description = "Entries, at most 1000"),
        ("user.name" = Option<String>, Query, description = "Who asks")
    ),
    responses((status = 200, description = "The page", body = Listing), Problems))]
pub(super) async fn list(asker: Asker) -> Answer<Json<Listing>> {
    let path = normalise(&asker.path("path")?)?;
    let limit = asker.params.number("limit")?.unwrap_or(ENTRIES_MAX);
    let limit = u32::try_from(limit.clamp(1, ENTRIES_MAX)).expect("at most 1000");
    let after = asker.params.bytes("after").unwrap_or_default().to_vec();
    let attributes = asker.fs.stat(path.as_slice()).await?;
    if attributes.kind != InodeKind::Directory as i32 {
        let code = cairn_protocol::ErrorCode::NotADirectory;
        return Err(Problem::new(
            code,
            format!("{}: {}", shown(&path), code.text()),
        ));
    }
    let page = asker
        .fs
        .list_page(path.as_slice(), after, limit, true)
        .await?;
    let next = page.entries.last().filter(|_| page.more);
    let next = next.map(|last| encoded(&last.name));
    let place = Place::from(path.as_slice());
    let entries = page.entries.iter().map(|entry| {
        let attributes = known_attributes(entry, &place)?;
        let path = below(&path, &entry.name);
        Ok(Entry::new(&path, attributes, &asker.users))
    });
    Ok(Json(Listing {
        directory: Entry::new(&path, &attributes, &asker.users),
        entries: entries.collect::<Answer<_>>()?,
        next,
    }))
}

/// A run of a file's bytes, and where they are in a chunk.
#[derive(Debug, Serialize, ToSchema)]
struct Extent {
    offset: u64,
    length: u64,
    /// Id of the chunk.
    chunk: String,
    offset_in_chunk: u64,
    /// CRC32C of these bytes.
    crc32c: String,
}

/// A chunk that the file's bytes are in.
#[derive(Debug, Serialize, ToSchema)]
struct Chunk {
    id: String,
    /// Whether it never changes again.
    sealed: bool,
    epoch: u64,
    replicas: Vec<Replica>,
}

/// A copy of a chunk on a datanode.
#[derive(Debug, Serialize, ToSchema)]
struct Replica {
    datanode: u64,
    address: String,
    rack: String,
    /// Whether the datanode's heartbeats arrive; null if that is not known.
    #[schema(required)]
    alive: Option<bool>,
}

/// What a file is made of.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Details {
    file: Entry,
    /// In order; what is between them is a hole and reads as zeros.
    extents: Vec<Extent>,
    chunks: Vec<Chunk>,
    /// Where the next page goes on: the parameter `offset`. Absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<u64>,
}

/// What a file is made of: its extents, their chunks, and the datanodes that have replicas of those.
#[utoipa::path(get, path = "/files/details", tag = "files",
    params(
        ("path" = String, Query, description = "Absolute path of a file or directory", example = "/"),
        ("offset" = Option<u64>, Query, description = "First byte"),
        ("length" = Option<u64>, Query, description = "Bytes; up to the end unless said"),
        ("user.name" = Option<String>, Query, description = "Who asks: needs the right to read")
    ),
    responses((status = 200, description = "A page of at most 256 extents", body = Details), Problems))]
pub(super) async fn details(asker: Asker) -> Answer<Json<Details>> {
    let path = normalise(&asker.path("path")?)?;
    let offset = asker.params.number("offset")?.unwrap_or(0);
    let length = asker.params.number("length")?.unwrap_or(u64::MAX);
    let attributes = asker.fs.stat(path.as_slice()).await?;
    if attributes.kind != InodeKind::File as i32 {
        return Ok(Json(Details {
            file: Entry::new(&path, &attributes, &asker.users),
            extents: Vec::new(),
            chunks: Vec::new(),
            next: None,
        }));
    }
    let offset = offset.min(i64::MAX as u64);
    let length = length.min(i64::MAX as u64 - offset);
    let located = asker.fs.extents(path.as_slice(), offset, length).await?;
    let alive = crate::overview::alive(&asker.shared).await;
    let chunks = located.chunks.iter();
    Ok(Json(Details {
        file: Entry::new(&path, &located.attributes, &asker.users),
        extents: extents(&located),
        chunks: chunks
            .map(|chunk| described(chunk, &located, &alive))
            .collect(),
        next: next(&located),
    }))
}

fn extents(located: &LocatedExtents) -> Vec<Extent> {
    let extents = located.extents.iter().map(|located| &located.extent);
    let described = extents.map(|extent| Extent {
        offset: extent.offset_in_file,
        length: extent.length,
        chunk: chunk_id(extent.chunk),
        offset_in_chunk: extent.offset_in_chunk,
        crc32c: format!("{:08x}", extent.crc32c),
    });
    described.collect()
}

fn described(
    chunk: &ChunkLocation,
    located: &LocatedExtents,
    alive: &BTreeMap<u64, bool>,
) -> Chunk {
    let replicas = chunk.datanodes.iter().map(|id| {
        let known = located.datanodes.iter().find(|known| known.datanode == *id);
        Replica {
            datanode: *id,
            address: known.map(|known| known.address.clone()).unwrap_or_default(),
            rack: known.map(|known| known.rack.clone()).unwrap_or_default(),
            alive: alive.get(id).copied(),
        }
    });
    Chunk {
        id: chunk_id(chunk.chunk),
        sealed: chunk.sealed,
        epoch: chunk.epoch,
        replicas: replicas.collect(),
    }
}

fn next(located: &LocatedExtents) -> Option<u64> {
    let last = located.extents.last().filter(|_| located.more)?.extent;
    Some(last.offset_in_file.saturating_add(last.length))
}

/// As `dfs fsck` and the logs have it.
fn chunk_id(id: u64) -> String {
    cairn_protocol::ids::ChunkId(id).hex()
}
