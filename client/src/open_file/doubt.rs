//! Finds out whether a commit happened whose answer never came. Until that is known its bytes must not be committed again: if
//! they were committed, others may have read them and written over them since, and would find their own bytes gone.
//!
//! While the session lives the same mutation is sent again under its number, and the answer is certain. Once the session is over
//! the commit happens no more if it has not, and the file shows which: a place in a chunk is written once, so an extent of
//! ours in the file proves that the commit happened; and if the version is not later than the one from before, it has not. Else somebody
//! has changed the file since, and perhaps written over all of it: then nobody can tell.

use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, Extent, Location};
use cairn_protocol::messages::operation::{CommitExtent, OutcomeKind};
use cairn_protocol::messages::query::Extents;
use cairn_protocol::{ErrorCode, Failure};

use crate::error::{Error, Result, Subject};
use crate::file_system::FileSystem;
use crate::session::Answer;
use crate::write::stream::{Doubt, InDoubt};

/// Most extents of a commit that are looked for. Any one proves it.
const LOOKS_MAX: usize = 32;

/// What became of a commit.
pub(super) enum Settled {
    /// It happened; the file as it is now.
    Committed(Attributes),
    /// It has not happened, and will not.
    NotCommitted,
    /// Nobody will ever know.
    Unknown(Error),
}

/// Fails if nobody answers, or if the file takes such bytes no more.
pub(super) async fn settle(fs: &FileSystem, inode: InodeId, doubt: &Doubt) -> Result<Settled> {
    let subject = Subject::Inode(inode);
    let InDoubt::Mutation(unanswered) = &doubt.sent else {
        return look(fs, &subject, inode, doubt).await;
    };
    match fs.core().sessions.ask_again(&subject, unanswered).await {
        Answer::Known(Ok(OutcomeKind::Inode(outcome))) => {
            Ok(Settled::Committed(outcome.attributes))
        }
        Answer::Known(Ok(_)) => Err(Error::unexpected(&subject)),
        // The next attempt will hear of it, too.
        Answer::Known(Err(_)) => Ok(Settled::NotCommitted),
        Answer::None(error) => Err(error),
        Answer::SessionOver => look(fs, &subject, inode, doubt).await,
    }
}

/// Looks for what the commit would have left in the file.
async fn look(
    fs: &FileSystem,
    subject: &Subject,
    inode: InodeId,
    doubt: &Doubt,
) -> Result<Settled> {
    for ours in doubt.sent.extents().iter().take(LOOKS_MAX) {
        let query = Extents {
            location: Location::inode(inode),
            offset: ours.offset_in_file,
            length: ours.length,
            limit: 0,
            without_locations: true,
        };
        let found = fs.located_extents(subject, query).await?;
        let is_ours = |found: &Extent| is_part_of(found, ours);
        if found.extents.iter().any(|found| is_ours(&found.extent)) {
            return Ok(Settled::Committed(found.attributes));
        }
        if found.attributes.version <= doubt.version_before {
            return Ok(Settled::NotCommitted);
        }
    }
    let message = "the session ended in the midst of a commit, and the file was changed since";
    let failure = Failure::new(ErrorCode::OutcomeUnknown, message);
    Ok(Settled::Unknown(Error::OutcomeUnknown {
        subject: subject.clone(),
        failure,
    }))
}

/// True if some byte of `found` is one that `ours` brought.
fn is_part_of(found: &Extent, ours: &CommitExtent) -> bool {
    let ends_behind = |start: u64, length: u64, other: u64| start.saturating_add(length) > other;
    found.chunk == ours.chunk
        && ends_behind(found.offset_in_chunk, found.length, ours.offset_in_chunk)
        && ends_behind(ours.offset_in_chunk, ours.length, found.offset_in_chunk)
}
