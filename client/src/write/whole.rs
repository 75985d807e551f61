//! Operations that bring all their bytes at once: new small files, record appends, positional writes. One pipeline append,
//! shared with others, and one entry of the log each.

use bytes::Bytes;
use cairn_protocol::messages::common::{Attributes, InodeKind, Location};
use cairn_protocol::messages::operation::{
    Commit, CommitExtent, CommitPlace, Create, IfExists, InodeOutcome, OperationKind,
};
use cairn_protocol::{ErrorCode, Failure};
use tokio::sync::OwnedSemaphorePermit;

use super::packet::{PACKET_BYTES, Packet};
use super::placement::lost_the_chunk;
use super::small::Placed;
use super::writer::parent;
use crate::error::{Error, Result, Subject};
use crate::file_system::{Core, FileSystem};
use crate::place::Place;

/// Most bytes of one record or positional write.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// How often all bytes go into another chunk because the namenode closed theirs.
const ATTEMPTS_MAX: u32 = 8;

/// How a new file is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Permission bits, umask already applied.
    pub mode: u32,
    /// Replicas; 0 inherits from the directory.
    pub replication: u32,
    /// What an existing name means: `Fail`, `Replace` (a new inode under the name, in one step) or `Truncate` (the same
    /// inode gets the new content; what does not fit into 1 MiB replaces instead). `Open` is refused.
    pub if_exists: IfExists,
    /// Make missing directories above.
    pub parents: bool,
    /// On disk on every replica before it is done; else when the cluster's settings say so.
    pub sync: bool,
    /// Time of the last change, in nanoseconds since 1970; 0 means now.
    pub mtime_ns: u64,
    /// Time of the last read, in nanoseconds since 1970; 0 means now.
    pub atime_ns: u64,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            mode: 0o644,
            replication: 0,
            if_exists: IfExists::Fail,
            parents: false,
            sync: false,
            mtime_ns: 0,
            atime_ns: 0,
        }
    }
}

impl WriteOptions {
    pub(crate) fn check(&self, subject: &Subject) -> Result<()> {
        if self.if_exists == IfExists::Open {
            return Err(Error::invalid(
                subject,
                "a new content cannot leave an old one as it is",
            ));
        }
        Ok(())
    }
}

