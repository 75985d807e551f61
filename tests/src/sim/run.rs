//! One seed, from the founding of its cluster to the verdict.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::checks::Checks;
use super::cluster::{Cluster, connect};
use super::faults::{self, Fault};
use super::held::{self, Held, Holder, Visitor};
use super::model::{ClientModel, Models};
use super::options::Options;
use super::trace::Trace;
use super::verify::Verifier;
use super::workload::{RECORDS, Worker};

/// How long faults happen.
const FAULTS_FOR: Duration = Duration::from_secs(9);
/// Between two looks at the state of the namenodes.
const CHECK_EVERY: Duration = Duration::from_millis(400);

/// How many seeds there are for one that has holders of delegated directories.
const SEEDS_PER_HELD: u64 = 4;

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// Of everything that happened: the same for the same seed.
    pub hash: u64,
    /// Things that happened.
    pub events: u64,
    /// Virtual time that passed.
    pub time: Duration,
    /// Log segments that lived again.
    pub recycled: u64,
    /// The invariant that does not hold, and what happened before.
    pub failure: Option<(String, Vec<String>)>,
}

impl Report {
    pub(crate) fn new(trace: &Trace, time: Duration, result: anyhow::Result<()>) -> Self {
        let failure = match (trace.violations().into_iter().next(), result) {
            (Some(violation), _) => Some(violation),
            (None, Err(error)) => Some(format!("{error:#}")),
            (None, Ok(())) => None,
        };
        Self {
            hash: trace.hash(),
            events: trace.count(),
            time,
            recycled: 0,
            failure: failure.map(|failure| (failure, trace.kept())),
        }
    }
}

/// Runs one seed. With `held` there are holders of delegated directories in any case, else in some of the seeds.
pub fn run_seed(seed: u64, held: bool) -> Report {
    let trace = Trace::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut options = Options::drawn(&mut rng);
    // Drawn apart, so that the others stay what they were.
    let mut apart = StdRng::seed_from_u64(seed ^ 0x5E6_3E27);
    options.draw_more(&mut apart);
    trace.event(format!("seed {seed}: {options:?}"));
    match Cluster::new(seed, options, trace.clone()) {
        Ok(mut cluster) => {
            let held = (held || seed.is_multiple_of(SEEDS_PER_HELD))
                .then(|| StdRng::seed_from_u64(seed ^ 0x401D_E125));
            let far_jumps = faults::draw_far_jumps(&mut apart, &cluster, FAULTS_FOR);
            let result = run(&mut cluster, &mut rng, held, far_jumps);
            Report {
                recycled: cluster.recycled.load(Ordering::Relaxed),
                ..Report::new(&trace, cluster.now(), result)
            }
        }
        Err(error) => Report::new(&trace, Duration::ZERO, Err(error)),
    }
}

fn run(
    cluster: &mut Cluster,
    rng: &mut StdRng,
    mut held_rng: Option<StdRng>,
    mut more_faults: Vec<(Duration, Fault)>,
) -> anyhow::Result<()> {
    cluster.found()?;
    cluster.trace.event("founded");
    let models = Models {
        power_losses: cluster.power_losses.clone(),
        ..Models::default()
    };
    let clients = rng.random_range(2..=3);
    prepare(cluster, &models, clients)?;
    let stop = Rc::new(Cell::new(false));
    for index in 0..clients {
        let name = format!("client-{index}");
        let worker = Worker {
            index,
            config: cluster.client_config(&name),
            models: models.clone(),
            trace: cluster.trace.clone(),
            rng: StdRng::seed_from_u64(rng.next_u64()),
            stop: stop.clone(),
            next_name: 0,
            large_count: 0,
        };
        cluster.client(&name, worker.run());
    }
    let held = Held::default();
    let mut names = client_names(clients);
    if let Some(rng) = &mut held_rng {
        let guests = begin_held(cluster, (&held, &models), rng, &stop)?;
        more_faults.extend(faults::draw_for_holders(rng, cluster, &guests, FAULTS_FOR));
        names.extend(guests);
    }
    let mut checks = Checks::default();
    suffer(cluster, rng, (clients, more_faults), &mut checks)?;
    stop.set(true);
    cluster.heal(&names);
    cluster.run_clients(Duration::from_secs(60), "clients end after healing")?;
    cluster.retire_replaced();
    checks.check(cluster);
    models.history.check()?;
    held.check_names()?;
    verify(cluster, &models)?;
    if held_rng.is_some() {
        verify_held(cluster, &held, &models)?;
    }
    agree(cluster, &mut checks)
}

/// Makes the clients' directories and what they share.
fn prepare(cluster: &mut Cluster, models: &Models, clients: usize) -> anyhow::Result<()> {
    let config = cluster.client_config("setup");
    cluster.client("setup", async move {
        let fs = connect(&config, 10).await?;
        for index in 0..clients {
            fs.mkdir(format!("/c{index}").as_str(), 0o755).await?;
        }
        fs.mkdir("/shared", 0o755).await?;
        fs.create(RECORDS, 0o644, Default::default()).await?;
        fs.close().await?;
        Ok(())
    });
    for index in 0..clients {
        let root = format!("/c{index}");
        models.clients.borrow_mut().push(ClientModel {
            root,
            ..ClientModel::default()
        });
    }
    cluster.run_clients(Duration::from_secs(30), "setup")
}

