//! Random lives of a log, compared with a model after each step.
//!
//! The model keeps the state after every record. Without a failure the log must be at the last one. When the power goes
//! during a batch, it must be at one of those since the last acknowledged batch: nothing acknowledged is lost, nothing
//! that was cut or purged comes back, and there is no hole.

use cairn_daemon::disk::sim::SimDisk;
use proptest::prelude::{Strategy, any, prop_oneof};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::oneshot;

use super::*;
use crate::consensus::log_store::memory::Memory;
use crate::consensus::log_store::record::{EntryBody, State};
use crate::consensus::log_store::writer::{Done, Job, Op, Writer};
use crate::consensus::log_store::{open_writer, read};
use crate::consensus::types::Vote;

/// What a batch ends with: these wait until they are durable, so nothing follows them in one batch.
#[derive(Clone, Debug)]
enum Last {
    Nothing,
    Vote,
    Truncate(u64),
    Purge(u64),
    /// As after a snapshot: purges beyond the end.
    PurgeAll(u64),
}

#[derive(Clone, Debug)]
enum Power {
    Stays,
    GoesAfter { calls: u64, seed: u64 },
    LosesEverythingUnsynced,
    Killed,
}

#[derive(Clone, Debug)]
struct Batch {
    appends: Vec<(u8, u16)>,
    commits: bool,
    last: Last,
    power: Power,
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let appends = proptest::collection::vec((1u8..5, 0u16..1500), 0..4);
    let last = prop_oneof![
        3 => proptest::strategy::Just(Last::Nothing),
        1 => proptest::strategy::Just(Last::Vote),
        2 => (0u64..12).prop_map(Last::Truncate),
        2 => (0u64..12).prop_map(Last::Purge),
        1 => (0u64..3).prop_map(Last::PurgeAll),
    ];
    let power = prop_oneof![
        4 => proptest::strategy::Just(Power::Stays),
        4 => (0u64..10, any::<u64>()).prop_map(|(calls, seed)| Power::GoesAfter { calls, seed }),
        1 => proptest::strategy::Just(Power::LosesEverythingUnsynced),
        1 => proptest::strategy::Just(Power::Killed),
    ];
    let batch =
        (appends, any::<bool>(), last, power).prop_map(|(appends, commits, last, power)| Batch {
            appends,
            commits,
            last,
            power,
        });
    proptest::collection::vec(batch, 1..40)
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    next_index: Option<u64>,
    entries: Vec<Entry>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|last| last.log_id).or(self.purged)
    }
}

struct Run {
    disk: SimDisk,
    writer: Option<(Writer, Arc<Memory>)>,
    /// States that the log may be in after a crash, oldest first; the last one is where it is without.
    allowed: Vec<Model>,
    opens: u64,
    /// Grows with each batch, so that no two entries are alike.
    term: u64,
}

impl Run {
    fn now(&self) -> Model {
        self.allowed.last().unwrap().clone()
    }

    /// Makes the jobs of a batch, and notes the state after each of their records.
    fn jobs(
        &mut self,
        batch: &Batch,
        memory: &Memory,
    ) -> (Vec<Job>, Vec<oneshot::Receiver<std::io::Result<()>>>) {
        let (mut jobs, mut receivers) = (Vec::new(), Vec::new());
        let mut push = |committed, op| {
            let (sender, receiver) = oneshot::channel();
            jobs.push(Job::new(committed, op, Done::Waiter(sender)));
            receivers.push(receiver);
        };
        let mut model = self.now();
        for &(count, bytes) in &batch.appends {
            let mut committed = None;
            if batch.commits && model.last().is_some() {
                model.committed = model.last();
                committed = Some(model.committed);
                memory.update_state(|state| state.committed = model.committed);
                self.allowed.push(model.clone());
            }
            let first = model.next_index.unwrap_or(0);
            let new = entries(self.term, first..first + u64::from(count), bytes.into());
            let new: Vec<(Entry, EntryBody)> = new
                .into_iter()
                .map(|entry| (entry.clone(), EntryBody::new(&entry.payload)))
                .collect();
            for (entry, _) in &new {
                model.entries.push(entry.clone());
                model.next_index = Some(entry.log_id.index + 1);
                self.allowed.push(model.clone());
            }
            let bytes: Vec<u64> = new.iter().map(|(_, body)| body.payload_bytes()).collect();
            let plain: Vec<Entry> = new.iter().map(|(entry, _)| entry.clone()).collect();
            memory.append(&plain, &bytes).unwrap();
            push(committed, Op::Entries(new));
        }
        if let Some(op) = last_op(&batch.last, self.term, &mut model) {
            match &op {
                Op::Vote(vote) => memory.update_state(|state| state.vote = Some(*vote)),
                Op::Purge(purged) => memory.purge(*purged).unwrap(),
                Op::Entries(_) | Op::Truncate(_) => {}
            }
            self.allowed.push(model);
            push(None, op);
        }
        (jobs, receivers)
    }

    fn batch(&mut self, batch: &Batch) {
        self.term += 1;
        let (mut writer, memory) = self.writer.take().unwrap();
        let (mut jobs, mut receivers) = self.jobs(batch, &memory);
        if let Power::GoesAfter { calls, .. } = batch.power {
            self.disk.stop_after(calls);
        }
        writer.write(&mut jobs);
        let acknowledged = receivers
            .iter_mut()
            .all(|receiver| receiver.try_recv().unwrap().is_ok());
        if acknowledged {
            if matches!(batch.last, Last::Truncate(_)) {
                memory.truncate(self.now().next_index);
            }
            self.allowed = vec![self.now()];
            // What the process sees while it lives.
            if !matches!(batch.power, Power::GoesAfter { .. }) {
                assert_eq!(observe(&memory), self.now());
            }
        }
        assert!(acknowledged || matches!(batch.power, Power::GoesAfter { .. }));
        self.writer = Some((writer, memory));
    }

