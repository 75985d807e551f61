//! Named histories that random seeds may take long to find. Each is a test of its own, and deterministic like a seed.

mod crossing;
mod evidence;
mod holders;
mod leaders;
mod liar;
mod outages;
mod replicas;
mod sealing;
mod stage;

use std::time::Duration;

use self::stage::Stage;
use super::options::Options;
use super::run::Report;
use super::trace::Trace;

type Story = fn(&mut Stage) -> anyhow::Result<()>;

struct Scenario {
    name: &'static str,
    options: fn() -> Options,
    story: Story,
}

const fn plain(name: &'static str, story: Story) -> Scenario {
    Scenario {
        name,
        options: Options::plain,
        story,
    }
}

const SCENARIOS: &[Scenario] = &[
    plain("stale-replica-returns", replicas::stale_replica_returns),
    plain(
        "short-replica-is-handed-on",
        replicas::short_replica_is_handed_on,
    ),
    plain("power-loss-after-sync", replicas::power_loss_after_sync),
    plain(
        "power-loss-after-small-syncs",
        replicas::power_loss_after_small_syncs,
    ),
    plain("end-lost-everywhere", replicas::end_lost_everywhere),
    plain(
        "bit-rot-in-an-unsealed-replica",
        replicas::bit_rot_in_an_unsealed_replica,
    ),
    plain(
        "seal-against-commit-against-reclaim",
        sealing::seal_against_commit_against_reclaim,
    ),
    plain("late-delete-of-a-deposed-leader", leaders::late_delete),
    plain("ids-of-two-leaders", leaders::ids_of_two_leaders),
    plain("leader-dies", outages::leader_dies),
    plain("all-restart", outages::all_restart),
    plain("client-that-lies", liar::lies),
    plain(
        "holder-is-cut-off-and-comes-back",
        holders::cut_off_and_back,
    ),
    plain(
        "recall-races-with-a-batch-and-a-leader-change",
        holders::recall_and_leader_change,
    ),
    Scenario {
        name: "pipelines-that-cross",
        options: crossing::options,
        story: crossing::pipelines_that_cross,
    },
];

/// The seed of what a scenario leaves open, unless another one is asked for.
pub const SCENARIO_SEED: u64 = 1;

/// Runs one; `None` if there is none of that name.
pub fn run_scenario(name: &str, seed: u64) -> Option<Report> {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name)?;
    let trace = Trace::default();
    let mut stage = match Stage::new(seed, (scenario.options)(), trace.clone()) {
        Ok(stage) => stage,
        Err(error) => return Some(Report::new(&trace, Duration::ZERO, Err(error))),
    };
    let result = (scenario.story)(&mut stage);
    Some(Report::new(&trace, stage.cluster.now(), result))
}

/// The names of all scenarios.
pub fn scenario_names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|scenario| scenario.name)
}
