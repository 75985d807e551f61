//! Questions about the namespace. All are linearizable and cancel-safe.

use std::collections::VecDeque;

use cairn_protocol::messages::common::{Attributes, Location};
use cairn_protocol::messages::query::{
    Access, Extents, FilesystemSpace, GetXattr, List, ListXattrs, Listing, ListingEntry,
    LocatedExtents, QueryKind, QueryResult, Stat, Statfs,
};

use crate::error::{Error, Result, Subject};
use crate::file_system::FileSystem;
use crate::place::Place;

/// Entries per page of [`Directory`].
const PAGE_ENTRIES: u32 = 1000;

impl FileSystem {
    /// Attributes; a symbolic link at the end is followed.
    pub async fn stat(&self, place: impl Into<Place>) -> Result<Attributes> {
        self.attributes(place.into(), true).await
    }

    /// Attributes; a symbolic link at the end is what they are about.
    pub async fn stat_link(&self, place: impl Into<Place>) -> Result<Attributes> {
        self.attributes(place.into(), false).await
    }

    async fn attributes(&self, place: Place, follow: bool) -> Result<Attributes> {
        let (location, subject) = place.resolve()?;
        match self
            .query(&subject, QueryKind::Stat(Stat { location, follow }))
            .await?
        {
            QueryResult::Attributes(attributes) => Ok(attributes),
            _ => Err(Error::unexpected(&subject)),
        }
    }

    /// Checks that the caller may read (4), write (2) and search or execute (1).
    pub async fn access(&self, place: impl Into<Place>, mask: u32) -> Result<()> {
        let (location, subject) = place.into().resolve()?;
        self.query(&subject, QueryKind::Access(Access { location, mask }))
            .await
            .map(|_| ())
    }

    /// The entries of a directory, page by page. Nothing is asked before [`Directory::next`]. A file lists as itself, with
    /// an empty name.
    pub fn list(&self, place: impl Into<Place>, attributes: bool) -> Result<Directory> {
        let (location, subject) = place.into().resolve()?;
        let entries = VecDeque::new();
        let fs = self.clone();
        let start_after = Vec::new();
        Ok(Directory {
            fs,
            location,
            subject,
            attributes,
            entries,
            start_after,
            more: true,
        })
    }

    /// All entries of a directory with their attributes, in order of names. Memory grows with the directory;
    /// [`FileSystem::list`] does not.
    pub async fn list_all(&self, place: impl Into<Place>) -> Result<Vec<ListingEntry>> {
        let mut directory = self.list(place, true)?;
        let mut entries = Vec::new();
        while let Some(entry) = directory.next().await? {
            entries.push(entry);
        }
        Ok(entries)
    }

    /// One page of a directory: at most `limit` entries (0 means 1,000) after the name `start_after`.
    pub async fn list_page(
        &self,
        place: impl Into<Place>,
        start_after: impl Into<Vec<u8>>,
        limit: u32,
        attributes: bool,
    ) -> Result<Listing> {
        let (location, subject) = place.into().resolve()?;
        let list = List {
            location,
            start_after: start_after.into(),
            limit,
            attributes,
        };
        match self.query(&subject, QueryKind::List(list)).await? {
            QueryResult::Listing(listing) => Ok(listing),
            _ => Err(Error::unexpected(&subject)),
        }
    }

    /// The value of an extended attribute.
    pub async fn get_xattr(
        &self,
        place: impl Into<Place>,
        name: impl Into<Vec<u8>>,
        follow: bool,
    ) -> Result<Vec<u8>> {
        let (location, subject) = place.into().resolve()?;
        let get = GetXattr {
            location,
            follow,
            name: name.into(),
        };
        match self.query(&subject, QueryKind::GetXattr(get)).await? {
            QueryResult::Value(value) => Ok(value.value),
            _ => Err(Error::unexpected(&subject)),
        }
    }

    /// The names of the extended attributes, in order.
    pub async fn list_xattrs(&self, place: impl Into<Place>, follow: bool) -> Result<Vec<Vec<u8>>> {
        let (location, subject) = place.into().resolve()?;
        let list = ListXattrs { location, follow };
        match self.query(&subject, QueryKind::ListXattrs(list)).await? {
            QueryResult::Names(names) => Ok(names.names),
            _ => Err(Error::unexpected(&subject)),
        }
    }

    /// Space and counts of the whole file system.
    pub async fn statfs(&self) -> Result<FilesystemSpace> {
        match self
            .query(&Subject::Cluster, QueryKind::Statfs(Statfs {}))
            .await?
        {
            QueryResult::Space(space) => Ok(space),
            _ => Err(Error::unexpected(&Subject::Cluster)),
        }
    }

    /// Where a file's bytes are: one page of extents, see [`Extents`]. For tools; [`FileSystem::open`] reads.
    pub async fn extents(
        &self,
        place: impl Into<Place>,
        offset: u64,
        length: u64,
    ) -> Result<LocatedExtents> {
        let (location, subject) = place.into().resolve()?;
        let extents = Extents {
            location,
            offset,
            length,
            limit: 0,
            without_locations: false,
        };
        self.located_extents(&subject, extents).await
    }

    pub(crate) async fn located_extents(
        &self,
        subject: &Subject,
        extents: Extents,
    ) -> Result<LocatedExtents> {
        match self.query(subject, QueryKind::Extents(extents)).await? {
            QueryResult::LocatedExtents(located) => Ok(located),
            _ => Err(Error::unexpected(subject)),
        }
    }

    pub(crate) async fn query(&self, subject: &Subject, kind: QueryKind) -> Result<QueryResult> {
        self.core()
            .namenode
            .query(subject, kind, self.asker())
            .await
    }
}

/// The entries of a directory in order of names (as bytes), fetched page by page.
///
/// Names that are made or removed meanwhile may be seen or not; no other name is left out or seen twice.
#[derive(Debug)]
pub struct Directory {
    fs: FileSystem,
    location: Location,
    subject: Subject,
    attributes: bool,
    entries: VecDeque<ListingEntry>,
    start_after: Vec<u8>,
    more: bool,
}

impl Directory {
    /// The next entry; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<ListingEntry>> {
        while self.entries.is_empty() && self.more {
            let list = List {
                location: self.location.clone(),
                start_after: self.start_after.clone(),
                limit: PAGE_ENTRIES,
                attributes: self.attributes,
            };
            let QueryResult::Listing(page) =
                self.fs.query(&self.subject, QueryKind::List(list)).await?
            else {
                return Err(Error::unexpected(&self.subject));
            };
            // An empty page that promises more would be asked for again forever.
            self.more = page.more && !page.entries.is_empty();
            if let Some(last) = page.entries.last() {
                self.start_after.clone_from(&last.name);
            }
            self.entries = page.entries.into();
        }
        Ok(self.entries.pop_front())
    }
}
