//! `dfs watch`: what changes in the cluster, as it happens.

mod names;

use std::ffi::OsString;
use std::io::Write;

use cairn_client::{WatchEvent, WatchOptions, WatchScope};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::InodeKind;
use cairn_protocol::messages::feed::{Change, ChangeKind, ChangeSet};
use clap::Args;
use serde_json::{Map, Value};

use super::no_slash;
use crate::output::{escape, is_directory, json_name, kind_name};
use crate::session::{Session, Usage, complain};
use names::Names;

/// Print what changes, one line for each change, until Ctrl-C.
///
/// A line is `created`, `removed`, `renamed`, `written` or `attributes`, and a path; of a file that was renamed two paths with
/// ` -> ` in between. A name that somebody else's rename took over is `removed` first. `lost` says that changes were missed,
/// which happens after long interruptions: look for yourself. "inode N" stands for what you may not see the path of, or
/// what is gone. That the watch has begun is said on standard error.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Everything below a directory, not only what lies in it.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// One JSON object on each line.
    #[arg(long)]
    json: bool,
    /// A directory or a file.
    path: OsString,
}

/// What one line is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Created(Change),
    Removed(Change),
    /// From the first name to the second.
    Renamed(Change, Change),
    Written(Change),
    Attributes(Change),
}

impl Watch {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        if self.path.is_empty() {
            return Usage::error("watch takes a path");
        }
        let path = session.path(&self.path)?;
        no_slash(session, &path).await.map_err(anyhow::Error::msg)?;
        let path = cairn_client::normalise(&path).unwrap_or(path);
        let attributes = session.fs.stat(&path).await?;
        let root = InodeId(attributes.inode);
        let scope = if self.recursive && is_directory(&attributes) {
            WatchScope::Below(root)
        } else {
            WatchScope::Inodes(vec![root])
        };
        let options = WatchOptions {
            scope,
            others_only: false,
        };
        let mut watch = session.fs.watch(options).await?;
        let mut names = Names::new(session.fs.clone(), root, path.clone());
        complain(format_args!("watching {}", escape(&path)));
        loop {
            match watch.next().await? {
                WatchEvent::Lost => {
                    names.forget();
                    self.print(session, "lost", None, &[])?;
                }
                WatchEvent::Changes(sets) => {
                    for event in sets.into_iter().flat_map(events) {
                        self.tell(session, &mut names, event).await?;
                    }
                }
            }
            session.out.flush()?;
        }
    }

    async fn tell(
        &self,
        session: &mut Session,
        names: &mut Names,
        event: Event,
    ) -> anyhow::Result<()> {
        let (word, change, paths) = match event {
            Event::Created(change) => {
                let path = names.named(&change).await;
                ("created", change, vec![path])
            }
            Event::Removed(change) => {
                let path = names.unnamed(&change).await;
                ("removed", change, vec![path])
            }
            Event::Renamed(from, to) => {
                let old = names.unnamed(&from).await;
                let new = names.named(&to).await;
                ("renamed", to, vec![old, new])
            }
            Event::Written(change) => {
                let path = names.path(&change).await;
                ("written", change, vec![path])
            }
            Event::Attributes(change) => {
                let path = names.path(&change).await;
                ("attributes", change, vec![path])
            }
        };
        self.print(session, word, Some(&change), &paths)
    }

    fn print(
        &self,
        session: &mut Session,
        word: &str,
        change: Option<&Change>,
        paths: &[Option<Vec<u8>>],
    ) -> anyhow::Result<()> {
        if self.json {
            let object = json(word, change, paths);
            writeln!(session.out, "{object}")?;
            return Ok(());
        }
        let inode = change.map_or(0, |change| change.inode);
        let shown = paths.iter().map(|path| match path {
            Some(path) => escape(path),
            None => format!("inode {inode}"),
        });
        let line: Vec<String> = shown.collect();
        let gap = if line.is_empty() { "" } else { " " };
        writeln!(session.out, "{word}{gap}{}", line.join(" -> "))?;
        Ok(())
    }
}

