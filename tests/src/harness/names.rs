//! A model of a few names that all clients change and look at: what may come of each call, if calls take effect one at a time.

use cairn_client::Error;
use cairn_protocol::ErrorCode;

use super::history::{Call, is_linearizable};

/// So few that clients meet.
pub const NAMES: usize = 3;

/// What each name holds.
type Names = [Option<u64>; NAMES];

/// What must be there for a value to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Nothing: the name is made.
    Nothing,
    /// The name.
    Something,
    /// Either.
    Anywhere,
}

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    /// The name holds this value from now on.
    Put(usize, u64, Where),
    /// What does the name hold?
    Look(usize),
    /// The name goes.
    Remove(usize),
    /// The first takes the place of the second.
    Rename(usize, usize),
    /// Each takes the other's place.
    Exchange(usize, usize),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It happened.
    Done,
    /// A name was there that must not be, or none where one must be.
    Refused,
    /// What a look saw.
    Value(u64),
    /// Nobody told: it happened at some time since, or not at all.
    Unknown,
}

impl Seen {
    /// What a client's answer tells; `None` if nothing happened and nothing was seen.
    pub fn of(deed: Deed, result: Result<Self, Error>) -> Option<Self> {
        match result.map_err(|error| error.code()) {
            Ok(seen) => Some(seen),
            Err(ErrorCode::NotFound | ErrorCode::AlreadyExists) => Some(Self::Refused),
            Err(_) if matches!(deed, Deed::Look(_)) => None,
            // Nobody answered: the change may still be on its way, whatever the client could find out.
            Err(_) => Some(Self::Unknown),
        }
    }
}

/// Whether these calls can have happened one at a time, from no names at all.
pub fn names_are_linearizable(calls: &[Call<(Deed, Seen)>]) -> bool {
    is_linearizable(calls, [None; NAMES], step)
}

/// The names after a deed, unless what was seen of it cannot be.
fn step(names: &Names, (deed, seen): &(Deed, Seen)) -> Option<Names> {
    let mut next = *names;
    let expected = match *deed {
        Deed::Put(name, _, Where::Nothing) if names[name].is_some() => Seen::Refused,
        Deed::Put(name, _, Where::Something) if names[name].is_none() => Seen::Refused,
        Deed::Put(name, value, _) => {
            next[name] = Some(value);
            Seen::Done
        }
        Deed::Look(name) => names[name].map_or(Seen::Refused, Seen::Value),
        Deed::Remove(name) if names[name].is_none() => Seen::Refused,
        Deed::Remove(name) => {
            next[name] = None;
            Seen::Done
        }
        Deed::Rename(from, _) if names[from].is_none() => Seen::Refused,
        Deed::Rename(from, to) => {
            next[from] = None;
            next[to] = names[from];
            Seen::Done
        }
        Deed::Exchange(a, b) if names[a].is_none() || names[b].is_none() => Seen::Refused,
        Deed::Exchange(a, b) => {
            next.swap(a, b);
            Seen::Done
        }
    };
    (*seen == Seen::Unknown || *seen == expected).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::{Call, Deed, Seen, Where, names_are_linearizable};

    fn in_turn(deeds: &[(Deed, Seen)]) -> bool {
        let calls = deeds.iter().zip(0..).map(|(&operation, at)| Call {
            began: 2 * at,
            ended: Some(2 * at + 1),
            operation,
        });
        names_are_linearizable(&calls.collect::<Vec<_>>())
    }

    #[test]
    fn what_cannot_have_been_seen_is_found() {
        let made = (Deed::Put(0, 7, Where::Nothing), Seen::Done);
        let moved = (Deed::Rename(0, 1), Seen::Done);
        let seen = |name, value| (Deed::Look(name), Seen::Value(value));
        assert!(in_turn(&[made, moved, seen(1, 7)]));
        assert!(in_turn(&[made, (made.0, Seen::Refused), seen(0, 7)]));
        assert!(in_turn(&[
            (Deed::Put(0, 8, Where::Something), Seen::Refused),
            (Deed::Put(0, 9, Where::Anywhere), Seen::Done),
            seen(0, 9),
        ]));
        for wrong in [
            vec![made, moved, seen(0, 7)],
            vec![made, made],
            vec![(Deed::Put(0, 8, Where::Something), Seen::Done)],
            vec![made, (Deed::Exchange(0, 1), Seen::Done)],
            vec![made, (Deed::Remove(0), Seen::Done), seen(0, 7)],
        ] {
            assert!(!in_turn(&wrong), "{wrong:?}");
        }
    }
}
