//! A file system in memory, as simple as possible: what the namespace must agree with, step by step.

use std::collections::BTreeMap;

use cairn_protocol::ErrorCode::{
    self, AlreadyExists, InvalidArgument, IsADirectory, NotADirectory, NotEmpty, NotFound,
    NotPermitted, PermissionDenied, TooManyLinks,
};
use cairn_protocol::messages::common::{Caller, InodeKind};
use cairn_protocol::messages::operation::{IfExists, RenameMode};

type Id = u64;
type Done = Result<(), ErrorCode>;
const ROOT: Id = 1;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub kind: InodeKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: u64,
    pub target: String,
    pub parent: Id,
    pub entries: BTreeMap<String, Id>,
}

impl Node {
    fn is_dir(&self) -> bool {
        self.kind == InodeKind::Directory
    }
}

enum Spot {
    Here(Id),
    Name {
        dir: Id,
        name: String,
        child: Option<Id>,
        slash: bool,
    },
}

#[derive(Clone)]
pub(super) struct Reference {
    pub nodes: BTreeMap<Id, Node>,
    next: Id,
}

impl Reference {
    pub fn new(mode: u32) -> Self {
        let root = Node {
            kind: InodeKind::Directory,
            mode,
            uid: 0,
            gid: 0,
            nlink: 2,
            size: 0,
            target: String::new(),
            parent: ROOT,
            entries: BTreeMap::new(),
        };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
        }
    }

    fn may(&self, who: &Caller, id: Id, mask: u32) -> bool {
        let node = &self.nodes[&id];
        let bits = if who.uid == node.uid {
            node.mode >> 6
        } else if who.gid == node.gid || who.groups.contains(&node.gid) {
            node.mode >> 3
        } else {
            node.mode
        };
        // Only directories are ever asked about execution here.
        who.uid == 0 || bits & mask == mask
    }

    fn walk(
        &self,
        who: &Caller,
        start: Id,
        path: &str,
        follow: bool,
        links: u32,
    ) -> Result<Spot, ErrorCode> {
        let mut at = if path.starts_with('/') { ROOT } else { start };
        let parts: Vec<&str> = path
            .split('/')
            .filter(|part| !matches!(*part, "" | "."))
            .collect();
        let slash = path.ends_with('/') || path.ends_with("/.");
        for (index, part) in parts.iter().enumerate() {
            let rest = &parts[index + 1..];
            if !self.nodes[&at].is_dir() {
                return Err(NotADirectory);
            }
            if !self.may(who, at, 1) {
                return Err(PermissionDenied);
            }
            if *part == ".." {
                at = self.nodes[&at].parent;
                continue;
            }
            let child = self.nodes[&at].entries.get(*part).copied();
            let last = rest.is_empty();
            if let Some(id) = child
                && self.nodes[&id].kind == InodeKind::Symlink
                && (follow || !last)
            {
                if links == 40 {
                    return Err(TooManyLinks);
                }
                let mut path = [&[self.nodes[&id].target.as_str()], rest]
                    .concat()
                    .join("/");
                if slash {
                    path.push('/');
                }
                return self.walk(who, at, &path, follow, links + 1);
            }
            if last {
                return Ok(Spot::Name {
                    dir: at,
                    name: (*part).into(),
                    child,
                    slash,
                });
            }
            at = child.ok_or(NotFound)?;
        }
        Ok(Spot::Here(at))
    }

    pub fn find(&self, who: &Caller, path: &str, follow: bool) -> Result<Id, ErrorCode> {
        let follow = follow || path.ends_with('/') || path.ends_with("/.");
        match self.walk(who, ROOT, path, follow, 0)? {
            Spot::Here(id) => Ok(id),
            Spot::Name { child, slash, .. } => {
                let id = child.ok_or(NotFound)?;
                if slash && !self.nodes[&id].is_dir() {
                    Err(NotADirectory)
                } else {
                    Ok(id)
                }
            }
        }
    }

    fn name(
        &self,
        who: &Caller,
        path: &str,
        unnamed: ErrorCode,
    ) -> Result<(Id, String, Option<Id>, bool), ErrorCode> {
        match self.walk(who, ROOT, path, false, 0)? {
            Spot::Here(_) => Err(unnamed),
            Spot::Name {
                dir,
                name,
                child,
                slash,
            } => Ok((dir, name, child, slash)),
        }
    }

    fn may_add(&self, who: &Caller, dir: Id) -> Done {
        if self.may(who, dir, 3) {
            Ok(())
        } else {
            Err(PermissionDenied)
        }
    }

    fn may_remove(&self, who: &Caller, dir: Id, child: Id) -> Done {
        self.may_add(who, dir)?;
        let sticky = self.nodes[&dir].mode & 0o1000 != 0 && who.uid != 0;
        let owner = [self.nodes[&dir].uid, self.nodes[&child].uid].contains(&who.uid);
        if sticky && !owner {
            Err(NotPermitted)
        } else {
            Ok(())
        }
    }

    fn set(&mut self, dir: Id, name: &str, child: Id) {
        self.unset(dir, name);
        if self.nodes[&child].is_dir() {
            self.node(dir).nlink += 1;
            self.node(child).parent = dir;
        }
        self.node(dir).entries.insert(name.into(), child);
    }

    fn unset(&mut self, dir: Id, name: &str) {
        if let Some(old) = self.node(dir).entries.remove(name)
            && self.nodes[&old].is_dir()
        {
            self.node(dir).nlink -= 1;
        }
    }

    /// An inode lost a name.
    fn drop_name(&mut self, id: Id) {
        let node = self.node(id);
        node.nlink = if node.is_dir() { 0 } else { node.nlink - 1 };
        if node.nlink == 0 {
            self.nodes.remove(&id);
        }
    }

    pub fn node(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    fn make(&mut self, who: &Caller, dir: Id, name: &str, kind: InodeKind, mode: u32) -> Id {
        let setgid = self.nodes[&dir].mode & 0o2000 != 0;
        let gid = if setgid {
            self.nodes[&dir].gid
        } else {
            who.gid
        };
        let mut mode = mode;
        if setgid && kind == InodeKind::Directory {
            mode |= 0o2000;
        } else if setgid && who.uid != 0 && gid != who.gid && !who.groups.contains(&gid) {
            mode &= if mode & 0o010 != 0 { !0o2000 } else { !0 };
        }
        let id = self.next;
        self.next += 1;
        let nlink = if kind == InodeKind::Directory { 2 } else { 1 };
        let (target, entries) = (String::new(), BTreeMap::new());
        let uid = who.uid;
        let node = Node {
            kind,
            mode,
            uid,
            gid,
            nlink,
            size: 0,
            target,
            parent: dir,
            entries,
        };
        self.nodes.insert(id, node);
        self.set(dir, name, id);
        id
    }

    pub fn mkdir(&mut self, who: &Caller, path: &str, mode: u32) -> Done {
        let (dir, name, child, _) = self.name(who, path, AlreadyExists)?;
        if child.is_some() {
            return Err(AlreadyExists);
        }
        self.may_add(who, dir)?;
        self.make(who, dir, &name, InodeKind::Directory, mode);
        Ok(())
    }

    pub fn create(&mut self, who: &Caller, path: &str, mode: u32, if_exists: IfExists) -> Done {
        let follow = matches!(if_exists, IfExists::Open | IfExists::Truncate);
        let (dir, name, child, slash) = match self.walk(who, ROOT, path, follow, 0)? {
            Spot::Name {
                dir,
                name,
                child,
                slash,
            } => (dir, name, child, slash),
            Spot::Here(_) if if_exists == IfExists::Fail => return Err(AlreadyExists),
            Spot::Here(_) => return Err(IsADirectory),
        };
        let Some(old) = child else {
            if slash {
                return Err(IsADirectory);
            }
            self.may_add(who, dir)?;
            self.make(who, dir, &name, InodeKind::File, mode);
            return Ok(());
        };
        let (old_is_dir, wants_dir) = (self.nodes[&old].is_dir(), slash);
        match if_exists {
            IfExists::Fail => return Err(AlreadyExists),
            IfExists::Replace => {
                if wants_dir && !old_is_dir {
                    return Err(NotADirectory);
                }
                self.may_remove(who, dir, old)?;
                if old_is_dir {
                    return Err(IsADirectory);
                }
                self.drop_name(old);
                self.node(dir).entries.remove(&name);
                self.make(who, dir, &name, InodeKind::File, mode);
            }
            _ if old_is_dir => return Err(IsADirectory),
            _ if wants_dir => return Err(NotADirectory),
            IfExists::Open => {}
            IfExists::Truncate => return self.write(who, old, 0),
        }
        Ok(())
    }

    fn write(&mut self, who: &Caller, id: Id, size: u64) -> Done {
        if self.nodes[&id].is_dir() {
            return Err(IsADirectory);
        }
        if self.nodes[&id].kind != InodeKind::File {
            return Err(InvalidArgument);
        }
        if !self.may(who, id, 2) {
            return Err(PermissionDenied);
        }
        if who.uid != 0 {
            self.clear_set_ids(id);
        }
        self.node(id).size = size;
        Ok(())
    }

    fn clear_set_ids(&mut self, id: Id) {
        let node = self.node(id);
        node.mode &= if node.mode & 0o010 != 0 {
            !0o6000
        } else {
            !0o4000
        };
    }

    pub fn truncate(&mut self, who: &Caller, path: &str, size: u64) -> Done {
        let id = self.find(who, path, true)?;
        self.write(who, id, size)
    }

    pub fn symlink(&mut self, who: &Caller, target: &str, path: &str) -> Done {
        let (dir, name, child, slash) = self.name(who, path, AlreadyExists)?;
        if child.is_some() {
            return Err(AlreadyExists);
        }
        if slash {
            return Err(NotFound);
        }
        self.may_add(who, dir)?;
        let id = self.make(who, dir, &name, InodeKind::Symlink, 0o777);
        self.node(id).target = target.into();
        Ok(())
    }

    pub fn link(&mut self, who: &Caller, source: &str, path: &str, replace: bool) -> Done {
        let id = self.find(who, source, false)?;
        let (dir, name, child, slash) = self.name(who, path, AlreadyExists)?;
        if child.is_some() && !replace {
            return Err(AlreadyExists);
        }
        if slash {
            return Err(NotFound);
        }
        self.may_add(who, dir)?;
        if self.nodes[&id].is_dir() {
            return Err(NotPermitted);
        }
        if child == Some(id) {
            return Ok(());
        }
        if let Some(old) = child {
            self.may_remove(who, dir, old)?;
            if self.nodes[&old].is_dir() {
                return Err(IsADirectory);
            }
            self.unset(dir, &name);
            self.drop_name(old);
        }
        self.node(id).nlink += 1;
        self.set(dir, &name, id);
        Ok(())
    }

    pub fn unlink(&mut self, who: &Caller, path: &str) -> Done {
        let (dir, name, child, slash) = self.name(who, path, IsADirectory)?;
        let id = child.ok_or(NotFound)?;
        if slash && !self.nodes[&id].is_dir() {
            return Err(NotADirectory);
        }
        self.may_remove(who, dir, id)?;
        if self.nodes[&id].is_dir() {
            return Err(IsADirectory);
        }
        self.unset(dir, &name);
        self.drop_name(id);
        Ok(())
    }

    pub fn rmdir(&mut self, who: &Caller, path: &str) -> Done {
        let (dir, name, child, _) = self.name(who, path, InvalidArgument)?;
        let id = child.ok_or(NotFound)?;
        self.may_remove(who, dir, id)?;
        if !self.nodes[&id].is_dir() {
            return Err(NotADirectory);
        }
        if !self.nodes[&id].entries.is_empty() {
            return Err(NotEmpty);
        }
        self.unset(dir, &name);
        self.drop_name(id);
        Ok(())
    }

    pub fn remove_tree(&mut self, who: &Caller, path: &str) -> Done {
        let (dir, name, child, slash) = self.name(who, path, NotPermitted)?;
        let id = child.ok_or(NotFound)?;
        if slash && !self.nodes[&id].is_dir() {
            return Err(NotADirectory);
        }
        self.may_remove(who, dir, id)?;
        self.unset(dir, &name);
        self.drop_below(id);
        Ok(())
    }

    fn drop_below(&mut self, id: Id) {
        let entries = std::mem::take(&mut self.node(id).entries);
        for child in entries.into_values() {
            self.drop_below(child);
        }
        self.drop_name(id);
    }

    fn is_within(&self, mut id: Id, top: Id) -> bool {
        while id != top && id != ROOT {
            id = self.nodes[&id].parent;
        }
        id == top
    }

    pub fn rename(&mut self, who: &Caller, from: &str, to: &str, mode: RenameMode) -> Done {
        let (dir, name, child, slash) = self.name(who, from, InvalidArgument)?;
        let (new_dir, new_name, existing, new_slash) = self.name(who, to, InvalidArgument)?;
        let id = child.ok_or(NotFound)?;
        match (mode, existing) {
            (RenameMode::NoReplace, Some(_)) => return Err(AlreadyExists),
            (RenameMode::Exchange, None) => return Err(NotFound),
            _ => {}
        }
        let is_dir = self.nodes[&id].is_dir();
        let exchange = mode == RenameMode::Exchange;
        let old_is_dir = existing.map(|old| self.nodes[&old].is_dir());
        let fits = if exchange {
            old_is_dir == Some(true)
        } else {
            is_dir
        };
        if (slash && !is_dir) || (new_slash && !fits) {
            return Err(NotADirectory);
        }
        if is_dir && dir != new_dir && self.is_within(new_dir, id) {
            return Err(InvalidArgument);
        }
        if let Some(old) = existing
            && dir != new_dir
            && old_is_dir == Some(true)
            && self.is_within(dir, old)
        {
            return Err(if exchange { InvalidArgument } else { NotEmpty });
        }
        if existing == Some(id) {
            return Ok(());
        }
        self.may_remove(who, dir, id)?;
        match existing {
            Some(old) => self.may_remove(who, new_dir, old)?,
            None => self.may_add(who, new_dir)?,
        }
        match old_is_dir {
            Some(false) if is_dir && !exchange => return Err(NotADirectory),
            Some(true) if !is_dir && !exchange => return Err(IsADirectory),
            _ => {}
        }
        let moves = dir != new_dir;
        if moves && is_dir && !self.may(who, id, 2) {
            return Err(PermissionDenied);
        }
        if let Some(old) = existing {
            if exchange && moves && old_is_dir == Some(true) && !self.may(who, old, 2) {
                return Err(PermissionDenied);
            }
            if !exchange && !self.nodes[&old].entries.is_empty() {
                return Err(NotEmpty);
            }
        }
        self.unset(dir, &name);
        if let Some(old) = existing {
            self.unset(new_dir, &new_name);
            if exchange {
                self.set(dir, &name, old)
            } else {
                self.drop_name(old)
            }
        }
        self.set(new_dir, &new_name, id);
        Ok(())
    }

    pub fn chmod(&mut self, who: &Caller, path: &str, mode: u32) -> Done {
        let id = self.find(who, path, true)?;
        let node = self.node(id);
        if who.uid != 0 && who.uid != node.uid {
            return Err(NotPermitted);
        }
        node.mode = mode;
        if who.uid != 0 && who.gid != node.gid && !who.groups.contains(&node.gid) {
            node.mode &= !0o2000;
        }
        Ok(())
    }

    pub fn chown(&mut self, who: &Caller, path: &str, uid: Option<u32>, gid: Option<u32>) -> Done {
        let id = self.find(who, path, false)?;
        let node = self.nodes[&id].clone();
        let owner = who.uid == node.uid;
        let uid_fine = uid.is_none_or(|uid| owner && uid == node.uid);
        let gid_fine = gid.is_none_or(|gid| {
            owner && (gid == node.gid || gid == who.gid || who.groups.contains(&gid))
        });
        if who.uid != 0 && !(uid_fine && gid_fine) {
            return Err(NotPermitted);
        }
        if uid.is_some() || gid.is_some() {
            if !node.is_dir() {
                self.clear_set_ids(id);
            }
            self.node(id).uid = uid.unwrap_or(node.uid);
            self.node(id).gid = gid.unwrap_or(node.gid);
        }
        Ok(())
    }
}
