//! What the kernel has been told and answers from by itself, and what others have changed lately. It decides how long the kernel
//! may keep an answer.
//!
//! Three things can cross: an answer is on its way from the cluster, others change what it says, and the kernel is told to forget.
//! An answer that was asked for before the change must not be kept after the kernel was told. So each request notes how
//! much had been heard when it asked ([`Told::asked`]), and says so when it answers; and no change is noted while an answer
//! is decided on and written ([`Told::answer`]). Either the answer then knows of the change and is not kept, or the
//! kernel has it before it is told to forget.

mod directories;
mod known;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use cairn_protocol::messages::common::Attributes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::directories::Directories;
pub(crate) use self::directories::{Effect, Remembered, attributes_after};
use self::known::Known;

/// An answer that was written so shortly before a change may reach the kernel's tables after the kernel was told of the change:
/// it is told once more when this has passed.
pub(crate) const SETTLING: Duration = Duration::from_secs(1);

/// Changes that are remembered for the answers that are on their way. Answers from before the oldest are not kept.
const RECENT_MAX: usize = 65_536;

/// Names and inodes that the kernel may keep: it takes about ten times this memory for them itself.
const TOLD_MAX: usize = 1 << 19;

/// What can be known of an inode. In order, so that all that is known of one is found together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Its attributes.
    Attributes,
    /// Its pages: of a file that was opened while changes were heard, and ever since.
    Pages,
    /// Any name in it: of changes whose name is not told.
    AnyName,
    /// What a name in it means, or that it means nothing.
    Name(Box<[u8]>),
}

/// Something that can change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) inode: u64,
    pub(crate) part: Part,
}

impl Key {
    pub(crate) fn attributes(inode: u64) -> Self {
        let part = Part::Attributes;
        Self { inode, part }
    }

    pub(crate) fn pages(inode: u64) -> Self {
        let part = Part::Pages;
        Self { inode, part }
    }

    pub(crate) fn any_name(directory: u64) -> Self {
        let (inode, part) = (directory, Part::AnyName);
        Self { inode, part }
    }

    pub(crate) fn name(directory: u64, name: &[u8]) -> Self {
        let (inode, part) = (directory, Part::Name(name.into()));
        Self { inode, part }
    }
}

/// What the kernel was told last.
#[derive(Clone, Copy, Debug)]
struct Telling {
    at: Instant,
    /// Of attributes: the version that they are of.
    version: u64,
}

/// How much had been heard of changes when a request asked the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked(u64);

/// See the module.
#[derive(Debug)]
pub(crate) struct Told {
    /// How long the kernel may keep what is watched over.
    keep: Duration,
    /// Read-locked while an answer is decided on and written, write-locked while changes are noted. Nobody waits under it.
    gate: RwLock<Gate>,
    /// As in the gate.
    noted: AtomicU64,
    /// What the kernel may have, and when it was last told. Taken under the gate or alone, for a look-up.
    told: Mutex<BTreeMap<Key, Telling>>,
    /// Names of others are added under the gate, write-locked. Taken under the gate or alone, for a look-up.
    known: Mutex<Known>,
    /// Taken under the gate or alone, for a look-up.
    directories: Mutex<Directories>,
    /// Changes up to this entry of the log have reached the kernel; `None` while nothing is heard.
    reached: watch::Sender<Option<u64>>,
    /// Something was heard, now or before.
    has_heard: AtomicBool,
    /// What the kernel was told within [`SETTLING`] before nothing was heard any more. Taken alone or after `told`.
    lost_lately: Mutex<Vec<Key>>,
    /// Changes of our own may happen that we were not told of.
    doubted: AtomicBool,
    /// The kernel was told what did not come to be.
    mistaken: AtomicBool,
}

#[derive(Debug, Default)]
struct Gate {
    /// Changes are heard of.
    live: bool,
    /// Counts what was noted.
    noted: u64,
    /// Changes noted after this are in `recent`.
    floor: u64,
    recent: BTreeMap<Key, Noted>,
    order: VecDeque<(u64, Key)>,
}

/// When something last changed.
#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    /// By anybody, this mount included.
    by_any: u64,
    by_others: u64,
}

/// Whose changes an answer must not be older than.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    All,
    /// The answer is that of our own change.
    Others,
}

