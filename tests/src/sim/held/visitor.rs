//! What others do to a holder: they look, put names of their own into its directories, and change what it changes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use cairn_client::{ClusterConfig, Error, FileSystem, WriteOptions};
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::operation::RenameMode;
use cairn_protocol::messages::query::ListingEntry;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::Held;
use super::names::{Hand, act};
use super::tree::{GUEST, Tree, directories_of, join};
use crate::harness::Look;
use crate::sim::cluster::connect;
use crate::sim::model::Models;
use crate::sim::trace::Trace;
use crate::sim::verify::Verifier;
use crate::sim::workload::is_explained;

/// Of these a visitor visits the ones that were made last: there something happens.
const TREES_LATEST: usize = 4;

/// One visitor's program.
pub(crate) struct Visitor {
    pub(crate) index: usize,
    pub(crate) config: ClusterConfig,
    pub(crate) held: Held,
    pub(crate) trace: Trace,
    pub(crate) rng: StdRng,
    /// Set when nothing more is to be begun.
    pub(crate) stop: Rc<Cell<bool>>,
    pub(crate) next_name: u32,
}

impl Visitor {
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let fs = connect(&self.config, 10).await?;
        while !self.stop.get() {
            // In between holders have something to lose.
            let pause = if self.rng.random_bool(0.5) {
                self.rng.random_range(20..200)
            } else {
                self.rng.random_range(200..2000)
            };
            sleep(Duration::from_millis(pause)).await;
            self.visit(&fs).await;
        }
        let closed = fs.close().await.is_ok();
        self.say(&format!("leaves: {closed}"));
        Ok(())
    }

    fn say(&self, what: &str) {
        self.trace.event(format!("visitor-{}: {what}", self.index));
    }

    fn wrong(&self, what: &str) {
        self.trace
            .violation(format!("visitor-{}: {what}", self.index));
    }

    async fn visit(&mut self, fs: &FileSystem) {
        let choice = self.rng.random_range(0..100);
        if choice < 30 {
            let round = self.held.rounds.borrow().last().cloned();
            if let Some(round) = round {
                act(&round, Hand::Client(fs), &mut self.rng, &self.trace).await;
            }
            return;
        }
        let Some(tree) = self.some_tree() else { return };
        match choice {
            30..70 => self.look(fs, &tree).await,
            70..80 => self.read(fs, &tree).await,
            80..90 => self.put(fs, &tree).await,
            90..95 => self.take_out(fs, &tree).await,
            _ => self.take_along(fs, &tree).await,
        }
    }

    fn some_tree(&mut self) -> Option<Rc<RefCell<Tree>>> {
        let trees = self.held.trees.borrow();
        if self.rng.random_bool(0.5) {
            return trees.last().cloned();
        }
        let latest = trees.len().saturating_sub(TREES_LATEST);
        let some = &trees[latest..];
        (!some.is_empty()).then(|| some[self.rng.random_range(0..some.len())].clone())
    }

    async fn look(&mut self, fs: &FileSystem, tree: &Rc<RefCell<Tree>>) {
        let directories = tree.borrow().directories();
        let directory = directories[self.rng.random_range(0..directories.len())].clone();
        if let Err(error) = look(fs, tree, &directory, |what| self.say(what)).await {
            self.wrong(&format!("{error:#}"));
        }
    }

    async fn read(&mut self, fs: &FileSystem, tree: &Rc<RefCell<Tree>>) {
        let paths: Vec<String> = tree.borrow().states.state().keys().cloned().collect();
        if paths.is_empty() {
            return;
        }
        let name = &paths[self.rng.random_range(0..paths.len())];
        let path = format!("{}/{name}", tree.borrow().path);
        let read = fs.read_file(path.as_str()).await;
        let length = read.as_ref().map(Bytes::len).map_err(|error| error.code());
        self.say(&format!("read {path}: {length:?}"));
        // A directory, or a link to nowhere, or it is gone, or lost.
        if let Ok(bytes) = read
            && let Err(error) = tree.borrow().read(name, &bytes)
        {
            self.wrong(&format!("{error:#}"));
        }
    }

    fn new_name(&mut self) -> String {
        self.next_name += 1;
        format!("{GUEST}{}-{}", self.index, self.next_name)
    }

    fn judge(&self, what: &str, error: &Error) {
        self.say(&format!("{what}: {error}"));
        let unknown = matches!(error, Error::OutcomeUnknown { .. });
        if !unknown && !is_explained(error.code()) {
            self.wrong(&format!("{what}: {error}"));
        }
    }

    /// A file of its own in a holder's directory.
    async fn put(&mut self, fs: &FileSystem, tree: &Rc<RefCell<Tree>>) {
        let name = self.new_name();
        let path = format!("{}/{name}", tree.borrow().path);
        tree.borrow_mut().guests.insert(name.clone(), 0);
        let content = Bytes::from(path.clone());
        let options = WriteOptions::default();
        match fs.write_file(path.as_str(), content, &options).await {
            Ok(made) => {
                self.say(&format!("put {path}: inode {}", made.inode));
                self.held.note_inode(made.inode, &path, &self.trace);
                tree.borrow_mut().guests.insert(name, made.inode);
            }
            Err(error) => self.judge(&format!("put {path}"), &error),
        }
    }

    fn own_guest(&self, tree: &Rc<RefCell<Tree>>) -> Option<(String, u64)> {
        let own = format!("{GUEST}{}-", self.index);
        let tree = tree.borrow();
        let mut own = tree
            .guests
            .iter()
            .filter(|(name, inode)| name.starts_with(&own) && **inode != 0);
        own.next().map(|(name, inode)| (name.clone(), *inode))
    }

    async fn take_out(&mut self, fs: &FileSystem, tree: &Rc<RefCell<Tree>>) {
        let Some((name, _)) = self.own_guest(tree) else {
            return;
        };
        let path = format!("{}/{name}", tree.borrow().path);
        tree.borrow_mut().guests.insert(name.clone(), 0);
        match fs.unlink(path.as_str()).await {
            Ok(_) => {
                self.say(&format!("unlink {path}"));
                tree.borrow_mut().guests.remove(&name);
            }
            Err(error) => self.judge(&format!("unlink {path}"), &error),
        }
    }

    /// Moves a file of its own from one holder's directory to another's.
    async fn take_along(&mut self, fs: &FileSystem, tree: &Rc<RefCell<Tree>>) {
        let (Some((name, inode)), Some(other)) = (self.own_guest(tree), self.some_tree()) else {
            return;
        };
        let new_name = self.new_name();
        let from = format!("{}/{name}", tree.borrow().path);
        let to = format!("{}/{new_name}", other.borrow().path);
        tree.borrow_mut().guests.insert(name.clone(), 0);
        other.borrow_mut().guests.insert(new_name.clone(), 0);
        let moved = fs.rename(from.as_str(), to.as_str(), RenameMode::NoReplace);
        match moved.await {
            Ok(_) => {
                self.say(&format!("rename {from} to {to}"));
                tree.borrow_mut().guests.remove(&name);
                other.borrow_mut().guests.insert(new_name, inode);
            }
            Err(error) => self.judge(&format!("rename {from} to {to}"), &error),
        }
    }
}

