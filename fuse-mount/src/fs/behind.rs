//! What is done in delegated directories is told to the cluster here, and the directories are given back when somebody else needs them
//! (`crate::behind`).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{Custodian, Error, FileSystem, InCustody, OpenFile, Subject};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind, Location};
use cairn_protocol::messages::operation::{Commit, Mkdir, OperationKind, OutcomeKind, Step};
use cairn_protocol::{ErrorCode, Failure};
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};

use super::{MountedFs, Outcome, Requester, number};
use crate::behind::{Actor, Batch, Behind, Condition, Made, Named, New, Untold};

/// How long what is done waits for more to be told with it, while nobody waits for it.
const COMPANY: Duration = Duration::from_millis(20);
/// Of bytes that will not be stored: more losses than there can be.
const LOST: Option<u64> = Some(u64::MAX);
/// Pause before what could not be told is told again.
const PAUSE: Duration = Duration::from_millis(100);
/// Files that are committed at the same time.
const FILES_MAX: usize = 64;
/// Directories that are given back in one message.
const DIRECTORIES_MAX: usize = 1024;
/// Inode numbers that are reserved at once.
const NUMBERS: u32 = 65_536;
/// Most names of a directory that is asked for.
const NAMES_MAX: u64 = 20_000;
/// Names that are listed at once.
const PAGE: u32 = 10_000;
/// So long directories are kept in which nothing is done.
const IDLE: Duration = Duration::from_secs(600);

/// Sees to the commits of one file.
#[derive(Debug)]
struct InOrder {
    behind: Arc<Behind>,
    inode: u64,
}

impl Custodian for InOrder {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Option<InCustody>> {
        Box::pin(async move {
            let end = |commit: &Commit| {
                let ends = commit
                    .extents
                    .iter()
                    .map(|it| it.offset_in_file + it.length);
                ends.max().unwrap_or(0)
            };
            let size = end(&commit);
            if let Some((told, attributes)) = self.behind.commit(commit) {
                return Some(match told.await {
                    Ok(Ok(())) => InCustody::Committed(attributes),
                    Ok(Err(Untold::Refused(error))) => InCustody::Failed(error),
                    Ok(Err(Untold::NotSent)) => InCustody::Failed(session_over(self.inode)),
                    Ok(Err(Untold::Unknown { after })) => InCustody::Unknown {
                        version_before: after,
                    },
                    Err(_) => InCustody::Unknown { version_before: 0 },
                });
            }
            if let Some(attributes) = self.behind.commit_to_gone(self.inode, size) {
                return Some(InCustody::Committed(attributes));
            }
            // It is made before it is committed.
            self.behind.wait_all_told().await;
            None
        })
    }

    fn release(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.behind.disown(self.inode).await;
            Ok(())
        })
    }
}

fn session_over(inode: u64) -> Error {
    let message = "the session that directories were delegated to has ended";
    Error::Refused {
        subject: Subject::Inode(InodeId(inode)),
        failure: Failure::new(ErrorCode::SessionExpired, message),
    }
}

/// While this lives there is somebody who tells.
struct Working<'a>(&'a Behind);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.set_working(None);
    }
}

