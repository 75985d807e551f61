//! The change feed: each call waits for the next changes. Any member answers; see [`Feed`](crate::consensus::feed::Feed).

use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::limits::PAYLOAD_BYTES_MAX;
use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::feed::{ChangeSets, ChangesReply, ChangesRequest};
use cairn_protocol::rpc::{Reply, Request, RpcError};
use prost::Message;
use tokio::time::{Instant, sleep};

use super::client::check_caller;
use super::{NamenodeService, internal};
use crate::consensus::feed::Page;
use crate::namespace::{Interest, Onlooker};

/// Calls that wait at once; more are refused.
pub(super) const WAITING_MAX: usize = 4096;
/// Longest wait.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Inodes of one interest.
const INODES_MAX: usize = 1024;
/// After changes that the caller does not want to hear of, so that a busy cluster does not wake everybody for each entry.
const REST: Duration = Duration::from_millis(1);

impl NamenodeService {
    pub(super) async fn changes(&self, request: Request) -> Result<Reply, RpcError> {
        let request: ChangesRequest = request.decode()?;
        check_caller(&request.caller)?;
        if request.inodes.len() > INODES_MAX {
            let message = format!(
                "changes of {} inodes, at most {INODES_MAX} are allowed",
                request.inodes.len()
            );
            return Err(RpcError::new(ErrorCode::InvalidArgument, message));
        }
        let Ok(_waiting) = self.waiting.try_acquire() else {
            let message = format!("{WAITING_MAX} clients wait for changes, no more may");
            return Err(RpcError::new(ErrorCode::Overloaded, message));
        };
        // Whoever hears from us knows how the world was when it asked.
        self.group.linearize().await?;
        let mut after = request.after_index;
        if after == 0 {
            return Ok(reply(self.applied_index(), false, &ChangeSets::default()));
        }
        if after > self.applied_index() {
            // Nobody can have heard of what does not exist: this is another history.
            return Ok(reply(self.applied_index(), true, &ChangeSets::default()));
        }
        let interest = interest_of(&request);
        let wait = Duration::from_millis(request.wait_ms.into()).min(WAIT_MAX);
        let deadline = Instant::now() + wait;
        let mut applied = self.group.state().watch_applied();
        loop {
            applied.borrow_and_update();
            let upto = self.applied_index();
            let Some(page) = self.group.state().feed().read(after, upto) else {
                return Ok(reply(upto, true, &ChangeSets::default()));
            };
            let found = self.look(&request.caller, &interest, &page)?;
            let seen_any = !page.sets.is_empty();
            after = page.reached;
            if !found.sets.is_empty() || self.stopping.is_cancelled() || Instant::now() >= deadline
            {
                return Ok(reply(after, false, &found));
            }
            if after < upto {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => {}
                () = tokio::time::sleep_until(deadline) => {}
                // Its sender lives as long as the state.
                _ = applied.changed(), if !seen_any => {}
                () = sleep(REST), if seen_any => {}
            }
        }
    }

    fn look(
        &self,
        caller: &Caller,
        interest: &Interest,
        page: &Page,
    ) -> Result<ChangeSets, RpcError> {
        if page.sets.is_empty() {
            return Ok(ChangeSets::default());
        }
        let store = self.group.state().store();
        let snapshot = store.snapshot();
        let mut onlooker = Onlooker::new(&snapshot, caller, interest);
        let sets = onlooker.see(page.sets.iter().map(AsRef::as_ref));
        let sets = sets.map_err(internal)?;
        Ok(ChangeSets { sets })
    }

    pub(super) fn applied_index(&self) -> u64 {
        let applied = self.group.state().applied_log_id();
        applied.map_or(0, |log_id| log_id.index)
    }
}

fn interest_of(request: &ChangesRequest) -> Interest {
    Interest {
        inodes: request.inodes.iter().copied().map(InodeId).collect(),
        below: (request.below != 0).then_some(InodeId(request.below)),
        without_session: SessionId(request.without_session),
    }
}

/// An entry may change more than a frame can tell: then it is as if it had been forgotten.
fn reply(upto_index: u64, lost: bool, found: &ChangeSets) -> Reply {
    let payload = found.encode_to_vec();
    let lost = lost || payload.len() > PAYLOAD_BYTES_MAX;
    let answer = Reply::new(&ChangesReply { upto_index, lost });
    if lost {
        answer
    } else {
        answer.with_payload(payload.into())
    }
}
