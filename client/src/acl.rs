//! Access control lists of inodes, in the form of Linux. The namenode keeps them as extended attributes of their own and obeys them.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::Attributes;
use cairn_protocol::messages::operation::XattrMode;

use crate::error::Result;
use crate::file_system::FileSystem;
use crate::place::Place;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// The lists of an inode as bytes: `None` where there is none, because the mode says it all.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLists {
    /// Of the inode.
    pub attributes: Attributes,
    /// For the inode itself.
    pub access: Option<Vec<u8>>,
    /// For what is made in a directory.
    pub default: Option<Vec<u8>>,
}

/// Which of the lists of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessListKind {
    /// For the inode itself.
    Access,
    /// For what is made in a directory.
    Default,
}

impl AccessListKind {
    fn xattr(self) -> &'static str {
        match self {
            Self::Access => ACCESS,
            Self::Default => DEFAULT,
        }
    }
}

impl FileSystem {
    /// The lists of what a place leads to; links are followed. Cancel-safe.
    pub async fn access_lists(&self, place: impl Into<Place>) -> Result<AccessLists> {
        let place = place.into();
        let attributes = self.stat(place.clone()).await?;
        if !attributes.has_acl {
            return Ok(AccessLists {
                attributes,
                access: None,
                default: None,
            });
        }
        Ok(AccessLists {
            attributes,
            access: self.access_list(place.clone(), ACCESS).await?,
            default: self.access_list(place, DEFAULT).await?,
        })
    }

    async fn access_list(&self, place: Place, name: &str) -> Result<Option<Vec<u8>>> {
        match self.get_xattr(place, name, true).await {
            Err(error) if error.code() == ErrorCode::NoAttribute => Ok(None),
            list => list.map(Some),
        }
    }

    /// Keeps a list in place of the one that is there; `None` takes that away. One that says no more than a mode becomes the mode. Whoever
    /// changes a list reads it first: of two at the same time the last one's stands.
    pub async fn set_access_list(
        &self,
        place: impl Into<Place>,
        kind: AccessListKind,
        list: Option<Vec<u8>>,
    ) -> Result<()> {
        let (place, name) = (place.into(), kind.xattr());
        let Some(list) = list else {
            return match self.remove_xattr(place, name, true).await {
                // Somebody else took it away meanwhile.
                Err(error) if error.code() == ErrorCode::NoAttribute => Ok(()),
                removed => removed,
            };
        };
        self.set_xattr(place, name, list, XattrMode::Set, true)
            .await
    }
}
