//! What this gateway has seen of the cluster over time: since when something is at risk, how fast it is mended, how space is used.
//! Soft state, lost with the process. It looks from time to time by itself, and as often as somebody watches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{Error, Safety, verdict};
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::admin::{DatanodeAdminState, DatanodeStatus, StatusReply};
use cairn_protocol::messages::datanode::VolumeSpace;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::api::Problem;
use crate::error::GatewayError;
use crate::server::{Shared, cluster_status};

/// What was seen so lately is not asked for again.
const FRESH: Duration = Duration::from_millis(900);

/// Between looks while somebody watches, in a small cluster.
const WATCHED: Duration = Duration::from_secs(2);

/// Between looks while nobody does: for each datanode so long (a status has a line for each), within these limits. So all
/// gateways together cost the leader little in a cluster of any size.
const UNWATCHED_PER_DATANODE: Duration = Duration::from_secs(1);
const UNWATCHED_MIN: Duration = Duration::from_secs(10);
const UNWATCHED_MAX: Duration = Duration::from_secs(300);

/// Space is noted so often, and kept for a day.
const SAMPLE_EVERY_MS: u64 = 60_000;
const SAMPLES_MAX: usize = 1440;

/// The speed of a repair is that of the last minutes.
const PROGRESS_KEPT: Duration = Duration::from_secs(300);
const PROGRESS_MAX: usize = 600;

/// Space at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct SpaceSample {
    /// Milliseconds since 1970.
    pub(crate) time_ms: u64,
    pub(crate) capacity_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) available_bytes: u64,
}

/// What is known now.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// As last heard.
    pub(crate) status: Option<Arc<StatusReply>>,
    /// Why the last question was not answered.
    pub(crate) failure: Option<String>,
    /// Since when it is as safe or unsafe as it is now, in milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// Whether the change was seen; else it has been so for longer.
    pub(crate) since_seen: bool,
    /// Time until all replicas are there, at the speed of the last minutes.
    pub(crate) mended_in: Option<Duration>,
    /// Replicas that datanodes had when they were first seen leaving.
    pub(crate) leaving: BTreeMap<u64, u64>,
    /// In order of time.
    pub(crate) samples: Vec<SpaceSample>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Lookout {
    /// Held while asking, so that all who look share an answer.
    seen: Mutex<Seen>,
    datanodes: std::sync::atomic::AtomicUsize,
}

#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    status: Option<Arc<StatusReply>>,
    failure: Option<String>,
    safety: Option<Safety>,
    since_ms: u64,
    since_seen: bool,
    leaving: BTreeMap<u64, u64>,
    /// Of now.
    space: SpaceSample,
    samples: VecDeque<SpaceSample>,
    /// How many chunks lacked replicas, and when.
    lacking: VecDeque<(Instant, u64)>,
}

impl Lookout {
    /// How things are now.
    pub(crate) async fn look(&self, shared: &Shared) -> View {
        let mut seen = self.seen.lock().await;
        if seen.at.is_none_or(|at| at.elapsed() >= FRESH) {
            let status = cluster_status(shared).await;
            seen.note(status, Instant::now(), shared.now_ms());
            match (&seen.failure, &seen.status) {
                (None, Some(status)) => shared.cluster_metrics().seen(status, &seen.space),
                _ => shared.cluster_metrics().silent(),
            }
            let count = seen
                .status
                .as_ref()
                .map_or(0, |status| status.datanodes.len());
            self.datanodes
                .store(count, std::sync::atomic::Ordering::Relaxed);
        }
        seen.view()
    }

    /// How often those who watch look.
    pub(crate) fn pace(&self) -> Duration {
        // A status of a thousand datanodes is a few hundred kilobytes.
        WATCHED * (1 + self.known_datanodes() / 100)
    }

    fn known_datanodes(&self) -> u32 {
        let count = self.datanodes.load(std::sync::atomic::Ordering::Relaxed);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Looks from time to time, until `stop`.
    pub(crate) async fn keep(
        shared: Arc<Shared>,
        stop: CancellationToken,
    ) -> Result<(), GatewayError> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = shared.lookout().look(&shared) => {}
            }
            let pause = UNWATCHED_PER_DATANODE.saturating_mul(shared.lookout().known_datanodes());
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep(pause.clamp(UNWATCHED_MIN, UNWATCHED_MAX)) => {}
            }
        }
    }
}

/// The cluster's status, at most a second old: who asks need not say who they are, and however many ask, the leader is asked once.
pub(crate) async fn recent_status(shared: &Shared) -> Result<Arc<StatusReply>, Problem> {
    let view = shared.lookout().look(shared).await;
    match (view.status, view.failure) {
        (Some(status), None) => Ok(status),
        (_, failure) => {
            let code = ErrorCode::Unavailable;
            let text = failure.unwrap_or_else(|| code.text().to_owned());
            Err(Problem::new(code, text))
        }
    }
}

impl Seen {
    fn note(&mut self, status: Result<StatusReply, Error>, now: Instant, now_ms: u64) {
        let first = self.at.is_none();
        self.at = Some(now);
        let safety = match status {
            Ok(status) => {
                let safety = verdict(&status).safety;
                self.failure = None;
                self.sample(&status, now_ms);
                self.progress(&status, now);
                self.status = Some(Arc::new(status));
                safety
            }
            Err(error) => {
                self.failure = Some(error.to_string());
                Safety::Bad
            }
        };
        if self.safety == Some(safety) {
            return;
        }
        self.safety = Some(safety);
        self.since_seen = !first;
        self.since_ms = now_ms;
    }

