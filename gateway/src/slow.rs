//! The last requests that took long, for those who wonder why.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::audit::milliseconds;
use crate::who::Who;

/// Longer is slow. Time until the answer began.
pub(crate) const SLOW: Duration = Duration::from_secs(1);

/// Uploads, whose answer comes at their end, and waits for locks are as slow as their clients want.
const LEFT_OUT: [&str; 3] = ["CREATE", "APPEND", "POST /api/v1/locks"];

/// So many are kept.
const KEPT: usize = 64;

/// Of a path, so much is kept.
const PATH_CHARS_MAX: usize = 256;

/// A request to this gateway that took long.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct SlowRequest {
    /// When it began, in milliseconds since 1970.
    time_ms: u64,
    operation: String,
    path: String,
    user: String,
    status: u16,
    duration_ms: f64,
}

/// The last ones.
#[derive(Default)]
pub(crate) struct SlowRequests(Mutex<VecDeque<SlowRequest>>);

/// What a request was.
pub(crate) struct Asked {
    pub(crate) operation: String,
    pub(crate) path: String,
    pub(crate) user: String,
}

impl SlowRequests {
    /// A request was answered at `now_ms`, after `took`.
    pub(crate) fn note(&self, asked: Asked, status: u16, now_ms: u64, took: Duration) {
        if took < SLOW || LEFT_OUT.contains(&asked.operation.as_str()) {
            return;
        }
        let began = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front(SlowRequest {
            time_ms: now_ms.saturating_sub(began),
            operation: asked.operation,
            path: asked.path.chars().take(PATH_CHARS_MAX).collect(),
            user: asked.user,
            status,
            duration_ms: milliseconds(took),
        });
        kept.truncate(KEPT);
    }

    /// Those that somebody may see: paths are nobody else's business.
    pub(crate) fn seen_by(&self, who: &Who) -> Vec<SlowRequest> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = who.caller.uid == 0;
        let seen = kept.iter().filter(|one| all || one.user == who.name);
        seen.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cairn_protocol::messages::common::Caller;

    use super::{Asked, KEPT, SlowRequests};
    use crate::who::Who;

    fn who(name: &str, uid: u32) -> Who {
        let name = name.to_owned();
        let caller = Caller {
            uid,
            ..Caller::default()
        };
        Who {
            name,
            caller,
            by_proxy: false,
        }
    }

    fn asked(operation: &str, user: &str) -> Asked {
        Asked {
            operation: operation.to_owned(),
            path: "/a".to_owned(),
            user: user.to_owned(),
        }
    }

    #[test]
    fn what_was_slow_is_kept_for_those_who_may_know() {
        let slow = SlowRequests::default();
        let long = Duration::from_secs(2);
        slow.note(
            asked("LISTSTATUS", "ada"),
            200,
            5_000,
            Duration::from_millis(3),
        );
        slow.note(asked("CREATE", "ada"), 201, 5_000, long);
        slow.note(asked("RENAME", "ada"), 200, 5_000, long);
        slow.note(asked("DELETE", "bob"), 403, 6_000, long);
        let all = slow.seen_by(&who("root", 0));
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].operation.as_str(), all[0].time_ms),
            ("DELETE", 4_000)
        );
        let hers = slow.seen_by(&who("ada", 1000));
        assert_eq!((hers.len(), hers[0].operation.as_str()), (1, "RENAME"));
        for _ in 0..2 * KEPT {
            slow.note(asked("RENAME", "ada"), 200, 5_000, long);
        }
        assert_eq!(slow.seen_by(&who("root", 0)).len(), KEPT);
    }
}
