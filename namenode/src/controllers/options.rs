//! How the controllers behave. The defaults suit a cluster of any size; tests and the simulator use shorter times.

use std::time::Duration;

/// Intervals and limits.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// How often each loop looks, besides being woken.
    pub interval: Duration,
    /// A loop that comes back this much later than it should has been asleep, and with it everything else here.
    pub stall: Duration,
    /// An idle chunk that nobody took for this long is sealed.
    pub idle_chunk_max: Duration,
    /// Copies with one datanode as their destination, and the same again with it as their source.
    pub copies_per_datanode: usize,
    /// Copies in the whole cluster.
    pub copies_max: usize,
    /// Replicas move while the fullest datanode is this many percentage points fuller than the emptiest one.
    pub balance_threshold: u32,
    /// Moves of one batch.
    pub balance_moves_max: usize,
    /// Between two batches: datanodes delete what has moved, and tell their space.
    pub balance_rest: Duration,
    /// A copy that is not there after this long is given up.
    pub copy_timeout: Duration,
    /// How often a running copy is asked for.
    pub copy_poll: Duration,
    /// How often compaction looks for chunks of which little is used.
    pub compaction_interval: Duration,
    /// Such a chunk is left in peace until it has been sealed for this long.
    pub compaction_rest: Duration,
    /// How often a running compaction is asked for.
    pub compaction_poll: Duration,
    /// What failed is tried again after this long.
    pub retry_after: Duration,
    /// A chunk for whose copy there is no datanode is looked at again after this long.
    pub no_target_after: Duration,
    /// How long a datanode may take to answer instructions that fsync.
    pub instruct_timeout: Duration,
    /// How long a datanode may take to read replicas in full.
    pub verify_timeout: Duration,
    /// How long `sync` may take.
    pub sync_timeout: Duration,
    /// Chunks that are examined between two looks at anything else.
    pub examine_step: usize,
    /// Records that one `Sweep` touches at most.
    pub sweep_limit: u32,
    /// Chunks that one step of reclaim drops at most.
    pub drop_limit: usize,
    /// Token keys change after this long.
    pub rotate_keys_after: Duration,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(500),
            stall: Duration::from_secs(3),
            idle_chunk_max: Duration::from_secs(300),
            copies_per_datanode: 4,
            copies_max: 256,
            balance_threshold: 10,
            balance_moves_max: 16,
            balance_rest: Duration::from_secs(20),
            copy_timeout: Duration::from_secs(600),
            copy_poll: Duration::from_secs(5),
            compaction_interval: Duration::from_secs(10),
            compaction_rest: Duration::from_secs(60),
            compaction_poll: Duration::from_millis(200),
            retry_after: Duration::from_secs(5),
            no_target_after: Duration::from_secs(15),
            instruct_timeout: Duration::from_secs(30),
            verify_timeout: Duration::from_secs(300),
            sync_timeout: Duration::from_secs(60),
            examine_step: 128,
            sweep_limit: 250,
            drop_limit: 256,
            rotate_keys_after: Duration::from_secs(24 * 3600),
        }
    }
}
