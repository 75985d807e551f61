//! Listens to what others change, and has the kernel drop it: names, attributes and pages that nobody changes stay for long, and
//! what somebody changes is seen within moments.
//!
//! When changes were missed, or the cluster is not heard for [`SILENCE`], or the kernel takes as long to forget what it is told
//! to, it forgets everything and keeps nothing until changes are heard again.

use std::collections::BTreeSet;
use std::time::Duration;

use cairn_client::{Watch, WatchEvent, WatchOptions, WatchScope};
use cairn_protocol::messages::feed::{Change, ChangeKind, ChangeSet};
use tokio::time::{Instant, sleep, timeout};

use crate::caches::Forgotten;
use crate::fs::MountedFs;
use crate::told::{Key, Part, SETTLING};

/// So long the kernel may go on with what it has though the cluster is not heard: longer than an election takes.
const SILENCE: Duration = Duration::from_secs(5);
/// Pause before changes are asked for anew.
const PAUSE: Duration = Duration::from_millis(200);
/// So long changes of our own count as those of others after one whose outcome is unknown: it may be still to come.
const DOUBT: Duration = Duration::from_secs(600);
/// Most things that are told twice. Beyond that everything is forgotten, which tells them, too.
const AGAIN_MAX: usize = 65_536;

/// What is to be told again.
#[derive(Debug, Default)]
struct Again(Vec<(Instant, Forgotten)>);

impl Again {
    fn due(&mut self, now: Instant) -> Vec<Forgotten> {
        let count = self.0.iter().take_while(|(at, _)| *at <= now).count();
        self.0.drain(..count).map(|(_, what)| what).collect()
    }
}

/// What others have changed, as the kernel knows things.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changed {
    attributes: BTreeSet<u64>,
    pages: BTreeSet<u64>,
    names: BTreeSet<(u64, Box<[u8]>)>,
    /// Directories in which any name may have changed.
    all_names: BTreeSet<u64>,
}

impl Changed {
    fn of(sets: &[ChangeSet]) -> Self {
        let mut changed = Self::default();
        for change in sets.iter().flat_map(|set| &set.changes) {
            changed.add(change);
        }
        changed
    }

    fn add(&mut self, change: &Change) {
        match ChangeKind::try_from(change.kind) {
            Ok(ChangeKind::Attributes) => drop(self.attributes.insert(change.inode)),
            Ok(ChangeKind::Named | ChangeKind::Unnamed) => {
                self.attributes.insert(change.inode);
                self.attributes.insert(change.parent);
                if change.name.is_empty() {
                    self.all_names.insert(change.parent);
                } else {
                    self.names.insert((change.parent, change.name[..].into()));
                }
            }
            // What a newer namenode tells may be anything.
            Ok(ChangeKind::Content | ChangeKind::Gone | ChangeKind::Unspecified) | Err(_) => {
                self.attributes.insert(change.inode);
                self.pages.insert(change.inode);
            }
        }
    }

    fn keys(&self) -> Vec<Key> {
        let attributes = self.attributes.iter().map(|&inode| Key::attributes(inode));
        let pages = self.pages.iter().map(|&inode| Key::pages(inode));
        let names = self
            .names
            .iter()
            .map(|(directory, name)| Key::name(*directory, name));
        let all_names = self
            .all_names
            .iter()
            .map(|&directory| Key::any_name(directory));
        attributes
            .chain(pages)
            .chain(names)
            .chain(all_names)
            .collect()
    }
}

impl MountedFs {
    /// Listens for as long as it runs.
    pub async fn follow_changes(&self) {
        let mut doubted_at: Option<Instant> = None;
        loop {
            if self.told.take_doubt() {
                doubted_at = Some(Instant::now());
            }
            let options = WatchOptions {
                scope: WatchScope::All,
                others_only: doubted_at.is_none_or(|at| at.elapsed() > DOUBT),
            };
            match self.fs.watch(options).await {
                Ok(watch) => {
                    self.told.hear(watch.index());
                    // What was read of them since everything was forgotten may have changed before this watch began.
                    if self.forget_in_time(self.open_files()).await {
                        self.listen(watch).await;
                    }
                    tracing::info!("changes of others were missed: the kernel forgets everything");
                    self.caches.forget(self.everything()).await;
                    self.forget_again().await;
                }
                Err(error) => tracing::debug!(%error, "changes of others are not heard"),
            }
            sleep(PAUSE).await;
        }
    }

    /// True if changes of this mount's own may come of which it is told nothing, and the kernel keeps something nevertheless:
    /// until it hears changes anew.
    pub fn is_in_doubt(&self) -> bool {
        self.told.is_doubted()
    }

    /// Forgets what is known here of all open files; returns what the kernel has to.
    fn open_files(&self) -> Vec<Forgotten> {
        let forget = self.inodes.files().into_iter().map(|file| {
            let inode = file.inode().0;
            if self.behind.attributes(inode).is_none() {
                file.invalidate();
            }
            Forgotten::Pages { inode, from: 0 }
        });
        forget.collect()
    }

    /// Everything that the kernel may have: nothing is heard any more, and it keeps nothing from now on.
    fn everything(&self) -> Vec<Forgotten> {
        let told = self.told.lose();
        let mut everything = self.open_files();
        everything.extend(told.into_iter().map(all_of));
        everything
    }

