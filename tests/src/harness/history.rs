//! Whether a history of concurrent operations could have happened one at a time: the search of Wing and Gong, which remembers where
//! it has been (Lowe).

use std::collections::HashSet;
use std::hash::Hash;

/// One operation: what was asked and what came of it.
#[derive(Clone, Debug)]
pub struct Call<O> {
    /// When it began; any clock that all calls share.
    pub began: u64,
    /// When its answer came. Without one it took effect at any time since, or never.
    pub ended: Option<u64>,
    /// What it was.
    pub operation: O,
}

/// A point of the search: which calls have taken effect, and the state that they left.
type Point<S> = (Vec<u64>, S);

fn has(done: &[u64], index: usize) -> bool {
    done[index / 64] & 1 << (index % 64) != 0
}

/// True if there is an order of all answered calls (and any of the others) that respects real time and in which `step` accepts each:
/// it gives the next state, or nothing if the answer cannot be that. The more calls overlap, the longer it takes.
pub(super) fn is_linearizable<S: Clone + Eq + Hash, O>(
    calls: &[Call<O>],
    initial: S,
    step: impl Fn(&S, &O) -> Option<S>,
) -> bool {
    let mut calls: Vec<&Call<O>> = calls.iter().collect();
    calls.sort_by_key(|call| call.began);
    let mut seen: HashSet<Point<S>> = HashSet::new();
    let mut open: Vec<Point<S>> = vec![(vec![0; calls.len() / 64 + 1], initial)];
    while let Some((done, state)) = open.pop() {
        // Those that began before any of the others ended may be next.
        let mut first_end = u64::MAX;
        let mut finished = true;
        for (index, call) in calls
            .iter()
            .enumerate()
            .filter(|(index, _)| !has(&done, *index))
        {
            if call.began > first_end {
                break;
            }
            first_end = first_end.min(call.ended.unwrap_or(u64::MAX));
            finished &= call.ended.is_none();
            if let Some(next) = step(&state, &call.operation) {
                let mut after = done.clone();
                after[index / 64] |= 1 << (index % 64);
                let point = (after, next);
                if seen.insert(point.clone()) {
                    open.push(point);
                }
            }
        }
        if finished {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{Call, is_linearizable};

    #[derive(Clone, Copy)]
    enum Register {
        Write(u64),
        Read(u64),
    }

    fn check(calls: &[(u64, Option<u64>, Register)]) -> bool {
        let calls: Vec<Call<Register>> = calls
            .iter()
            .map(|(began, ended, operation)| Call {
                began: *began,
                ended: *ended,
                operation: *operation,
            })
            .collect();
        is_linearizable(&calls, 0, |state, operation| match operation {
            Register::Write(value) => Some(*value),
            Register::Read(value) => (value == state).then_some(*state),
        })
    }

    #[test]
    fn overlapping_calls_may_be_ordered_either_way() {
        use Register::{Read, Write};
        let history = |first, second| {
            [
                (0, Some(10), Write(1)),
                (1, Some(9), Read(first)),
                (2, Some(8), Read(second)),
            ]
        };
        assert!(check(&history(0, 1)));
        assert!(check(&history(1, 0)));
        assert!(!check(&history(1, 2)));
    }

    #[test]
    fn what_was_answered_is_seen_by_all_that_begin_later() {
        use Register::{Read, Write};
        assert!(!check(&[(0, Some(1), Write(1)), (2, Some(3), Read(0))]));
        assert!(!check(&[
            (0, Some(9), Write(1)),
            (1, Some(2), Read(1)),
            (3, Some(4), Read(0))
        ]));
        assert!(check(&[(0, Some(1), Write(1)), (2, Some(3), Read(1))]));
    }

    #[test]
    fn a_call_without_an_answer_happens_late_or_never_but_not_twice() {
        use Register::{Read, Write};
        let lost = (0, None, Write(1));
        assert!(check(&[lost, (2, Some(3), Read(0)), (4, Some(5), Read(1))]));
        assert!(check(&[lost, (2, Some(3), Read(0))]));
        assert!(check(&[lost]));
        let again = [
            (2, Some(3), Read(1)),
            (4, Some(5), Write(2)),
            (6, Some(7), Read(1)),
        ];
        assert!(!check(&[&[lost][..], &again].concat()));
    }
}
