//! What a datanode counts.

use cairn_daemon::telemetry::Metrics as Registry;
use cairn_daemon::telemetry::prometheus_client::metrics::counter::Counter;
use cairn_daemon::telemetry::prometheus_client::metrics::family::Family;
use cairn_daemon::telemetry::prometheus_client::metrics::gauge::Gauge;

use cairn_protocol::Failure;

type ByCode = Family<[(&'static str, String); 1], Counter>;

/// Handles of the counters; counting takes no lock, but for errors.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    received: Counter,
    appends: Counter,
    syncs: Counter,
    read: Counter,
    reads: Counter,
    copied: Counter,
    scrubbed: Counter,
    bad_blocks: Counter,
    full_windows: Counter,
    pub(crate) write_streams: Gauge,
    stream_errors: ByCode,
    read_errors: ByCode,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new("datanode");
        Self {
            received: registry.counter("received", "bytes", "Bytes that write streams brought"),
            appends: registry.counter("appends", "", "Batches appended to replicas"),
            syncs: registry.counter("syncs", "", "Replicas synced because somebody asked"),
            read: registry.counter("read", "bytes", "Bytes of replicas sent to readers"),
            reads: registry.counter("reads", "", "Reads served"),
            copied: registry.counter("copied", "bytes", "Bytes of replicas copied from others"),
            scrubbed: registry.counter("scrubbed", "bytes", "Bytes of sealed replicas verified"),
            bad_blocks: registry.counter(
                "bad_blocks",
                "",
                "Times that a checksum block was found bad",
            ),
            full_windows: registry.counter(
                "full_windows",
                "",
                "Packets of write streams after which another as large would not have fitted the window",
            ),
            write_streams: registry.gauge("write_streams", "", "Open write streams"),
            stream_errors: registry.counters(
                "stream_errors",
                "",
                "Write streams that failed, by code",
            ),
            read_errors: registry.counters("read_errors", "", "Reads that failed, by code"),
            registry,
        }
    }

    /// Where they are registered.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All of them as text for Prometheus.
    pub(crate) fn render(&self) -> String {
        self.registry.render()
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.inc_by(bytes as u64);
    }

    pub(crate) fn window_filled(&self) {
        self.full_windows.inc();
    }

    pub(crate) fn appended(&self) {
        self.appends.inc();
    }

    pub(crate) fn synced(&self) {
        self.syncs.inc();
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.reads.inc();
        self.read.inc_by(bytes as u64);
    }

    pub(crate) fn copied(&self, bytes: usize) {
        self.copied.inc_by(bytes as u64);
    }

    pub(crate) fn scrubbed(&self, bytes: u64) {
        self.scrubbed.inc_by(bytes);
    }

    pub(crate) fn bad_block(&self) {
        self.bad_blocks.inc();
    }

    pub(crate) fn stream_failed(&self, failure: &Failure) {
        count(&self.stream_errors, failure);
    }

    pub(crate) fn read_failed(&self, failure: &Failure) {
        count(&self.read_errors, failure);
    }
}

/// Codes are a closed list, so the label is bounded.
fn count(family: &ByCode, failure: &Failure) {
    family
        .get_or_create(&[("code", format!("{:?}", failure.code))])
        .inc();
}
