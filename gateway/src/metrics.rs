//! What the gateway counts, beside the counters of the daemon that it is part of.

use cairn_daemon::telemetry::prometheus_client::metrics::counter::Counter;
use cairn_daemon::telemetry::prometheus_client::metrics::family::Family;
use cairn_daemon::telemetry::prometheus_client::metrics::gauge::Gauge;
use cairn_daemon::telemetry::prometheus_client::metrics::histogram::Histogram;
use cairn_daemon::telemetry::{Label, Metrics as Registry};

/// Handles of the counters.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Label, Counter>,
    errors: Family<Label, Counter>,
    durations: Family<Label, Histogram>,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) connections: Gauge,
    pub(crate) refused: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: Registry) -> Self {
        Self {
            requests: registry.counters("http_requests", "", "Requests over HTTP, by operation"),
            errors: registry.counters("http_errors", "", "Requests that failed, by exception"),
            durations: registry.seconds_by(
                "http_request",
                "Time until the answer began, or until all was uploaded, by operation",
            ),
            received: registry.counter("http_received", "bytes", "Bytes of files uploaded"),
            sent: registry.counter("http_sent", "bytes", "Bytes of files downloaded"),
            connections: registry.gauge("http_connections", "", "Open connections"),
            refused: registry.counter(
                "http_connections_refused",
                "",
                "Connections beyond the limits",
            ),
            registry,
        }
    }

    pub(crate) fn render(&self) -> String {
        self.registry.render()
    }

    /// One request, with its exception if it failed.
    pub(crate) fn request(
        &self,
        operation: &'static str,
        failed: Option<&'static str>,
        seconds: f64,
    ) {
        let label = [("operation", operation.to_owned())];
        self.requests.get_or_create(&label).inc();
        self.durations.get_or_create(&label).observe(seconds);
        if let Some(exception) = failed {
            let label = [("exception", exception.to_owned())];
            self.errors.get_or_create(&label).inc();
        }
    }
}