fn json(word: &str, change: Option<&Change>, paths: &[Option<Vec<u8>>]) -> Value {
    let mut object = Map::new();
    object.insert("event".to_owned(), word.into());
    let keys: &[&str] = match paths.len() {
        2 => &["from", "path"],
        _ => &["path"],
    };
    for (key, path) in keys.iter().zip(paths) {
        if let Some(path) = path {
            json_name(&mut object, key, path);
        }
    }
    if let Some(change) = change {
        object.insert("inode".to_owned(), change.inode.into());
        let kind = InodeKind::try_from(change.inode_kind).unwrap_or_default();
        object.insert("kind".to_owned(), kind_name(kind).into());
    }
    Value::Object(object)
}

/// What a set means to people: a name of an inode that goes and one that comes, in either order, are a rename.
fn events(set: ChangeSet) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for change in set.changes {
        match ChangeKind::try_from(change.kind) {
            Ok(ChangeKind::Named) => {
                let removed = events.iter().position(
                    |event| matches!(event, Event::Removed(old) if old.inode == change.inode),
                );
                match removed.map(|at| events.remove(at)) {
                    Some(Event::Removed(old)) => events.push(Event::Renamed(old, change)),
                    _ => events.push(Event::Created(change)),
                }
            }
            Ok(ChangeKind::Unnamed) => {
                let created = events.iter().position(
                    |event| matches!(event, Event::Created(new) if is_other_name(new, &change)),
                );
                match created.map(|at| events.remove(at)) {
                    Some(Event::Created(new)) => events.push(Event::Renamed(change, new)),
                    _ => events.push(Event::Removed(change)),
                }
            }
            Ok(ChangeKind::Content) => events.push(Event::Written(change)),
            Ok(ChangeKind::Attributes) => events.push(Event::Attributes(change)),
            // Whatever lost its last name was said to be removed. What a newer cluster tells has no word here.
            Ok(ChangeKind::Gone | ChangeKind::Unspecified) | Err(_) => {}
        }
    }
    events
}

fn is_other_name(a: &Change, b: &Change) -> bool {
    a.inode == b.inode && (a.parent, &a.name) != (b.parent, &b.name)
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::feed::{Change, ChangeKind, ChangeSet};

    use super::{Event, events, json};

    fn change(inode: u64, kind: ChangeKind, name: &'static str) -> Change {
        Change {
            inode,
            inode_kind: 1,
            parent: 1,
            kind: kind as i32,
            name: name.into(),
            ..Change::default()
        }
    }

    #[test]
    fn a_name_that_goes_and_comes_is_a_rename_and_what_it_replaces_is_removed() {
        let (old, new) = (
            change(5, ChangeKind::Unnamed, "a"),
            change(5, ChangeKind::Named, "b"),
        );
        let replaced = change(6, ChangeKind::Unnamed, "b");
        let gone = change(6, ChangeKind::Gone, "");
        let set = ChangeSet {
            index: 1,
            session: 1,
            changes: vec![old.clone(), replaced.clone(), new.clone(), gone],
        };
        let expected = [Event::Removed(replaced), Event::Renamed(old, new)];
        assert_eq!(events(set), expected);
    }

    #[test]
    fn an_exchange_is_two_renames() {
        let (a_goes, b_takes_it) = (
            change(5, ChangeKind::Unnamed, "a"),
            change(6, ChangeKind::Named, "a"),
        );
        let (b_goes, a_takes_it) = (
            change(6, ChangeKind::Unnamed, "b"),
            change(5, ChangeKind::Named, "b"),
        );
        let set = ChangeSet {
            index: 1,
            session: 1,
            changes: vec![
                a_goes.clone(),
                b_takes_it.clone(),
                b_goes.clone(),
                a_takes_it.clone(),
            ],
        };
        let expected = [
            Event::Renamed(b_goes, b_takes_it),
            Event::Renamed(a_goes, a_takes_it),
        ];
        assert_eq!(events(set), expected);
    }

    #[test]
    fn lines_of_json_name_paths_that_are_known() {
        let change = change(5, ChangeKind::Named, "b");
        let paths = [Some(b"/a".to_vec()), Some(b"/b".to_vec())];
        assert_eq!(
            json("renamed", Some(&change), &paths).to_string(),
            r#"{"event":"renamed","from":"/a","inode":5,"kind":"regular file","path":"/b"}"#
        );
        let unknown = json("written", Some(&change), &[None]).to_string();
        assert_eq!(
            unknown,
            r#"{"event":"written","inode":5,"kind":"regular file"}"#
        );
        assert_eq!(json("lost", None, &[]).to_string(), r#"{"event":"lost"}"#);
    }
}
