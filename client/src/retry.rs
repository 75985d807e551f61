//! The one place that decides how long to wait before something is tried again, and when to stop.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep_until};

/// First pause; it doubles from there.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause at first: an election ends within two seconds, and callers should notice at once.
const PAUSE_MAX_EARLY: Duration = Duration::from_millis(80);
/// How long "at first" is.
const EARLY: Duration = Duration::from_secs(5);
/// Longest pause later.
const PAUSE_MAX_LATE: Duration = Duration::from_secs(1);

/// Seeded randomness that the whole client shares.
#[derive(Debug)]
pub(crate) struct Randomness(Mutex<StdRng>);

impl Randomness {
    /// From a seed, or from the system.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self(Mutex::new(match seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_os_rng(),
        }))
    }

    /// Random bytes.
    pub(crate) fn nonce(&self) -> [u8; 16] {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random()
    }

    /// Between one half and all of `pause`, so that clients that failed together do not return together.
    fn jitter(&self, pause: Duration) -> Duration {
        let factor = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random_range(0.5..=1.0);
        pause.mul_f64(factor)
    }
}

/// The pauses of one operation, until its patience is over.
#[derive(Debug)]
pub(crate) struct Backoff<'a> {
    randomness: &'a Randomness,
    started: Instant,
    deadline: Instant,
    pause: Duration,
}

impl<'a> Backoff<'a> {
    /// Starts now.
    pub(crate) fn new(randomness: &'a Randomness, patience: Duration) -> Self {
        let started = Instant::now();
        Self {
            randomness,
            started,
            deadline: started + patience,
            pause: PAUSE_MIN,
        }
    }

    /// When the first attempt was made.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// What is left of the patience.
    pub(crate) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits before the next attempt; false, at once, if the patience is over. Cancel-safe.
    pub(crate) async fn pause(&mut self) -> bool {
        let now = Instant::now();
        let until = now + self.randomness.jitter(self.pause);
        if until >= self.deadline {
            return false;
        }
        let early = now.duration_since(self.started) < EARLY;
        self.pause = (self.pause * 2).min(if early {
            PAUSE_MAX_EARLY
        } else {
            PAUSE_MAX_LATE
        });
        sleep_until(until).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Backoff, Randomness};

    #[tokio::test(start_paused = true)]
    async fn polls_an_election_often_and_a_dead_cluster_rarely_and_then_gives_up() {
        let randomness = Randomness::new(Some(7));
        let start = Instant::now();
        let mut backoff = Backoff::new(&randomness, Duration::from_secs(60));
        let (mut early, mut late) = (0, 0);
        while backoff.pause().await {
            if start.elapsed() < Duration::from_secs(2) {
                early += 1
            } else {
                late += 1
            }
        }
        assert!((20..70).contains(&early), "{early}");
        assert!((80..250).contains(&late), "{late}");
        assert!(start.elapsed() <= Duration::from_secs(60));
    }

    #[test]
    fn the_same_seed_gives_the_same_nonce() {
        assert_eq!(
            Randomness::new(Some(1)).nonce(),
            Randomness::new(Some(1)).nonce()
        );
        assert_ne!(
            Randomness::new(Some(1)).nonce(),
            Randomness::new(Some(2)).nonce()
        );
    }
}
