//! Invariants of each namenode's state, checked as the simulation runs: I2 to I5 by the product's own checks, I7 by
//! comparing whole states.

use std::collections::BTreeMap;

use cairn_namenode::namespace::invariants::check_all;
use cairn_namenode::store::Read;
use cairn_protocol::checksum::Crc32c;

use super::cluster::Cluster;

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Checks {
    /// Applied index to the state's checksum, and who had it first.
    states: BTreeMap<u64, (u64, String)>,
    /// How far each namenode was when it was looked at last.
    seen: BTreeMap<String, u64>,
}

impl Checks {
    /// Checks every namenode that runs and has applied something since the last call.
    pub(crate) fn check(&mut self, cluster: &Cluster) {
        for machine in &cluster.namenodes {
            let running = machine.running.borrow();
            let Some(running) = running.as_ref() else {
                continue;
            };
            if let Err(error) = self.check_one(cluster, &machine.name, running.node.group().state())
            {
                cluster
                    .trace
                    .violation(format!("{}: {error}", machine.name));
            }
        }
    }

    fn check_one(
        &mut self,
        cluster: &Cluster,
        name: &str,
        state: &cairn_namenode::consensus::state::State,
    ) -> anyhow::Result<()> {
        let store = state.store();
        let Some(applied) = store.applied()? else {
            return Ok(());
        };
        let index = applied.index;
        if self.seen.insert(name.to_owned(), index) == Some(index) {
            return Ok(());
        }
        let snapshot = store.snapshot();
        for problem in check_all(&snapshot)? {
            let (invariant, message) = (problem.invariant, problem.message);
            cluster
                .trace
                .violation(format!("{invariant} on {name} at {index}: {message}"));
        }
        let sum = checksum(&snapshot)?;
        cluster.trace.sample(&format!("{name} {index} {sum:x}"));
        match self.states.get(&index) {
            Some((other_sum, other)) if *other_sum != sum => {
                cluster
                    .trace
                    .violation(format!("I7: {name} and {other} differ at {index}"));
            }
            Some(_) => {}
            None => {
                self.states.insert(index, (sum, name.to_owned()));
            }
        }
        Ok(())
    }
}

/// Of all keys and values.
fn checksum(read: &impl Read) -> anyhow::Result<u64> {
    let mut crc = Crc32c::new();
    let mut count = 0;
    read.scan(&[], &[0xFF], &mut |key, value| {
        crc.update(key);
        crc.update(value);
        count += 1;
        Ok(true)
    })?;
    Ok(count << 32 | u64::from(crc.value()))
}
