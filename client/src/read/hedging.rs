//! When to ask a second replica although the first may still answer. The first answer counts, so a datanode that hangs, or whose disk
//! does, costs a moment and not a timeout (J. Dean, L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013).
//!
//! The delay follows what reads of the kind took lately, and only a small part of all reads may be hedged: where everything is slow,
//! asking twice would make it slower.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::datanodes::ReadKind;
use crate::namenode::lock;

/// Answers whose times are remembered.
const SAMPLES: usize = 64;
/// With fewer answers nothing is known yet.
const SAMPLES_MIN: usize = 16;
/// An answer is late when it takes so many times as long as nearly all of the last ones.
const LATE_FACTOR: u32 = 3;
/// Nearly all: 95 of 100.
const PERCENTILE: usize = 95;
/// While nothing is known, so many times the least delay passes.
const UNKNOWN_FACTOR: u32 = 10;
/// One read in so many may be hedged …
const READS_PER_HEDGE: u32 = 20;
/// … and so many at once, after a while without any.
const HEDGES_MAX: u32 = 32;

/// What this client knows about how long reads take.
pub(crate) struct Hedging {
    delay_min: Duration,
    small: Mutex<Latencies>,
    bulk: Mutex<Latencies>,
    /// In parts of a hedge: each read adds one, each hedge takes [`READS_PER_HEDGE`].
    budget: AtomicU32,
}

#[derive(Default)]
struct Latencies {
    last: Vec<Duration>,
    next: usize,
    /// Found anew after every [`SAMPLES_MIN`] answers.
    high: Option<Duration>,
}

impl Latencies {
    fn note(&mut self, took: Duration) {
        if self.last.len() < SAMPLES {
            self.last.push(took);
        } else {
            self.last[self.next % SAMPLES] = took;
        }
        self.next = self.next.wrapping_add(1);
        if self.next.is_multiple_of(SAMPLES_MIN) {
            let mut sorted = self.last.clone();
            sorted.sort_unstable();
            self.high = sorted.get(sorted.len() * PERCENTILE / 100).copied();
        }
    }
}

impl Hedging {
    pub(crate) fn new(delay_min: Duration) -> Self {
        Self {
            delay_min,
            small: Mutex::default(),
            bulk: Mutex::default(),
            budget: AtomicU32::new(HEDGES_MAX * READS_PER_HEDGE),
        }
    }

    fn latencies(&self, kind: ReadKind) -> &Mutex<Latencies> {
        match kind {
            ReadKind::Small => &self.small,
            ReadKind::Bulk | ReadKind::Sequential => &self.bulk,
        }
    }

    /// How long to wait for an answer before another replica is asked, too.
    pub(crate) fn delay(&self, kind: ReadKind) -> Duration {
        match lock(self.latencies(kind)).high {
            Some(high) => high.saturating_mul(LATE_FACTOR).max(self.delay_min),
            None => self.delay_min.saturating_mul(UNKNOWN_FACTOR),
        }
    }

    /// A read was answered.
    pub(crate) fn note(&self, kind: ReadKind, took: Duration) {
        lock(self.latencies(kind)).note(took);
        // Relaxed: a count of its own.
        let _ = self
            .budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |parts| {
                (parts < HEDGES_MAX * READS_PER_HEDGE).then_some(parts + 1)
            });
    }

    /// Whether one more read may be hedged now; if so, it is counted.
    pub(crate) fn spend(&self) -> bool {
        let spent = self
            .budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |parts| {
                parts.checked_sub(READS_PER_HEDGE)
            });
        spent.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{HEDGES_MAX, Hedging, READS_PER_HEDGE, SAMPLES};
    use crate::datanodes::ReadKind;

    const FLOOR: Duration = Duration::from_millis(20);

    #[test]
    fn the_delay_follows_what_reads_of_the_kind_take() {
        let hedging = Hedging::new(FLOOR);
        assert_eq!(hedging.delay(ReadKind::Small), FLOOR * 10);
        for _ in 0..SAMPLES {
            hedging.note(ReadKind::Small, Duration::from_millis(1));
        }
        assert_eq!(hedging.delay(ReadKind::Small), FLOOR);
        assert_eq!(hedging.delay(ReadKind::Bulk), FLOOR * 10);
        for _ in 0..SAMPLES {
            hedging.note(ReadKind::Small, Duration::from_millis(50));
        }
        assert_eq!(hedging.delay(ReadKind::Small), Duration::from_millis(150));
    }

    #[test]
    fn one_outlier_in_many_does_not_count() {
        let hedging = Hedging::new(FLOOR);
        for index in 0..SAMPLES {
            let took = if index == 7 { 9_000 } else { 10 };
            hedging.note(ReadKind::Bulk, Duration::from_millis(took));
        }
        assert_eq!(
            hedging.delay(ReadKind::Sequential),
            Duration::from_millis(30)
        );
    }

    #[test]
    fn only_a_part_of_all_reads_is_hedged() {
        let hedging = Hedging::new(FLOOR);
        let spent = (0..1000).filter(|_| hedging.spend()).count();
        assert_eq!(spent, HEDGES_MAX as usize);
        for _ in 0..READS_PER_HEDGE - 1 {
            hedging.note(ReadKind::Small, FLOOR);
        }
        assert!(!hedging.spend());
        hedging.note(ReadKind::Small, FLOOR);
        assert!(hedging.spend() && !hedging.spend());
    }
}
