//! Names that a holder and its visitors all change and look at. What came of it must be linearizable (I6), but for what a holder did and
//! had not told when its session ended: that may have happened or not.
//!
//! A name is a symbolic link, or nothing; where it points is its value, which is never the same twice.

use std::cell::RefCell;
use std::rc::Rc;

use cairn_client::{Error, FileSystem};
use cairn_fuse_mount::MountedFs;
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::RenameMode;
use rand::Rng;
use rand::rngs::StdRng;

use super::super::trace::Trace;
use super::mounted::PROGRAM;
use crate::harness::{Call, is_linearizable};

/// So few that all meet.
const NAMES: usize = 3;
/// Calls of one round: the search takes longer the more of them overlap.
const CALLS_MAX: usize = 120;

/// What the names hold.
type Names = [Option<u64>; NAMES];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    Make(usize, u64),
    Look(usize),
    Remove(usize),
    Rename(usize, usize),
    Exchange(usize, usize),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Done,
    Refused,
    Value(u64),
    /// It happened at some time since, or not at all.
    Unknown,
}

/// Who acts.
#[derive(Clone, Copy)]
pub(crate) enum Hand<'a> {
    Client(&'a FileSystem),
    Holder(&'a MountedFs),
}

/// A directory with such names, and what was done to them.
#[derive(Default)]
pub(crate) struct Round {
    pub(crate) path: String,
    pub(crate) inode: u64,
    /// No call begins any more.
    pub(crate) over: bool,
    values: u64,
    calls: Vec<Call<(Deed, Seen)>>,
}

impl Round {
    pub(crate) fn new(path: String, inode: u64) -> Self {
        Self {
            path,
            inode,
            ..Self::default()
        }
    }

    /// The holder that made these calls may have lost them, and nobody else has seen them then.
    pub(crate) fn doubt(&mut self, calls: &[usize]) {
        for &index in calls {
            let call = &mut self.calls[index];
            call.ended = None;
            call.operation.1 = Seen::Unknown;
        }
    }

    /// Fails if the calls cannot have happened one at a time.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            is_linearizable(&self.calls, [None; NAMES], step),
            "I6: what holder and visitors saw of the names in {} is not linearizable: {:?}",
            self.path,
            self.calls
        );
        Ok(())
    }
}

/// One more call; its number, if anything was done or seen.
pub(crate) async fn act(
    round: &Rc<RefCell<Round>>,
    hand: Hand<'_>,
    rng: &mut StdRng,
    trace: &Trace,
) -> Option<usize> {
    let (deed, directory) = {
        let mut round = round.borrow_mut();
        if round.over || round.calls.len() >= CALLS_MAX {
            return None;
        }
        round.values += 1;
        let directory = (round.path.clone(), round.inode);
        (draw(rng, round.values), directory)
    };
    let began = trace.now_ms();
    let (seen, who) = match hand {
        Hand::Client(fs) => (
            of_client(deed, ask(fs, &directory.0, deed).await),
            "visitor",
        ),
        Hand::Holder(mount) => {
            let done = carry_out(mount, directory.1, deed).await;
            (of_holder(deed, done, trace), "holder")
        }
    };
    let seen = seen?;
    trace.event(format!("{who}: {}: {deed:?}: {seen:?}", directory.0));
    let ended = (seen != Seen::Unknown).then(|| trace.now_ms());
    let mut round = round.borrow_mut();
    round.calls.push(Call {
        began,
        ended,
        operation: (deed, seen),
    });
    Some(round.calls.len() - 1)
}

/// The names after a deed, unless what was seen of it cannot be.
fn step(names: &Names, (deed, seen): &(Deed, Seen)) -> Option<Names> {
    let mut next = *names;
    let expected = match *deed {
        Deed::Make(name, _) if names[name].is_some() => Seen::Refused,
        Deed::Make(name, value) => {
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

fn draw(rng: &mut StdRng, value: u64) -> Deed {
    let (name, other) = (rng.random_range(0..NAMES), rng.random_range(0..NAMES));
    match rng.random_range(0..10) {
        0..4 => Deed::Make(name, value),
        4 => Deed::Remove(name),
        5..7 => Deed::Rename(name, other),
        7 => Deed::Exchange(name, other),
        _ => Deed::Look(name),
    }
}

fn name_of(name: usize) -> String {
    format!("name-{name}")
}

fn value_of(target: &[u8]) -> Seen {
    let text = String::from_utf8_lossy(target);
    // Nobody makes a 0.
    Seen::Value(text.parse().unwrap_or(0))
}

async fn ask(fs: &FileSystem, directory: &str, deed: Deed) -> Result<Seen, Error> {
    let path = |name| format!("{directory}/{}", name_of(name));
    let rename = async |from, to, mode| fs.rename(path(from), path(to), mode).await;
    match deed {
        Deed::Look(name) => {
            let attributes = fs.stat_link(path(name)).await?;
            return Ok(value_of(&attributes.symlink_target));
        }
        Deed::Make(name, value) => drop(fs.symlink(value.to_string(), path(name)).await?),
        Deed::Remove(name) => drop(fs.unlink(path(name)).await?),
        Deed::Rename(from, to) => drop(rename(from, to, RenameMode::Replace).await?),
        Deed::Exchange(a, b) => drop(rename(a, b, RenameMode::Exchange).await?),
    }
    Ok(Seen::Done)
}

async fn carry_out(mount: &MountedFs, directory: u64, deed: Deed) -> Result<Seen, i32> {
    let rename = async |from, to, mode| {
        let (from, to) = (name_of(from), name_of(to));
        let target = (directory, to.as_bytes());
        mount
            .rename((directory, from.as_bytes()), target, mode)
            .await
    };
    match deed {
        Deed::Look(name) => {
            let found = mount.lookup(directory, name_of(name).as_bytes()).await?;
            return Ok(value_of(&found.symlink_target));
        }
        Deed::Make(name, value) => {
            let (name, target) = (name_of(name), value.to_string());
            let made = mount.symlink(PROGRAM, directory, name.as_bytes(), target.as_bytes());
            made.await?;
        }
        Deed::Remove(name) => mount.unlink(directory, name_of(name).as_bytes()).await?,
        Deed::Rename(from, to) => rename(from, to, RenameMode::Replace).await?,
        Deed::Exchange(a, b) => rename(a, b, RenameMode::Exchange).await?,
    }
    Ok(Seen::Done)
}

/// What an answer tells; `None` if nothing happened and nothing was seen.
fn of_client(deed: Deed, result: Result<Seen, Error>) -> Option<Seen> {
    match result {
        Ok(seen) => Some(seen),
        Err(error) => match error.code() {
            ErrorCode::NotFound | ErrorCode::AlreadyExists => Some(Seen::Refused),
            _ if matches!(deed, Deed::Look(_)) => None,
            // Nobody answered: the change may still be on its way, whatever the client could find out.
            _ => Some(Seen::Unknown),
        },
    }
}

fn of_holder(deed: Deed, result: Result<Seen, i32>, trace: &Trace) -> Option<Seen> {
    match result {
        Ok(seen) => Some(seen),
        Err(2 | 17) => Some(Seen::Refused),
        Err(5) if matches!(deed, Deed::Look(_)) => None,
        Err(5) => Some(Seen::Unknown),
        Err(errno) => {
            trace.violation(format!("holder: {deed:?}: errno {errno}"));
            None
        }
    }
}
