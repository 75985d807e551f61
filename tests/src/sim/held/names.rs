//! Names that a holder and its visitors all change and look at. What came of it must be linearizable (I6), but for what a holder did and
//! had not told when its session ended: that may have happened or not.
//!
//! A name is a symbolic link, or nothing; where it points is its value, which is never the same twice.

use std::cell::RefCell;
use std::rc::Rc;

use cairn_client::{Error, FileSystem};
use cairn_fuse_mount::MountedFs;
use cairn_protocol::messages::operation::RenameMode;
use rand::Rng;
use rand::rngs::StdRng;

use super::super::trace::Trace;
use super::mounted::PROGRAM;
use crate::harness::{Call, Deed, NAMES, Seen, Where, names_are_linearizable};

/// Calls of one round: the search takes longer the more of them overlap.
const CALLS_MAX: usize = 120;

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
            names_are_linearizable(&self.calls),
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
        Hand::Client(fs) => (Seen::of(deed, ask(fs, &directory.0, deed).await), "visitor"),
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

fn draw(rng: &mut StdRng, value: u64) -> Deed {
    let (name, other) = (rng.random_range(0..NAMES), rng.random_range(0..NAMES));
    match rng.random_range(0..10) {
        0..4 => Deed::Put(name, value, Where::Nothing),
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
        Deed::Put(name, value, _) => drop(fs.symlink(value.to_string(), path(name)).await?),
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
        Deed::Put(name, value, _) => {
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

/// What the answer of a mount tells; `None` if nothing happened and nothing was seen.
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
