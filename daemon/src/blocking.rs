//! The door to blocking work: disk, RocksDB and fsync never run on a runtime worker.
//!
//! In the simulator there is one thread and every call is instantaneous, so the closure runs in place.

/// Runs `work`, which may block, and gives its result. A panic in `work` goes on in the caller.
///
/// Not cancel-safe in effect: dropping the future does not stop work that has begun.
#[cfg(not(cairn_sim))]
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime refuses blocking work only while it is being dropped; then nobody will poll us again.
        Err(_) => std::future::pending().await,
    }
}

/// Runs `work` in place: the simulator has one thread.
#[cfg(cairn_sim)]
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_the_result() {
        assert_eq!(blocking(|| 6 * 7).await, 42);
    }

    #[tokio::test]
    #[should_panic(expected = "the disk is on fire")]
    async fn a_panic_reaches_the_caller() {
        blocking(|| panic!("the disk is on fire")).await
    }
}
