//! Extended attributes.
//!
//! `security.capability` is refused: the kernel asks for it before writes, and it would have to vanish with each. Access control
//! lists are asked for at every check of a permission, so it is remembered who has none.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::operation::XattrMode;

use super::{MountedFs, Outcome, Requester, number};

/// Not kept by a mount.
fn is_refused(name: &[u8]) -> bool {
    name == b"security.capability"
}

fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

impl MountedFs {
    /// What is known of an attribute without asking: that there is none.
    pub fn get_xattr_at_once(&self, inode: u64, name: &[u8]) -> Option<i32> {
        let none = is_refused(name) || (is_acl(name) && self.inodes.has_no_acl(inode));
        none.then_some(libc::ENODATA)
    }

    /// A value.
    pub async fn get_xattr(&self, inode: u64, name: &[u8]) -> Outcome<Vec<u8>> {
        if self.behind.is_bare(inode) {
            return Err(libc::ENODATA);
        }
        let value = self.fs.get_xattr(InodeId(inode), name, false).await;
        value.map_err(number)
    }

    /// All names, each with a NUL behind it.
    pub async fn list_xattrs(&self, inode: u64) -> Outcome<Vec<u8>> {
        if self.behind.is_bare(inode) {
            return Ok(Vec::new());
        }
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
        who: Requester,
        inode: u64,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Outcome<()> {
        if is_refused(name) {
            return Err(libc::EOPNOTSUPP);
        }
        self.prepare_xattr(inode, name).await?;
        if !is_acl(name) {
            let set = self.fs.set_xattr(InodeId(inode), name, value, mode, false);
            let set = async { set.await.map_err(number) };
            return self.change_inode(inode, set).await;
        }
        // Who is not in the file's group cannot keep set-group-id.
        let set = self.on_behalf(who, libc::S_ISGID, |fs| async move {
            fs.set_xattr(InodeId(inode), name, value, mode, false).await
        });
        self.change_inode(inode, set).await?;
        // The mode has changed with it.
        self.ask(InodeId(inode).into()).await.map(drop)
    }

    /// What is made in a directory with an access control list depends on it, so such a directory is not kept.
    async fn prepare_xattr(&self, inode: u64, name: &[u8]) -> Outcome<()> {
        if is_acl(name) && self.behind.is_delegated(inode) {
            self.give_all_back().await?;
        }
        self.let_common(inode).await
    }

    /// Removes a value.
    pub async fn remove_xattr(&self, inode: u64, name: &[u8]) -> Outcome<()> {
        if is_refused(name) {
            return Err(libc::EOPNOTSUPP);
        }
        self.prepare_xattr(inode, name).await?;
        let removed = async {
            let removed = self.fs.remove_xattr(InodeId(inode), name, false).await;
            match removed {
                // As local file systems have it.
                Err(error) if is_acl(name) && error.code() == ErrorCode::NoAttribute => Ok(()),
                removed => removed.map_err(number),
            }
        };
        self.change_inode(inode, removed).await
    }
}
