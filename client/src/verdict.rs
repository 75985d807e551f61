//! Whether all data is safe, in one sentence: what `dfs status`, the console and scripts tell first, and the same.

use cairn_protocol::messages::admin::{DatanodeStatus, StatusReply};

/// How worried to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Safety {
    /// Every chunk is known to have all its replicas, and everybody answers.
    Safe,
    /// Everything can be read and changed, as far as is known; something is missing, under way, or not known yet.
    Warned,
    /// Something cannot be read or changed, or is lost.
    Bad,
}

/// A judgement and the sentence that gives its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How worried to be.
    pub safety: Safety,
    /// Every chunk is known to have all its replicas; namenodes may be missing.
    pub all_replicas: bool,
    /// For people: one sentence, or two.
    pub text: String,
}

/// Judges what the leader told of the cluster, the most serious thing first.
pub fn verdict(status: &StatusReply) -> Verdict {
    let judged = |safety, text: String| Verdict {
        safety,
        all_replicas: false,
        text,
    };
    let bad = no_quorum(status).or_else(|| lost(status));
    if let Some(text) = bad.or_else(|| no_room(status)) {
        return judged(Safety::Bad, text);
    }
    if let Some(text) = incomplete(status) {
        return judged(Safety::Warned, text);
    }
    let safe = "All data is safe: every chunk has all its replicas.";
    let (silent, low) = (silent_namenodes(status), low_namenodes(status));
    let count = status.namenodes.len();
    let (safety, text) = match (silent, low) {
        (0, 0) => (Safety::Safe, safe.to_owned()),
        (0, low) => (
            Safety::Warned,
            format!("{safe} The disks of {low} of {count} namenodes are almost full."),
        ),
        (silent, _) => (
            Safety::Warned,
            format!("{safe} {silent} of {count} namenodes do not answer."),
        ),
    };
    Verdict {
        safety,
        all_replicas: true,
        text,
    }
}

fn silent_namenodes(status: &StatusReply) -> usize {
    let silent = status
        .namenodes
        .iter()
        .filter(|namenode| !namenode.reachable);
    silent.count()
}

fn low_namenodes(status: &StatusReply) -> usize {
    let namenodes = status.namenodes.iter();
    namenodes.filter(|namenode| namenode.disk_low).count()
}

/// The namenodes with room on their disks are no majority of those that vote.
fn no_room(status: &StatusReply) -> Option<String> {
    let voters = || {
        let namenodes = status.namenodes.iter();
        namenodes.filter(|namenode| namenode.role != "learner")
    };
    let count = voters().count();
    let low = voters().filter(|namenode| namenode.disk_low).count();
    (low > 0 && count - low < count / 2 + 1).then(|| {
        format!(
            "NO ROOM FOR METADATA: the disks of {low} of {count} namenodes are almost full, and only what removes is accepted; make room on them, or remove files."
        )
    })
}

/// Whether somebody leads, and a majority of the namenodes answers: without that nothing can be read or changed.
pub fn has_quorum(status: &StatusReply) -> bool {
    no_quorum(status).is_none()
}

/// Who told this may not know that it leads no longer.
fn no_quorum(status: &StatusReply) -> Option<String> {
    let voters = || {
        status
            .namenodes
            .iter()
            .filter(|namenode| namenode.role != "learner")
    };
    let (count, reachable) = (
        voters().count(),
        voters().filter(|namenode| namenode.reachable).count(),
    );
    let needed = count / 2 + 1;
    if count > 0 && reachable < needed {
        return Some(format!(
            "NO QUORUM: {reachable} of {count} namenodes answer, and {needed} are needed to read or change anything; start those that are missing."
        ));
    }
    status.local.then(|| {
        format!("NO LEADER: {reachable} of {count} namenodes answer and none of them leads; ask again in a moment.")
    })
}

/// Replicas on it count, and it is not heard.
fn is_missed(datanode: &DatanodeStatus) -> bool {
    !datanode.alive && datanode.replica_count > 0
}

fn lost(status: &StatusReply) -> Option<String> {
    let counts = &status.counts;
    if just_elected(status) {
        return None;
    }
    if counts.chunks_unavailable > 0 {
        let dead = status.datanodes.iter().filter(|node| !node.alive).count();
        let way_out = match dead {
            0 => String::new(),
            dead => format!("; bring the {dead} dead datanodes back"),
        };
        return Some(format!(
            "DATA UNAVAILABLE: {} of {} chunks have no live replica{way_out}.",
            counts.chunks_unavailable, counts.chunks
        ));
    }
    if counts.chunks_lossy > 0 {
        return Some(format!(
            "DATA LOST: the ends of {} of {} chunks are on no disk any more; dfs fsck names the files.",
            counts.chunks_lossy, counts.chunks
        ));
    }
    (!status.datanodes.iter().any(|datanode| datanode.alive))
        .then(|| "No datanode is alive: files can be neither written nor read.".to_owned())
}

