//! All that the console shows, in one document.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_client::{Safety, verdict};
use cairn_protocol::messages::admin::{DatanodeAdminState, StatusReply};
use serde::Serialize;
use utoipa::ToSchema;

use crate::lookout::{SpaceSample, View};
use crate::server::Shared;
use crate::slow::SlowRequest;
use crate::status::Status;
use crate::who::Who;

/// All that the console shows.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Overview {
    safety: SafetyLine,
    /// As last heard; null if never.
    #[schema(required)]
    status: Option<Status>,
    space: Space,
    /// What the cluster is about to do, or at.
    work: Vec<Work>,
    /// Requests to this gateway that took long, the last first: one's own, and for the superuser all.
    slow: Vec<SlowRequest>,
    /// Who asks, if they say so and are believed.
    #[schema(required)]
    user: Option<String>,
    /// Where this was seen from.
    gateway: String,
    /// When, in milliseconds since 1970.
    time_ms: u64,
}

/// Whether all data is safe, and if not, what is at risk, since when, and when it will be mended.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct SafetyLine {
    level: Level,
    /// In a sentence or two; the same as `dfs status` says.
    text: String,
    /// Since when it is at this level, in milliseconds since 1970.
    since_ms: u64,
    /// False if it was so already when this gateway began to look.
    since_seen: bool,
    repair: Repair,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// All data is safe.
    Safe,
    /// All can be read and changed; something is missing.
    Warned,
    /// Something cannot be read or changed, or is lost.
    Bad,
}

/// When it will be mended.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Repair {
    state: RepairState,
    /// What happens next, or what a person has to do.
    text: String,
    /// Time until it is done, at the speed of the last minutes; null if that is not known.
    #[schema(required)]
    seconds_left: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum RepairState {
    /// There is nothing to mend.
    None,
    /// Copies are being made.
    Running,
    /// It begins by itself.
    Waiting,
    /// Somebody has to do something.
    Person,
}

/// Space of all volumes, replicas counted one by one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Space {
    capacity_bytes: u64,
    used_bytes: u64,
    available_bytes: u64,
    /// Up to a day, a minute apart, the last one of now.
    samples: Vec<SpaceSample>,
    /// Time until it is full at the speed of these; null if it is not filling up.
    #[schema(required)]
    full_in_seconds: Option<u64>,
}

/// Something that the cluster is at.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Work {
    /// `re-replication`, `decommission`, `balance`, `surplus`, `deletion` or `sweep`.
    kind: &'static str,
    text: String,
    /// How much is left.
    left: u64,
    /// Of how much; null if that is not known.
    #[schema(required)]
    of: Option<u64>,
}

/// The document for somebody.
pub(crate) async fn of(shared: &Shared, who: Option<&Who>) -> Overview {
    let view = shared.lookout().look(shared).await;
    let settings = shared.known_fs().map(|fs| fs.settings());
    let wanted = settings.map_or(0, |settings| settings.replication);
    Overview {
        safety: safety(&view, wanted),
        status: view.status.as_deref().map(Status::from),
        space: space(&view.samples),
        work: view
            .status
            .as_deref()
            .map_or_else(Vec::new, |status| work(status, &view.leaving)),
        slow: who.map_or_else(Vec::new, |who| shared.slow().seen_by(who)),
        user: who.map(|who| who.name.clone()),
        gateway: shared.bound().to_string(),
        time_ms: shared.now_ms(),
    }
}

/// Which datanodes live, as last seen.
pub(crate) async fn alive(shared: &Shared) -> BTreeMap<u64, bool> {
    let view = shared.lookout().look(shared).await;
    let datanodes = view
        .status
        .as_deref()
        .map(|status| status.datanodes.as_slice());
    let datanodes = datanodes.unwrap_or_default().iter();
    datanodes
        .map(|datanode| (datanode.address.datanode, datanode.alive))
        .collect()
}

/// The last entry of the log that the leader had applied when it was last seen.
pub(crate) async fn applied_index(shared: &Shared) -> u64 {
    let view = shared.lookout().look(shared).await;
    view.status.map_or(0, |status| status.applied_index)
}

fn safety(view: &View, wanted: u32) -> SafetyLine {
    let (level, text, repair) = match (&view.failure, &view.status) {
        (None, Some(status)) => {
            let verdict = verdict(status);
            let level = match verdict.safety {
                Safety::Safe => Level::Safe,
                Safety::Warned => Level::Warned,
                Safety::Bad => Level::Bad,
            };
            (level, verdict.text, repair(status, view.mended_in, wanted))
        }
        (failure, _) => {
            let why = failure.as_deref().unwrap_or("nobody has asked yet");
            let text = format!("The cluster does not answer: {why}");
            let way_out = "Start the namenodes: a majority of them is needed.";
            (Level::Bad, text, Repair::person(way_out))
        }
    };
    SafetyLine {
        level,
        text,
        since_ms: view.since_ms,
        since_seen: view.since_seen,
        repair,
    }
}

