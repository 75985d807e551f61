//! Durability on demand, and evidence about replicas.

use cairn_protocol::Method;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::session::{SyncReply, SyncRequest};

use crate::error::{Result, Subject};
use crate::file_system::FileSystem;

impl FileSystem {
    /// Repeating it is harmless, so it may take as long as disks do and be asked of another leader.
    pub(crate) async fn sync_inode(&self, subject: &Subject, inode: InodeId) -> Result<()> {
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
            .map(|_| ())
            .map_err(|error| error.into_error(subject, patience))
    }
}