impl MountedFs {
    /// Tells the cluster what is done in delegated directories, for as long as it runs. Directories are delegated only meanwhile.
    pub async fn tell_changes(&self) {
        let actor = loop {
            match self.actor().await {
                Ok(Some(actor)) => break actor,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "not told yet as whom the cluster sees this mount");
                }
            }
            sleep(PAUSE).await;
        };
        self.behind.set_working(Some(actor));
        let _working = Working(&self.behind);
        tokio::join!(self.tell_steps(), self.give_back_if_wanted());
    }

    /// In whose name this mount tells things; `None` where the cluster does not believe it who made them.
    async fn actor(&self) -> Result<Option<Actor>, Error> {
        let (uid, gid) = self.fs.identity();
        let (caller, token) = self.fs.who_am_i().await?;
        let believed = token.is_none() && (caller.uid, caller.gid) == (uid, gid);
        Ok(believed.then_some(Actor { uid, gid }))
    }

    async fn tell_steps(&self) {
        loop {
            self.behind.work.notified().await;
            // One entry of the log for many things, and one packet for many files: an entry costs the namenodes as much as dozens of steps.
            if !self.behind.is_hurried() {
                let _ = timeout(COMPANY, self.behind.hurry.notified()).await;
            }
            for inode in self.behind.take_closed() {
                if let Some(file) = self.fs.opened_file(InodeId(inode)) {
                    file.commit_soon();
                }
            }
            if let Some(batch) = self.behind.take_batch() {
                self.behind.set_telling(true);
                self.tell(batch).await;
                self.behind.set_telling(false);
                // There may be more by now.
                self.behind.work.notify_one();
            }
        }
    }

    async fn tell(&self, mut batch: Batch) {
        loop {
            let steps = batch.steps.clone();
            let sent_after = self.fs.applied_index();
            let told = self.fs.write_behind(batch.session, steps).await;
            let error = match told {
                Ok(()) => return self.behind.told(batch),
                Err(error) => error,
            };
            let code = error.code();
            if code == ErrorCode::OutcomeUnknown {
                self.lose(batch.session, &error);
                return self.behind.lost(batch, Some(sent_after));
            }
            if !self.fs.session_may_live(batch.session) {
                self.lose(batch.session, &error);
                return self.behind.lost(batch, None);
            }
            if code.is_retryable() || code == ErrorCode::SessionExpired {
                tracing::debug!(%error, "changes not told yet");
                sleep(PAUSE).await;
                continue;
            }
            if batch.steps.len() == 1 {
                tracing::warn!(%error, step = ?batch.steps, "a change that was made here was refused");
                self.told.mistake();
                self.behind.failed(batch, &error);
                // What is known here of it is wrong.
                self.behind.want_back();
                return;
            }
            // All or nothing: which one it is shows when they go one by one.
            let rest = batch.split_off_rest();
            Box::pin(self.tell(batch)).await;
            batch = rest;
        }
    }

    /// The session is over, and with it all delegations.
    fn lose(&self, session: u64, error: &Error) {
        if let Some(lost) = self.behind.end(session) {
            tracing::error!(%error, lost, "the session ended: changes that were made here are lost");
            // The kernel forgets what it was told.
            self.told.mistake();
        }
    }

    /// There is a new session: the one before is over.
    fn lose_former(&self, session: u64) {
        let former = self.behind.session();
        if former != 0 && former < session {
            self.lose(former, &session_over(InodeId::ROOT.0));
        }
    }

    async fn give_back_if_wanted(&self) {
        loop {
            if let Some(session) = self.behind.begin_giving_back() {
                self.give_back(session).await;
            }
            self.give_strays_back().await;
            let _ = timeout(Duration::from_secs(1), self.behind.wanted_back.notified()).await;
        }
    }

    async fn give_back(&self, session: u64) {
        tracing::debug!("directories are given back");
        // What is closed is to be seen by whoever waits. If it cannot be stored now, they do not wait until it can.
        let _ = timeout(self.fs.patience(), self.store_closed()).await;
        // What was written to open ones keeps the times that it has here.
        let open = self.inodes.files().into_iter().filter(OpenFile::is_dirty);
        let own = open.filter(|file| self.behind.attributes(file.inode().0).is_some());
        let hurry = self.behind.in_a_hurry();
        let stored = stream::iter(own).for_each_concurrent(FILES_MAX, |file| async move {
            file.try_commit().await;
        });
        let _ = timeout(self.fs.patience(), stored).await;
        drop(hurry);
        self.behind.wait_all_told().await;
        let directories = self.behind.directories(session);
        for some in directories.chunks(DIRECTORIES_MAX) {
            let some: Vec<InodeId> = some.iter().copied().map(InodeId).collect();
            while let Err(error) = self.fs.delegate(session, Vec::new(), some.clone()).await {
                if !self.fs.session_may_live(session) {
                    return self.lose(session, &error);
                }
                tracing::debug!(%error, "directories not given back yet");
                sleep(PAUSE).await;
            }
        }
        while !self.behind.finish_giving_back(session) {
            self.behind.wait_all_told().await;
        }
        self.recent.clear();
    }

    async fn give_strays_back(&self) {
        let (strays, session) = (self.behind.strays(), self.fs.session());
        if strays.is_empty() || session == 0 {
            return;
        }
        let some = strays.iter().copied().map(InodeId).collect();
        match self.fs.delegate(session, Vec::new(), some).await {
            Ok(()) => self.behind.given_back(&strays),
            Err(error) => tracing::debug!(%error, "directories not given back yet"),
        }
    }

    /// Stores the bytes of files that were closed before, or tries to. The first failure.
    async fn store_closed(&self) -> Outcome<()> {
        let closing = stream::iter(self.behind.closing());
        let stored = closing.map(|inode| self.store(inode));
        let stored = stored.buffer_unordered(FILES_MAX);
        stored
            .fold(Ok(()), |all, one| async move { all.and(one) })
            .await
    }

    /// Stores the bytes of one, or tries to; what is written to it meanwhile is not waited for. After a failure the client goes on
    /// trying, or has given them up: then they count as lost.
    pub(super) async fn store(&self, inode: u64) -> Outcome<()> {
        let Some(file) = self.fs.opened_file(InodeId(inode)) else {
            // Nothing is left to try, and what was lost is known.
            self.behind.closed(inode, None);
            return Ok(());
        };
        let _hurry = self.behind.in_a_hurry();
        let stored = file.flush().await;
        match (&stored, file.is_dirty()) {
            // It may have been closed anew.
            (_, true) => {}
            (Ok(_), false) => self.behind.closed(inode, Some(file.losses())),
            (Err(_), false) => self.behind.closed(inode, LOST),
        }
        stored.map(drop).map_err(number)
    }

    /// Before a file takes the place of another one: then its bytes are there. Fails if they cannot be, or, once, if they were lost
    /// when it was closed.
    pub(super) async fn store_before_rename(
        &self,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
    ) -> Outcome<()> {
        let found = |(parent, name)| self.behind.find(parent, name).flatten();
        match (found(from), found(to)) {
            (Some(source), Some(_)) => self.store_wholly(source.inode).await,
            _ => Ok(()),
        }
    }

    async fn store_wholly(&self, inode: u64) -> Outcome<()> {
        if self.behind.take_lost(inode) {
            return Err(libc::EIO);
        }
        self.in_time(self.store(inode)).await?
    }

    /// Makes a file one like any other, with its bytes: before it gets a name where others see it.
    pub(super) async fn let_common_wholly(&self, inode: u64) -> Outcome<()> {
        if self.behind.is_closing(inode) || self.behind.is_lost(inode) {
            self.store_wholly(inode).await?;
        }
        self.let_common(inode).await
    }

    /// Looks which files are stored by now.
    pub(super) fn look_after_closed(&self, lost: &[u64]) {
        for &inode in lost {
            self.recent.forget(inode);
            // The client may still try, but nobody would hear what comes of it.
            self.behind.closed(inode, LOST);
        }
        for inode in self.behind.closing() {
            if self.fs.is_dirty(InodeId(inode)) {
                continue;
            }
            match self.fs.opened_file(InodeId(inode)) {
                Some(file) => self.behind.closed(inode, Some(file.losses())),
                None => self.behind.closed(inode, None),
            }
        }
    }

    /// Begins to store what was written to an own file that is closed; false if that is not to be done later.
    pub(super) fn store_soon(&self, inode: u64) -> bool {
        let Some(file) = self.inodes.file(inode) else {
            return false;
        };
        if file.losses() > 0 {
            // Whoever closes it is to hear of that.
            return false;
        }
        if !file.is_dirty() {
            return self.behind.attributes(inode).is_some();
        }
        self.behind.close_soon(inode, file.losses())
    }

    /// Gives everything back, and waits until that is done.
    pub(super) async fn give_all_back(&self) -> Outcome<()> {
        let given_back = async {
            while self.behind.want_back() {
                let settled = self.behind.settled.notified();
                let _ = timeout(PAUSE, settled).await;
            }
        };
        self.in_time(given_back).await
    }

    /// As long as operations wait for the cluster.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Outcome<T> {
        let done = timeout(self.fs.patience(), work).await;
        done.map_err(|_| libc::EIO)
    }

    /// For as long as the cluster answers to what it is told. The client's own attempts end by themselves, but the bytes of a file that
    /// the cluster does not know yet wait until it does, and that is told until it is answered.
    pub(super) async fn while_answered<T>(
        &self,
        inode: u64,
        work: impl Future<Output = T>,
    ) -> Outcome<T> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.unanswered(inode) => Err(libc::EIO),
        }
    }

    /// Until the cluster has not answered to what it is told for as long as operations wait for it. An inode that is not an own one
    /// may not need that answer: whoever works on it has that time in any case.
    async fn unanswered(&self, inode: u64) {
        let patience = self.fs.patience();
        let begun = Instant::now();
        loop {
            let own = self.behind.attributes(inode).is_some();
            let had = if own { patience } else { begun.elapsed() };
            let waited = self.waits_for_answer().min(had);
            if waited >= patience {
                return;
            }
            sleep((patience - waited).max(PAUSE)).await;
        }
    }

    /// How long the cluster has not answered to what it is told.
    fn waits_for_answer(&self) -> Duration {
        let since = self.behind.telling();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// True if the cluster did not answer for as long as operations wait for it.
    pub(super) fn is_unanswered(&self) -> bool {
        self.waits_for_answer() >= self.fs.patience()
    }

    /// Waits until all is told that was done here: before anything but bytes is changed elsewhere, for the cluster never has the later of two changes
    /// without the earlier. Costs nothing if all is told.
    pub(super) async fn tell_all(&self) -> Outcome<()> {
        self.in_time(self.behind.wait_all_told()).await
    }

    /// Gives back what nobody works in any more.
    pub(super) fn give_idle_back(&self) {
        let idle = self.behind.idle_since();
        if idle.is_some_and(|since| since.elapsed() > IDLE) {
            self.behind.want_back();
        }
    }

    /// Whether an inode, or what is in a directory, is this mount's alone, now that something is asked or (`changes`) done about it.
    pub(super) async fn is_ours(&self, inode: u64, changes: bool) -> Outcome<bool> {
        let decide = async {
            loop {
                match self.behind.condition(inode, changes) {
                    Condition::Common => return false,
                    Condition::Own(session) if self.fs.session() == session => return true,
                    Condition::Own(session) if self.fs.session_may_live(session) => {
                        sleep(PAUSE).await;
                    }
                    Condition::Own(session) => {
                        self.lose(session, &session_over(inode));
                        return false;
                    }
                    Condition::Busy => {
                        let _ = timeout(PAUSE, self.behind.settled.notified()).await;
                    }
                }
            }
        };
        self.in_time(decide).await
    }

    /// Whether names in a directory are changed here: it is asked for if this mount works in it.
    pub(super) async fn can_change(&self, directory: u64) -> Outcome<bool> {
        Ok(self.is_ours(directory, true).await? || self.take_if_busy(directory).await)
    }

    /// True if the names in a directory are this mount's alone now.
    pub fn is_delegated(&self, directory: u64) -> bool {
        self.behind.is_delegated(directory)
    }

    /// Makes an inode one like any other: before something is done to it that is not done here.
    pub(super) async fn let_common(&self, inode: u64) -> Outcome<()> {
        let told = async {
            // What is committed later sets the times anew, whatever they were set to since it was written.
            if self.behind.attributes(inode).is_some()
                && let Some(file) = self.fs.opened_file(InodeId(inode))
            {
                let _hurry = self.behind.in_a_hurry();
                file.try_commit().await;
            }
            self.behind.disown(inode).await;
            self.recent.forget(inode);
            self.behind.wait_common(inode).await;
        };
        self.in_time(told).await
    }

    /// Waits until all is told that was done here, for one who wants it on disks.
    pub async fn sync_names(&self) -> Outcome<()> {
        let told = async {
            let stored = self.store_closed().await;
            (stored, self.behind.wait_told().await)
        };
        match self.in_time(told).await? {
            (stored, true) => stored,
            (_, false) => Err(libc::EIO),
        }
    }

    /// As this mount sees an own inode.
    pub(super) fn own_attributes(&self, inode: u64) -> Option<Attributes> {
        let mut attributes = self.behind.attributes(inode)?;
        if attributes.kind == InodeKind::File as i32
            && let Some(file) = self.inodes.file(inode)
        {
            attributes.size = file.size();
        }
        self.inodes.show_read(&mut attributes);
        Some(attributes)
    }

    /// Attributes of an own inode, or of a delegated directory, which then is one; `None` for any other.
    pub(super) async fn attributes_here(&self, inode: u64) -> Outcome<Option<Attributes>> {
        if let Some(own) = self.own_attributes(inode) {
            return Ok(Some(own));
        }
        let Some(changes) = self.in_time(self.behind.wait_names(inode)).await? else {
            return Ok(None);
        };
        let attributes = self.ask(InodeId(inode).into()).await?;
        self.behind.own_again(&attributes, changes);
        Ok(Some(attributes))
    }

    /// Makes something in a delegated directory; `None` if that is not done here: then all is told that was done before.
    pub(super) async fn make_here(
        &self,
        who: Requester,
        new: &New<'_>,
    ) -> Outcome<Option<Attributes>> {
        let caller = self.maker(who, who.uid != 0);
        let new = New {
            mode: new.mode & !who.umask,
            ..new.clone()
        };
        loop {
            if !self.can_change(new.parent).await? {
                self.tell_all().await?;
                return Ok(None);
            }
            self.attributes_here(new.parent).await?;
            match self.behind.make(&caller, &new) {
                Made::Here(attributes) => {
                    self.told.name_comes(new.parent, new.name);
                    self.changed_here(new.parent, Some(attributes.inode));
                    return Ok(Some(attributes));
                }
                Made::Exists => return Err(libc::EEXIST),
                Made::NoNumber => self.get_numbers().await?,
                Made::Busy => {}
                Made::Elsewhere => {
                    self.tell_all().await?;
                    return Ok(None);
                }
            }
        }
    }

    /// What was answered before this is not kept by the kernel.
    pub(super) fn changed_here(&self, directory: u64, other: Option<u64>) {
        self.told.begin_change(directory);
        self.told.end_change(directory, other, None);
    }

    async fn get_numbers(&self) -> Outcome<()> {
        let _turn = self.numbers.lock().await;
        let Some(session) = self.behind.needs_numbers() else {
            return Ok(());
        };
        // Numbers that are left are given up with the next ones.
        self.tell_all().await?;
        let range = self.fs.reserve_inodes(session, NUMBERS).await;
        self.behind.reserve(session, range.map_err(number)?);
        Ok(())
    }

    /// Commits of this file happen in order with all else.
    pub(super) fn take_care_of(&self, inode: u64) {
        if let Some(file) = self.inodes.file(inode) {
            let behind = self.behind.clone();
            file.entrust(Arc::new(InOrder { behind, inode }));
        }
    }

    /// Makes a directory that is delegated to this mount, if that can be; `None` if it cannot.
    pub(super) async fn mkdir_delegated(
        &self,
        who: Requester,
        parent: u64,
        name: &[u8],
        mode: u32,
    ) -> Outcome<Option<Attributes>> {
        let set_ids = mode & (libc::S_ISGID | libc::S_ISUID) != 0;
        // Who waits for it is heard of as a change.
        if set_ids || !self.behind.works() || !self.told.hears() {
            return Ok(None);
        }
        let make = |fs: FileSystem| async move {
            let location = Location {
                inode: parent,
                path: name.to_vec(),
            };
            let mkdir = Mkdir {
                location,
                mode,
                parents: false,
            };
            let step = Step {
                operation: OperationKind::Mkdir(mkdir).into(),
                ..Step::default()
            };
            fs.write_through(step).await
        };
        let made = self.on_behalf(who, mode, make).await;
        if matches!(made, Err(libc::EIO)) {
            self.behind.stray(None);
        }
        let (session, outcome) = made?;
        let OutcomeKind::Inode(made) = outcome else {
            return Err(libc::EIO);
        };
        let made = made.attributes;
        self.lose_former(session);
        if !made.has_acl && !self.behind.begin(session, &made) {
            self.behind.stray(Some(made.inode));
        }
        Ok(Some(made))
    }

    /// A name is about to change in a directory that is not delegated: if this mount works there, it asks for it. True if it has
    /// got it.
    pub(super) async fn take_if_busy(&self, directory: u64) -> bool {
        if !self.told.hears() || !self.behind.works_in(directory) {
            return false;
        }
        let session = self.fs.session();
        if session == 0 {
            return false;
        }
        let id = InodeId(directory);
        let kept = match self.fs.delegate(session, vec![id], Vec::new()).await {
            Ok(()) => self.adopt(session, id).await.unwrap_or(false),
            Err(_) => false,
        };
        if !kept {
            // It may be delegated nevertheless: an answer can be lost.
            self.behind.stray(Some(directory));
            self.behind.contend(directory);
        }
        kept
    }

    /// Learns all names of a directory that is delegated by now.
    async fn adopt(&self, session: u64, id: InodeId) -> Result<bool, Error> {
        let attributes = self.fs.stat_link(id).await?;
        if attributes.size > NAMES_MAX || attributes.has_acl {
            return Ok(false);
        }
        let mut names = BTreeMap::new();
        let mut after = Vec::new();
        loop {
            let page = self.fs.list_page(id, after, PAGE, false).await?;
            let last = page.entries.last();
            after = last.map(|it| it.name.clone()).unwrap_or_default();
            let entries = page.entries.into_iter();
            names.extend(entries.map(|entry| {
                let named = Named {
                    inode: entry.inode,
                    kind: entry.kind,
                };
                (entry.name.into_boxed_slice(), named)
            }));
            if !page.more || after.is_empty() {
                break;
            }
        }
        self.lose_former(session);
        Ok(self.behind.adopt(session, &attributes, names))
    }
}
