//! The Raft library's own test suite for log stores, over a simulated and over a real disk.
//!
//! It wants a state machine too: one that remembers ids and memberships, and nothing else.

use std::io;

use cairn_daemon::disk::RealDisk;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, StorageError};

use super::*;
use crate::consensus::types::{
    Applied, CommittedLeaderId, Member, NodeId, SnapshotMeta, StoredMembership, TypeConfig,
};

type NoSnapshot = Snapshot<CommittedLeaderId, NodeId, Member, ()>;

#[derive(Clone, Default)]
struct Ids {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<SnapshotMeta>,
}

impl RaftStateMachine<TypeConfig> for Ids {
    type SnapshotData = ();
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            if let Payload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(Applied::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        self.snapshot = Some(meta.clone());
        Builder(meta)
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, _nothing: ()) -> io::Result<()> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<NoSnapshot>> {
        Ok(self
            .snapshot
            .clone()
            .map(|meta| Snapshot { meta, snapshot: () }))
    }
}

struct Builder(SnapshotMeta);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<NoSnapshot> {
        Ok(Snapshot {
            meta: self.0.clone(),
            snapshot: (),
        })
    }
}

struct OnSimDisk;

impl StoreBuilder<TypeConfig, LogStore, Ids> for OnSimDisk {
    async fn build(&self) -> Result<((), LogStore, Ids), StorageError<TypeConfig>> {
        Ok(((), open(&SimDisk::new()).unwrap(), Ids::default()))
    }
}

struct OnRealDisk;

impl StoreBuilder<TypeConfig, LogStore, Ids, tempfile::TempDir> for OnRealDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Ids), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let options = LogOptions {
            inline: false,
            ..options()
        };
        let log = LogStore::open(Arc::new(RealDisk), directory.path(), options).unwrap();
        Ok((directory, log, Ids::default()))
    }
}

#[tokio::test(start_paused = true)]
async fn the_raft_librarys_suite_passes_on_a_simulated_disk() {
    Suite::test_all(OnSimDisk).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_raft_librarys_suite_passes_on_a_real_disk_with_threads() {
    Suite::test_all(OnRealDisk).await.unwrap();
}
