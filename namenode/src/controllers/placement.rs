//! Where replicas go: racks first, then hosts, then free space and load (two candidates drawn by free space, the less busy one
//! taken). Pure: the same candidates and the same random numbers give the same answer.

use std::collections::BTreeMap;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::DatanodeId;
use cairn_protocol::rpc::RpcError;
use rand::Rng;

/// A datanode that is alive, in service, and not excluded.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub datanode: DatanodeId,
    pub rack: String,
    pub host: String,
    /// Free bytes, less what was promised to others already.
    pub free_bytes: u64,
    /// Streams, copies and promises.
    pub load: u64,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    /// How many datanodes.
    pub count: usize,
    /// Each must have so much free.
    pub bytes: u64,
    /// Machine of the writer, for a first replica close by; may be empty.
    pub host: &'a str,
}

/// Racks and hosts that have replicas already.
#[derive(Debug, Default)]
pub(super) struct Spread {
    racks: BTreeMap<String, usize>,
    hosts: BTreeMap<String, usize>,
}

impl Spread {
    /// Counts a replica.
    pub fn add(&mut self, rack: &str, host: &str) {
        *self.racks.entry(rack.to_owned()).or_default() += 1;
        *self.hosts.entry(host.to_owned()).or_default() += 1;
    }

    /// How crowded a place is: lower is better.
    pub fn crowding(&self, rack: &str, host: &str) -> (usize, usize) {
        let count = |map: &BTreeMap<String, usize>, key| map.get(key).copied().unwrap_or(0);
        (count(&self.racks, rack), count(&self.hosts, host))
    }
}

/// Chooses as many as are asked for, in pipeline order, or says what is missing.
pub(super) fn choose(
    candidates: &[Candidate],
    wish: &Wish<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<DatanodeId>, RpcError> {
    if candidates.len() < wish.count {
        let message = format!(
            "replication {} needs as many datanodes that are alive, in service and not excluded: there are {} of {0}; \
             start datanodes, or ask for fewer replicas",
            wish.count,
            candidates.len(),
        );
        return Err(RpcError::new(ErrorCode::NotEnoughDatanodes, message));
    }
    let mut left: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| candidate.free_bytes >= wish.bytes)
        .collect();
    if left.len() < wish.count {
        let message = format!(
            "{} of {} datanodes have {} bytes free besides their reserve, {} are needed; delete what is not needed, add \
             datanodes, or ask for fewer replicas",
            left.len(),
            candidates.len(),
            wish.bytes,
            wish.count,
        );
        return Err(RpcError::new(ErrorCode::NoSpace, message));
    }
    let mut spread = Spread::default();
    let mut chosen = Vec::with_capacity(wish.count);
    while chosen.len() < wish.count {
        let near = |candidate: &&Candidate| {
            chosen.is_empty() && !wish.host.is_empty() && candidate.host == wish.host
        };
        let taken = if left.iter().any(near) {
            let nearby: Vec<&Candidate> = left.iter().copied().filter(near).collect();
            draw(&nearby, rng)
        } else {
            choose_next(&left, &spread, rng)
        };
        let Some(taken) = taken else { break };
        spread.add(&taken.rack, &taken.host);
        left.retain(|candidate| candidate.datanode != taken.datanode);
        chosen.push(taken.datanode);
    }
    Ok(chosen)
}

/// One more, as far from those in `spread` as possible.
pub(super) fn choose_next<'a>(
    candidates: &[&'a Candidate],
    spread: &Spread,
    rng: &mut impl Rng,
) -> Option<&'a Candidate> {
    let crowding = |candidate: &Candidate| spread.crowding(&candidate.rack, &candidate.host);
    let least = candidates
        .iter()
        .map(|candidate| crowding(candidate))
        .min()?;
    let best: Vec<&Candidate> = candidates
        .iter()
        .copied()
        .filter(|candidate| crowding(candidate) == least)
        .collect();
    draw(&best, rng)
}

/// Two by weight of free space, the less busy of them.
fn draw<'a>(candidates: &[&'a Candidate], rng: &mut impl Rng) -> Option<&'a Candidate> {
    let first = draw_by_space(candidates, rng)?;
    let second = draw_by_space(candidates, rng)?;
    let busier =
        (second.load, u64::MAX - second.free_bytes) >= (first.load, u64::MAX - first.free_bytes);
    Some(if busier { first } else { second })
}

