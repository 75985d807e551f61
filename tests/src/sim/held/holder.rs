//! What a holder does: trees of its own, told whenever the mount likes, and names that everybody changes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{AttributeChange, ClusterConfig};
use cairn_fuse_mount::NewAttributes;
use cairn_protocol::messages::common::{Attributes, InodeKind};
use cairn_protocol::messages::operation::RenameMode;
use rand::rngs::StdRng;
use rand::{Rng, RngCore};
use tokio::time::sleep;

use super::mounted::{Mounted, PROGRAM, ROOT_INODE};
use super::names::{Hand, Round, act};
use super::tree::{Content, State, Thing, Tree, join, split, thing_of};
use super::{Held, ROOT};
use crate::sim::model::Models;
use crate::sim::trace::Trace;

/// Calls of a round that may be lost together: the search takes longer the more there are.
const UNTOLD_MAX: usize = 5;
/// Before a mount is tried again.
const PAUSE: Duration = Duration::from_millis(200);

type SharedTree = Rc<RefCell<Tree>>;

/// One holder's program.
pub(crate) struct Holder {
    pub(crate) index: usize,
    pub(crate) config: ClusterConfig,
    pub(crate) held: Held,
    pub(crate) models: Models,
    pub(crate) trace: Trace,
    pub(crate) rng: StdRng,
    /// Set when nothing more is to be begun.
    pub(crate) stop: Rc<Cell<bool>>,
    pub(crate) next_name: u32,
    /// Those of the present mount.
    pub(crate) trees: Vec<SharedTree>,
}

/// What a step does to the names, and how it is carried out.
enum Deed {
    Make(String),
    Link(String, String),
    Mkdir(String),
    Remove(String),
    Rmdir(String),
    Move(String, String),
    Chmod(String, u32),
}

