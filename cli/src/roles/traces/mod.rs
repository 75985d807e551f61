//! Sends spans to a collector as OTLP over HTTP, if the settings name one. Only here: the OpenTelemetry libraries.
//!
//! Whoever ends a span puts it into a queue of bounded length, or drops it; one task takes them out and posts them in batches. So no
//! request waits for a collector, and none that is away costs more than the queue. What was sent and what was dropped is counted.

mod recorder;
mod sender;

use std::sync::OnceLock;

use anyhow::Context;
use cairn_daemon::Tasks;
use cairn_daemon::config::TracingSettings;
use cairn_daemon::telemetry::Metrics;
use cairn_daemon::telemetry::prometheus_client::metrics::counter::Counter;
use cairn_protocol::trace;
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

use self::recorder::SpanRecorder;
use self::sender::Sender;

/// Of this process: several roles in one share them.
static COUNTS: OnceLock<Counts> = OnceLock::new();

/// What becomes of spans.
#[derive(Clone, Debug, Default)]
struct Counts {
    sent: Counter,
    dropped: Counter,
}

/// Who sends them.
pub(super) struct Origin<'a> {
    /// `cairn-namenode`.
    pub(super) service: &'static str,
    /// Where others reach it.
    pub(super) instance: &'a str,
}

/// Begins to record spans, if the settings say so and nobody has begun in this process.
pub(super) fn start(
    settings: &TracingSettings,
    origin: Origin<'_>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let Some(collector) = settings.collector().context("traces")? else {
        return Ok(());
    };
    let counts = Counts::default();
    if COUNTS.set(counts.clone()).is_err() {
        return Ok(());
    }
    let resource = Resource::builder_empty()
        .with_service_name(origin.service)
        .with_attribute(KeyValue::new(
            "service.instance.id",
            origin.instance.to_owned(),
        ))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    tracing::info!(collector = collector.url, "traces are sent");
    let (sender, queue) = Sender::new(collector, &resource, counts);
    trace::install(Box::new(SpanRecorder::new(
        queue,
        settings.one_in,
        resource,
    )));
    tasks.component("traces", |stop| sender.run(stop));
    Ok(())
}

/// Shows in a role's metrics what becomes of this process's spans, if it records any.
pub(super) fn show_in(metrics: &Metrics) {
    if let Some(Counts { sent, dropped }) = COUNTS.get() {
        let (unit, taken) = ("spans", "Spans that the collector has taken");
        metrics.register("traces_sent", unit, taken, sent.clone());
        let given_up = "Spans that were given up: the collector was away or too slow";
        metrics.register("traces_dropped", unit, given_up, dropped.clone());
    }
}
