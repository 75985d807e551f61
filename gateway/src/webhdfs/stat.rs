//! Status of files and directories: one, a directory's, and sums over a tree.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::IntoResponse;
use cairn_client::{Error, FileSystem, Place};
use cairn_daemon::users::Users;
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind};
use cairn_protocol::messages::query::ListingEntry;
use serde::Serialize;
use serde_json::json;

use super::call::json_answer;
use super::{Answer, Call, Exception, Refusal};
use crate::error::known_attributes;

/// Entries per page of a listing.
const PAGE_ENTRIES: u32 = 1000;

/// Directories of a tree that are known and not yet counted: 8 bytes each.
const PENDING_MAX: usize = 4 << 20;

/// Permission bits that a Java `short` has room for as clients parse it.
const MODE_BITS: u32 = 0o1777;

/// What HDFS tells of a file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FileStatus {
    access_time: u64,
    block_size: u64,
    children_num: u64,
    file_id: u64,
    group: String,
    length: u64,
    modification_time: u64,
    owner: String,
    path_suffix: String,
    permission: String,
    replication: u32,
    storage_policy: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    symlink: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
}

/// What file statuses need besides attributes.
#[derive(Clone)]
struct Scribe {
    users: Arc<Users>,
    block_size: u64,
}

impl Scribe {
    fn of(call: &Call) -> Self {
        Self {
            users: Arc::clone(&call.users),
            block_size: call.fs.settings().chunk_size,
        }
    }

    fn status(&self, name: &[u8], attributes: &Attributes) -> FileStatus {
        let is = |kind: InodeKind| attributes.kind == kind as i32;
        let (directory, symlink) = (is(InodeKind::Directory), is(InodeKind::Symlink));
        let kind = match (directory, symlink) {
            (true, _) => "DIRECTORY",
            (_, true) => "SYMLINK",
            _ => "FILE",
        };
        let file = is(InodeKind::File);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        FileStatus {
            access_time: attributes.atime_ns / 1_000_000,
            block_size: if file { self.block_size } else { 0 },
            children_num: if directory { attributes.size } else { 0 },
            file_id: attributes.inode,
            group: self.users.group_name(attributes.gid),
            length: if file { attributes.size } else { 0 },
            modification_time: attributes.mtime_ns / 1_000_000,
            owner: self.users.user_name(attributes.uid),
            path_suffix: text(name),
            permission: format!("{:o}", attributes.mode & MODE_BITS),
            replication: if file { attributes.replication } else { 0 },
            storage_policy: 0,
            symlink: symlink.then(|| text(&attributes.symlink_target)),
            kind,
        }
    }

    /// Of a page of the listing of `place`.
    fn page(&self, entries: &[ListingEntry], place: &Place) -> Result<Vec<FileStatus>, Error> {
        let described = entries.iter().map(|entry| {
            let attributes = known_attributes(entry, place)?;
            Ok(self.status(&entry.name, attributes))
        });
        described.collect()
    }
}

pub(super) async fn file_status(call: &Call) -> Answer {
    let attributes = call.fs.stat(call.place()).await;
    answer_status(call, attributes)
}

pub(super) async fn link_status(call: &Call) -> Answer {
    let attributes = call.fs.stat_link(call.place()).await;
    answer_status(call, attributes)
}

fn answer_status(call: &Call, attributes: Result<Attributes, Error>) -> Answer {
    let attributes = attributes.map_err(|error| call.fail(error))?;
    let status = Scribe::of(call).status(b"", &attributes);
    Ok(json_answer(json!({ "FileStatus": status })))
}

fn absent_directory(call: &Call, error: Error) -> Refusal {
    if error.code() == ErrorCode::NotFound {
        let message = format!("File {} does not exist.", call.path_text());
        return Refusal::new(Exception::FileNotFound, message);
    }
    call.fail(error)
}

/// A listing under way.
struct Pages {
    fs: FileSystem,
    place: Place,
    scribe: Scribe,
    /// The page that is sent next, and the name that the one after it begins with; `None` at the end.
    next: Option<(Vec<ListingEntry>, bool)>,
    begun: bool,
}

impl Pages {
    /// The text of the next page; `None` after the last.
    async fn text(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        let Some((entries, more)) = self.next.take() else {
            return Ok(None);
        };
        let mut text = Vec::with_capacity(entries.len() * 300 + 64);
        if !self.begun {
            text.extend_from_slice(b"{\"FileStatuses\":{\"FileStatus\":[");
        }
        for status in self.scribe.page(&entries, &self.place)? {
            if self.begun {
                text.push(b',');
            }
            self.begun = true;
            // Strings and numbers into memory: cannot fail.
            let _ = serde_json::to_writer(&mut text, &status);
        }
        match entries.last().filter(|_| more) {
            Some(last) => {
                let after = last.name.clone();
                let page = self.fs.list_page(&self.place, after, PAGE_ENTRIES, true);
                let page = page.await?;
                self.next = Some((page.entries, page.more));
            }
            None => text.extend_from_slice(b"]}}"),
        }
        Ok(Some((text.into(), self)))
    }
}