fn draw_by_space<'a>(candidates: &[&'a Candidate], rng: &mut impl Rng) -> Option<&'a Candidate> {
    let weight = |candidate: &Candidate| u128::from(candidate.free_bytes.max(1));
    let total: u128 = candidates.iter().map(|candidate| weight(candidate)).sum();
    if total == 0 {
        return None;
    }
    let mut at = rng.random_range(0..total);
    for candidate in candidates {
        let weight = weight(candidate);
        if at < weight {
            return Some(candidate);
        }
        at -= weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use cairn_protocol::ErrorCode;
    use cairn_protocol::ids::DatanodeId;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::{Candidate, Wish, choose};

    const GIB: u64 = 1 << 30;

    fn candidate(id: u64, rack: &str, host: &str) -> Candidate {
        Candidate {
            datanode: DatanodeId(id),
            rack: rack.to_owned(),
            host: host.to_owned(),
            free_bytes: GIB,
            load: 0,
        }
    }

    fn wish(count: usize, host: &str) -> Wish<'_> {
        Wish {
            count,
            bytes: 1 << 20,
            host,
        }
    }

    #[test]
    fn replicas_go_to_different_racks_and_then_to_different_hosts() {
        let mut candidates = Vec::new();
        for id in 0..12 {
            candidates.push(candidate(
                id,
                &format!("/r{}", id % 2),
                &format!("h{}", id / 2),
            ));
        }
        for seed in 0..200 {
            let chosen =
                choose(&candidates, &wish(4, ""), &mut StdRng::seed_from_u64(seed)).unwrap();
            let racks: Vec<u64> = chosen.iter().map(|id| id.0 % 2).collect();
            assert_eq!(racks.iter().filter(|rack| **rack == 0).count(), 2);
            let hosts: BTreeSet<u64> = chosen.iter().map(|id| id.0 / 2).collect();
            assert_eq!(hosts.len(), 4, "{chosen:?}");
        }
    }

    #[test]
    fn the_first_replica_is_on_the_writers_machine_if_there_is_one() {
        let candidates = [
            candidate(1, "/a", "h1"),
            candidate(2, "/b", "h2"),
            candidate(3, "/c", "h3"),
        ];
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let chosen = choose(&candidates, &wish(2, "h2"), &mut rng).unwrap();
            assert_eq!(chosen[0], DatanodeId(2));
            assert_ne!(chosen[1], DatanodeId(2));
            assert_eq!(
                choose(&candidates, &wish(3, "elsewhere"), &mut rng)
                    .unwrap()
                    .len(),
                3
            );
        }
    }

    #[test]
    fn more_free_space_and_less_load_draw_more_chunks() {
        let mut candidates: Vec<Candidate> = (1..=4).map(|id| candidate(id, "/a", "h")).collect();
        candidates[0].free_bytes = 10 * GIB;
        candidates[3].load = 5;
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..1000 {
            let chosen = choose(&candidates, &wish(1, ""), &mut rng).unwrap();
            *counts.entry(chosen[0].0).or_default() += 1;
        }
        let count = |id| counts.get(&id).copied().unwrap_or(0);
        assert!(count(1) > count(2) + count(3), "{counts:?}");
        assert!(count(4) < count(2), "{counts:?}");
    }

    #[test]
    fn too_few_and_too_full_are_told_apart() {
        let mut candidates = vec![candidate(1, "/a", "h1"), candidate(2, "/a", "h2")];
        let mut rng = StdRng::seed_from_u64(1);
        let error = choose(&candidates, &wish(3, ""), &mut rng).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotEnoughDatanodes);
        assert_eq!(
            error.failure.message,
            "replication 3 needs as many datanodes that are alive, in service and not excluded: there are 2 of 3; start \
             datanodes, or ask for fewer replicas"
        );
        candidates[1].free_bytes = 0;
        let error = choose(&candidates, &wish(2, ""), &mut rng).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NoSpace);
        assert_eq!(
            error.failure.message,
            "1 of 2 datanodes have 1048576 bytes free besides their reserve, 2 are needed; delete what is not needed, add \
             datanodes, or ask for fewer replicas"
        );
        assert_eq!(
            choose(&candidates, &wish(1, ""), &mut rng).unwrap(),
            [DatanodeId(1)]
        );
    }
}