impl FileSystem {
    /// Writes a file with this content: visible wholly or not at all. Not cancel-safe: if the future is dropped, the file may
    /// be there or not, but never in part.
    ///
    /// ```no_run
    /// # async fn example(fs: cairn_client::FileSystem) -> Result<(), cairn_client::Error> {
    /// use cairn_client::WriteOptions;
    ///
    /// let attributes = fs.write_file("/greeting", "hello".into(), &WriteOptions::default()).await?;
    /// assert_eq!(attributes.size, 5);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write_file(
        &self,
        place: impl Into<Place>,
        content: Bytes,
        options: &WriteOptions,
    ) -> Result<Attributes> {
        let place = place.into();
        if content.len() > PACKET_BYTES {
            let mut writer = self.create_writer(place, options.clone())?;
            writer.write_bytes(content).await?;
            return writer.close().await;
        }
        // Boxed: compilers give up on futures that are nested too deeply, and callers nest this one in theirs.
        Box::pin(self.write_small(&place, &content, options)).await
    }

    /// A file of at most 1 MiB: one append, one entry of the log.
    pub(crate) async fn write_small(
        &self,
        place: &Place,
        content: &Bytes,
        options: &WriteOptions,
    ) -> Result<Attributes> {
        let (location, subject) = place.resolve()?;
        options.check(&subject)?;
        let create = |extents| {
            OperationKind::Create(Create {
                location: location.clone(),
                kind: InodeKind::File as i32,
                mode: options.mode,
                rdev: 0,
                if_exists: options.if_exists as i32,
                replication: options.replication,
                extents,
                orphan: false,
                parents: options.parents,
                mtime_ns: options.mtime_ns,
                atime_ns: options.atime_ns,
                size: 0,
            })
        };
        let parent = parent(place, &subject)?;
        let replication = match options.replication {
            0 if content.is_empty() => 0,
            // Without the directory there is no wish; the operation itself says so if it has to be there.
            0 => self.wanted_replication(&parent).await.unwrap_or(0),
            asked => asked,
        };
        let sync = options.sync || self.settings().sync_on_close;
        let bytes = (0, content, sync);
        let outcome = self
            .append_and_commit(&subject, replication, bytes, create)
            .await?;
        if options.replication == 0 {
            let wish = outcome.attributes.replication;
            self.inner.wishes.learn(&parent, wish);
        }
        if sync && outcome.synced_since != Some(0) {
            self.sync_inode(&subject, outcome.attributes.inode.into())
                .await?;
        }
        Ok(outcome.attributes)
    }

    /// Appends a record of at most 16 MiB to a file, at an offset that the cluster chooses and this call returns: exactly
    /// once and in one piece, however many others do the same. Not cancel-safe: the record may be there or not.
    pub async fn record_append(&self, place: impl Into<Place>, record: Bytes) -> Result<u64> {
        let place = place.into();
        let (location, subject) = place.resolve()?;
        let commit = |extents| commit(location.clone(), extents, CommitPlace::Append);
        let replication = self.wanted_replication(&place).await?;
        let outcome = self
            .append_and_commit(&subject, replication, (0, &record, false), commit)
            .await?;
        let wish = outcome.attributes.replication;
        self.inner.wishes.learn(&place, wish);
        Ok(outcome.offset_in_file)
    }

    /// Writes at most 16 MiB at an offset of a file, in one step: readers see all of it or nothing. Not cancel-safe: the
    /// bytes may be there or not.
    pub async fn write_at(
        &self,
        place: impl Into<Place>,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Attributes> {
        let place = place.into();
        let (location, subject) = place.resolve()?;
        let commit = |extents| commit(location.clone(), extents, CommitPlace::At);
        let replication = self.wanted_replication(&place).await?;
        let outcome = self
            .append_and_commit(&subject, replication, (offset, &bytes, false), commit)
            .await?;
        let wish = outcome.attributes.replication;
        self.inner.wishes.learn(&place, wish);
        Ok(outcome.attributes)
    }

    /// Brings all bytes into chunks, with `sync` on the disks of all replicas, and then carries out the operation that makes them
    /// part of a file. If the namenode closed a chunk in between, everything goes into others.
    pub(crate) async fn append_and_commit(
        &self,
        subject: &Subject,
        replication: u32,
        (offset_in_file, bytes, sync): (u64, &Bytes, bool),
        operation: impl Fn(Vec<CommitExtent>) -> OperationKind,
    ) -> Result<InodeOutcome> {
        let limit = RECORD_BYTES_MAX.min(self.core().config.in_flight_bytes_max);
        if bytes.len() > limit {
            let message = format!("{} bytes at once, at most {limit}", bytes.len());
            return Err(Error::refused(
                subject,
                Failure::new(ErrorCode::TooLarge, message),
            ));
        }
        if offset_in_file
            .checked_add(bytes.len() as u64)
            .is_none_or(|end| end > i64::MAX as u64)
        {
            return Err(Error::refused(subject, ErrorCode::FileTooLarge));
        }
        // All at once: two callers that each hold half of what both need would wait forever.
        let _permit = reserve(self.core(), bytes.len()).await;
        let packets: Vec<Packet> = (0..bytes.len())
            .step_by(PACKET_BYTES)
            .map(|start| bytes.slice(start..bytes.len().min(start + PACKET_BYTES)))
            .map(Packet::new)
            .collect();
        let mut attempts = 0;
        loop {
            let placed = self
                .place(subject, replication, (offset_in_file, &packets, sync))
                .await?;
            let extents = placed.iter().map(|placed| placed.extent).collect();
            let result = self.change(subject, operation(extents)).await;
            attempts += 1;
            match result {
                Err(error) if lost_the_chunk(&error) && attempts < ATTEMPTS_MAX => {
                    for placed in &placed {
                        placed.mark_stale();
                    }
                }
                result => return result,
            }
        }
    }

    async fn place(
        &self,
        subject: &Subject,
        replication: u32,
        (mut offset_in_file, packets, sync): (u64, &[Packet], bool),
    ) -> Result<Vec<Placed>> {
        let mut all = Vec::with_capacity(packets.len());
        for packet in packets {
            let mut placed = self
                .inner
                .small
                .append(subject, replication, packet.clone(), sync)
                .await?;
            placed.extent.offset_in_file = offset_in_file;
            offset_in_file += packet.len();
            all.push(placed);
        }
        Ok(all)
    }
}

/// Memory for bytes in flight. Waits until others have committed theirs.
pub(crate) async fn reserve(core: &Core, bytes: usize) -> Option<OwnedSemaphorePermit> {
    // The semaphore is never closed and the count is far below u32::MAX; without a permit the bytes are merely uncounted.
    let bytes = u32::try_from(bytes).ok()?;
    if let Ok(permit) = core.in_flight.clone().try_acquire_many_owned(bytes) {
        return Some(permit);
    }
    let _shortage = core.shortage.begin();
    core.in_flight.clone().acquire_many_owned(bytes).await.ok()
}

fn commit(location: Location, extents: Vec<CommitExtent>, place: CommitPlace) -> OperationKind {
    let place = place as i32;
    OperationKind::Commit(Commit {
        location,
        extents,
        place,
        mtime_ns: 0,
        size_at_least: 0,
    })
}
