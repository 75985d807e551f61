//! Counters of the namenode's service, by method and outcome.

use cairn_daemon::telemetry::{Label, Metrics};
use cairn_protocol::{ErrorCode, Method};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// What the service counts.
pub(crate) struct ServiceMetrics {
    requests: Family<Label, Counter>,
    failures: Family<Label, Counter>,
}

impl ServiceMetrics {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.counters("requests", "", "requests answered, by method"),
            failures: metrics.counters("failures", "", "requests that failed, by error"),
        }
    }

    /// Counts one answer.
    pub fn answered(&self, method: u16, failure: Option<ErrorCode>) {
        let name = Method::from_number(method).map_or("unknown", Method::name);
        self.requests
            .get_or_create(&[("method", name.to_owned())])
            .inc();
        if let Some(code) = failure {
            self.failures
                .get_or_create(&[("error", format!("{code:?}"))])
                .inc();
        }
    }
}