/// A leader that has just been elected knows what is committed, and not yet who is alive.
fn just_elected(status: &StatusReply) -> bool {
    let unheard = |datanode: &DatanodeStatus| datanode.heartbeat_age_ms == u64::MAX;
    !status.datanodes.is_empty() && status.datanodes.iter().all(unheard)
}

fn incomplete(status: &StatusReply) -> Option<String> {
    let counts = &status.counts;
    if just_elected(status) {
        return Some(
            "The leader has just been elected and has not heard any datanode yet; ask again in a moment."
                .to_owned(),
        );
    }
    if counts.chunks_under_replicated > 0 {
        return Some(format!(
            "All data can be read; {} of {} chunks have fewer replicas than they should, {} copies are running.",
            counts.chunks_under_replicated, counts.chunks, counts.copies_running
        ));
    }
    let missed = status
        .datanodes
        .iter()
        .filter(|node| is_missed(node))
        .count();
    (missed > 0).then(|| {
        format!(
            "No chunk is known to lack a replica, but {missed} of {} datanodes are not heard, and replicas are on them.",
            status.datanodes.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::admin::{DatanodeStatus, NamenodeStatus, StatusReply};

    use super::{Safety, has_quorum, verdict};

    fn status() -> StatusReply {
        let mut status = StatusReply::default();
        status.counts.chunks = 10;
        status.namenodes = (1..=3)
            .map(|namenode| NamenodeStatus {
                namenode,
                reachable: true,
                ..NamenodeStatus::default()
            })
            .collect();
        status.datanodes.push(DatanodeStatus {
            alive: true,
            heartbeat_age_ms: 5,
            replica_count: 10,
            ..DatanodeStatus::default()
        });
        status
    }

    #[track_caller]
    fn says(status: &StatusReply, safety: Safety, beginning: &str) {
        let verdict = verdict(status);
        assert!(verdict.text.starts_with(beginning), "{}", verdict.text);
        assert_eq!(verdict.safety, safety, "{}", verdict.text);
    }

    #[test]
    fn the_most_serious_thing_is_said() {
        let mut status = status();
        says(&status, Safety::Safe, "All data is safe");
        assert!(verdict(&status).all_replicas);
        status.namenodes[0].reachable = false;
        says(&status, Safety::Warned, "All data is safe");
        assert!(
            verdict(&status)
                .text
                .ends_with("1 of 3 namenodes do not answer.")
        );
        let mut dead = status.datanodes[0].clone();
        dead.alive = false;
        status.datanodes.push(dead);
        says(
            &status,
            Safety::Warned,
            "No chunk is known to lack a replica, but 1 of 2",
        );
        assert!(!verdict(&status).all_replicas);
        status.counts.chunks_under_replicated = 4;
        says(
            &status,
            Safety::Warned,
            "All data can be read; 4 of 10 chunks",
        );
        status.counts.chunks_lossy = 3;
        says(
            &status,
            Safety::Bad,
            "DATA LOST: the ends of 3 of 10 chunks",
        );
        status.counts.chunks_unavailable = 2;
        says(&status, Safety::Bad, "DATA UNAVAILABLE: 2 of 10 chunks");
        status.namenodes[1].reachable = false;
        says(
            &status,
            Safety::Bad,
            "NO QUORUM: 1 of 3 namenodes answer, and 2 are needed",
        );
        assert!(!has_quorum(&status));
        status.local = true;
        says(&status, Safety::Bad, "NO QUORUM: 1 of 3");
        status.namenodes[1].reachable = true;
        says(&status, Safety::Bad, "NO LEADER: 2 of 3 namenodes answer");
    }

    #[test]
    fn a_learner_does_not_count_towards_a_quorum() {
        let mut status = status();
        status.namenodes.truncate(1);
        status.namenodes.push(NamenodeStatus {
            role: "learner".to_owned(),
            ..NamenodeStatus::default()
        });
        says(&status, Safety::Warned, "All data is safe");
    }

    #[test]
    fn a_new_leader_does_not_judge_before_it_has_heard_anybody() {
        let mut status = status();
        status.counts.chunks_unavailable = 10;
        status.datanodes[0].alive = false;
        status.datanodes[0].heartbeat_age_ms = u64::MAX;
        says(&status, Safety::Warned, "The leader has just been elected");
        status.datanodes.clear();
        status.counts = Default::default();
        says(&status, Safety::Bad, "No datanode is alive");
    }
}
