//! How far a write stream is: what this datanode has written, what those downstream have acknowledged, and the first
//! failure. The parts of a stream (§ `receiver`) meet only here.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use cairn_protocol::Failure;
use cairn_protocol::ids::DatanodeId;

/// Which datanode ended a stream, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamFailure {
    pub datanode: DatanodeId,
    pub failure: Failure,
}

/// What may be acknowledged now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    pub sequence: u64,
    /// Nothing follows.
    pub is_last: bool,
    pub failure: Option<StreamFailure>,
}

#[derive(Debug)]
struct State {
    /// Written here (and fsynced, where the packet asks for it) through this packet.
    written: u64,
    /// Sent downstream through this packet.
    forwarded: u64,
    /// Acknowledged by everyone downstream; `u64::MAX` at the tail.
    downstream: u64,
    /// The last sign that downstream moves, or when the oldest packet that it owes was sent.
    downstream_moved: Instant,
    /// The packet that ends the stream, once it has come.
    last: Option<u64>,
    failure: Option<StreamFailure>,
}

/// Shared by the parts of one stream.
#[derive(Debug)]
pub(super) struct Progress {
    state: watch::Sender<State>,
}

impl Progress {
    /// Nothing has happened yet.
    pub(super) fn new(is_tail: bool) -> Self {
        Self {
            state: watch::Sender::new(State {
                written: 0,
                forwarded: 0,
                downstream: if is_tail { u64::MAX } else { 0 },
                downstream_moved: Instant::now(),
                last: None,
                failure: None,
            }),
        }
    }

    /// This datanode has packets through `sequence`.
    pub(super) fn written(&self, sequence: u64) {
        self.state.send_modify(|state| state.written = sequence);
    }

    /// Packets through `sequence` are on their way downstream. Wakes nobody.
    pub(super) fn forwarded(&self, sequence: u64) {
        self.state.send_if_modified(|state| {
            if state.downstream >= state.forwarded {
                state.downstream_moved = Instant::now();
            }
            state.forwarded = sequence;
            false
        });
    }

    /// Everyone downstream has packets through `sequence`; false if that cannot be (it was never sent, or was taken back).
    pub(super) fn downstream(&self, sequence: u64) -> bool {
        let mut plausible = true;
        self.state.send_if_modified(|state| {
            plausible = (state.downstream..=state.forwarded).contains(&sequence);
            let moved = plausible && sequence > state.downstream;
            if moved {
                state.downstream = sequence;
                state.downstream_moved = Instant::now();
            }
            moved
        });
        plausible
    }

    /// The packet with this number is the last one.
    pub(super) fn last(&self, sequence: u64) {
        self.state.send_modify(|state| state.last = Some(sequence));
    }

    /// The stream ends; the first failure is the one that is reported.
    pub(super) fn fail(&self, datanode: DatanodeId, failure: Failure) {
        self.state.send_if_modified(|state| {
            let first = state.failure.is_none();
            state
                .failure
                .get_or_insert(StreamFailure { datanode, failure });
            first
        });
    }

    /// Why the stream has failed, if it has.
    pub(super) fn failure(&self) -> Option<StreamFailure> {
        self.acknowledged().failure
    }

    /// True once everyone downstream has the last packet.
    pub(super) fn downstream_done(&self) -> bool {
        let state = self.state.borrow();
        state.last == Some(state.downstream)
    }

    /// True if downstream has owed an acknowledgement for longer than `limit`.
    pub(super) fn downstream_stalls(&self, limit: Duration) -> bool {
        let state = self.state.borrow();
        state.downstream < state.forwarded && state.downstream_moved.elapsed() > limit
    }

    /// What everyone from here to the tail has.
    pub(super) fn acknowledged(&self) -> Acknowledged {
        let state = self.state.borrow();
        let sequence = state.written.min(state.downstream);
        let is_last = state.last == Some(sequence);
        // What happens after everyone has everything is no failure of the stream.
        Acknowledged {
            sequence,
            is_last,
            failure: state.failure.clone().filter(|_| !is_last),
        }
    }

    /// Waits until more than `known` is acknowledged, or the stream failed. Cancel-safe.
    pub(super) async fn beyond(&self, known: u64) -> Acknowledged {
        let mut watching = self.state.subscribe();
        let more =
            |state: &State| state.failure.is_some() || state.written.min(state.downstream) > known;
        // The sender is `self`, so the channel cannot close while we wait.
        let _ = watching.wait_for(more).await;
        drop(watching);
        self.acknowledged()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Progress;
    use cairn_protocol::ErrorCode;
    use cairn_protocol::ids::DatanodeId;

    #[tokio::test]
    async fn only_what_everyone_has_is_acknowledged() {
        let progress = Progress::new(false);
        progress.forwarded(3);
        progress.written(3);
        assert_eq!(progress.acknowledged().sequence, 0);
        assert!(progress.downstream(2));
        assert_eq!(progress.beyond(0).await.sequence, 2);
        assert!(!progress.downstream(4), "never sent");
        assert!(!progress.downstream(1), "taken back");
        assert_eq!(progress.beyond(1).await.sequence, 2);
        let tail = Progress::new(true);
        tail.written(1);
        assert_eq!(tail.beyond(0).await.sequence, 1);
    }

    #[tokio::test]
    async fn the_first_failure_is_the_one_reported() {
        let progress = Progress::new(true);
        progress.fail(DatanodeId(2), ErrorCode::DiskFailed.into());
        progress.fail(DatanodeId(3), ErrorCode::TimedOut.into());
        let failure = progress.beyond(9).await.failure.unwrap();
        assert_eq!(
            (failure.datanode, failure.failure.code),
            (DatanodeId(2), ErrorCode::DiskFailed)
        );
        assert!(progress.failure().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn downstream_stalls_only_while_it_owes_something() {
        let limit = Duration::from_secs(10);
        let progress = Progress::new(false);
        tokio::time::advance(limit * 2).await;
        assert!(!progress.downstream_stalls(limit));
        progress.forwarded(1);
        assert!(!progress.downstream_stalls(limit));
        tokio::time::advance(limit * 2).await;
        assert!(progress.downstream_stalls(limit));
        progress.downstream(1);
        assert!(!progress.downstream_stalls(limit));
    }
}