impl Gate {
    fn unchanged(&self, asked: Asked, whose: Whose, key: &Key) -> bool {
        let noted = self.recent.get(key).copied().unwrap_or_default();
        let noted = match whose {
            Whose::All => noted.by_any,
            Whose::Others => noted.by_others,
        };
        self.live && asked.0 >= self.floor && noted <= asked.0
    }

    fn add(&mut self, key: &Key, by_others: bool) {
        let noted = self.noted;
        let recent = self.recent.entry(key.clone()).or_default();
        if recent.by_any != noted {
            self.order.push_back((noted, key.clone()));
        }
        recent.by_any = noted;
        if by_others {
            recent.by_others = noted;
        }
    }

    fn forget_oldest(&mut self) {
        while self.order.len() > RECENT_MAX
            && let Some((noted, key)) = self.order.pop_front()
        {
            self.floor = self.floor.max(noted);
            if self
                .recent
                .get(&key)
                .is_some_and(|recent| recent.by_any == noted)
            {
                self.recent.remove(&key);
            }
        }
    }
}

impl Told {
    /// Nothing is kept before [`Told::hear`].
    pub(crate) fn new(keep: Duration) -> Self {
        Self {
            keep,
            gate: RwLock::default(),
            noted: AtomicU64::new(0),
            told: Mutex::default(),
            known: Mutex::default(),
            directories: Mutex::default(),
            reached: watch::Sender::new(None),
            has_heard: AtomicBool::new(false),
            lost_lately: Mutex::default(),
            doubted: AtomicBool::new(false),
            mistaken: AtomicBool::new(false),
        }
    }

    // Each holder leaves what it locks whole, so a poisoned lock is as good as any.
    fn change(&self) -> RwLockWriteGuard<'_, Gate> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<Key, Telling>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost_lately(&self) -> MutexGuard<'_, Vec<Key>> {
        self.lost_lately
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn directories(&self) -> MutexGuard<'_, Directories> {
        self.directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The outcome of a change of our own is not known: it may even be still to come.
    pub(crate) fn doubt(&self) {
        self.doubted.store(true, Ordering::SeqCst);
    }

    /// Something that this mount has done by itself did not come to be: the kernel must forget everything.
    pub(crate) fn mistake(&self) {
        self.mistaken.store(true, Ordering::SeqCst);
    }

    /// Whether there was such a thing since the last call.
    pub(crate) fn take_mistake(&self) -> bool {
        self.mistaken.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::SeqCst)
    }

    /// Whether there was such a change since the last call.
    pub(crate) fn take_doubt(&self) -> bool {
        self.doubted.swap(false, Ordering::SeqCst)
    }

    /// Attributes of a directory, if they are known as they are now.
    pub(crate) fn remembered(&self, directory: u64) -> Option<Attributes> {
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let directories = self.directories();
        let (attributes, asked) = directories.get(directory)?;
        let key = Key::attributes(directory);
        gate.unchanged(*asked, Whose::Others, &key)
            .then(|| attributes.clone())
    }

    /// The cluster has answered with attributes of a directory.
    pub(crate) fn remember(&self, attributes: &Attributes, asked: Asked) {
        self.answer(asked).remember(attributes);
    }

    /// This mount is about to change a directory. Returns what was known of it.
    pub(crate) fn begin_change(&self, directory: u64) -> Option<Remembered> {
        self.directories().begin(directory)
    }

    /// It has changed a directory, or tried to, and with it another inode perhaps: answers from before are not kept.
    pub(crate) fn end_change(&self, directory: u64, other: Option<u64>, after: Option<Remembered>) {
        let mut gate = self.change();
        self.step(&mut gate);
        for inode in [Some(directory), other].into_iter().flatten() {
            gate.add(&Key::attributes(inode), false);
        }
        gate.forget_oldest();
        self.directories().end(directory, after);
    }

    /// This mount is about to give a name a meaning.
    pub(crate) fn name_comes(&self, directory: u64, name: &[u8]) {
        self.known().add(directory, name);
    }

    /// This mount has removed a directory.
    pub(crate) fn directory_goes(&self, directory: u64) {
        self.known().forget(directory);
    }

    /// To be called before the cluster is asked.
    pub(crate) fn asked(&self) -> Asked {
        Asked(self.noted.load(Ordering::SeqCst))
    }

