//! The change feed: each call waits for the next changes. Any member answers; see [`Feed`](crate::consensus::feed::Feed).

use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::limits::HEADER_BYTES_MAX;
use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::feed::{ChangeSet, ChangesReply, ChangesRequest};
use cairn_protocol::rpc::{Reply, Request, RpcError};
use prost::Message;
use tokio::time::{Instant, sleep};

use super::principal::Principal;
use super::{NamenodeService, internal};
use crate::consensus::feed::Page;
use crate::namespace::{Interest, Onlooker};

/// Calls that wait at once; more are refused.
pub(super) const WAITING_MAX: usize = 4096;
/// Longest wait.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Inodes of one interest.
const INODES_MAX: usize = 1024;
/// Bytes around a set in an answer, at most; and around all of them.
const SET_FRAMING: usize = 16;
/// After changes that the caller does not want to hear of, so that a busy cluster does not wake everybody for each entry.
const REST: Duration = Duration::from_millis(1);

impl NamenodeService {
    pub(super) async fn changes(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let request: ChangesRequest = request.decode()?;
        let caller = self.caller(principal, request.caller.clone()).await?;
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
            return Ok(reply(self.applied_index(), Vec::new()));
        }
        if after > self.applied_index() {
            // Nobody can have heard of what does not exist: this is another history.
            return Ok(lost(self.applied_index()));
        }
        let interest = interest_of(&request);
        let wait = Duration::from_millis(request.wait_ms.into()).min(WAIT_MAX);
        let deadline = Instant::now() + wait;
        let mut applied = self.group.state().watch_applied();
        loop {
            applied.borrow_and_update();
            let upto = self.applied_index();
            let Some(page) = self.group.state().feed().read(after, upto) else {
                return Ok(lost(upto));
            };
            let found = self.look(&caller, &interest, &page)?;
            let seen_any = !page.sets.is_empty();
            after = page.reached;
            if !found.is_empty() || self.stopping.is_cancelled() || Instant::now() >= deadline {
                return Ok(reply(after, found));
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
    ) -> Result<Vec<ChangeSet>, RpcError> {
        if page.sets.is_empty() {
            return Ok(Vec::new());
        }
        let store = self.group.state().store();
        let snapshot = store.snapshot();
        let mut onlooker = Onlooker::new(&snapshot, caller, interest);
        let sets = onlooker.see(page.sets.iter().map(AsRef::as_ref));
        sets.map_err(internal)
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
        paths: request.paths,
    }
}

/// As many of the changes up to an index as one answer can hold, whole entries. An entry that changed more than that is as if
/// it had been forgotten.
fn reply(upto_index: u64, mut sets: Vec<ChangeSet>) -> Reply {
    let (mut bytes, mut fitting) = (0, 0);
    for (at, set) in sets.iter().enumerate() {
        bytes += set.encoded_len() + SET_FRAMING;
        if bytes > HEADER_BYTES_MAX - SET_FRAMING {
            break;
        }
        if sets.get(at + 1).is_none_or(|next| next.index != set.index) {
            fitting = at + 1;
        }
    }
    if fitting == sets.len() {
        return Reply::new(&ChangesReply {
            upto_index,
            lost: false,
            sets,
        });
    }
    sets.truncate(fitting);
    match sets.last().map(|last| last.index) {
        Some(upto_index) => Reply::new(&ChangesReply {
            upto_index,
            lost: false,
            sets,
        }),
        None => lost(upto_index),
    }
}

fn lost(upto_index: u64) -> Reply {
    Reply::new(&ChangesReply {
        upto_index,
        lost: true,
        sets: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use cairn_protocol::limits::HEADER_BYTES_MAX;
    use cairn_protocol::messages::feed::{Change, ChangeSet, ChangesReply};

    use super::reply;

    fn set(index: u64, bytes: usize) -> ChangeSet {
        let change = Change {
            name: vec![b'x'; bytes].into(),
            ..Change::default()
        };
        ChangeSet {
            index,
            session: 1,
            changes: vec![change],
        }
    }

    fn answer(upto_index: u64, sets: Vec<ChangeSet>) -> (u64, bool, Vec<u64>) {
        let reply = reply(upto_index, sets);
        assert!(reply.header.len() <= HEADER_BYTES_MAX);
        let reply: ChangesReply = reply.decode().unwrap();
        let indexes = reply.sets.iter().map(|set| set.index).collect();
        (reply.upto_index, reply.lost, indexes)
    }

    #[test]
    fn an_answer_holds_whole_entries_as_far_as_they_fit() {
        let half = HEADER_BYTES_MAX / 2 - 100;
        let sets = vec![set(3, half), set(4, half)];
        assert_eq!(answer(9, sets), (9, false, vec![3, 4]));
        let sets = vec![set(3, half), set(4, half), set(4, 200)];
        assert_eq!(answer(9, sets), (3, false, vec![3]));
        let sets = vec![set(3, half), set(3, half), set(3, 200), set(4, 1)];
        assert_eq!(answer(9, sets), (9, true, vec![]));
        assert_eq!(answer(9, Vec::new()), (9, false, vec![]));
    }
}
