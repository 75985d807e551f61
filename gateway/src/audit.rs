//! The audit log: one line of JSON for each request that changes something, also for those that were refused. Lines are events
//! of the target `audit`, whose message is the JSON itself.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

/// Who asked for what, from where, and what came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Entry<'a> {
    /// Milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// As claimed; see `outcome` for whether that was believed.
    pub(crate) user: &'a str,
    pub(crate) from: SocketAddr,
    pub(crate) operation: &'a str,
    pub(crate) path: &'a str,
    /// The other path of operations that have two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) destination: Option<&'a str>,
    pub(crate) status: u16,
    /// `ok`, or what kind of failure.
    pub(crate) outcome: &'a str,
    pub(crate) duration_ms: f64,
}

impl Entry<'_> {
    pub(crate) fn write(&self) {
        // Strings and numbers: nothing in it can fail.
        let line = serde_json::to_string(self).unwrap_or_default();
        tracing::info!(target: "audit", "{line}");
    }
}

/// A duration in milliseconds, to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
