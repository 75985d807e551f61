//! The deterministic simulation: `sim SEED`, `sim --scenario NAME [SEED]`, `sim --names` (of the scenarios). `sim --held SEED` runs a seed with holders of
//! delegated directories, which only some seeds have by themselves.
//!
//! Exits with 1 if an invariant does not hold. Only a build with `cfg(cairn_sim)` simulates anything: see scripts/sim.

use std::process::ExitCode;

#[cfg(not(cairn_sim))]
fn main() -> ExitCode {
    eprintln!("sim: built without the simulator; run scripts/sim, which builds with");
    eprintln!("sim: RUSTFLAGS=\"--cfg tokio_unstable --cfg cairn_sim\"");
    ExitCode::from(2)
}

#[cfg(cairn_sim)]
fn main() -> ExitCode {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("CAIRN_LOG"))
        .with_writer(std::io::stderr)
        .without_time()
        .try_init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--names"] => {
            cairn_tests::sim::scenario_names().for_each(|name| println!("{name}"));
            ExitCode::SUCCESS
        }
        ["--scenario", name] => scenario(name, cairn_tests::sim::SCENARIO_SEED),
        ["--scenario", name, seed] => seed
            .parse()
            .map_or_else(|_| usage(), |seed| scenario(name, seed)),
        ["--held", seed] => run(seed, true),
        [seed] => run(seed, false),
        _ => usage(),
    }
}

#[cfg(cairn_sim)]
fn run(seed: &str, held: bool) -> ExitCode {
    match seed.parse() {
        Ok(seed) => {
            let report = cairn_tests::sim::run_seed(seed, held);
            show(&format!("seed {seed}"), &report)
        }
        Err(_) => usage(),
    }
}

#[cfg(cairn_sim)]
fn usage() -> ExitCode {
    eprintln!("usage: sim [--held] SEED | sim --scenario NAME [SEED] | sim --names");
    for name in cairn_tests::sim::scenario_names() {
        eprintln!("  {name}");
    }
    ExitCode::from(2)
}

#[cfg(cairn_sim)]
fn scenario(name: &str, seed: u64) -> ExitCode {
    match cairn_tests::sim::run_scenario(name, seed) {
        Some(report) => show(&format!("scenario {name}"), &report),
        None => usage(),
    }
}

#[cfg(cairn_sim)]
fn show(what: &str, report: &cairn_tests::sim::Report) -> ExitCode {
    let (hash, events, time) = (report.hash, report.events, report.time);
    match &report.failure {
        None => {
            let recycled = report.recycled;
            println!(
                "{what}: passed, {events} events in {time:?}, {recycled} segments recycled, trace {hash:016x}"
            );
            ExitCode::SUCCESS
        }
        Some((failure, kept)) => {
            kept.iter().for_each(|event| println!("{event}"));
            println!("{what}: FAILED after {events} events in {time:?}, trace {hash:016x}");
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}
