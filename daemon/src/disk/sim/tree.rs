//! The simulated directories: names as processes see them, names that would survive power loss, and the operations
//! between the two that nobody has synced yet.
//!
//! A crash keeps a random subset of those operations in which the operations on any one name are a prefix (a journal
//! never reorders what depends on each other), and a rename is kept or lost as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

use rand::{Rng, RngCore};

use super::file::SimFile;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(u64);

/// A name in a directory.
type Name = (NodeId, String);

#[derive(Clone, Debug)]
enum DirOp {
    Link { name: Name, node: NodeId },
    Unlink { name: Name },
    Rename { from: Name, to: Name, node: NodeId },
}

#[derive(Debug)]
pub(super) struct FileNode {
    pub(super) file: SimFile,
    /// Open handles; an unlinked file lives until the last one closes.
    pub(super) handle_count: u64,
    linked: bool,
}

#[derive(Debug)]
enum Node {
    Dir,
    File(Box<FileNode>),
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    next_node: u64,
    current: BTreeMap<Name, NodeId>,
    durable: BTreeMap<Name, NodeId>,
    pending: Vec<DirOp>,
}

const ROOT: NodeId = NodeId(0);

impl DirOp {
    fn names(&self) -> impl Iterator<Item = &Name> {
        let (first, second) = match self {
            DirOp::Link { name, .. } | DirOp::Unlink { name } => (name, None),
            DirOp::Rename { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }

    fn apply(&self, names: &mut BTreeMap<Name, NodeId>) {
        match self {
            DirOp::Link { name, node } => {
                names.insert(name.clone(), *node);
            }
            DirOp::Unlink { name } => {
                names.remove(name);
            }
            DirOp::Rename { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

fn os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Tree {
    pub(super) fn new() -> Tree {
        Tree {
            nodes: BTreeMap::from([(ROOT, Node::Dir)]),
            next_node: 1,
            current: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    fn components(path: &Path) -> io::Result<Vec<&str>> {
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => {
                    names.push(name.to_str().ok_or_else(|| os_error(libc::EINVAL))?);
                }
                Component::ParentDir | Component::Prefix(_) => return Err(os_error(libc::EINVAL)),
            }
        }
        Ok(names)
    }

    /// The path with one spelling, for tables by path.
    pub(super) fn normal(path: &Path) -> io::Result<String> {
        Ok(Tree::components(path)?.join("/"))
    }

    fn walk(&self, names: &[&str]) -> io::Result<NodeId> {
        let mut node = ROOT;
        for name in names {
            self.expect_dir(node)?;
            let key = (node, (*name).to_owned());
            node = *self
                .current
                .get(&key)
                .ok_or_else(|| os_error(libc::ENOENT))?;
        }
        Ok(node)
    }

    fn expect_dir(&self, node: NodeId) -> io::Result<()> {
        match self.nodes.get(&node) {
            Some(Node::Dir) => Ok(()),
            _ => Err(os_error(libc::ENOTDIR)),
        }
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<NodeId> {
        self.walk(&Tree::components(path)?)
    }

    /// The file at `path`; `EISDIR` for a directory.
    pub(super) fn find_file(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.find(path)?;
        match self.nodes.get(&node) {
            Some(Node::File(_)) => Ok(node),
            _ => Err(os_error(libc::EISDIR)),
        }
    }

    pub(super) fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn name(&self, path: &Path) -> io::Result<Name> {
        let components = Tree::components(path)?;
        let (last, parents) = components
            .split_last()
            .ok_or_else(|| os_error(libc::EINVAL))?;
        let dir = self.walk(parents)?;
        self.expect_dir(dir)?;
        Ok((dir, (*last).to_owned()))
    }

    fn add(&mut self, name: Name, node: Node) -> NodeId {
        let id = NodeId(self.next_node);
        self.next_node += 1;
        self.nodes.insert(id, node);
        self.record(DirOp::Link { name, node: id });
        id
    }

    fn record(&mut self, op: DirOp) {
        op.apply(&mut self.current);
        self.pending.push(op);
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<NodeId> {
        let name = self.name(path)?;
        if self.current.contains_key(&name) {
            return Err(os_error(libc::EEXIST));
        }
        let node = FileNode {
            file: SimFile::default(),
            handle_count: 0,
            linked: true,
        };
        Ok(self.add(name, Node::File(Box::new(node))))
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut dir = ROOT;
        for component in Tree::components(path)? {
            let name = (dir, component.to_owned());
            dir = match self.current.get(&name) {
                Some(&node) => {
                    self.expect_dir(node)?;
                    node
                }
                None => self.add(name, Node::Dir),
            };
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.name(from)?, self.name(to)?);
        let node = *self
            .current
            .get(&from)
            .ok_or_else(|| os_error(libc::ENOENT))?;
        if from == to {
            return Ok(());
        }
        let replaced = self.current.get(&to).copied();
        match (
            self.nodes.get(&node),
            replaced.and_then(|node| self.nodes.get(&node)),
        ) {
            (_, None) | (Some(Node::File(_)), Some(Node::File(_))) => {}
            (_, Some(Node::Dir)) => return Err(os_error(libc::EISDIR)),
            (_, Some(Node::File(_))) => return Err(os_error(libc::ENOTDIR)),
        }
        self.record(DirOp::Rename { from, to, node });
        if let Some(replaced) = replaced {
            self.unlinked(replaced);
        }
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let node = self.find_file(path)?;
        let name = self.name(path)?;
        self.record(DirOp::Unlink { name });
        self.unlinked(node);
        Ok(())
    }

    fn unlinked(&mut self, node: NodeId) {
        if let Some(Node::File(file)) = self.nodes.get_mut(&node) {
            file.linked = false;
        }
        self.forget_if_unused(node);
    }

    /// Frees a file that no process and no crash can bring back.
    pub(super) fn forget_if_unused(&mut self, id: NodeId) {
        let Some(Node::File(file)) = self.nodes.get(&id) else {
            return;
        };
        let reachable = file.linked
            || file.handle_count > 0
            || self.durable.values().any(|node| *node == id)
            || self.pending.iter().any(|op| match op {
                DirOp::Link { node, .. } | DirOp::Rename { node, .. } => *node == id,
                DirOp::Unlink { .. } => false,
            });
        if !reachable {
            self.nodes.remove(&id);
        }
    }

    /// Names, file lengths (`None` for directories) of a directory in order.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<(String, Option<u64>)>> {
        let dir = self.find(path)?;
        self.expect_dir(dir)?;
        let entries = self.current.range((dir, String::new())..);
        let entries = entries.take_while(|((parent, _), _)| *parent == dir);
        Ok(entries
            .map(|((_, name), node)| {
                let len = match self.nodes.get(node) {
                    Some(Node::File(node)) => Some(node.file.len() as u64),
                    _ => None,
                };
                (name.clone(), len)
            })
            .collect())
    }

    /// Makes the operations on a directory's names durable, with the earlier ones that they build on.
    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.find(path)?;
        self.expect_dir(dir)?;
        let mut needed: BTreeSet<Name> = BTreeSet::new();
        let (mut synced, mut waiting) = (Vec::new(), Vec::new());
        for op in std::mem::take(&mut self.pending).into_iter().rev() {
            if op
                .names()
                .any(|name| name.0 == dir || needed.contains(name))
            {
                needed.extend(op.names().cloned());
                synced.push(op);
            } else {
                waiting.push(op);
            }
        }
        waiting.reverse();
        self.pending = waiting;
        let mut replaced = Vec::new();
        for op in synced.iter().rev() {
            replaced.extend(
                op.names()
                    .filter_map(|name| self.durable.get(name).copied()),
            );
            if let DirOp::Link { node, .. } = op {
                // Its removal may be among the synced operations, too.
                replaced.push(*node);
            }
            op.apply(&mut self.durable);
        }
        for node in replaced {
            self.forget_if_unused(node);
        }
        Ok(())
    }

    pub(super) fn file(&self, node: NodeId) -> io::Result<&FileNode> {
        match self.nodes.get(&node) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(os_error(libc::ESTALE)),
        }
    }

    pub(super) fn file_mut(&mut self, node: NodeId) -> io::Result<&mut FileNode> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(os_error(libc::ESTALE)),
        }
    }

    /// Bytes in files that a process can still reach.
    pub(super) fn used_bytes(&self) -> u64 {
        let files = self.nodes.values().filter_map(|node| match node {
            Node::File(node) if node.linked || node.handle_count > 0 => {
                Some(node.file.len() as u64)
            }
            _ => None,
        });
        files.sum()
    }

    /// All handles are gone; nothing else is lost.
    pub(super) fn close_all(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            if let Some(Node::File(file)) = self.nodes.get_mut(&id) {
                file.handle_count = 0;
            }
            self.forget_if_unused(id);
        }
    }

    /// Power loss: keeps what was synced and none (`None`) or a random part of the rest.
    pub(super) fn crash(&mut self, mut rng: Option<&mut dyn RngCore>) {
        let keep_all = rng.as_mut().is_some_and(|rng| rng.random_bool(0.25));
        let mut lost: BTreeSet<Name> = BTreeSet::new();
        for op in std::mem::take(&mut self.pending) {
            let keep = match &mut rng {
                None => false,
                Some(rng) => keep_all || rng.random_bool(0.5),
            };
            if keep && !op.names().any(|name| lost.contains(name)) {
                op.apply(&mut self.durable);
            } else {
                lost.extend(op.names().cloned());
            }
        }
        self.drop_unreachable();
        for node in self.nodes.values_mut() {
            if let Node::File(node) = node {
                node.handle_count = 0;
                node.linked = true;
                match &mut rng {
                    None => node.file.crash(None),
                    Some(rng) => node.file.crash(Some(&mut **rng)),
                }
            }
        }
    }

    fn drop_unreachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut queue = vec![ROOT];
        while let Some(dir) = queue.pop() {
            let entries = self.durable.range((dir, String::new())..);
            for (_, node) in entries.take_while(|((parent, _), _)| *parent == dir) {
                if reached.insert(*node) {
                    queue.push(*node);
                }
            }
        }
        self.nodes.retain(|id, _| reached.contains(id));
        self.durable.retain(|(dir, _), _| reached.contains(dir));
        self.current = self.durable.clone();
    }
}
