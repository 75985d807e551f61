//! What a daemon says about itself: logs on standard error, metrics as text for Prometheus.

use std::fmt::Debug;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry, Unit};
use tracing_subscriber::EnvFilter;

pub use prometheus_client;

/// HTTP content type of [`Metrics::render`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Variables with log filters such as `info,cairn_namenode=debug`; the first one that is set counts.
const FILTER_VARIABLES: [&str; 2] = ["CAIRN_LOG", "RUST_LOG"];

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error(
        "log filter `{filter}` in {variable}: {source}; write for example `info,cairn_namenode=debug`"
    )]
    Filter {
        /// Where it came from.
        variable: &'static str,
        /// What it is.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else was first.
    #[error("logs are already set up in this process")]
    Twice,
}

/// Sends this process's logs to standard error. `CAIRN_LOG` or `RUST_LOG` choose what; else `default_filter` does.
pub fn init_logs(default_filter: &str) -> Result<(), LogError> {
    let set = FILTER_VARIABLES.iter().find_map(|variable| {
        let filter = std::env::var(variable)
            .ok()
            .filter(|filter| !filter.is_empty())?;
        Some((*variable, filter))
    });
    let (variable, filter) = set.unwrap_or(("the default", default_filter.to_owned()));
    let filter = parse_filter(variable, filter)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        // Its way to say that standard error is closed would be a panic.
        .log_internal_errors(false)
        .try_init()
        .map_err(|_| LogError::Twice)
}

fn parse_filter(variable: &'static str, filter: String) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(&filter)
        .map_err(|source| LogError::Filter {
            variable,
            filter,
            source,
        })
}

/// The metrics of one daemon, named `dfs_<daemon>_<noun>_<unit>`. Cheap to clone. Registering is for start-up; counting
/// goes through the handles that it gives, without a lock.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Held while registering and rendering.
    registry: Arc<Mutex<Registry>>,
}

/// A metric's one label and its value, which must come from a bounded set.
pub type Label = [(&'static str, String); 1];

impl Metrics {
    /// No metrics yet.
    pub fn new(daemon: &str) -> Metrics {
        let registry = Registry::with_prefix(format!("dfs_{daemon}"));
        Metrics {
            registry: Arc::new(Mutex::new(registry)),
        }
    }

    /// Registers any metric; gives it back. An empty `unit` means that the noun itself is what is counted.
    pub fn register<M: Metric + Clone + Debug>(
        &self,
        noun: &str,
        unit: &str,
        help: &str,
        metric: M,
    ) -> M {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // The library ends the help with a full stop itself.
        let help = help.trim_end_matches('.');
        if unit.is_empty() {
            registry.register(noun, help, metric.clone());
        } else {
            let unit = Unit::Other(unit.to_owned());
            registry.register_with_unit(noun, help, unit, metric.clone());
        }
        metric
    }

    /// A number that only grows; its name gets `_total`.
    pub fn counter(&self, noun: &str, unit: &str, help: &str) -> Counter {
        self.register(noun, unit, help, Counter::default())
    }

    /// A number that goes up and down.
    pub fn gauge(&self, noun: &str, unit: &str, help: &str) -> Gauge {
        self.register(noun, unit, help, Gauge::default())
    }

    /// A distribution of durations in seconds, from 10 µs to 42 s in steps of ×2.
    pub fn seconds(&self, noun: &str, help: &str) -> Histogram {
        self.register(noun, "seconds", help, seconds_histogram())
    }

    /// Counters that differ in one label, which has few values.
    pub fn counters(&self, noun: &str, unit: &str, help: &str) -> Family<Label, Counter> {
        self.register(noun, unit, help, Family::default())
    }

    /// Gauges that differ in one label, which has few values.
    pub fn gauges(&self, noun: &str, unit: &str, help: &str) -> Family<Label, Gauge> {
        self.register(noun, unit, help, Family::default())
    }

    /// Distributions of durations that differ in one label, which has few values.
    pub fn seconds_by(&self, noun: &str, help: &str) -> Family<Label, Histogram> {
        let family = Family::new_with_constructor(seconds_histogram as fn() -> Histogram);
        self.register(noun, "seconds", help, family)
    }

    /// All metrics as OpenMetrics text.
    pub fn render(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rendered = String::new();
        text::encode(&mut rendered, &registry).expect("writing to a string cannot fail");
        rendered
    }
}

fn seconds_histogram() -> Histogram {
    Histogram::new(exponential_buckets(10e-6, 2.0, 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_named_and_rendered() {
        let metrics = Metrics::new("datanode");
        metrics
            .counter("written", "bytes", "Bytes written.")
            .inc_by(7);
        metrics.gauge("sessions", "", "Open sessions").set(-2);
        metrics.seconds("fsync", "Duration of fsync").observe(0.5);
        let errors = metrics.counters("errors", "", "Errors by kind");
        errors
            .get_or_create(&[("kind", "timeout".to_owned())])
            .inc();
        let steps = metrics.seconds_by("step", "Duration by step");
        steps
            .get_or_create(&[("step", "copy".to_owned())])
            .observe(1.0);
        let text = metrics.clone().render();
        for line in [
            "# HELP dfs_datanode_written_bytes Bytes written.\n",
            "dfs_datanode_written_bytes_total 7\n",
            "dfs_datanode_sessions -2\n",
            "dfs_datanode_fsync_seconds_count 1\n",
            "dfs_datanode_errors_total{kind=\"timeout\"} 1\n",
            "dfs_datanode_step_seconds_sum{step=\"copy\"} 1.0\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_bad_filter_is_named() {
        let error = parse_filter("CAIRN_LOG", "info,=,".to_owned())
            .unwrap_err()
            .to_string();
        assert!(error.contains("`info,=,` in CAIRN_LOG"), "{error}");
        parse_filter("CAIRN_LOG", "info,cairn_namenode=debug".to_owned()).unwrap();
    }
}
