//! Holders of delegated directories, and those who visit them.
//!
//! A holder is a real mount without a kernel: it works in directories that are its own, and tells the cluster later. Visitors are
//! ordinary clients that look there, put names of their own there, and change the same names as the holder, so that the directories
//! are asked back. What they may see is known exactly (`crate::harness::Prefixes`), as long as a tree's holder has one session.
//!
//! ```text
//! mounted    a mount on a simulated machine: begins, ends, dies
//! holder     what a holder does
//! visitor    what others do to it
//! tree       what may be seen of a tree in which one holder makes all names but those of visitors
//! names      names that everybody changes: a linearizable history, but for what a holder lost that had not told it
//! ```

mod holder;
mod mounted;
pub(crate) mod names;
pub(crate) mod tree;
mod visitor;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

pub(crate) use self::holder::Holder;
use self::names::Round;
use self::tree::Tree;
pub(crate) use self::visitor::{Visitor, check_all};
use super::trace::Trace;

/// Below this all holders work.
pub(crate) const ROOT: &str = "/held";

/// What all holders and visitors know. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Held {
    pub(crate) trees: Rc<RefCell<Vec<Rc<RefCell<Tree>>>>>,
    pub(crate) rounds: Rc<RefCell<Vec<Rc<RefCell<Round>>>>>,
    /// Who was told that it has made an inode of this number.
    inodes: Rc<RefCell<BTreeMap<u64, String>>>,
}

impl Held {
    /// Somebody was told that it has made an inode: nobody else may ever be told that of the same number.
    pub(crate) fn note_inode(&self, inode: u64, what: &str, trace: &Trace) {
        let before = self.inodes.borrow_mut().insert(inode, what.to_owned());
        if let Some(before) = before {
            trace.violation(format!("I11: inode {inode} is {what}, and was {before}"));
        }
    }

    /// All histories of names that everybody changes must be linearizable.
    pub(crate) fn check_names(&self) -> anyhow::Result<()> {
        for round in self.rounds.borrow().iter() {
            round.borrow().check()?;
        }
        Ok(())
    }
}
