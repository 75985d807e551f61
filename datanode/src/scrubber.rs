//! Verifies sealed replicas, slowly and forever, so that a bad one is found while good ones exist. What is bad is
//! reported with the next heartbeat, never repaired: the leader has it replaced.

use std::collections::VecDeque;
use std::sync::Arc;
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

/// Replicas taken from the list at once: it is long, and changes.
const DUE_MAX: usize = 1024;

/// Pause when there is nothing to verify, and the longest one otherwise.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Goes round all sealed replicas at `rate_bytes` per second, from a random one on, so that restarts do not always
/// verify the same ones.
pub(crate) async fn run(
    replicas: Replicas,
    metrics: Arc<Metrics>,
    rate_bytes: u64,
    mut rng: StdRng,
    stop: CancellationToken,
) -> Result<(), DatanodeError> {
    let mut round = Round {
        replicas,
        metrics,
        rate_bytes,
        due: VecDeque::new(),
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
    metrics: Arc<Metrics>,
    rate_bytes: u64,
    /// Next to be verified, in order.
    due: VecDeque<ChunkId>,
    /// The last replica that was taken into `due`.
    after: ChunkId,
}

impl Round {
    /// Verifies the next sealed replica, if there is one.
    async fn next(&mut self) -> bool {
        if self.due.is_empty() {
            self.refill().await;
        }
        let Some(chunk) = self.due.pop_front() else {
            return false;
        };
        let mut from = Some(0);
        while let Some(offset) = from {
            // Deleted since, or its volume failed: the next one then.
            let Ok(step) = self.replicas.verify_step(chunk, offset, STEP_BYTES).await else {
                break;
            };
            self.metrics.scrubbed(step.checked_bytes);
            from = step.next;
            sleep(self.pause(step.checked_bytes)).await;
        }
        true
    }

    /// Takes the next replicas, from the first again after the last.
    async fn refill(&mut self) {
        let all = self.replicas.list().await;
        let healthy = || {
            all.iter()
                .filter(|replica| replica.sealed && !replica.bad && !replica.gone)
        };
        let ahead = healthy().filter(|replica| replica.chunk > self.after.0);
        self.due = ahead
            .take(DUE_MAX)
            .map(|replica| ChunkId(replica.chunk))
            .collect();
        if self.due.is_empty() {
            self.due = healthy()
                .take(DUE_MAX)
                .map(|replica| ChunkId(replica.chunk))
                .collect();
        }
        self.after = self.due.back().copied().unwrap_or(self.after);
    }

    fn pause(&self, bytes: u64) -> Duration {
        let seconds = bytes.max(4096) as f64 / self.rate_bytes as f64;
        Duration::from_secs_f64(seconds).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::path::Path;
    use std::sync::Arc;

    use super::Round;
    use crate::changes::Changes;
    use crate::chunk_store::{BlockChecksum, ChunkStore, Volume, VolumeOptions};
    use crate::metrics::Metrics;
    use crate::replicas::Replicas;
    use cairn_daemon::disk::sim::SimDisk;
    use cairn_protocol::checksum::crc32c;
    use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};

    fn store(disk: &SimDisk) -> Arc<ChunkStore> {
        let volume = Volume::open(
            Arc::new(disk.clone()),
            Path::new("/v"),
            VolumeOptions::default(),
        );
        Arc::new(ChunkStore::new(vec![Arc::new(volume.unwrap())]))
    }

    fn add_sealed(store: &ChunkStore, chunk: u64) {
        let bytes = vec![chunk as u8; 5000];
        let block = BlockChecksum {
            offset: 0,
            length: 5000,
            crc32c: crc32c(&bytes),
        };
        let appender = store
            .create(ChunkId(chunk), Incarnation(1), Epoch(1))
            .unwrap();
        appender.append(0, &bytes, &[block]).unwrap();
        store.seal(ChunkId(chunk), Epoch(1), 5000).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn every_sealed_replica_is_verified_in_turn_and_the_bad_one_reported() {
        let disk = SimDisk::new();
        let store = store(&disk);
        (1..=3).for_each(|chunk| add_sealed(&store, chunk));
        store.create(ChunkId(4), Incarnation(1), Epoch(1)).unwrap();
        let (path, _) = store.volumes()[0].files_of(ChunkId(2));
        disk.flip_bit(&path, 777).unwrap();
        let changes = Arc::new(Changes::default());
        let metrics = Arc::new(Metrics::new());
        let replicas = Replicas::new(store, Arc::clone(&changes), Arc::clone(&metrics));
        let mut round = Round {
            replicas,
            metrics,
            rate_bytes: 1 << 20,
            due: VecDeque::new(),
            after: ChunkId(2),
        };
        // The third; then all of them; then those that are still good.
        for left in [0, 2, 1, 0, 1, 0] {
            assert!(round.next().await);
            assert_eq!(round.due.len(), left);
        }
        assert_eq!(changes.take(10).chunks, [ChunkId(2)].into());
    }
}
