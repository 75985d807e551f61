//! Who is heard. A datanode that is not heard for `datanode_dead_after` is dead until it is heard again: its chunks are looked at
//! then. Nothing here changes committed state.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::soft::{Soft, datanode_records, settings};
use super::{Controllers, until_stopped};
use crate::store::{Read, StoreError};

/// Notices that a loop slept longer than it meant to.
#[derive(Debug)]
pub(super) struct Pulse {
    last: Instant,
    /// The longest gap that is still a gap of somebody who was awake.
    gap_max: Duration,
}

impl Pulse {
    /// Beats every `interval`; a gap longer by `stall` is a stall.
    pub fn new(now: Instant, interval: Duration, stall: Duration) -> Self {
        Self {
            last: now,
            gap_max: interval + stall,
        }
    }

    /// A beat. True after a stall.
    pub fn beat(&mut self, now: Instant) -> bool {
        let gap = now.saturating_duration_since(self.last);
        self.last = now;
        gap > self.gap_max
    }
}

/// Watches until `stop`.
pub(super) async fn run(
    controllers: Arc<Controllers>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let options = &controllers.options;
    until_stopped(stop, async {
        let mut leadership = controllers.group.leadership();
        let mut pulse = Pulse::new(Instant::now(), options.interval, options.stall);
        loop {
            let now = Instant::now();
            let stalled = pulse.beat(now);
            tick(&controllers, now, stalled)?;
            tokio::select! {
                biased;
                // An error means that the sender is gone, and so is this process soon.
                Ok(()) = leadership.changed() => {}
                () = tokio::time::sleep(options.interval) => {}
            }
        }
    })
    .await
}

fn tick(controllers: &Controllers, now: Instant, stalled: bool) -> Result<(), StoreError> {
    let store = controllers.store();
    let Some(mut soft) = controllers.soft() else {
        controllers.rest();
        return Ok(());
    };
    if stalled {
        tracing::warn!("this process was asleep: every datanode has its full time again");
        soft.datanodes.heard_all(now);
    }
    if soft.watch(&store.snapshot(), now)? {
        drop(soft);
        controllers.look_at_datanodes();
    }
    Ok(())
}

/// What a datanode is to be has changed: whoever said so counts on it from now on, and not from the next look on.
pub(super) fn states_changed(controllers: &Controllers) -> Result<(), StoreError> {
    let store = controllers.store();
    if let Some(mut soft) = controllers.soft() {
        soft.watch(&store.snapshot(), Instant::now())?;
    }
    controllers.look_at_datanodes();
    Ok(())
}

impl Controllers {
    fn look_at_datanodes(&self) {
        self.work.notify_one();
        self.copies.notify_one();
    }

    /// Throws away what a term of leadership that is over has learned.
    fn rest(&self) {
        let mut soft = self.lock();
        if soft.term != 0 {
            tracing::info!(term = soft.term, "controllers rest");
            soft.forget_term();
            self.group.state().collect_touched(false);
        }
    }
}

impl Soft {
    /// Takes in the committed records and notices the dead. True if there is anything to look at.
    fn watch(&mut self, reader: &impl Read, now: Instant) -> Result<bool, StoreError> {
        let changed = self.datanodes.refresh(datanode_records(reader)?, now);
        let dead_after = Duration::from_millis(settings(reader)?.datanode_dead_after_ms);
        let dead = self.datanodes.bury(now, dead_after);
        for id in &dead {
            tracing::warn!(datanode = %id, "datanode is dead");
            self.outbox.drop_datanode(*id);
        }
        for id in changed.iter().chain(&dead) {
            self.work.scan_datanode(*id);
        }
        Ok(!changed.is_empty() || !dead.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use cairn_protocol::ids::{DatanodeId, Incarnation};
    use tokio::time::Instant;

    use super::Pulse;
    use crate::controllers::registry::{Registry, Standing};
    use crate::store::records::DatanodeRecord;

    const DEAD_AFTER: Duration = Duration::from_secs(30);

    fn registry(now: Instant) -> Registry {
        let mut registry = Registry::default();
        let records = BTreeMap::from([(DatanodeId(1), DatanodeRecord::default())]);
        registry.refresh(records, now);
        registry
    }

    #[test]
    fn only_a_gap_much_longer_than_the_interval_is_a_stall() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut pulse = Pulse::new(start, second, second * 3);
        assert!(!pulse.beat(start + second));
        assert!(!pulse.beat(start + second * 5));
        assert!(pulse.beat(start + second * 10));
        assert!(!pulse.beat(start + second * 11));
    }

    #[test]
    fn a_datanode_that_nobody_heard_has_a_full_life_under_a_new_leader() {
        let start = Instant::now();
        let mut registry = registry(start);
        let replica = (DatanodeId(1), Incarnation(1));
        assert_eq!(registry.bury(start + DEAD_AFTER, DEAD_AFTER), []);
        assert_eq!(
            registry.standing(replica.0, replica.1),
            Standing::Unconfirmed
        );
        let late = start + DEAD_AFTER + Duration::from_millis(1);
        assert_eq!(registry.bury(late, DEAD_AFTER), [DatanodeId(1)]);
        assert_eq!(registry.standing(replica.0, replica.1), Standing::Away);
        assert_eq!(registry.bury(late, DEAD_AFTER), [], "noticed once");
    }

    #[test]
    fn after_a_stall_nobody_is_dead() {
        let start = Instant::now();
        let mut registry = registry(start);
        let awake = start + DEAD_AFTER * 10;
        registry.heard_all(awake);
        assert_eq!(registry.bury(awake, DEAD_AFTER), []);
    }

    #[test]
    fn a_new_process_has_verified_nothing() {
        let now = Instant::now();
        let mut registry = registry(now);
        let id = DatanodeId(1);
        let register = |registry: &mut Registry, nonce: u8| {
            let process = (vec![nonce; 16], Vec::new());
            registry.registered(id, DatanodeRecord::default(), process, now)
        };
        assert!(register(&mut registry, 1));
        registry
            .get_mut(id)
            .unwrap()
            .verified
            .insert(Incarnation(5));
        assert_eq!(registry.standing(id, Incarnation(5)), Standing::Good);
        assert!(!register(&mut registry, 1));
        assert_eq!(registry.standing(id, Incarnation(5)), Standing::Good);
        assert!(register(&mut registry, 2));
        assert_eq!(registry.standing(id, Incarnation(5)), Standing::Unconfirmed);
    }
}
