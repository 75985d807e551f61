//! Bounds what a restart has to replay: changes that are only in memory go to disk when there are many of them, or when they are
//! old. Without it a namenode that is killed would apply up to a whole memtable's worth of log again before it serves.

use std::sync::Arc;
use std::time::Duration;

use cairn_daemon::blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::state::State;

/// Time between looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Bytes in memory that are written out at once: about 20,000 operations, which replay in a fraction of a second.
const BYTES_MAX: u64 = 12 << 20;
/// Fewer bytes wait so long at most.
const AGE_MAX: Duration = Duration::from_secs(20);

/// Looks until `stop`. A failed flush ends the process: the disk is not to be trusted any more.
pub(super) async fn run(state: Arc<State>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut last = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let store = state.store();
        let applied = state.applied_log_id().map_or(0, |log_id| log_id.index);
        let is_old = last.elapsed() >= AGE_MAX && store.flushed_index()? < applied;
        if is_old || store.unflushed_bytes()? >= BYTES_MAX {
            blocking(move || store.flush()).await?;
            last = Instant::now();
        }
    }
}
