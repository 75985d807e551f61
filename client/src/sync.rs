//! Durability on demand, and evidence about replicas.

use cairn_protocol::Method;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::operation::InodeOutcome;
use cairn_protocol::messages::session::{SyncReply, SyncRequest};

use crate::error::{Result, Subject};
use crate::file_system::FileSystem;

/// The last version of a file of which all bytes are known to be on disk; 0 for none.
///
/// Replicas that were asked to fsync what they append leave nothing to ask for: the commit tells that its own bytes are on disk,
/// and on top of which version. If that is the known one, all bytes of the new version are. Whoever else changes the file
/// in between breaks the chain, and the namenode is asked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SyncedVersion(u64);

impl SyncedVersion {
    /// The namenode has had all bytes of a version synced; 0 if it does not tell of which.
    pub(crate) fn learn(&mut self, version: u64) {
        self.0 = self.0.max(version);
    }

    /// All bytes of this version are on disk.
    pub(crate) fn covers(self, version: u64) -> bool {
        self.0 != 0 && self.0 >= version
    }

    /// An operation of our own has brought bytes. True if all bytes of the version that it made are on disk.
    pub(crate) fn committed(&mut self, outcome: &InodeOutcome) -> bool {
        let is_synced = match outcome.synced_since {
            // The content is new as a whole.
            Some(0) => true,
            Some(before) => before == self.0,
            None => false,
        };
        if is_synced {
            self.0 = outcome.attributes.version;
        }
        is_synced
    }
}

impl FileSystem {
    /// Tells of which version of the file all bytes are on disk now; 0 if the namenode does not say. Repeating it is harmless, so it
    /// may take as long as disks do and be asked of another leader.
    pub(crate) async fn sync_inode(&self, subject: &Subject, inode: InodeId) -> Result<u64> {
        let namenode = &self.core().namenode;
        let patience = namenode.timeouts().patience;
        let request = SyncRequest {
            inode: inode.0,
            caller: self.asker(),
        };
        let reply: std::result::Result<SyncReply, _> = namenode
            .call_within(Method::Sync, &request, patience / 2, patience)
            .await;
        reply
            .map(|reply| reply.version)
            .map_err(|error| error.into_error(subject, patience))
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::common::Attributes;

    use super::{InodeOutcome, SyncedVersion};

    fn commit(version: u64, synced_since: Option<u64>) -> InodeOutcome {
        InodeOutcome {
            attributes: Attributes {
                version,
                ..Attributes::default()
            },
            synced_since,
            ..InodeOutcome::default()
        }
    }

    #[test]
    fn only_an_unbroken_chain_of_synced_commits_is_synced() {
        let mut synced = SyncedVersion::default();
        assert!(
            !synced.committed(&commit(10, Some(7))),
            "of 7 nothing is known"
        );
        synced.learn(10);
        assert!(synced.committed(&commit(11, Some(10))));
        assert!(synced.committed(&commit(14, Some(11))));
        assert!(!synced.committed(&commit(15, None)), "its bytes are not");
        assert!(!synced.committed(&commit(16, Some(15))), "nor those below");
        synced.learn(16);
        assert!(!synced.committed(&commit(19, Some(18))), "others made 18");
        synced.learn(0);
        assert!(
            !synced.committed(&commit(20, Some(19))),
            "an older namenode"
        );
        assert!(synced.committed(&commit(21, Some(0))), "all of it is new");
        assert!(synced.committed(&commit(22, Some(21))));
    }
}