impl Repair {
    fn person(text: impl Into<String>) -> Self {
        Self {
            state: RepairState::Person,
            text: text.into(),
            seconds_left: None,
        }
    }

    fn waiting(text: impl Into<String>) -> Self {
        Self {
            state: RepairState::Waiting,
            text: text.into(),
            seconds_left: None,
        }
    }
}

fn repair(status: &StatusReply, mended_in: Option<Duration>, wanted: u32) -> Repair {
    let counts = &status.counts;
    let dead = addresses(status);
    if status.namenodes.iter().any(|namenode| !namenode.reachable) && counts.chunks_unavailable == 0
    {
        let silent = status.namenodes.iter().filter(|one| !one.reachable);
        let silent: Vec<&str> = silent.map(|one| one.address.as_str()).collect();
        return Repair::person(format!("Start namenode {}.", silent.join(", ")));
    }
    let low = status.namenodes.iter().filter(|one| one.disk_low);
    let low: Vec<&str> = low.map(|one| one.address.as_str()).collect();
    if !low.is_empty() && counts.chunks_unavailable == 0 {
        let low = low.join(", ");
        return Repair::person(format!("Make room on the disk of namenode {low}."));
    }
    if counts.chunks_unavailable > 0 {
        return Repair::person(match dead.as_str() {
            "" => "Wait a moment for datanodes to report; dfs fsck says which files are concerned."
                .to_owned(),
            dead => format!("Start the datanodes that are dead: {dead}."),
        });
    }
    if counts.chunks_lossy > 0 {
        let text = "What is lost cannot be mended: dfs fsck names the files; bring them back from elsewhere.";
        return Repair::person(text);
    }
    if counts.chunks_under_replicated > 0 {
        return missing(status, mended_in, wanted, &dead);
    }
    if !dead.is_empty() {
        let text = format!("If they stay away, their replicas are made anew elsewhere: {dead}.");
        return Repair::waiting(text);
    }
    Repair {
        state: RepairState::None,
        text: String::new(),
        seconds_left: None,
    }
}

fn missing(status: &StatusReply, mended_in: Option<Duration>, wanted: u32, dead: &str) -> Repair {
    let takes = |state: i32| state == DatanodeAdminState::InService as i32;
    let serving = status.datanodes.iter();
    let serving = serving.filter(|one| one.alive && takes(one.state)).count();
    if status.counts.copies_running > 0 || mended_in.is_some() {
        return Repair {
            state: RepairState::Running,
            text: "Copies are being made.".to_owned(),
            seconds_left: mended_in.map(|left| left.as_secs()),
        };
    }
    if serving < wanted as usize {
        let start = match dead {
            "" => "Add datanodes.".to_owned(),
            dead => format!("Start {dead}, or add datanodes."),
        };
        return Repair::person(format!(
            "{serving} datanodes take data, and files ask for {wanted} replicas. {start}"
        ));
    }
    Repair::waiting("Copies begin by themselves.")
}

/// Of the datanodes that have something and are not heard.
fn addresses(status: &StatusReply) -> String {
    let missed = status.datanodes.iter();
    let missed = missed.filter(|one| !one.alive && one.replica_count > 0);
    let missed: Vec<&str> = missed.map(|one| one.address.address.as_str()).collect();
    // A sentence has room for a few.
    match missed.len() {
        0..=5 => missed.join(", "),
        count => format!("{} and {} more", missed[..5].join(", "), count - 5),
    }
}

fn space(samples: &[SpaceSample]) -> Space {
    let now = samples.last().copied();
    let of = |part: fn(SpaceSample) -> u64| now.map_or(0, part);
    Space {
        capacity_bytes: of(|now| now.capacity_bytes),
        used_bytes: of(|now| now.used_bytes),
        available_bytes: of(|now| now.available_bytes),
        full_in_seconds: full_in(samples),
        samples: samples.to_vec(),
    }
}

/// Judged from ten minutes at least: less is noise.
fn full_in(samples: &[SpaceSample]) -> Option<u64> {
    let (first, last) = (samples.first()?, samples.last()?);
    let took = last.time_ms.saturating_sub(first.time_ms) / 1000;
    let grown = last.used_bytes.checked_sub(first.used_bytes)?;
    if took < 600 || grown == 0 {
        return None;
    }
    let seconds = u128::from(last.available_bytes) * u128::from(took) / u128::from(grown);
    u64::try_from(seconds).ok()
}

