//! The door to time. Durations are measured with [`Clock::now`], which never jumps; [`Clock::now_ns`] is the date,
//! which may jump in both directions and is used only for stamps that people or other machines read.
//!
//! In the simulator (`cfg(cairn_sim)`) even the system clock's date is derived from tokio's virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Where simulated dates begin: 2026-01-01T00:00:00Z.
pub const SIMULATED_START_NS: u64 = 1_767_225_600_000_000_000;

/// Tells the time. Cheap to clone; clones share their date, so a jump is seen by all of them.
#[derive(Clone, Debug)]
pub struct Clock {
    date: Date,
}

#[derive(Clone, Debug)]
enum Date {
    #[cfg_attr(
        cairn_sim,
        expect(dead_code, reason = "the simulator has no real date")
    )]
    System,
    Manual(Arc<ManualDate>),
}

#[derive(Debug)]
struct ManualDate {
    start: Instant,
    start_ns: u64,
    offset_ns: AtomicI64,
}

impl Clock {
    /// The machine's clock.
    #[cfg(not(cairn_sim))]
    pub fn system() -> Clock {
        Clock { date: Date::System }
    }

    /// The simulated machine's clock.
    #[cfg(cairn_sim)]
    pub fn system() -> Clock {
        Clock::simulated()
    }

    /// A date that starts at `start_ns` and then follows tokio's time, which tests may pause and advance. Must be
    /// called inside a runtime if that time is paused.
    pub fn manual(start_ns: u64) -> Clock {
        let offset_ns = AtomicI64::new(0);
        let start = Instant::now();
        Clock {
            date: Date::Manual(Arc::new(ManualDate {
                start,
                start_ns,
                offset_ns,
            })),
        }
    }

    /// [`Clock::manual`] at [`SIMULATED_START_NS`].
    pub fn simulated() -> Clock {
        Clock::manual(SIMULATED_START_NS)
    }

    /// Monotonic time, for timeouts and durations.
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// Unix time in nanoseconds. May jump in both directions.
    pub fn now_ns(&self) -> u64 {
        match &self.date {
            Date::System => system_now_ns(),
            Date::Manual(date) => date.now_ns(),
        }
    }

    /// Moves the date of a manual clock and all its clones forwards; monotonic time is not touched.
    ///
    /// # Panics
    /// On the system clock: jumping is for tests.
    pub fn jump_forwards(&self, by: Duration) {
        self.jump(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX));
    }

    /// Moves the date of a manual clock and all its clones backwards; monotonic time is not touched.
    ///
    /// # Panics
    /// On the system clock: jumping is for tests.
    pub fn jump_backwards(&self, by: Duration) {
        self.jump(i64::try_from(by.as_nanos()).map_or(i64::MIN, |by| -by));
    }

    fn jump(&self, by_ns: i64) {
        match &self.date {
            Date::System => panic!("the system clock cannot be moved"),
            // Relaxed: the offset guards no other memory.
            Date::Manual(date) => date.offset_ns.fetch_add(by_ns, Ordering::Relaxed),
        };
    }
}

impl ManualDate {
    fn now_ns(&self) -> u64 {
        let elapsed_ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.start_ns
            .saturating_add(elapsed_ns)
            .saturating_add_signed(self.offset_ns.load(Ordering::Relaxed))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the door that everyone else must use"
)]
fn system_now_ns() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        // A machine whose clock says 1969 is told that it is 1970.
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_manual_clock_follows_virtual_time_and_jumps_with_its_clones() {
        let clock = Clock::manual(1_000_000_000);
        let clone = clock.clone();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(clock.now_ns(), 3_000_000_000);
        let before = clock.now();
        clone.jump_forwards(Duration::from_secs(10));
        assert_eq!(clock.now_ns(), 13_000_000_000);
        clone.jump_backwards(Duration::from_secs(12));
        assert_eq!(clock.now_ns(), 1_000_000_000);
        assert_eq!(clock.now(), before);
        clone.jump_backwards(Duration::from_secs(100));
        assert_eq!(clock.now_ns(), 0, "dates before 1970 are 1970");
    }

    #[cfg(not(cairn_sim))]
    #[test]
    fn the_system_clock_is_past_this_codes_birth() {
        assert!(Clock::system().now_ns() > SIMULATED_START_NS);
    }
}
