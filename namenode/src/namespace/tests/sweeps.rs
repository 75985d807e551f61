//! What sweeps cost: however wide a removed directory is, each of its names is stepped over a few times at most.

use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

use super::world::{World, user};
use crate::namespace::command::{CommandKind, Sweep};

const NAMES: u64 = 3_000;

/// Sweeps in small steps until nothing is left; how many deleted keys were stepped over, and how many steps it took.
fn sweep(world: &mut World) -> (u64, u64) {
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut perf = PerfContext::default();
    perf.reset();
    let mut steps = 1;
    while world.command(CommandKind::Sweep(Sweep { limit: 20 })).more {
        steps += 1;
    }
    let skipped = perf.metric(PerfMetric::InternalDeleteSkippedCount);
    set_perf_stats(PerfStatsLevel::Disable);
    (skipped, steps)
}

fn assert_linear((skipped, steps): (u64, u64)) {
    assert!(steps > NAMES / 20, "{steps} steps");
    // A scan of the directory from its first name in each step would make it half of NAMES * steps.
    assert!(
        skipped < 10 * NAMES,
        "{skipped} deleted keys were stepped over in {steps} steps"
    );
}

#[test]
fn a_wide_tree_of_directories_is_swept_in_linear_time() {
    let mut world = World::new();
    let root = user(0);
    world.mkdir(&root, "/wide").unwrap();
    for name in 0..NAMES {
        world.mkdir(&root, &format!("/wide/{name}")).unwrap();
    }
    world.remove_tree(&root, "/wide").unwrap();
    assert_linear(sweep(&mut world));
    assert_eq!(world.names(&root, "/").unwrap(), Vec::<String>::new());
    let fresh = World::new().dump().len();
    // Of its own this world has the outcomes of a session, and nothing of the tree.
    assert!(world.dump().len() < fresh + NAMES as usize / 10);
}

#[test]
fn a_wide_directory_of_files_is_swept_in_linear_time() {
    let mut world = World::new();
    let root = user(0);
    world.mkdir(&root, "/wide").unwrap();
    for name in 0..NAMES {
        world.create(&root, &format!("/wide/{name}")).unwrap();
    }
    world.remove_tree(&root, "/wide").unwrap();
    assert_linear(sweep(&mut world));
}