    /// For an answer to what was asked then. To be held until it is written, and never across a wait.
    pub(crate) fn answer(&self, asked: Asked) -> Answer<'_> {
        self.answer_unless(asked, Whose::All)
    }

    /// The same for the answer to a change of this mount's own.
    pub(crate) fn answer_change(&self, asked: Asked) -> Answer<'_> {
        self.answer_unless(asked, Whose::Others)
    }

    fn answer_unless(&self, asked: Asked, whose: Whose) -> Answer<'_> {
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let told = self;
        Answer {
            told,
            gate,
            asked,
            whose,
        }
    }

    /// Changes are heard of from here on.
    pub(crate) fn hear(&self, index: u64) {
        let mut gate = self.change();
        gate.live = true;
        self.has_heard.store(true, Ordering::SeqCst);
        self.step(&mut gate);
        gate.floor = gate.noted;
        self.reached.send_replace(Some(index));
    }

    /// Takes note of changes. Returns those that the kernel may have the former state of, with the time when it was told.
    pub(crate) fn note(&self, changes: &[Key]) -> Vec<(Key, Instant)> {
        let mut gate = self.change();
        self.step(&mut gate);
        for key in changes {
            gate.add(key, true);
        }
        gate.forget_oldest();
        self.learn_names(changes);
        let told = self.told();
        let known = |key: &Key| told.get(key).map(|telling| (key.clone(), telling.at));
        changes.iter().filter_map(known).collect()
    }

    /// True if the kernel may have attributes of another version than the newest, though all changes up to it were heard of. That
    /// happens if the kernel takes the answer to its first question about an inode after it was told to forget the inode, which it did
    /// not know then: if it knew it, it would drop the answer itself.
    pub(crate) fn has_other(&self, newest: &Attributes) -> bool {
        let told = self.told();
        let telling = told.get(&Key::attributes(newest.inode));
        telling.is_some_and(|telling| telling.version != newest.version)
    }

    /// Somebody else may have changed the attributes of an inode: answers from before are not kept. True if anything was ever heard:
    /// otherwise the kernel has nothing that it could keep.
    pub(crate) fn note_unheard(&self, inode: u64) -> bool {
        self.note(&[Key::attributes(inode)]);
        self.has_heard.load(Ordering::SeqCst)
    }

    fn learn_names(&self, changes: &[Key]) {
        let mut known = self.known();
        for Key { inode, part } in changes {
            match part {
                Part::Name(name) => known.add(*inode, name),
                Part::AnyName => known.forget(*inode),
                Part::Attributes | Part::Pages => {}
            }
        }
    }

    /// What the kernel may know of the names in a directory.
    pub(crate) fn names_in(&self, directory: u64) -> Vec<Key> {
        let told = self.told();
        let keys = told.range(Key::any_name(directory)..).map(|(key, _)| key);
        keys.take_while(|key| key.inode == directory)
            .cloned()
            .collect()
    }

    /// Nothing is heard any more: answers are not kept. Returns all that the kernel may have.
    pub(crate) fn lose(&self) -> Vec<Key> {
        self.reached.send_replace(None);
        let mut gate = self.change();
        gate.live = false;
        self.step(&mut gate);
        gate.recent.clear();
        gate.order.clear();
        self.known().clear();
        self.directories().clear();
        let told = std::mem::take(&mut *self.told());
        let now = Instant::now();
        let lately = told
            .iter()
            .filter(|(_, telling)| now < telling.at + SETTLING)
            .map(|(key, _)| key.clone());
        self.lost_lately().extend(lately);
        told.into_keys().collect()
    }

    /// What was lost so shortly after the kernel was told that it may take it after it was told to forget it.
    pub(crate) fn take_lost_lately(&self) -> Vec<Key> {
        std::mem::take(&mut *self.lost_lately())
    }

    /// Takes a part away if there is hardly room for more: the kernel must forget it.
    pub(crate) fn make_room(&self) -> Vec<Key> {
        let mut told = self.told();
        if told.len() < TOLD_MAX / 4 * 3 {
            return Vec::new();
        }
        // Where to cut does not matter; that it moves on does.
        let Some(middle) = told.keys().nth(TOLD_MAX / 4).cloned() else {
            return Vec::new();
        };
        let rest = told.split_off(&middle);
        std::mem::replace(&mut *told, rest).into_keys().collect()
    }

    fn step(&self, gate: &mut Gate) {
        gate.noted += 1;
        self.noted.store(gate.noted, Ordering::SeqCst);
    }

    /// True while changes are heard of.
    pub(crate) fn hears(&self) -> bool {
        self.reached.borrow().is_some()
    }

    /// The kernel has been told of all changes up to this entry of the log.
    pub(crate) fn reach(&self, index: u64) {
        self.reached.send_replace(Some(index));
    }

    /// Waits until the kernel has been told of all changes up to this entry; false if nothing is heard, or not in time.
    /// Cancel-safe.
    pub(crate) async fn wait_reached(&self, index: u64, limit: Duration) -> bool {
        let decided = |reached: &Option<u64>| reached.is_none_or(|reached| reached >= index);
        let mut reached = self.reached.subscribe();
        let waited = timeout(limit, reached.wait_for(decided)).await;
        waited.is_ok_and(|heard| heard.is_ok_and(|reached| reached.is_some()))
    }
}

