//! The change feed: what others change, told within moments, so that what was read can be kept until it is out of date.
//!
//! A watch knows all changes up to an entry of the log and asks for those after it, any member of the group: so it goes on without a
//! gap when the leader dies. If changes were forgotten meanwhile, it says [`WatchEvent::Lost`], and goes on from now.

use std::time::Duration;

use cairn_protocol::Method;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::feed::{ChangeSet, ChangesReply, ChangesRequest};

use crate::error::{Result, Subject};
use crate::file_system::FileSystem;

/// How long one question waits for a change: so often a quiet watch hears that there were none.
const WAIT: Duration = Duration::from_secs(1);

/// What a watch hears of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WatchScope {
    /// Every inode of the file system.
    #[default]
    All,
    /// These inodes, and what lies directly in them: at most 1,024.
    Inodes(Vec<InodeId>),
    /// A directory, and everything below it.
    Below(InodeId),
}

/// What a watch hears of, and of whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Of what.
    pub scope: WatchScope,
    /// Leave out what this file system's own session changes.
    pub others_only: bool,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// All changes up to [`Watch::index`], in order; none means that nothing changed. Comes every second at least while the
    /// cluster answers.
    Changes(Vec<ChangeSet>),
    /// Changes are missing: whatever was read before may be out of date. The watch goes on from now.
    Lost,
}

/// Changes as they happen; see [`FileSystem::watch`].
#[derive(Debug)]
pub struct Watch {
    fs: FileSystem,
    options: WatchOptions,
    paths: bool,
    index: u64,
}

impl FileSystem {
    /// Tells of every change from now on: what is read after this call is either as it is now, or the watch tells.
    /// Cancel-safe.
    ///
    /// Names in directories that the caller may not read are empty. Changes in time of access alone are changes, too.
    pub async fn watch(&self, options: WatchOptions) -> Result<Watch> {
        let mut watch = Watch {
            fs: self.clone(),
            options,
            paths: false,
            index: 0,
        };
        watch.next().await?;
        Ok(watch)
    }

    /// Like [`FileSystem::watch`], from an earlier entry on: that of a watch that ended, say. Nothing is asked before
    /// [`Watch::next`], which says [`WatchEvent::Lost`] if that is too long ago.
    pub fn watch_after(&self, options: WatchOptions, index: u64) -> Watch {
        Watch {
            fs: self.clone(),
            options,
            paths: false,
            index,
        }
    }

    /// The last entry of the log in which anybody else can have changed what this file system has been told so far: a
    /// watch that has come so far knows of all that made it out of date. Who keeps what it read asks for this
    /// after an answer, and passes the answer on when the watch is there.
    pub fn changed_index(&self) -> u64 {
        self.core().namenode.feed.changed_index()
    }

    /// The last entry of the log that any answer so far is known to reflect: whatever is asked for from now on is done in a later one,
    /// and what it changes has a later version.
    pub fn applied_index(&self) -> u64 {
        self.core().namenode.feed.applied_index()
    }

    /// Whether a change is this file system's own.
    pub fn is_own_change(&self, set: &ChangeSet) -> bool {
        self.core().namenode.feed.is_own(set.session)
    }
}

impl Watch {
    /// The entry up to which all changes were told.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The same with paths of what changed, for people: the namenode looks for them, so only of the last few dozen changes that come
    /// together, and as far as they are found soon.
    pub fn with_paths(self) -> Self {
        Self {
            paths: true,
            ..self
        }
    }

    /// Waits for changes. Cancel-safe: what is not returned comes again.
    ///
    /// # Errors
    /// As any question, if no namenode answers within the client's patience; calling it again goes on where it was.
    pub async fn next(&mut self) -> Result<WatchEvent> {
        let namenode = &self.fs.core().namenode;
        let patience = namenode.timeouts().patience;
        let limit = WAIT + namenode.timeouts().request;
        let request = self.request();
        let answer = namenode.call_within(Method::Changes, &request, limit, patience);
        let mut reply: ChangesReply = answer
            .await
            .map_err(|error| error.into_error(&Subject::Cluster, patience))?;
        if reply.lost {
            // A member that has just started has forgotten what another one may still know.
            let knows = |reply: &ChangesReply| !reply.lost;
            let found = namenode.ask_each(Method::Changes, &request, limit, knows);
            reply = found.await.unwrap_or(reply);
        }
        self.index = reply.upto_index;
        if reply.lost {
            return Ok(WatchEvent::Lost);
        }
        let mut sets = reply.sets;
        if self.options.others_only {
            sets.retain(|set| !self.fs.is_own_change(set));
        }
        Ok(WatchEvent::Changes(sets))
    }

    fn request(&self) -> ChangesRequest {
        let namenode = &self.fs.core().namenode;
        let (inodes, below) = match &self.options.scope {
            WatchScope::All => (Vec::new(), 0),
            WatchScope::Inodes(inodes) => (inodes.iter().map(|inode| inode.0).collect(), 0),
            WatchScope::Below(directory) => (Vec::new(), directory.0),
        };
        let without_session = match self.options.others_only {
            true => namenode.feed.session(),
            false => 0,
        };
        ChangesRequest {
            caller: self.fs.caller(),
            after_index: self.index,
            without_session,
            inodes,
            below,
            wait_ms: WAIT.as_millis() as u32,
            paths: self.paths,
        }
    }
}