/// Page by page, so that memory does not grow with the directory. If a page fails the connection breaks: half a listing is none.
pub(super) async fn list(call: &Call) -> Answer {
    let place = call.place();
    let first = call.fs.list_page(&place, Vec::new(), PAGE_ENTRIES, true);
    let first = first.await.map_err(|error| absent_directory(call, error))?;
    // Every page is refused if one is: better before the answer begins than under way.
    for entry in &first.entries {
        known_attributes(entry, &place).map_err(|error| call.fail(error))?;
    }
    let pages = Pages {
        fs: call.fs.clone(),
        place,
        scribe: Scribe::of(call),
        next: Some((first.entries, first.more)),
        begun: false,
    };
    let kind = [(header::CONTENT_TYPE, "application/json")];
    if !first.more {
        let text = pages.text().await.map_err(|error| call.fail(error))?;
        let text = text.map(|(text, _)| text).unwrap_or_default();
        return Ok((kind, text).into_response());
    }
    let stream = futures::stream::try_unfold(pages, Pages::text);
    Ok((kind, Body::from_stream(stream)).into_response())
}

pub(super) async fn list_batch(call: &Call) -> Answer {
    let after = call.params.bytes("startafter").unwrap_or_default();
    let place = call.place();
    let page = call.fs.list_page(&place, after, PAGE_ENTRIES, true).await;
    let mut page = page.map_err(|error| absent_directory(call, error))?;
    if page.more && !end_at_text(&mut page.entries) {
        let message = format!(
            "{} has more than {PAGE_ENTRIES} names in a row that are no text, and LISTSTATUS_BATCH cannot go on after one: use LISTSTATUS",
            call.path_text()
        );
        return Err(Refusal::new(Exception::Io, message));
    }
    let statuses = Scribe::of(call).page(&page.entries, &place);
    let statuses = statuses.map_err(|error| call.fail(error))?;
    // Clients want to know whether there are more; how many is not known without counting them.
    let remaining = u32::from(page.more);
    Ok(json_answer(json!({ "DirectoryListing": {
        "partialListing": { "FileStatuses": { "FileStatus": statuses } },
        "remainingEntries": remaining,
    }})))
}

/// Shortens a page to where the next one can begin: clients send its last name back, and one that is no text comes back as another.
fn end_at_text(entries: &mut Vec<ListingEntry>) -> bool {
    let is_text = |entry: &ListingEntry| std::str::from_utf8(&entry.name).is_ok();
    let last = entries.iter().rposition(is_text);
    entries.truncate(last.map_or(0, |last| last + 1));
    last.is_some()
}

/// Sums over a tree.
#[derive(Debug, Default)]
struct Sums {
    directories: u64,
    files: u64,
    length: u64,
    space: u64,
}

impl Sums {
    fn add_file(&mut self, attributes: &Attributes) {
        if attributes.kind != InodeKind::File as i32 {
            return;
        }
        self.files += 1;
        self.length = self.length.saturating_add(attributes.size);
        let space = attributes
            .allocated
            .saturating_mul(attributes.replication.into());
        self.space = self.space.saturating_add(space);
    }
}

/// Counts a tree in the name of who asks: what they may not list is an error.
async fn sums(call: &Call) -> Result<Sums, Refusal> {
    let root = call.fs.stat(call.place()).await;
    let root = root.map_err(|error| call.fail(error))?;
    let mut sums = Sums::default();
    if root.kind != InodeKind::Directory as i32 {
        sums.add_file(&root);
        return Ok(sums);
    }
    let mut pending = vec![InodeId(root.inode)];
    while let Some(directory) = pending.pop() {
        sums.directories += 1;
        let listing = call.fs.list(directory, true);
        let mut listing = listing.map_err(|error| call.fail(error))?;
        loop {
            let entry = match listing.next().await {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                // Removed meanwhile.
                Err(error) if error.code() == ErrorCode::NotFound => break,
                Err(error) => return Err(call.fail(error)),
            };
            let attributes = known_attributes(&entry, &Place::from(directory));
            let attributes = attributes.map_err(|error| call.fail(error))?;
            if entry.kind == InodeKind::Directory as i32 {
                pending.push(InodeId(entry.inode));
            } else {
                sums.add_file(attributes);
            }
        }
        if pending.len() > PENDING_MAX {
            let message = format!(
                "{} has too many directories to be counted",
                call.path_text()
            );
            return Err(Refusal::new(Exception::Io, message));
        }
    }
    Ok(sums)
}

pub(super) async fn content_summary(call: &Call) -> Answer {
    let sums = sums(call).await?;
    Ok(json_answer(json!({ "ContentSummary": {
        "directoryCount": sums.directories,
        "ecPolicy": "",
        "fileCount": sums.files,
        "length": sums.length,
        "quota": -1,
        "spaceConsumed": sums.space,
        "spaceQuota": -1,
        "typeQuota": {},
        "snapshotDirectoryCount": 0,
        "snapshotFileCount": 0,
        "snapshotLength": 0,
        "snapshotSpaceConsumed": 0,
    }})))
}

pub(super) async fn quota_usage(call: &Call) -> Answer {
    let sums = sums(call).await?;
    Ok(json_answer(json!({ "QuotaUsage": {
        "fileAndDirectoryCount": sums.files + sums.directories,
        "quota": -1,
        "spaceConsumed": sums.space,
        "spaceQuota": -1,
        "typeQuota": {},
    }})))
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::query::ListingEntry;

    use super::end_at_text;

    #[test]
    fn a_page_ends_where_the_next_can_begin() {
        let page = |names: &[&[u8]]| {
            let entry = |name: &&[u8]| ListingEntry {
                name: name.to_vec(),
                ..ListingEntry::default()
            };
            names.iter().map(entry).collect::<Vec<_>>()
        };
        let mut mixed = page(&[b"a", b"\xff", b"b", b"c\xfe", b"\xff\xff"]);
        assert!(end_at_text(&mut mixed));
        assert_eq!(mixed, page(&[b"a", b"\xff", b"b"]));
        assert!(!end_at_text(&mut page(&[b"\xff", b"\xff\xff"])));
    }
}
