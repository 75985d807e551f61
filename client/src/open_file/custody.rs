//! Files that exist in this client only so far, or whose names nobody else can see: somebody tells the namenodes of their commits
//! together with all else that this client has done, in order.

use std::sync::Arc;

use cairn_protocol::messages::common::Attributes;
use cairn_protocol::messages::operation::Commit;
use cairn_protocol::{ErrorCode, Failure};
use futures::future::BoxFuture;

use super::{Inner, OpenFile};
use crate::error::{Error, Result, Subject};
use crate::namenode::lock;

/// What became of a commit that somebody else saw to.
#[derive(Debug)]
pub enum InCustody {
    /// It happened; the file as it is now.
    Committed(Attributes),
    /// It has not happened, and will not.
    Failed(Error),
    /// It was sent in a session that is over, and nobody knows whether it happened before. If it did, the file's version is later than
    /// this one.
    Unknown {
        /// An entry of the log from before it was sent ([`crate::FileSystem::applied_index`]); 0 if not even that is known.
        version_before: u64,
    },
}

pub(super) fn unknown(subject: &Subject) -> Error {
    let message = "the session ended before it was known whether the bytes are committed";
    Error::OutcomeUnknown {
        subject: subject.clone(),
        failure: Failure::new(ErrorCode::SessionExpired, message),
    }
}

/// Who sees to it that commits of a file happen after the file was made.
pub trait Custodian: Send + Sync + std::fmt::Debug {
    /// Makes a commit happen, and answers what became of it. `None` once it is not the custodian's business any more: the file exists by
    /// then, and it is to be committed as usual.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Option<InCustody>>;

    /// From now on it is not: returns when the file exists and all that was taken has happened.
    fn release(&self) -> BoxFuture<'_, Result<()>>;
}

impl OpenFile {
    /// Commits of the inode, through whichever open file, are this one's to make happen, until it says that they are not.
    pub fn entrust(&self, custodian: Arc<dyn Custodian>) {
        *lock(&self.inner().custodian) = Some(custodian);
    }
}

impl Inner {
    /// Answers a commit if that is somebody's business.
    pub(super) async fn commit_in_custody(&self, commit: &Commit) -> Option<InCustody> {
        let custodian = lock(&self.custodian).clone()?;
        let committed = custodian.commit(commit.clone()).await;
        if committed.is_none() {
            self.leave_custody(&custodian);
        }
        committed
    }

    /// Before what a custodian does not do: streams.
    pub(super) async fn end_custody(&self) -> Result<()> {
        let Some(custodian) = lock(&self.custodian).clone() else {
            return Ok(());
        };
        custodian.release().await?;
        self.leave_custody(&custodian);
        Ok(())
    }

    fn leave_custody(&self, left: &Arc<dyn Custodian>) {
        let mut custodian = lock(&self.custodian);
        if custodian.as_ref().is_some_and(|now| Arc::ptr_eq(now, left)) {
            *custodian = None;
        }
    }
}