    fn power(&mut self, power: &Power) {
        match power {
            Power::Stays => return,
            Power::GoesAfter { seed, .. } => self.disk.crash(&mut StdRng::seed_from_u64(*seed)),
            Power::LosesEverythingUnsynced => self.disk.crash_losing_everything_unsynced(),
            Power::Killed => self.disk.kill(),
        }
        self.writer = None;
        self.reopen();
    }

    fn reopen(&mut self) {
        let mount = Arc::new(self.disk.mount());
        let (writer, memory) = open_writer(mount, Path::new(DIRECTORY), &options()).unwrap();
        let found = observe(&memory);
        assert!(
            self.allowed.contains(&found),
            "{found:#?} is none of {:#?}",
            self.allowed
        );
        assert!(memory.state().opens > self.opens);
        self.opens = memory.state().opens;
        self.allowed = vec![found];
        self.writer = Some((writer, memory));
    }
}

fn last_op(last: &Last, term: u64, model: &mut Model) -> Option<Op> {
    match last {
        Last::Nothing => None,
        Last::Vote => {
            let vote = Vote::new(term, term % 3);
            model.vote = Some(vote);
            Some(Op::Vote(vote))
        }
        Last::Truncate(count) => {
            let kept = model.entries.len().saturating_sub(*count as usize);
            let next_index = match model.entries.get(kept) {
                Some(first_cut) => first_cut.log_id.index,
                None => return None,
            };
            model.entries.truncate(kept);
            model.next_index = model.last().map(|last| last.index + 1);
            assert!(model.next_index.is_none_or(|next| next == next_index));
            Some(Op::Truncate(model.next_index))
        }
        Last::Purge(count) => {
            let count = (*count as usize).min(model.entries.len()).checked_sub(1)?;
            model.purged = Some(model.entries[count].log_id);
            model.entries.drain(..=count);
            model.purged.map(Op::Purge)
        }
        Last::PurgeAll(beyond) => {
            let purged = LogId::new_term_index(term, model.next_index.unwrap_or(0) + beyond);
            model.purged = Some(purged);
            model.next_index = Some(purged.index + 1);
            model.entries.clear();
            Some(Op::Purge(purged))
        }
    }
}

fn observe(memory: &Memory) -> Model {
    let State {
        vote,
        committed,
        purged,
        next_index,
        ..
    } = memory.state();
    let entries = read::load(memory.plan(0, u64::MAX, u64::MAX)).unwrap();
    let model = Model {
        vote,
        committed,
        purged,
        next_index,
        entries,
    };
    assert_eq!(memory.last_log_id(), model.last());
    model
}

fn check(batches: &[Batch]) {
    let mut run = Run {
        disk: SimDisk::new(),
        writer: None,
        allowed: vec![Model::default()],
        opens: 0,
        term: 0,
    };
    run.reopen();
    for batch in batches {
        run.batch(batch);
        run.power(&batch.power);
    }
    run.power(&Power::LosesEverythingUnsynced);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 400, ..Default::default() })]

    #[test]
    fn a_crash_loses_nothing_acknowledged_and_brings_nothing_back(batches in batches()) {
        check(&batches);
    }
}

/// Power goes at every single instant of a fixed history that rolls over, truncates, purges and recycles; what was not
/// synced is lost in different ways. Opening is interrupted as well.
#[test]
fn power_may_go_at_any_instant() {
    let history: Vec<Batch> = [
        (vec![(4, 1400), (4, 1400)], Last::Vote),
        (vec![(3, 900)], Last::Truncate(5)),
        (vec![(4, 1400), (2, 10)], Last::Purge(6)),
        (vec![(4, 900)], Last::Truncate(2)),
        (vec![(4, 1400), (4, 1400)], Last::PurgeAll(1)),
        (vec![(1, 100)], Last::Nothing),
    ]
    .into_iter()
    .map(|(appends, last)| Batch {
        appends,
        commits: true,
        last,
        power: Power::Stays,
    })
    .collect();
    for stopped in 0..history.len() {
        for calls in 0..40 {
            for seed in 0..6 {
                let mut batches = history[..=stopped].to_vec();
                batches[stopped].power = Power::GoesAfter { calls, seed };
                batches.push(history[0].clone());
                check(&batches);
            }
        }
    }
}

#[tokio::test]
async fn power_may_go_while_the_log_is_being_opened() {
    for calls in 0..30 {
        for seed in 0..10 {
            let disk = SimDisk::new();
            let before = entries(1, 0..20, 900);
            if seed % 2 == 0 {
                append(&mut open(&disk).unwrap(), before.clone()).await;
            }
            disk.stop_after(calls);
            let opened = open(&disk).is_ok();
            disk.crash(&mut StdRng::seed_from_u64(seed));
            let mut log = open(&disk).unwrap();
            assert_eq!(
                all(&mut log).await,
                if seed % 2 == 0 { before } else { Vec::new() }
            );
            assert!(log.reader.memory.state().opens > u64::from(opened));
        }
    }
}