/// What one listing must agree with.
struct Before {
    look: Look,
    guests: BTreeMap<String, u64>,
}

fn before(tree: &Rc<RefCell<Tree>>) -> Before {
    let tree = tree.borrow();
    Before {
        look: tree.states.look(),
        guests: tree.guests.clone(),
    }
}

/// Lists one directory and compares it with what can be there.
pub(crate) async fn look(
    fs: &FileSystem,
    tree: &Rc<RefCell<Tree>>,
    directory: &str,
    say: impl Fn(&str),
) -> anyhow::Result<()> {
    let before = before(tree);
    let path = format!("{}/{directory}", tree.borrow().path);
    let entries = match fs.list_all(path.as_str()).await {
        Ok(entries) => Some(entries),
        Err(error) if error.code() == ErrorCode::NotFound => None,
        Err(error) if is_explained(error.code()) => {
            say(&format!("look {path}: {error}"));
            return Ok(());
        }
        Err(error) => return Err(error).context(format!("look {path}")),
    };
    say(&format!(
        "look {path}: {:?}",
        entries.as_ref().map(Vec::len)
    ));
    let mut tree = tree.borrow_mut();
    let Some(entries) = entries else {
        if tree.stray {
            return Ok(());
        }
        return tree
            .states
            .seen(before.look, |state| !state.contains_key(directory))
            .with_context(|| format!("{path} is not there"));
    };
    if directory.is_empty() {
        check_guests(&tree, &before.guests, &entries)?;
    }
    tree.seen(before.look, directory, &entries)
}

