//! How many sessions each machine has: one that opens them without end, and never ends any, must not use up the cluster's.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::SessionId;
use cairn_protocol::rpc::RpcError;
use tokio::time::Instant;

use crate::store::{Read, StoreError, session};

/// Sessions of one machine.
pub(super) const SESSIONS_PER_HOST_MAX: u64 = 10_000;
/// Sessions are counted no more often than this; those opened meanwhile are added, and those closed count until the next time.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// The last count.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    counted: Option<Instant>,
    sessions: BTreeMap<String, u64>,
}

impl Hosts {
    /// Whether one more session may be opened from `host`; it counts from now on. Nothing is read while the whole cluster has fewer
    /// than one machine may have.
    pub fn admit(
        &mut self,
        reader: &impl Read,
        host: &str,
        now: Instant,
    ) -> Result<Result<(), RpcError>, StoreError> {
        if reader.cluster_record()?.session_count < SESSIONS_PER_HOST_MAX {
            return Ok(Ok(()));
        }
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < COUNT_EVERY;
        if !self.counted.is_some_and(is_fresh) {
            self.sessions.clear();
            session::scan(reader, SessionId(0), &mut |_, record| {
                if !record.ended {
                    *self.sessions.entry(record.host).or_default() += 1;
                }
                Ok(true)
            })?;
            self.counted = Some(now);
        }
        let count = self.sessions.entry(host.to_owned()).or_default();
        if *count >= SESSIONS_PER_HOST_MAX {
            let message = format!(
                "{host} has {SESSIONS_PER_HOST_MAX} sessions open, and one machine may have no more: end some of its clients"
            );
            return Ok(Err(RpcError::new(ErrorCode::Overloaded, message)));
        }
        *count += 1;
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cairn_protocol::ErrorCode;
    use cairn_protocol::ids::SessionId;
    use tokio::time::Instant;

    use super::{Hosts, SESSIONS_PER_HOST_MAX};
    use crate::store::records::SessionRecord;
    use crate::store::{AppliedState, Store, StoreOptions, session};

    #[test]
    fn a_machine_with_too_many_sessions_gets_no_more_and_others_do() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state"), StoreOptions::default()).unwrap();
        let now = Instant::now();
        let mut hosts = Hosts::default();
        let mut txn = store.begin();
        for id in 1..SESSIONS_PER_HOST_MAX {
            let record = SessionRecord {
                host: "10.0.0.1".to_owned(),
                ..SessionRecord::default()
            };
            session::put(&mut txn, SessionId(id), &record);
        }
        txn.cluster_mut().session_count = SESSIONS_PER_HOST_MAX;
        txn.commit(AppliedState::default()).unwrap();
        let mut admit = |host, now| hosts.admit(&store.snapshot(), host, now).unwrap();
        admit("10.0.0.1", now).unwrap();
        let refused = admit("10.0.0.1", now).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Overloaded);
        assert!(
            refused.to_string().contains("10.0.0.1 has 10000 sessions"),
            "{refused}"
        );
        admit("10.0.0.2", now).unwrap();
        // That one was never opened, or is closed by now.
        admit("10.0.0.1", now + Duration::from_secs(1)).unwrap();
    }
}
