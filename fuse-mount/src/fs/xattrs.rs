//! Extended attributes.
//!
//! Two families are refused. The kernel asks for `security.capability` before writes, and it would have to vanish with each;
//! and POSIX ACLs would be believed by those who set them and obeyed by nobody.

use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::operation::XattrMode;

use super::{MountedFs, Outcome, number};

/// Not kept by a mount.
fn is_refused(name: &[u8]) -> bool {
    name == b"security.capability" || is_acl(name)
}

fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

impl MountedFs {
    /// What is known of an attribute without asking: nothing is set that is refused.
    pub fn get_xattr_at_once(name: &[u8]) -> Option<i32> {
        match name {
            name if is_acl(name) => Some(libc::EOPNOTSUPP),
            name if is_refused(name) => Some(libc::ENODATA),
            _ => None,
        }
    }

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
            if is_refused(&name) {
                continue;
            }
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
        if is_refused(name) {
            return Err(libc::EOPNOTSUPP);
        }
        let set = self.fs.set_xattr(InodeId(inode), name, value, mode, false);
        self.change_inode(inode, async { set.await.map_err(number) })
            .await
    }

    /// Removes a value.
    pub async fn remove_xattr(&self, inode: u64, name: &[u8]) -> Outcome<()> {
        if is_refused(name) {
            return Err(libc::EOPNOTSUPP);
        }
        let removed = self.fs.remove_xattr(InodeId(inode), name, false);
        self.change_inode(inode, async { removed.await.map_err(number) })
            .await
    }
}
