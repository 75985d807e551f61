//! How large the simulated cluster is and how fast its clocks run: plain, or drawn from a seed.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

/// What a cluster is made of. A seed draws it.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) namenodes: usize,
    pub(crate) datanodes: usize,
    pub(crate) chunk_size: u64,
    pub(crate) latency_max: Duration,
    pub(crate) sync_interval: Duration,
    pub(crate) session_ttl: Duration,
    pub(crate) reclaim_grace: Duration,
    pub(crate) datanode_dead_after: Duration,
    pub(crate) idle_chunk_max: Duration,
    pub(crate) snapshot_every_entries: u64,
    /// For the windows of a datanode's write streams.
    pub(crate) write_memory: u64,
    /// One more namenode, which waits to take the place of another.
    pub(crate) spare: bool,
    /// Of each datanode's disk.
    pub(crate) disk_bytes: u64,
    /// Percentage points between the fullest and the emptiest datanode.
    pub(crate) balance_threshold: u32,
    /// Of a namenode's log.
    pub(crate) segment_bytes: u64,
    /// What a client has on its way in one stream at most.
    pub(crate) write_window: usize,
}

impl Options {
    /// A cluster without anything unusual.
    pub(crate) fn plain() -> Self {
        Self {
            namenodes: 3,
            datanodes: 4,
            chunk_size: 1 << 20,
            latency_max: Duration::from_millis(3),
            sync_interval: Duration::from_secs(60),
            session_ttl: Duration::from_secs(3),
            reclaim_grace: Duration::from_millis(500),
            datanode_dead_after: Duration::from_millis(1500),
            idle_chunk_max: Duration::from_secs(3),
            snapshot_every_entries: 100,
            write_memory: 256 << 20,
            spare: false,
            disk_bytes: 1 << 40,
            balance_threshold: 100,
            segment_bytes: 2 << 20,
            write_window: 8 << 20,
        }
    }

    pub(crate) fn drawn(rng: &mut StdRng) -> Self {
        let millis = |rng: &mut StdRng, from, to| Duration::from_millis(rng.random_range(from..to));
        Self {
            datanodes: rng.random_range(3..=4),
            chunk_size: if rng.random_bool(0.5) {
                1 << 20
            } else {
                4 << 20
            },
            latency_max: millis(rng, 2, 20),
            sync_interval: if rng.random_bool(0.7) {
                Duration::from_secs(60)
            } else {
                millis(rng, 200, 2000)
            },
            session_ttl: millis(rng, 1500, 6000),
            reclaim_grace: millis(rng, 0, 1500),
            idle_chunk_max: millis(rng, 300, 4000),
            snapshot_every_entries: rng.random_range(100..400),
            spare: rng.random_bool(0.4),
            disk_bytes: 512 << 20,
            balance_threshold: rng.random_range(1..=4),
            ..Self::plain()
        }
    }

    /// Draws what came later, apart: the rest of a seed stays what it was. Segments so small that they are recycled while it runs.
    pub(crate) fn draw_more(&mut self, rng: &mut StdRng) {
        self.segment_bytes = rng.random_range(5..=16) * 4096;
    }
}