    /// What the kernel may have taken after it was told to forget everything.
    async fn forget_again(&self) {
        let lately = self.told.take_lost_lately();
        if !lately.is_empty() {
            sleep(SETTLING).await;
            let lately = lately.into_iter().map(all_of).collect();
            self.caches.forget(lately).await;
        }
    }

    /// False if the kernel is held up: by then it has forgotten everything, and changes may have been missed meanwhile.
    async fn forget_in_time(&self, forget: Vec<Forgotten>) -> bool {
        let late = || {
            // What is in the way may be a change of this mount that waits for another mount, which waits for a directory of ours.
            // Nobody hears of that meanwhile, and nothing more is delegated until somebody does.
            self.behind.want_back();
            self.everything()
        };
        let forgotten = self.caches.forget_within(forget, SILENCE, late);
        forgotten.await
    }

    /// Returns when changes were missed, or may be.
    async fn listen(&self, mut watch: Watch) {
        let mut again = Again::default();
        while let Ok(Ok(WatchEvent::Changes(sets))) = timeout(SILENCE, watch.next()).await {
            let mut forget = again.due(Instant::now());
            if !sets.is_empty() {
                forget.extend(self.note_changes(&sets, &mut again));
            }
            if again.0.len() > AGAIN_MAX {
                return;
            }
            forget.extend(self.told.make_room().into_iter().map(all_of));
            if !self.forget_in_time(forget).await {
                return;
            }
            self.told.reach(watch.index());
            if self.told.is_doubted() || self.told.take_mistake() {
                return;
            }
        }
    }

    /// Makes this mount forget what has changed; returns what the kernel has to.
    fn note_changes(&self, sets: &[ChangeSet], again: &mut Again) -> Vec<Forgotten> {
        let changed = Changed::of(sets);
        for &inode in &changed.pages {
            // Nobody else changes what is this mount's own.
            if self.behind.attributes(inode).is_none() {
                self.inodes.invalidate(inode);
            }
        }
        // Nobody else changes a delegated directory: whoever is said to waits for it.
        self.behind.wanted(&changed.attributes);
        let told = self.told.note(&changed.keys());
        let now = Instant::now();
        let mut forget = Vec::with_capacity(told.len());
        for (key, at) in told {
            let what = all_of(key);
            if now < at + SETTLING {
                again.0.push((now + SETTLING, what.clone()));
            }
            forget.push(what);
        }
        for &directory in &changed.all_names {
            forget.extend(self.told.names_in(directory).into_iter().map(all_of));
        }
        // Whatever is open may be in the kernel's cache, however it was opened.
        let open = changed
            .pages
            .iter()
            .filter(|&&inode| self.inodes.file(inode).is_some());
        forget.extend(open.map(|&inode| Forgotten::Pages { inode, from: 0 }));
        forget
    }
}

/// What the kernel must forget so that it does not have this.
fn all_of(key: Key) -> Forgotten {
    let Key { inode, part } = key;
    match part {
        Part::Attributes => Forgotten::Attributes { inode },
        Part::Pages => Forgotten::Pages { inode, from: 0 },
        // It is never told that of a directory.
        Part::AnyName => Forgotten::Attributes { inode },
        Part::Name(name) => Forgotten::Name {
            parent: inode,
            name,
        },
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cairn_protocol::messages::feed::{Change, ChangeKind, ChangeSet};

    use super::Changed;

    fn change(inode: u64, parent: u64, kind: ChangeKind, name: &'static str) -> Change {
        Change {
            inode,
            inode_kind: 1,
            parent,
            kind: kind as i32,
            name: Bytes::from_static(name.as_bytes()),
            ..Change::default()
        }
    }

    #[test]
    fn a_name_that_changes_takes_attributes_with_it() {
        let changes = vec![
            change(5, 1, ChangeKind::Unnamed, "a"),
            change(5, 2, ChangeKind::Named, "b"),
            change(6, 3, ChangeKind::Content, ""),
            change(7, 3, ChangeKind::Attributes, ""),
            // In a directory that may not be read.
            change(8, 4, ChangeKind::Named, ""),
        ];
        let set = ChangeSet {
            index: 1,
            session: 9,
            changes,
        };
        let changed = Changed::of(&[set]);
        assert_eq!(changed.keys().len(), 7 + 1 + 2 + 1);
        assert_eq!(Vec::from_iter(changed.attributes), [1, 2, 4, 5, 6, 7, 8]);
        assert_eq!(Vec::from_iter(changed.pages), [6]);
        let names = [(1, Box::from(&b"a"[..])), (2, Box::from(&b"b"[..]))];
        assert_eq!(Vec::from_iter(changed.names), names);
        assert_eq!(Vec::from_iter(changed.all_names), [4]);
    }

    #[test]
    fn what_is_not_understood_may_be_anything() {
        let mut strange = change(5, 1, ChangeKind::Gone, "");
        strange.kind = 99;
        let changed = Changed::of(&[ChangeSet {
            index: 1,
            session: 9,
            changes: vec![strange],
        }]);
        assert_eq!(Vec::from_iter(changed.pages), [5]);
    }
}