fn client_names(clients: usize) -> Vec<String> {
    (0..clients)
        .map(|index| format!("client-{index}"))
        .collect()
}

/// Holders of delegated directories begin, and those who visit them; their names.
fn begin_held(
    cluster: &mut Cluster,
    (held, models): (&Held, &Models),
    rng: &mut StdRng,
    stop: &Rc<Cell<bool>>,
) -> anyhow::Result<Vec<String>> {
    let config = cluster.client_config("held-setup");
    cluster.client("held-setup", async move {
        let fs = connect(&config, 10).await?;
        fs.mkdir(held::ROOT, 0o755).await?;
        fs.close().await?;
        Ok(())
    });
    let mut names = Vec::new();
    for index in 0..rng.random_range(1..=2) {
        let name = format!("holder-{index}");
        let holder = Holder {
            index,
            config: cluster.client_config(&name),
            held: held.clone(),
            models: models.clone(),
            trace: cluster.trace.clone(),
            rng: StdRng::seed_from_u64(rng.next_u64()),
            stop: stop.clone(),
            next_name: 0,
            trees: Vec::new(),
        };
        cluster.client(&name, holder.run());
        names.push(name);
    }
    for index in 0..rng.random_range(1..=2) {
        let name = format!("visitor-{index}");
        let visitor = Visitor {
            index,
            config: cluster.client_config(&name),
            held: held.clone(),
            trace: cluster.trace.clone(),
            rng: StdRng::seed_from_u64(rng.next_u64()),
            stop: stop.clone(),
            next_name: 0,
        };
        cluster.client(&name, visitor.run());
        names.push(name);
    }
    Ok(names)
}

/// What holders did and promised is there, and nothing else.
pub(crate) fn verify_held(
    cluster: &mut Cluster,
    held: &Held,
    models: &Models,
) -> anyhow::Result<()> {
    let config = cluster.client_config("held-verifier");
    let (held, models, trace) = (held.clone(), models.clone(), cluster.trace.clone());
    cluster.client("held-verifier", async move {
        let fs = connect(&config, 10).await?;
        held::check_all(&fs, &held, &models, &trace).await
    });
    cluster.run_clients(Duration::from_secs(200), "verification of what was held")
}

/// Clients work while the schedule's faults happen.
fn suffer(
    cluster: &mut Cluster,
    rng: &mut StdRng,
    (clients, more_faults): (usize, Vec<(Duration, Fault)>),
    checks: &mut Checks,
) -> anyhow::Result<()> {
    let start = cluster.now() + Duration::from_millis(500);
    let end = start + FAULTS_FOR;
    let mut schedule = faults::draw(rng, cluster, clients, start, FAULTS_FOR);
    let more = more_faults.into_iter();
    schedule.extend(more.map(|(after, fault)| (start + after, fault)));
    schedule.sort_by_key(|(at, _)| *at);
    let mut schedule = schedule.into_iter().peekable();
    let mut next_check = start;
    while cluster.now() < end {
        cluster.step();
        while let Some((_, fault)) = schedule.next_if(|(at, _)| *at <= cluster.now()) {
            cluster.inflict(&fault);
        }
        if cluster.now() >= next_check {
            checks.check(cluster);
            next_check = cluster.now() + CHECK_EVERY;
        }
        if cluster.trace.has_violations() {
            anyhow::bail!("violated");
        }
    }
    Ok(())
}

pub(crate) fn verify(cluster: &mut Cluster, models: &Models) -> anyhow::Result<()> {
    let config = cluster.client_config("verifier");
    let (models, trace) = (models.clone(), cluster.trace.clone());
    cluster.client("verifier", async move {
        let fs = connect(&config, 10).await?;
        let verifier = Verifier { fs, models, trace };
        verifier.run().await
    });
    cluster.run_clients(Duration::from_secs(200), "verification")
}

/// All namenodes arrive at one state (I7).
fn agree(cluster: &mut Cluster, checks: &mut Checks) -> anyhow::Result<()> {
    let index = |cluster: &Cluster, at: usize| {
        let running = cluster.namenodes[at].running.borrow();
        running
            .as_ref()
            .and_then(|running| running.node.group().state().applied_log_id())
    };
    cluster.run_until(
        Duration::from_secs(20),
        "namenodes at one index",
        |cluster, _| {
            let members = cluster.members();
            let first = index(cluster, members[0]);
            members.iter().all(|at| index(cluster, *at) == first)
        },
    )?;
    checks.check(cluster);
    match cluster.trace.violations().into_iter().next() {
        Some(violation) => anyhow::bail!(violation),
        None => Ok(()),
    }
}