    fn sample(&mut self, status: &StatusReply, time_ms: u64) {
        let of = |which: fn(&DatanodeStatus) -> bool| {
            let datanodes = status.datanodes.iter().filter(|one| which(one));
            VolumeSpace::of(datanodes.flat_map(|one| {
                let host = one.address.host.as_str();
                one.volumes.iter().map(move |volume| (host, volume))
            }))
        };
        let all = of(|_| true);
        let sample = SpaceSample {
            time_ms,
            capacity_bytes: all.capacity_bytes,
            used_bytes: all.used_bytes,
            // Nobody can write to one that is dead.
            available_bytes: of(|one| one.alive).available_bytes,
        };
        self.space = sample;
        // A leader that has just been elected has not heard yet how large disks are.
        if sample.capacity_bytes == 0 {
            return;
        }
        // The last one is that of now; those before it are a minute apart.
        let settled = self.samples.iter().rev().nth(1);
        let replaces = settled.is_some_and(|settled| {
            self.samples.len() > 1 && time_ms.saturating_sub(settled.time_ms) < SAMPLE_EVERY_MS
        });
        if replaces {
            self.samples.pop_back();
        }
        self.samples.push_back(sample);
        if self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    fn progress(&mut self, status: &StatusReply, now: Instant) {
        let lacking = status.counts.chunks_under_replicated;
        if lacking == 0 {
            self.lacking.clear();
        } else {
            self.lacking.push_back((now, lacking));
        }
        while self.lacking.len() > PROGRESS_MAX
            || self
                .lacking
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) > PROGRESS_KEPT)
        {
            self.lacking.pop_front();
        }
        let mut leaving = BTreeMap::new();
        for datanode in &status.datanodes {
            if datanode.state == DatanodeAdminState::Decommissioning as i32 {
                let id = datanode.address.datanode;
                let known = self.leaving.get(&id).copied().unwrap_or(0);
                leaving.insert(id, known.max(datanode.replica_count));
            }
        }
        self.leaving = leaving;
    }

    fn mended_in(&self) -> Option<Duration> {
        // From where it was worst: while datanodes die there is nothing to foretell.
        let most = self
            .lacking
            .iter()
            .max_by_key(|(at, lacking)| (*lacking, *at))?;
        let last = self.lacking.back()?;
        let (mended, took) = (most.1 - last.1, last.0.duration_since(most.0));
        if mended == 0 {
            return None;
        }
        let seconds = took.as_secs_f64() * last.1 as f64 / mended as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }

    fn view(&self) -> View {
        View {
            status: self.status.clone(),
            failure: self.failure.clone(),
            since_ms: self.since_ms,
            since_seen: self.since_seen,
            mended_in: self.mended_in(),
            leaving: self.leaving.clone(),
            samples: self.samples.iter().copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cairn_client::{Error, Subject};
    use cairn_protocol::messages::admin::{DatanodeStatus, StatusReply};
    use cairn_protocol::messages::datanode::VolumeReport;
    use cairn_protocol::{ErrorCode, Failure};
    use tokio::time::Instant;

    use super::{SAMPLES_MAX, Seen};

    fn status(lacking: u64) -> StatusReply {
        let mut status = StatusReply::default();
        status.counts.chunks = 100;
        status.counts.chunks_under_replicated = lacking;
        let volume = VolumeReport {
            capacity_bytes: 1000,
            ..VolumeReport::default()
        };
        status.datanodes.push(DatanodeStatus {
            alive: true,
            volumes: vec![volume],
            ..DatanodeStatus::default()
        });
        status
    }

    #[test]
    fn it_remembers_since_when_and_foretells_until_when() {
        let mut seen = Seen::default();
        let start = Instant::now();
        seen.note(Ok(status(0)), start, 1_000);
        assert!(!seen.view().since_seen, "nobody saw the beginning");
        seen.note(Ok(status(40)), start + Duration::from_secs(10), 11_000);
        seen.note(Ok(status(30)), start + Duration::from_secs(20), 21_000);
        let view = seen.view();
        assert_eq!((view.since_ms, view.since_seen), (11_000, true));
        assert_eq!(view.mended_in, Some(Duration::from_secs(30)));
        seen.note(Ok(status(0)), start + Duration::from_secs(30), 31_000);
        assert_eq!(seen.view().mended_in, None);
        assert_eq!(seen.view().since_ms, 31_000);
    }

    #[test]
    fn a_cluster_that_does_not_answer_is_in_danger_and_not_forgotten() {
        let mut seen = Seen::default();
        let start = Instant::now();
        seen.note(Ok(status(0)), start, 1_000);
        let silent = Error::Refused {
            subject: Subject::Cluster,
            failure: Failure::from(ErrorCode::Unavailable),
        };
        seen.note(Err(silent), start + Duration::from_secs(1), 2_000);
        let view = seen.view();
        assert!(view.failure.is_some() && view.status.is_some());
        assert_eq!((view.since_ms, view.since_seen), (2_000, true));
        seen.note(Ok(status(0)), start + Duration::from_secs(2), 3_000);
        assert_eq!(seen.view().failure, None);
    }

    #[test]
    fn space_is_noted_each_minute_for_a_day() {
        let mut seen = Seen::default();
        for second in 0..(SAMPLES_MAX as u64 + 60) * 60 {
            if second % 7 == 0 {
                seen.sample(&status(0), second * 1000);
            }
        }
        let samples = seen.view().samples;
        assert_eq!(samples.len(), SAMPLES_MAX);
        let apart: Vec<u64> = samples
            .windows(2)
            .map(|pair| pair[1].time_ms - pair[0].time_ms)
            .collect();
        let (_, settled) = apart.split_last().unwrap();
        let minute = 50_000..=70_000;
        assert!(settled.iter().all(|apart| minute.contains(apart)));
    }
}