/// Names of visitors that nobody changed meanwhile are there, and no others.
fn check_guests(
    tree: &Tree,
    before: &BTreeMap<String, u64>,
    entries: &[ListingEntry],
) -> anyhow::Result<()> {
    let found: BTreeMap<String, u64> = entries
        .iter()
        .map(|entry| {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            (name, entry.inode)
        })
        .filter(|(name, _)| name.starts_with(GUEST))
        .collect();
    for (name, inode) in before {
        let stays = *inode != 0 && tree.guests.get(name) == Some(inode);
        ensure!(
            !stays || found.get(name) == Some(inode),
            "I6: {}/{name}, inode {inode}, was acknowledged and is {:?}",
            tree.path,
            found.get(name)
        );
    }
    for name in found.keys() {
        let known = before.contains_key(name) || tree.guests.contains_key(name);
        ensure!(
            known,
            "I6: {}/{name} was never there, or removed",
            tree.path
        );
    }
    Ok(())
}

/// When all is healed and holders are gone: each tree is one of its states, with all bytes that were promised.
pub(crate) async fn check_all(
    fs: &FileSystem,
    held: &Held,
    models: &Models,
    trace: &Trace,
) -> anyhow::Result<()> {
    let verifier = Verifier {
        fs: fs.clone(),
        models: models.clone(),
        trace: trace.clone(),
    };
    let trees: Vec<_> = held.trees.borrow().clone();
    for tree in &trees {
        check_tree(&verifier, tree).await?;
    }
    Ok(())
}

async fn check_tree(verifier: &Verifier, tree: &Rc<RefCell<Tree>>) -> anyhow::Result<()> {
    let look_now = before(tree);
    let root = tree.borrow().path.clone();
    let mut directories = vec![String::new()];
    for state in tree.borrow().states.states() {
        directories.extend(directories_of(state));
    }
    directories.sort();
    directories.dedup();
    let mut all: BTreeMap<String, ListingEntry> = BTreeMap::new();
    for directory in directories {
        let path = format!("{root}/{directory}");
        let listed = verifier.patiently(&path, || async {
            match verifier.fs.list_all(path.as_str()).await {
                Err(error) if error.code() == ErrorCode::NotFound => Ok(Vec::new()),
                listed => listed,
            }
        });
        let entries = listed.await?;
        if directory.is_empty() {
            check_guests(&tree.borrow(), &look_now.guests, &entries)?;
        }
        for entry in entries {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            all.insert(join(&directory, &name), entry);
        }
    }
    check_contents(verifier, tree, &all).await?;
    let mut tree = tree.borrow_mut();
    tree.seen_whole(look_now.look, all.iter())?;
    let (seen, known) = (all.len(), tree.states.acknowledged());
    let (over, cut) = (tree.left, tree.states.is_cut());
    verifier.trace.event(format!(
        "{root}: {seen} names after {known} steps, left {over}, cut {cut}"
    ));
    Ok(())
}

async fn check_contents(
    verifier: &Verifier,
    tree: &Rc<RefCell<Tree>>,
    all: &BTreeMap<String, ListingEntry>,
) -> anyhow::Result<()> {
    for (path, entry) in all {
        let content = tree.borrow().contents.get(&entry.inode).cloned();
        let Some(content) = content else { continue };
        let losses = verifier.models.power_losses.borrow().clone();
        let lost = content.model.doubtful(&losses);
        let what = format!("{}/{path}", tree.borrow().path);
        let read = verifier.patiently(&what, || async {
            match verifier.fs.read_file(InodeId(entry.inode)).await {
                Err(error) if error.code() == ErrorCode::DataLost && !lost.is_empty() => Ok(None),
                read => read.map(Some),
            }
        });
        if let Some(bytes) = read.await? {
            content
                .check(&bytes)
                .with_context(|| format!("I1: {what}"))?;
        }
    }
    Ok(())
}