fn work(status: &StatusReply, leaving: &BTreeMap<u64, u64>) -> Vec<Work> {
    let counts = &status.counts;
    let mut all = Vec::new();
    let mut at = |kind, left: u64, of: Option<u64>, text: String| {
        if left > 0 {
            all.push(Work {
                kind,
                text,
                left,
                of,
            });
        }
    };
    let lacking = counts.chunks_under_replicated;
    let text = format!(
        "{lacking} chunks lack replicas; {} copies are running",
        counts.copies_running
    );
    at("re-replication", lacking, Some(counts.chunks), text);
    for datanode in &status.datanodes {
        let (id, left) = (datanode.address.datanode, datanode.replica_count);
        if let Some(of) = leaving.get(&id) {
            let address = &datanode.address.address;
            let text =
                format!("Datanode {id} ({address}) leaves: {left} replicas are still to be copied");
            at("decommission", left, Some(*of), text);
        }
    }
    let moves = counts.moves_running;
    let text = format!(
        "Balancing: {moves} replicas are being moved; datanodes are {:.1} % to {:.1} % full",
        f64::from(counts.fill_min_permille) / 10.0,
        f64::from(counts.fill_max_permille) / 10.0
    );
    at("balance", moves, None, text);
    let surplus = counts.chunks_over_replicated;
    let text = format!("{surplus} chunks have surplus replicas");
    at("surplus", surplus, None, text);
    let dead = counts.chunks_dead;
    at(
        "deletion",
        dead,
        None,
        format!("{dead} chunks will be deleted"),
    );
    let sweeping = counts.sweeping;
    let text = format!("{sweeping} removed files and trees are being swept");
    at("sweep", sweeping, None, text);
    all
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use cairn_protocol::messages::admin::{DatanodeStatus, NamenodeStatus, StatusReply};

    use super::{Level, RepairState, full_in, repair, safety, work};
    use crate::lookout::{SpaceSample, View};

    fn status(alive: usize, dead: usize) -> StatusReply {
        let mut status = StatusReply::default();
        for id in 0..alive + dead {
            let mut datanode = DatanodeStatus {
                alive: id < alive,
                replica_count: 5,
                ..DatanodeStatus::default()
            };
            datanode.address.datanode = id as u64;
            datanode.address.address = format!("h{id}:1");
            status.datanodes.push(datanode);
        }
        status.counts.chunks = 10;
        status
    }

    #[test]
    fn who_looks_is_told_what_comes_next() {
        let mut status = status(2, 1);
        let waits = repair(&status, None, 3);
        assert_eq!(waits.state, RepairState::Waiting);
        assert!(waits.text.contains("h2:1"), "{}", waits.text);
        status.counts.chunks_under_replicated = 4;
        let person = repair(&status, None, 3);
        assert_eq!(person.state, RepairState::Person);
        assert!(
            person.text.contains("2 datanodes take data"),
            "{}",
            person.text
        );
        assert_eq!(repair(&status, None, 2).state, RepairState::Waiting);
        let runs = repair(&status, Some(Duration::from_secs(90)), 2);
        assert_eq!(
            (runs.state, runs.seconds_left),
            (RepairState::Running, Some(90))
        );
        status.counts.chunks_unavailable = 1;
        assert!(
            repair(&status, None, 3)
                .text
                .starts_with("Start the datanodes")
        );
        status.counts = Default::default();
        status.datanodes.truncate(2);
        assert_eq!(repair(&status, None, 2).state, RepairState::None);
        status.namenodes.push(NamenodeStatus::default());
        assert_eq!(repair(&status, None, 2).state, RepairState::Person);
    }

    #[test]
    fn silence_is_the_worst_news() {
        let mut view = View {
            status: Some(Arc::new(status(1, 0))),
            ..View::default()
        };
        assert_eq!(safety(&view, 1).level, Level::Safe);
        view.failure = Some("no answer".to_owned());
        let line = safety(&view, 1);
        assert_eq!(line.level, Level::Bad);
        assert!(line.text.ends_with("no answer"), "{}", line.text);
    }

    #[test]
    fn progress_is_counted_from_where_it_began() {
        let mut status = status(3, 0);
        assert!(work(&status, &[].into()).is_empty());
        status.counts.chunks_dead = 2;
        let all = work(&status, &[(1, 20)].into());
        assert_eq!(
            (all[0].kind, all[0].left, all[0].of),
            ("decommission", 5, Some(20))
        );
        assert_eq!((all[1].kind, all[1].left), ("deletion", 2));
    }

    #[test]
    fn a_full_disk_is_foretold_from_a_while_of_growth() {
        let sample = |minute: u64, used_bytes| SpaceSample {
            time_ms: minute * 60_000,
            capacity_bytes: 1000,
            used_bytes,
            available_bytes: 1000 - used_bytes,
        };
        assert_eq!(full_in(&[sample(0, 100), sample(5, 200)]), None);
        assert_eq!(full_in(&[sample(0, 100), sample(10, 200)]), Some(4800));
        assert_eq!(full_in(&[sample(0, 200), sample(10, 100)]), None);
        assert_eq!(full_in(&[]), None);
    }
}