impl Holder {
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        while !self.stop.get() {
            // Another process: it must not be taken for the one before.
            self.config.seed = Some(self.rng.next_u64());
            let mounted = Mounted::start(&self.config).await?;
            self.live(mounted).await;
        }
        Ok(())
    }

    fn say(&self, what: &str) {
        self.trace.event(format!("holder-{}: {what}", self.index));
    }

    fn wrong(&self, what: &str) {
        self.trace
            .violation(format!("holder-{}: {what}", self.index));
    }

    /// From the begin of a mount to its end.
    async fn live(&mut self, mounted: Mounted) {
        self.trees.clear();
        while !self.stop.get() {
            match self.rng.random_range(0..20) {
                0 => return self.die(mounted).await,
                1..6 => self.contend(&mounted).await,
                _ => match self.begin_tree(&mounted).await {
                    Some(tree) if self.rng.random_bool(0.2) => {
                        self.work(&mounted, &tree).await;
                        // In the middle of it.
                        return self.die(mounted).await;
                    }
                    Some(tree) => self.work(&mounted, &tree).await,
                    None => sleep(PAUSE).await,
                },
            }
        }
        self.leave(mounted).await;
    }

    async fn die(&self, mounted: Mounted) {
        self.look_after_trees(&mounted).await;
        self.say("dies");
        let trees = self.trees.iter();
        trees.for_each(|tree| tree.borrow_mut().over = true);
        mounted.die().await;
    }

    async fn leave(&self, mounted: Mounted) {
        self.look_after_trees(&mounted).await;
        let left = mounted.leave().await;
        self.say(&format!("leaves: {left}"));
        for tree in self.trees.iter().filter(|tree| !tree.borrow().over) {
            let mut tree = tree.borrow_mut();
            tree.over = true;
            tree.left = left;
            if left {
                let (done, files) = (tree.states.acknowledged(), files_of(&tree));
                self.expect(tree.keep(done, &files));
            }
        }
    }

    /// Finds out which trees are over because their session is.
    async fn look_after_trees(&self, mounted: &Mounted) {
        for tree in &self.trees {
            self.is_alive(mounted, tree).await;
        }
    }

    fn expect(&self, result: anyhow::Result<()>) {
        if let Err(error) = result {
            self.wrong(&format!("{error:#}"));
        }
    }

    fn new_name(&mut self, prefix: &str) -> String {
        self.next_name += 1;
        format!("{prefix}{}-{}", self.index, self.next_name)
    }

    /// Makes a directory below the root of all, and is told that it is there.
    async fn new_directory(&mut self, mounted: &Mounted, prefix: &str) -> Option<(String, u64)> {
        let name = self.new_name(prefix);
        let parent = mounted
            .mount
            .lookup(ROOT_INODE, &ROOT.as_bytes()[1..])
            .await;
        let parent = parent.ok()?.inode;
        let made = mounted.mount.mkdir(PROGRAM, parent, name.as_bytes(), 0o755);
        let made = made.await.ok()?;
        if !self.sync_names(mounted).await {
            return None;
        }
        let path = format!("{ROOT}/{name}");
        self.held.note_inode(made.inode, &path, &self.trace);
        let delegated = mounted.mount.is_delegated(made.inode);
        self.say(&format!("makes {path}, delegated {delegated}"));
        Some((path, made.inode))
    }

    async fn begin_tree(&mut self, mounted: &Mounted) -> Option<SharedTree> {
        let (path, inode) = self.new_directory(mounted, "h").await?;
        let session = mounted.fs.session();
        if session == 0 {
            return None;
        }
        let tree = Rc::new(RefCell::new(Tree::new(path, inode, session)));
        self.trees.push(tree.clone());
        self.held.trees.borrow_mut().push(tree.clone());
        Some(tree)
    }

    /// Whether the session in which a tree is worked on is still the one: if not, the tree is over.
    async fn is_alive(&self, mounted: &Mounted, tree: &SharedTree) -> bool {
        let session = tree.borrow().session;
        if tree.borrow().over {
            return false;
        }
        let alive = mounted.is_in(session).await;
        if !alive {
            let mut tree = tree.borrow_mut();
            tree.over = true;
            tree.contents
                .values_mut()
                .for_each(|content| content.lose());
            self.say(&format!(
                "session {session} is over, and {} with it",
                tree.path
            ));
        }
        alive
    }

    async fn work(&mut self, mounted: &Mounted, tree: &SharedTree) {
        for _ in 0..self.rng.random_range(20..120) {
            if self.stop.get() || !self.is_alive(mounted, tree).await {
                return;
            }
            match self.rng.random_range(0..100) {
                0..24 => self.make_file(mounted, tree).await,
                24..80 => {
                    if let Some(deed) = self.draw(tree) {
                        self.carry_out(mounted, tree, deed).await;
                    }
                }
                80..85 => self.append(mounted, tree).await,
                85..88 => drop(self.sync_names(mounted).await),
                _ => self.look(mounted, tree).await,
            }
            // Mostly so short that something waits to be told whenever somebody comes.
            let pause = match self.rng.random_range(0..20) {
                0 => self.rng.random_range(0..100),
                1..8 => 0,
                _ => self.rng.random_range(1..8),
            };
            sleep(Duration::from_millis(pause)).await;
        }
    }

    fn new_path(&mut self, tree: &SharedTree) -> String {
        let name = self.new_name("n");
        let directories = tree.borrow().directories();
        let directory = &directories[self.rng.random_range(0..directories.len())];
        join(directory, &name)
    }

    fn some(&mut self, tree: &SharedTree, is_it: impl Fn(&Thing) -> bool) -> Option<String> {
        let tree = tree.borrow();
        let some = tree.states.state().iter().filter(|(_, thing)| is_it(thing));
        let some: Vec<&String> = some.map(|(path, _)| path).collect();
        (!some.is_empty()).then(|| some[self.rng.random_range(0..some.len())].clone())
    }

    fn draw(&mut self, tree: &SharedTree) -> Option<Deed> {
        let is_directory = |thing: &Thing| thing.kind == InodeKind::Directory;
        Some(match self.rng.random_range(0..12) {
            0..2 => Deed::Mkdir(self.new_path(tree)),
            2..4 => Deed::Link(self.new_path(tree), self.rng.next_u64().to_string()),
            4..6 => Deed::Remove(self.some(tree, |thing| !is_directory(thing))?),
            6 => {
                let directory = self.some(tree, is_directory)?;
                let tree = tree.borrow();
                let mut paths = tree.states.state().keys();
                let empty = !paths.any(|path| split(path).0 == directory);
                empty.then_some(Deed::Rmdir(directory))?
            }
            7..9 => Deed::Move(
                self.some(tree, |thing| !is_directory(thing))?,
                self.new_path(tree),
            ),
            9 => {
                let from = self.some(tree, |thing| !is_directory(thing))?;
                let to = self.some(tree, |thing| !is_directory(thing))?;
                (from != to).then_some(Deed::Move(from, to))?
            }
            _ => {
                let path = self.some(tree, |thing| thing.kind == InodeKind::File)?;
                Deed::Chmod(path, 0o600 | self.rng.random_range(0..0o100))
            }
        })
    }

    /// One step; what was made, if anything was.
    async fn carry_out(
        &self,
        mounted: &Mounted,
        tree: &SharedTree,
        deed: Deed,
    ) -> Option<Attributes> {
        let what = describe(&deed);
        let next = after(tree.borrow().states.state(), &deed);
        tree.borrow_mut().states.begin(next);
        let done = self.ask(mounted, tree, &deed).await;
        let alive = self.is_alive(mounted, tree).await;
        let path = tree.borrow().path.clone();
        self.say(&format!("{path}: {what}: {:?}", done.as_ref().map(drop)));
        let made = match done {
            Ok(made) if alive => made,
            // A file whose bytes find no room takes the place of no other.
            Err(errno) if alive && errno != 5 && errno != 28 => {
                self.wrong(&format!("{path}: {what}: errno {errno}"));
                return None;
            }
            // Nobody knows whether it happened, or before what.
            Ok(_) | Err(_) => {
                let mut tree = tree.borrow_mut();
                tree.over = true;
                tree.stray = !alive;
                return None;
            }
        };
        tree.borrow_mut().states.acknowledge(|state| {
            if let (Some(made), Some(name)) = (&made, made_by(&deed)) {
                state.insert(name.to_owned(), thing_of(made));
            }
        });
        if let Some(made) = &made {
            self.held
                .note_inode(made.inode, &format!("{path}: {what}"), &self.trace);
        }
        made
    }

    async fn ask(
        &self,
        mounted: &Mounted,
        tree: &SharedTree,
        deed: &Deed,
    ) -> Result<Option<Attributes>, i32> {
        let mount = &mounted.mount;
        let at = |path: &str| {
            let (directory, name) = split(path);
            (
                inode_of(&tree.borrow(), directory),
                name.as_bytes().to_vec(),
            )
        };
        match deed {
            Deed::Make(path) => {
                let (parent, name) = at(path);
                let made = mount.create(PROGRAM, parent, &name, 0o644, true).await;
                made.map(Some)
            }
            Deed::Link(path, target) => {
                let (parent, name) = at(path);
                let made = mount.symlink(PROGRAM, parent, &name, target.as_bytes());
                made.await.map(Some)
            }
            Deed::Mkdir(path) => {
                let (parent, name) = at(path);
                mount.mkdir(PROGRAM, parent, &name, 0o755).await.map(Some)
            }
            Deed::Remove(path) => {
                let (parent, name) = at(path);
                mount.unlink(parent, &name).await.map(|()| None)
            }
            Deed::Rmdir(path) => {
                let (parent, name) = at(path);
                mount.rmdir(parent, &name).await.map(|()| None)
            }
            Deed::Move(from, to) => {
                let ((parent, name), (new_parent, new_name)) = (at(from), at(to));
                let target = (new_parent, new_name.as_slice());
                let moved = mount.rename((parent, &name), target, RenameMode::Replace);
                moved.await.map(|()| None)
            }
            Deed::Chmod(path, mode) => {
                let inode = inode_of(&tree.borrow(), path);
                let new = NewAttributes {
                    change: AttributeChange {
                        mode: Some(*mode),
                        ..AttributeChange::default()
                    },
                    size: None,
                };
                let set = mount.set_attributes(PROGRAM, inode, new).await;
                set.map(|_| None)
            }
        }
    }

    async fn make_file(&mut self, mounted: &Mounted, tree: &SharedTree) {
        let deed = Deed::Make(self.new_path(tree));
        let Some(made) = self.carry_out(mounted, tree, deed).await else {
            return;
        };
        tree.borrow_mut()
            .contents
            .insert(made.inode, Content::default());
        self.write(mounted, tree, made.inode).await;
    }

    async fn append(&mut self, mounted: &Mounted, tree: &SharedTree) {
        let Some(path) = self.some(tree, |thing| thing.kind == InodeKind::File) else {
            return;
        };
        let inode = inode_of(&tree.borrow(), &path);
        match mounted.mount.open(inode).await {
            Ok(_) => self.write(mounted, tree, inode).await,
            Err(errno) => {
                self.judge(mounted, tree, &format!("open {path}"), errno)
                    .await
            }
        }
    }

    /// An error that faults explain, or the end of the session does.
    async fn judge(&self, mounted: &Mounted, tree: &SharedTree, what: &str, errno: i32) {
        let path = tree.borrow().path.clone();
        self.say(&format!("{path}: {what}: errno {errno}"));
        if self.is_alive(mounted, tree).await && errno != 5 && errno != 28 {
            self.wrong(&format!("{path}: {what}: errno {errno}"));
        }
    }

    /// Writes to the end of a file that is open, perhaps syncs it, and closes it.
    async fn write(&mut self, mounted: &Mounted, tree: &SharedTree, inode: u64) {
        let mount = &mounted.mount;
        let handle = mount.new_handle();
        mount.opened_as(inode, handle);
        let mut lossy = false;
        for _ in 0..self.rng.random_range(0..3) {
            let most = if self.rng.random_bool(0.9) {
                4_000
            } else {
                90_000
            };
            let mut bytes = vec![0; self.rng.random_range(1..most)];
            self.rng.fill_bytes(&mut bytes);
            let offset = {
                let since = self.models.power_loss_count();
                let mut tree = tree.borrow_mut();
                let content = tree.contents.entry(inode).or_default();
                let offset = content.model.content.len();
                content.append(&bytes, since);
                offset
            };
            let written = mount.write(inode, offset as u64, Bytes::from(bytes), false);
            if let Err(errno) = written.await {
                lossy = true;
                self.judge(mounted, tree, "write", errno).await;
            }
            if self.rng.random_bool(0.1) {
                sleep(Duration::from_millis(self.rng.random_range(0..200))).await;
            }
        }
        if self.rng.random_bool(0.25) {
            lossy |= !self.sync(mounted, tree, (inode, handle)).await;
        }
        if let Err(errno) = mount.flush_for(inode, handle, 0).await {
            lossy = true;
            self.judge(mounted, tree, "flush", errno).await;
        }
        if let Err(errno) = mount.release_for(inode, handle).await {
            lossy = true;
            self.judge(mounted, tree, "release", errno).await;
        }
        if lossy && let Some(content) = tree.borrow_mut().contents.get_mut(&inode) {
            content.lose();
        }
    }

    /// True if it is on disks.
    async fn sync(&self, mounted: &Mounted, tree: &SharedTree, file: (u64, u64)) -> bool {
        let (inode, handle) = file;
        let done = tree.borrow().states.acknowledged();
        if let Err(errno) = mounted.mount.sync_for(inode, handle).await {
            self.judge(mounted, tree, "fsync", errno).await;
            return false;
        }
        self.say(&format!("{}: fsync of {inode}", tree.borrow().path));
        let mut tree = tree.borrow_mut();
        self.expect(tree.keep(done, &[inode]));
        if let Some(content) = tree.contents.get_mut(&inode) {
            let losses = self.models.power_losses.borrow();
            content.model.synced(&losses);
        }
        true
    }

    /// All that was done is told, and what was closed is stored. False if something may be lost, and that is told once.
    async fn sync_names(&self, mounted: &Mounted) -> bool {
        self.look_after_trees(mounted).await;
        let synced = mounted.mount.sync_names().await;
        self.say(&format!("sync: {synced:?}"));
        for tree in self.trees.iter().filter(|tree| !tree.borrow().over) {
            let mut tree = tree.borrow_mut();
            if synced.is_ok() {
                let (done, files) = (tree.states.acknowledged(), files_of(&tree));
                self.expect(tree.keep(done, &files));
            } else {
                tree.contents
                    .values_mut()
                    .for_each(|content| content.lose());
            }
        }
        synced.is_ok()
    }

    /// The holder itself sees what it has done.
    async fn look(&mut self, mounted: &Mounted, tree: &SharedTree) {
        let Some(path) = self.some(tree, |_| true) else {
            return;
        };
        let (directory, name) = split(&path);
        let parent = inode_of(&tree.borrow(), directory);
        let found = mounted.mount.lookup(parent, name.as_bytes()).await;
        if !self.is_alive(mounted, tree).await {
            return;
        }
        match found {
            Ok(found) => {
                let tree = tree.borrow();
                let known = tree.states.state().get(&path);
                let found = thing_of(&found);
                if known != Some(&found) {
                    let at = &tree.path;
                    self.wrong(&format!("{at}: {path} is {found:?}, not {known:?}"));
                }
            }
            Err(errno) => {
                self.judge(mounted, tree, &format!("look {path}"), errno)
                    .await
            }
        }
    }

    /// Names that everybody changes.
    async fn contend(&mut self, mounted: &Mounted) {
        let Some((path, inode)) = self.new_directory(mounted, "r").await else {
            return;
        };
        let round = Rc::new(RefCell::new(Round::new(path, inode)));
        self.held.rounds.borrow_mut().push(round.clone());
        let session = mounted.fs.session();
        let mut untold = Vec::new();
        for _ in 0..self.rng.random_range(6..30) {
            if self.stop.get() || !mounted.is_in(session).await {
                break;
            }
            let hand = Hand::Holder(&mounted.mount);
            untold.extend(act(&round, hand, &mut self.rng, &self.trace).await);
            if untold.len() >= UNTOLD_MAX
                && !self.settle(mounted, (session, &round), &mut untold).await
            {
                break;
            }
            let pause = self.rng.random_range(0..120);
            sleep(Duration::from_millis(pause)).await;
        }
        self.settle(mounted, (session, &round), &mut untold).await;
        round.borrow_mut().over = true;
    }

    /// Finds out whether calls were told; false if they may be lost.
    async fn settle(
        &self,
        mounted: &Mounted,
        (session, round): (u64, &Rc<RefCell<Round>>),
        untold: &mut Vec<usize>,
    ) -> bool {
        let told = self.sync_names(mounted).await && mounted.is_in(session).await;
        if !told {
            round.borrow_mut().doubt(untold);
        }
        untold.clear();
        told
    }
}