/// How long the kernel may keep the parts of one answer.
pub(crate) struct Answer<'a> {
    told: &'a Told,
    gate: RwLockReadGuard<'a, Gate>,
    asked: Asked,
    whose: Whose,
}

impl Answer<'_> {
    fn unchanged(&self, key: &Key) -> bool {
        self.gate.unchanged(self.asked, self.whose, key)
    }

    fn keep(&self, key: Key) -> Duration {
        self.keep_version(key, 0)
    }

    fn keep_version(&self, key: Key, version: u64) -> Duration {
        if !self.unchanged(&key) {
            return Duration::ZERO;
        }
        let mut told = self.told.told();
        if told.len() >= TOLD_MAX && !told.contains_key(&key) {
            return Duration::ZERO;
        }
        let at = Instant::now();
        told.insert(key, Telling { at, version });
        self.told.keep
    }

    /// What a name means, or that it means nothing.
    pub(crate) fn name(&self, directory: u64, name: &[u8]) -> Duration {
        if !self.unchanged(&Key::any_name(directory)) {
            return Duration::ZERO;
        }
        self.keep(Key::name(directory, name))
    }

    /// True if it is known without asking that a name means nothing.
    pub(crate) fn means_nothing(&self, directory: u64, name: &[u8]) -> bool {
        self.gate.live && self.told.known().means_nothing(directory, name)
    }

    /// This mount has made a directory: unless others have been there since, it is empty.
    pub(crate) fn new_directory(&self, attributes: &Attributes) {
        let directory = attributes.inode;
        self.remember(attributes);
        if self.unchanged(&Key::attributes(directory)) {
            self.told.known().begin(directory);
        }
    }

    fn remember(&self, attributes: &Attributes) {
        if self.unchanged(&Key::attributes(attributes.inode)) {
            let remembered = (attributes.clone(), self.asked);
            self.told.directories().remember(remembered);
        }
    }

    /// Attributes of an inode, as of this version of it.
    pub(crate) fn attributes(&self, inode: u64, version: u64) -> Duration {
        self.keep_version(Key::attributes(inode), version)
    }

    /// True if the pages that the kernel has of an inode were watched over ever since it read them. From now on they are.
    pub(crate) fn pages(&self, inode: u64) -> bool {
        let watched = self.told.told().contains_key(&Key::pages(inode));
        let kept = self.keep(Key::pages(inode)) > Duration::ZERO;
        watched && kept
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cairn_protocol::messages::common::Attributes;

    use super::{Key, RECENT_MAX, SETTLING, TOLD_MAX, Told};

    const KEEP: Duration = Duration::from_secs(100);
    const SHORT: Duration = Duration::from_millis(1);

    fn keys(told: Vec<(Key, tokio::time::Instant)>) -> Vec<Key> {
        told.into_iter().map(|(key, _)| key).collect()
    }

    fn directory(inode: u64) -> Attributes {
        Attributes {
            inode,
            ..Attributes::default()
        }
    }

    #[test]
    fn nothing_is_kept_while_nothing_is_heard() {
        let told = Told::new(KEEP);
        let before = told.asked();
        assert_eq!(told.answer(before).attributes(1, 1), Duration::ZERO);
        told.hear(7);
        // Asked when changes might have been missed.
        assert_eq!(told.answer(before).attributes(1, 1), Duration::ZERO);
        let asked = told.asked();
        assert_eq!(told.answer(asked).attributes(1, 1), KEEP);
        assert_eq!(told.answer(asked).name(1, b"a"), KEEP);
        assert_eq!(told.lose(), [Key::attributes(1), Key::name(1, b"a")]);
        assert_eq!(told.answer(told.asked()).attributes(1, 1), Duration::ZERO);
        assert!(told.lose().is_empty());
    }

    #[test]
    fn an_answer_that_a_change_has_overtaken_is_not_kept() {
        let told = Told::new(KEEP);
        told.hear(7);
        let early = told.asked();
        assert!(
            told.note(&[Key::name(1, b"a"), Key::attributes(1)])
                .is_empty()
        );
        let late = told.asked();
        assert_eq!(told.answer(early).name(1, b"a"), Duration::ZERO);
        assert_eq!(told.answer(early).attributes(1, 1), Duration::ZERO);
        assert_eq!(told.answer(early).name(1, b"b"), KEEP);
        assert_eq!(told.answer(late).name(1, b"a"), KEEP);
    }

    #[test]
    fn a_change_names_what_the_kernel_was_told() {
        let told = Told::new(KEEP);
        told.hear(7);
        let answer = told.answer(told.asked());
        answer.name(5, b"b");
        answer.name(5, b"a");
        answer.attributes(5, 1);
        answer.attributes(6, 1);
        assert!(!answer.pages(6));
        drop(answer);
        let changes = [
            Key::name(5, b"a"),
            Key::name(5, b"c"),
            Key::attributes(6),
            Key::pages(5),
        ];
        let told_before = [Key::name(5, b"a"), Key::attributes(6)];
        assert_eq!(keys(told.note(&changes)), told_before);
        // Pages may be read again at any time.
        assert_eq!(keys(told.note(&changes)).len(), 2);
        assert_eq!(told.names_in(5), [Key::name(5, b"a"), Key::name(5, b"b")]);
        assert!(told.names_in(6).is_empty());
    }

    #[test]
    fn any_name_of_a_directory_may_have_changed() {
        let told = Told::new(KEEP);
        told.hear(7);
        let early = told.asked();
        told.note(&[Key::any_name(1)]);
        assert_eq!(told.answer(early).name(1, b"a"), Duration::ZERO);
        assert_eq!(told.answer(early).name(2, b"a"), KEEP);
        assert_eq!(told.answer(told.asked()).name(1, b"a"), KEEP);
    }

    #[test]
    fn a_directory_that_was_made_here_is_known_until_others_make_names_in_it() {
        let told = Told::new(KEEP);
        let asked = told.asked();
        let nothing = |name: &[u8]| told.answer(told.asked()).means_nothing(1, name);
        told.answer(asked).new_directory(&directory(1));
        told.hear(7);
        assert!(!nothing(b"a"));
        told.answer(told.asked()).new_directory(&directory(1));
        assert!(nothing(b"a"));
        told.name_comes(1, b"a");
        told.note(&[Key::name(1, b"b"), Key::attributes(1)]);
        assert!(!nothing(b"a") && !nothing(b"b") && nothing(b"c"));
        // Others were in it before its making was answered.
        let asked = told.asked();
        told.note(&[Key::attributes(2), Key::name(2, b"a")]);
        told.answer(asked).new_directory(&directory(2));
        assert!(!told.answer(asked).means_nothing(2, b"b"));
        told.lose();
        told.hear(8);
        assert!(!nothing(b"c"));
    }

    #[test]
    fn an_answer_that_a_change_of_our_own_has_overtaken_is_not_kept() {
        let told = Told::new(KEEP);
        told.hear(7);
        let early = told.asked();
        told.begin_change(1);
        told.end_change(1, Some(2), None);
        for inode in [1, 2] {
            assert_eq!(told.answer(early).attributes(inode, 1), Duration::ZERO);
            assert_eq!(told.answer_change(early).attributes(inode, 1), KEEP);
            assert_eq!(told.answer(told.asked()).attributes(inode, 1), KEEP);
        }
        told.note(&[Key::attributes(1)]);
        assert_eq!(told.answer_change(early).attributes(1, 1), Duration::ZERO);
        assert_eq!(told.answer_change(early).attributes(2, 1), KEEP);
    }

    #[test]
    fn a_directory_is_remembered_until_others_change_it() {
        let told = Told::new(KEEP);
        told.hear(7);
        let directory = directory(1);
        let early = told.asked();
        told.remember(&directory, early);
        let begun = told.begin_change(1);
        assert!(told.remembered(1).is_none());
        told.end_change(1, None, begun);
        assert_eq!(told.remembered(1).map(|known| known.inode), Some(1));
        // An answer from before our change.
        told.begin_change(1);
        told.end_change(1, None, None);
        told.remember(&directory, early);
        assert!(told.remembered(1).is_none());
        told.remember(&directory, told.asked());
        assert!(told.remembered(1).is_some());
        told.note(&[Key::attributes(1)]);
        assert!(told.remembered(1).is_none());
        told.remember(&directory, told.asked());
        told.lose();
        told.hear(8);
        assert!(told.remembered(1).is_none());
    }

    #[test]
    fn pages_are_kept_if_they_were_watched_ever_since() {
        let told = Told::new(KEEP);
        assert!(!told.answer(told.asked()).pages(1));
        told.hear(7);
        let early = told.asked();
        assert!(!told.answer(early).pages(1));
        assert!(told.answer(early).pages(1));
        // Told again and again: they may be read again at any time.
        assert_eq!(told.note(&[Key::pages(1)]).len(), 1);
        assert_eq!(told.note(&[Key::pages(1)]).len(), 1);
        assert!(!told.answer(early).pages(1));
        assert!(told.answer(told.asked()).pages(1));
        told.lose();
        told.hear(8);
        assert!(!told.answer(told.asked()).pages(1));
    }

    #[test]
    fn an_answer_older_than_what_is_remembered_is_not_kept() {
        let told = Told::new(KEEP);
        told.hear(7);
        let early = told.asked();
        told.note(&[Key::attributes(1)]);
        let later = told.asked();
        let many: Vec<Key> = (0..RECENT_MAX as u64)
            .map(|inode| Key::attributes(inode + 10))
            .collect();
        told.note(&many);
        assert_eq!(told.answer(early).attributes(5, 1), Duration::ZERO);
        assert_eq!(told.answer(later).attributes(5, 1), KEEP);
        assert_eq!(told.answer(later).attributes(10, 1), Duration::ZERO);
    }

    #[test]
    fn there_is_room_again_when_a_part_is_taken_away() {
        let told = Told::new(KEEP);
        told.hear(7);
        let asked = told.asked();
        for inode in 0..TOLD_MAX as u64 {
            assert_eq!(told.answer(asked).attributes(inode, 1), KEEP);
        }
        let new = TOLD_MAX as u64;
        assert_eq!(told.answer(asked).attributes(new, 1), Duration::ZERO);
        assert_eq!(told.answer(asked).attributes(0, 1), KEEP);
        assert_eq!(told.make_room().len(), TOLD_MAX / 4);
        assert_eq!(told.answer(asked).attributes(new, 1), KEEP);
        assert_eq!(told.answer(asked).attributes(new + 1, 1), KEEP);
    }

    #[test]
    fn what_the_kernel_has_of_another_version_is_known() {
        let told = Told::new(KEEP);
        let newest = Attributes {
            version: 2,
            ..directory(1)
        };
        assert!(!told.note_unheard(1), "it was never told to keep anything");
        told.hear(7);
        assert!(!told.has_other(&newest));
        told.answer(told.asked()).attributes(1, 1);
        assert!(told.has_other(&newest));
        told.note(&[Key::attributes(1)]);
        assert!(told.has_other(&newest), "it may have taken it since");
        told.answer(told.asked()).attributes(1, 2);
        assert!(!told.has_other(&newest));
        // What was asked before that is not kept.
        let asked = told.asked();
        assert!(told.note_unheard(1));
        assert_eq!(told.answer(asked).attributes(1, 2), Duration::ZERO);
        told.lose();
        assert!(told.note_unheard(1), "it is still forgetting");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_told_shortly_before_everything_is_lost_is_told_of_again() {
        let told = Told::new(KEEP);
        told.hear(7);
        told.answer(told.asked()).attributes(1, 1);
        tokio::time::sleep(SETTLING).await;
        told.answer(told.asked()).attributes(2, 1);
        assert_eq!(told.lose().len(), 2);
        assert!(told.lose().is_empty());
        assert_eq!(told.take_lost_lately(), [Key::attributes(2)]);
        assert!(told.take_lost_lately().is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_changes_waits_until_the_kernel_is_told() {
        let told = Told::new(KEEP);
        assert!(!told.wait_reached(1, SHORT).await);
        told.hear(7);
        assert!(told.wait_reached(7, SHORT).await);
        assert!(!told.wait_reached(8, SHORT).await);
        let waiting = async {
            let (waited, ()) = tokio::join!(told.wait_reached(8, KEEP), async { told.reach(9) });
            waited
        };
        assert!(waiting.await);
        let lost = async {
            let (waited, _) = tokio::join!(told.wait_reached(10, KEEP), async { told.lose() });
            waited
        };
        assert!(!lost.await);
    }
}
