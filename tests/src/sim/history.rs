//! A few names that all clients change and look at, and the history of that: it must be linearizable (I6).
//!
//! A name has a file whose size is its value, or nothing. Only the namespace takes part: what a file's bytes may suffer from faults is
//! the business of the other models.

use std::cell::RefCell;
use std::rc::Rc;

use cairn_client::{Error, FileSystem};
use cairn_protocol::messages::operation::{IfExists, RenameMode};
use rand::Rng;
use rand::rngs::StdRng;

use super::trace::Trace;
use crate::harness::{Call, Deed, NAMES, Seen, Where, names_are_linearizable};

/// Calls of one history: the search takes longer the more of them overlap.
const CALLS_MAX: usize = 300;

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
        let Some(seen) = Seen::of(deed, carry_out(fs, deed).await) else {
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
            names_are_linearizable(&calls),
            "I6: what clients saw of the names is not linearizable: {calls:?}"
        );
        Ok(())
    }
}

fn path(name: usize) -> String {
    format!("/shared/name-{name}")
}

fn draw(rng: &mut StdRng) -> Deed {
    let (name, other) = (rng.random_range(0..NAMES), rng.random_range(0..NAMES));
    match rng.random_range(0..10) {
        0..2 => Deed::Put(name, 0, Where::Nothing),
        2..5 => Deed::Put(name, rng.random_range(1..1 << 40), Where::Something),
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
        Deed::Put(name, _, Where::Nothing) => {
            drop(fs.create(path(name), 0o644, IfExists::Fail).await?);
        }
        Deed::Put(name, value, _) => drop(fs.truncate(path(name), value).await?),
        Deed::Remove(name) => drop(fs.unlink(path(name)).await?),
        Deed::Rename(from, to) => drop(rename(from, to, RenameMode::Replace).await?),
        Deed::Exchange(a, b) => drop(rename(a, b, RenameMode::Exchange).await?),
    }
    Ok(Seen::Done)
}
