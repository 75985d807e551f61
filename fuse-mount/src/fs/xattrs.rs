//! Extended attributes.

use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::operation::XattrMode;

use super::{MountedFs, Outcome, number};

impl MountedFs {
    /// A value.
    pub async fn get_xattr(&self, inode: u64, name: &[u8]) -> Outcome<Vec<u8>> {
        let value = self.fs.get_xattr(InodeId(inode), name, false).await;
        value.map_err(number)
    }

    /// All names, each with a NUL behind it.
    pub async fn list_xattrs(&self, inode: u64) -> Outcome<Vec<u8>> {
        let names = self.fs.list_xattrs(InodeId(inode), false).await;
        let mut list = Vec::new();
        for name in names.map_err(number)? {
            list.extend_from_slice(&name);
            list.push(0);
        }
        Ok(list)
    }

    /// Sets a value.
    pub async fn set_xattr(
        &self,
        inode: u64,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Outcome<()> {
        let set = self.fs.set_xattr(InodeId(inode), name, value, mode, false);
        set.await.map_err(number)
    }

    /// Removes a value.
    pub async fn remove_xattr(&self, inode: u64, name: &[u8]) -> Outcome<()> {
        let removed = self.fs.remove_xattr(InodeId(inode), name, false).await;
        removed.map_err(number)
    }
}
