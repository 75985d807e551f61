//! What this gateway last saw of the cluster, as metrics: the numbers of `dfs status`, for alerts and dashboards.

use cairn_client::{Safety, verdict};
use cairn_daemon::telemetry::Metrics as Registry;
use cairn_daemon::telemetry::prometheus_client::metrics::gauge::Gauge;
use cairn_protocol::messages::admin::StatusReply;

use crate::lookout::SpaceSample;

/// Handles of the gauges. They keep what was seen last while the cluster does not answer; `answers` says whether it does.
#[derive(Debug)]
pub(crate) struct ClusterMetrics {
    answers: Gauge,
    safety: Gauge,
    files: Gauge,
    sessions: Gauge,
    term: Gauge,
    chunks: Gauge,
    under_replicated: Gauge,
    unavailable: Gauge,
    lossy: Gauge,
    copies_running: Gauge,
    live_bytes: Gauge,
    capacity_bytes: Gauge,
    used_bytes: Gauge,
    available_bytes: Gauge,
    datanodes: Gauge,
    datanodes_dead: Gauge,
    volumes_failed: Gauge,
    namenodes: Gauge,
    namenodes_silent: Gauge,
    namenodes_disk_low: Gauge,
}

impl ClusterMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let gauge = |noun: &str, unit: &str, help: &str| {
            registry.gauge(&format!("cluster_{noun}"), unit, help)
        };
        Self {
            answers: gauge(
                "answers",
                "",
                "1 if the cluster answered when it was last asked",
            ),
            safety: gauge(
                "safety",
                "",
                "0 all data is safe, 1 something is missing, 2 something cannot be read or changed",
            ),
            files: gauge("files", "", "Files"),
            sessions: gauge("sessions", "", "Sessions of clients"),
            term: gauge("term", "", "Raft term: grows with each election"),
            chunks: gauge("chunks", "", "Chunks"),
            under_replicated: gauge(
                "chunks_under_replicated",
                "",
                "Chunks with fewer live replicas than asked for",
            ),
            unavailable: gauge("chunks_unavailable", "", "Chunks with no live replica"),
            lossy: gauge(
                "chunks_lossy",
                "",
                "Chunks parts of which are on no disk any more",
            ),
            copies_running: gauge(
                "copies_running",
                "",
                "Copies of replicas that are being made",
            ),
            live_bytes: gauge("live", "bytes", "Distinct bytes that files use"),
            capacity_bytes: gauge("capacity", "bytes", "Capacity of all volumes"),
            used_bytes: gauge("used", "bytes", "Bytes of all replicas"),
            available_bytes: gauge(
                "available",
                "bytes",
                "Bytes that volumes of live datanodes still take",
            ),
            datanodes: gauge("datanodes", "", "Datanodes that the cluster knows"),
            datanodes_dead: gauge(
                "datanodes_dead",
                "",
                "Datanodes whose heartbeats do not arrive",
            ),
            volumes_failed: gauge("volumes_failed", "", "Volumes that were withdrawn"),
            namenodes: gauge("namenodes", "", "Namenodes"),
            namenodes_silent: gauge(
                "namenodes_silent",
                "",
                "Namenodes that do not answer the leader",
            ),
            namenodes_disk_low: gauge(
                "namenodes_disk_low",
                "",
                "Namenodes with less than their reserve free on their disks",
            ),
        }
    }

    /// The cluster did not answer.
    pub(crate) fn silent(&self) {
        self.answers.set(0);
        self.safety.set(2);
    }

    pub(crate) fn seen(&self, status: &StatusReply, space: &SpaceSample) {
        let counts = &status.counts;
        let datanodes = &status.datanodes;
        let dead = datanodes.iter().filter(|one| !one.alive).count();
        let failed = datanodes.iter().flat_map(|one| &one.volumes);
        let failed = failed.filter(|volume| volume.failed).count();
        let silent = status.namenodes.iter().filter(|one| !one.reachable).count();
        let low = status.namenodes.iter().filter(|one| one.disk_low).count();
        // What members know by themselves is no answer of the cluster.
        self.answers.set(i64::from(!status.local));
        self.safety.set(match verdict(status).safety {
            Safety::Safe => 0,
            Safety::Warned => 1,
            Safety::Bad => 2,
        });
        for (gauge, number) in [
            (&self.files, counts.files),
            (&self.sessions, status.session_count),
            (&self.term, status.term),
            (&self.chunks, counts.chunks),
            (&self.under_replicated, counts.chunks_under_replicated),
            (&self.unavailable, counts.chunks_unavailable),
            (&self.lossy, counts.chunks_lossy),
            (&self.copies_running, counts.copies_running),
            (&self.live_bytes, counts.live_bytes),
            (&self.capacity_bytes, space.capacity_bytes),
            (&self.used_bytes, space.used_bytes),
            (&self.available_bytes, space.available_bytes),
            (&self.datanodes, datanodes.len() as u64),
            (&self.datanodes_dead, dead as u64),
            (&self.volumes_failed, failed as u64),
            (&self.namenodes, status.namenodes.len() as u64),
            (&self.namenodes_silent, silent as u64),
            (&self.namenodes_disk_low, low as u64),
        ] {
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }
}
