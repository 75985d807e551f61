//! How often each user may ask: a bucket of one second's requests per user, which fills as time passes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Users that are remembered. Numbers are cheap to claim where `user.name` is believed, so there is a limit.
const USERS_MAX: usize = 65_536;

/// Of the user that asks.
pub(crate) struct Rates {
    per_second: f64,
    /// Held for a look-up.
    buckets: Mutex<BTreeMap<u32, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    requests: f64,
    at: Instant,
}

impl Rates {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second: f64::from(per_second),
            buckets: Mutex::new(BTreeMap::new()),
        }
    }

    /// Takes a request from the user's bucket. Fails with the time until there is one.
    pub(crate) fn admit(&self, uid: u32) -> Result<(), Duration> {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= USERS_MAX && !buckets.contains_key(&uid) {
            // Whoever has a full bucket is as good as forgotten.
            buckets.retain(|_, bucket| self.filled(*bucket, now) < self.per_second);
            if buckets.len() >= USERS_MAX {
                return Err(Duration::from_secs(1));
            }
        }
        let full = Bucket {
            requests: self.per_second,
            at: now,
        };
        let bucket = buckets.entry(uid).or_insert(full);
        let requests = self.filled(*bucket, now);
        let admitted = requests >= 1.0;
        *bucket = Bucket {
            requests: if admitted { requests - 1.0 } else { requests },
            at: now,
        };
        if admitted {
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - requests) / self.per_second))
        }
    }

    fn filled(&self, bucket: Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.requests + passed * self.per_second).min(self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::{Rates, USERS_MAX};

    #[tokio::test(start_paused = true)]
    async fn each_user_has_a_second_of_requests_and_gets_them_back() {
        let rates = Rates::new(10);
        for _ in 0..10 {
            rates.admit(7).unwrap();
        }
        let wait = rates.admit(7).unwrap_err();
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
        rates.admit(8).unwrap();
        advance(Duration::from_millis(250)).await;
        rates.admit(7).unwrap();
        rates.admit(7).unwrap();
        assert!(rates.admit(7).is_err());
        advance(Duration::from_secs(60)).await;
        assert_eq!((0..20).filter(|_| rates.admit(7).is_ok()).count(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn users_beyond_the_limit_wait_until_others_are_forgotten() {
        let rates = Rates::new(1);
        for uid in 0..USERS_MAX as u32 {
            rates.admit(uid).unwrap();
        }
        assert!(rates.admit(u32::MAX).is_err());
        advance(Duration::from_secs(1)).await;
        rates.admit(u32::MAX).unwrap();
    }
}
