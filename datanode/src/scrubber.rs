//! Verifies sealed replicas, slowly and forever, so that a bad one is found while good ones exist. What is bad is
//! reported with the next heartbeat, never repaired: the leader has it replaced.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use cairn_protocol::ids::ChunkId;

use crate::error::DatanodeError;
use crate::metrics::Metrics;
use crate::replicas::Replicas;

/// Bytes read between two pauses.
const STEP_BYTES: u64 = 1 << 20;

/// Pause when there is nothing to verify, and the longest one otherwise.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Goes round all sealed replicas at `rate_bytes` per second, from a random one on, so that restarts do not always
/// verify the same ones.
pub(crate) async fn run(
    replicas: Replicas,
    metrics: std::sync::Arc<Metrics>,
    rate_bytes: u64,
    mut rng: StdRng,
    stop: CancellationToken,
) -> Result<(), DatanodeError> {
    let mut round = Round {
        replicas,
        metrics,
        rate_bytes,
        after: ChunkId(rng.random()),
    };
    let scrub = async {
        loop {
            if rate_bytes == 0 || !round.next().await {
                sleep(PAUSE_MAX).await;
            }
        }
    };
    // Between two steps nothing is half done.
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        () = scrub => Ok(()),
    }
}

struct Round {
    replicas: Replicas,
    metrics: std::sync::Arc<Metrics>,
    rate_bytes: u64,
    /// The last replica verified.
    after: ChunkId,
}

impl Round {
    /// Verifies the next sealed replica, if there is one.
    async fn next(&mut self) -> bool {
        let all = self.replicas.list().await;
        let healthy = || {
            all.iter()
                .filter(|replica| replica.sealed && !replica.bad && !replica.gone)
        };
        let next = healthy()
            .find(|replica| replica.chunk > self.after.0)
            .or_else(|| healthy().next());
        let Some(replica) = next else { return false };
        self.after = ChunkId(replica.chunk);
        let mut from = Some(0);
        while let Some(offset) = from {
            // Deleted since, or its volume failed: the next one then.
            let Ok(step) = self
                .replicas
                .verify_step(self.after, offset, STEP_BYTES)
                .await
            else {
                break;
            };
            self.metrics.scrubbed(step.checked_bytes);
            from = step.next;
            sleep(self.pause(step.checked_bytes)).await;
        }
        true
    }

    fn pause(&self, bytes: u64) -> Duration {
        let seconds = bytes.max(4096) as f64 / self.rate_bytes as f64;
        Duration::from_secs_f64(seconds).min(PAUSE_MAX)
    }
}
