//! Directories whose names are this client's alone for a while: see `WriteBehind` and `Delegate` of the protocol.
//!
//! Whoever uses them keeps by itself what it does in such directories, tells the namenodes in order, and gives the directories back
//! when the change feed tells that somebody else has "changed" one: nobody can, so that means that somebody waits for it.

use std::ops::Range;
use std::time::Duration;

use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::operation::{
    Delegate, NoteReads, OperationKind, OutcomeKind, ReadNote, ReserveInodes, Step, WriteBehind,
};
use cairn_protocol::{ErrorCode, Failure};
use tokio::time::sleep;

use crate::error::{Error, Result, Subject};
use crate::file_system::FileSystem;
use crate::locks::Fence;
use crate::session::{Answer, MutateError};

/// Pause between two questions for an answer that does not come.
const PAUSE: Duration = Duration::from_millis(200);

impl FileSystem {
    /// The session in which changes are made now; 0 if there is none, or if it may be over by this client's own clock.
    pub fn session(&self) -> u64 {
        self.core().sessions.current_id()
    }

    /// User and group in whose name this file system asks.
    pub fn identity(&self) -> (u32, u32) {
        let caller = self.asker();
        (caller.uid, caller.gid)
    }

    /// True if a session that may be over by this client's own clock could turn out to live.
    pub fn session_may_live(&self, session: u64) -> bool {
        self.core().sessions.may_live(session)
    }

    /// One thing that is done at once, as [`FileSystem::write_behind`] does it, in whichever session there is: returns which one that was,
    /// and the answer. Not cancel-safe.
    pub async fn write_through(&self, step: Step) -> Result<(u64, OutcomeKind)> {
        let steps = vec![step];
        let operation = OperationKind::WriteBehind(WriteBehind { steps });
        self.mutate_in(None, operation).await
    }

    /// Tells what was done in delegated directories: all of it happens, or nothing. An answer that does not come is asked for until it
    /// comes, or the namenodes say that the session is over. Not cancel-safe.
    ///
    /// # Errors
    /// `OutcomeUnknown` if the session is over, and with it all its delegations: it happened before that, or never will. After any other
    /// failure it has not happened.
    pub async fn write_behind(&self, session: u64, steps: Vec<Step>) -> Result<()> {
        let subject = Subject::Cluster;
        let sessions = &self.core().sessions;
        let operation = OperationKind::WriteBehind(WriteBehind { steps });
        let fence = Fence::Only(session);
        let told = sessions
            .mutate_or_keep(&subject, operation, self.caller(), fence)
            .await;
        let MutateError { error, unanswered } = match told {
            Ok(_) => return Ok(()),
            Err(failed) => failed,
        };
        let Some(unanswered) = unanswered else {
            return Err(over(error));
        };
        loop {
            match sessions.ask_again(&subject, &unanswered).await {
                Answer::Known(told) => return told.map(drop),
                Answer::SessionOver => return Err(error),
                Answer::None(error) => tracing::debug!(%error, "asked again"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Takes the delegation of directories, or gives it back. Waits for whoever has it. Not cancel-safe.
    pub async fn delegate(
        &self,
        session: u64,
        take: Vec<InodeId>,
        give_back: Vec<InodeId>,
    ) -> Result<()> {
        let ids = |inodes: Vec<InodeId>| inodes.into_iter().map(|inode| inode.0).collect();
        let operation = OperationKind::Delegate(Delegate {
            take: ids(take),
            give_back: ids(give_back),
        });
        self.mutate_in(Some(session), operation).await.map(drop)
    }

    /// Inode numbers for what is made in delegated directories, instead of those that the session has left. Not cancel-safe.
    pub async fn reserve_inodes(&self, session: u64, count: u32) -> Result<Range<u64>> {
        let operation = OperationKind::ReserveInodes(ReserveInodes { count });
        match self.mutate_in(Some(session), operation).await? {
            (_, OutcomeKind::Inodes(range)) => Ok(range.first..range.end),
            _ => Err(Error::unexpected(&Subject::Cluster)),
        }
    }

    /// Tells when inodes were read: times of access alone change. At most 1,024. Not cancel-safe.
    pub async fn note_reads(&self, reads: Vec<ReadNote>) -> Result<()> {
        let operation = OperationKind::NoteReads(NoteReads { reads });
        self.mutate_in(None, operation).await.map(drop)
    }

    async fn mutate_in(
        &self,
        session: Option<u64>,
        operation: OperationKind,
    ) -> Result<(u64, OutcomeKind)> {
        let subject = Subject::Cluster;
        let fence = session.map_or(Fence::Any, Fence::Only);
        let sessions = &self.core().sessions;
        let mutated = sessions
            .mutate_within(&subject, operation, self.caller(), fence)
            .await;
        mutated.map_err(over)
    }

    /// How long an operation goes on before it fails when nobody answers.
    pub fn patience(&self) -> Duration {
        self.core().namenode.timeouts().patience
    }
}

/// Locks, for which the fence was made, are not what is at stake.
fn over(error: Error) -> Error {
    match error.code() {
        ErrorCode::LockLost => session_over(),
        _ => error,
    }
}

fn session_over() -> Error {
    let message = "the session that directories were delegated to has ended";
    let failure = Failure::new(ErrorCode::SessionExpired, message);
    Error::refused(&Subject::Cluster, failure)
}