fn files_of(tree: &Tree) -> Vec<u64> {
    tree.contents.keys().copied().collect()
}

/// Of a path that its holder knows; "" is the tree itself.
fn inode_of(tree: &Tree, path: &str) -> u64 {
    match path {
        "" => tree.inode,
        path => tree.states.state().get(path).map_or(0, |thing| thing.inode),
    }
}

fn made_by(deed: &Deed) -> Option<&str> {
    match deed {
        Deed::Make(path) | Deed::Link(path, _) | Deed::Mkdir(path) => Some(path),
        _ => None,
    }
}

fn describe(deed: &Deed) -> String {
    match deed {
        Deed::Make(path) => format!("make {path}"),
        Deed::Link(path, _) => format!("link {path}"),
        Deed::Mkdir(path) => format!("mkdir {path}"),
        Deed::Remove(path) => format!("remove {path}"),
        Deed::Rmdir(path) => format!("rmdir {path}"),
        Deed::Move(from, to) => format!("move {from} to {to}"),
        Deed::Chmod(path, mode) => format!("chmod {path} {mode:o}"),
    }
}

/// The names after a step that works. What is made is known wholly when it is acknowledged.
fn after(state: &State, deed: &Deed) -> State {
    let mut next = state.clone();
    let new = |kind, target: &str| Thing {
        kind,
        inode: 0,
        mode: 0,
        target: target.to_owned(),
    };
    match deed {
        Deed::Make(path) => drop(next.insert(path.clone(), new(InodeKind::File, ""))),
        Deed::Link(path, target) => {
            next.insert(path.clone(), new(InodeKind::Symlink, target));
        }
        Deed::Mkdir(path) => drop(next.insert(path.clone(), new(InodeKind::Directory, ""))),
        Deed::Remove(path) | Deed::Rmdir(path) => drop(next.remove(path)),
        Deed::Move(from, to) => {
            if let Some(thing) = next.remove(from) {
                next.insert(to.clone(), thing);
            }
        }
        Deed::Chmod(path, mode) => {
            if let Some(thing) = next.get_mut(path) {
                thing.mode = *mode;
            }
        }
    }
    next
}
