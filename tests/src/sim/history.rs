//! A few names that all clients change and look at, and the history of that: it must be linearizable (I6).
//!
//! A name has a file whose size is its value, or nothing. Only the namespace takes part: what a file's bytes may suffer from faults is
//! the business of the other models.

use std::cell::RefCell;
use std::rc::Rc;

use cairn_client::{Error, FileSystem};
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{IfExists, RenameMode};
use rand::Rng;
use rand::rngs::StdRng;

use super::trace::Trace;
use crate::harness::{Call, is_linearizable};

/// So few that clients meet.
const NAMES: usize = 3;
/// Calls of one history: the search takes longer the more of them overlap.
const CALLS_MAX: usize = 300;

/// What the names hold.
type Names = [Option<u64>; NAMES];

#[derive(Clone, Copy, Debug)]
enum Deed {
    Create(usize),
    Resize(usize, u64),
    Look(usize),
    Remove(usize),
    Rename(usize, usize),
    Exchange(usize, usize),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Done,
    Refused,
    Value(u64),
    /// It happened at some time since, or not at all.
    Unknown,
}

/// What all clients did to the names.
#[derive(Clone, Default)]
pub(crate) struct History(Rc<RefCell<Vec<Call<(Deed, Seen)>>>>);

impl History {
    /// One more call.
    pub(crate) async fn act(&self, fs: &FileSystem, rng: &mut StdRng, trace: &Trace) {
        if self.0.borrow().len() >= CALLS_MAX {
            return;
        }
        let deed = draw(rng);
        let began = trace.now_ms();
        let result = carry_out(fs, deed).await;
        let Some(seen) = judge(deed, &result) else {
            return;
        };
        trace.event(format!("names: {deed:?}: {seen:?}"));
        let ended = (seen != Seen::Unknown).then(|| trace.now_ms());
        self.0.borrow_mut().push(Call {
            began,
            ended,
            operation: (deed, seen),
        });
    }

    /// Fails if the calls cannot have happened one at a time.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let calls = self.0.borrow();
        anyhow::ensure!(
            is_linearizable(&calls, [None; NAMES], step),
            "I6: what clients saw of the names is not linearizable: {calls:?}"
        );
        Ok(())
    }
}

/// The names after a deed, unless what was seen of it cannot be.
fn step(names: &Names, (deed, seen): &(Deed, Seen)) -> Option<Names> {
    let mut next = *names;
    let expected = match *deed {
        Deed::Create(name) if names[name].is_some() => Seen::Refused,
        Deed::Create(name) => {
            next[name] = Some(0);
            Seen::Done
        }
        Deed::Look(name) => names[name].map_or(Seen::Refused, Seen::Value),
        Deed::Resize(name, _) | Deed::Remove(name) if names[name].is_none() => Seen::Refused,
        Deed::Resize(name, value) => {
            next[name] = Some(value);
            Seen::Done
        }
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

fn path(name: usize) -> String {
    format!("/shared/name-{name}")
}

fn draw(rng: &mut StdRng) -> Deed {
    let (name, other) = (rng.random_range(0..NAMES), rng.random_range(0..NAMES));
    match rng.random_range(0..10) {
        0..2 => Deed::Create(name),
        2..5 => Deed::Resize(name, rng.random_range(1..1 << 40)),
        5 => Deed::Remove(name),
        6 => Deed::Rename(name, other),
        7 => Deed::Exchange(name, other),
        _ => Deed::Look(name),
    }
}

async fn carry_out(fs: &FileSystem, deed: Deed) -> Result<Seen, Error> {
    let rename = async |from, to, mode| fs.rename(path(from), path(to), mode).await;
    match deed {
        Deed::Look(name) => {
            let attributes = fs.stat(path(name)).await?;
            return Ok(Seen::Value(attributes.size));
        }
        Deed::Create(name) => drop(fs.create(path(name), 0o644, IfExists::Fail).await?),
        Deed::Resize(name, value) => drop(fs.truncate(path(name), value).await?),
        Deed::Remove(name) => drop(fs.unlink(path(name)).await?),
        Deed::Rename(from, to) => drop(rename(from, to, RenameMode::Replace).await?),
        Deed::Exchange(a, b) => drop(rename(a, b, RenameMode::Exchange).await?),
    }
    Ok(Seen::Done)
}

/// What an answer tells; `None` if nothing happened and nothing was seen.
fn judge(deed: Deed, result: &Result<Seen, Error>) -> Option<Seen> {
    let error = match result {
        Ok(seen) => return Some(*seen),
        Err(error) => error,
    };
    match error.code() {
        ErrorCode::NotFound | ErrorCode::AlreadyExists => Some(Seen::Refused),
        _ if matches!(deed, Deed::Look(_)) => None,
        // Nobody answered: the change may still be on its way, whatever the client could find out.
        _ => Some(Seen::Unknown),
    }
}
