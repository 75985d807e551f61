//! Sessions that hold a delegated directory and tell it batch by batch, in the protocol's words: what is known of them is exact.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use cairn_client::{FileSystem, Watch, WatchEvent, WatchOptions, WatchScope};
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{InodeKind, Location};
use cairn_protocol::messages::operation::{Create, IfExists, OperationKind, Step};
use tokio::time::{sleep, timeout};

use super::super::cluster::Stop;
use super::super::workload::is_explained;
use super::stage::Stage;
use crate::harness::Prefixes;

/// Steps of one batch.
const STEPS: u64 = 10;
/// Numbers that are reserved at once: for some batches.
const NUMBERS: u32 = 64;
/// Batches that are told at most: a directory is listed in one piece only if it is small.
const BATCHES_MAX: u32 = 80;
/// Where all of it happens.
const ROOT: &str = "/told";
/// Between two looks of others.
const PAUSE: Duration = Duration::from_millis(20);

/// What a directory may hold, and whose it is.
#[derive(Clone)]
struct Batches {
    /// Names with the numbers of their inodes, after each batch.
    states: Rc<RefCell<Prefixes<BTreeMap<String, u64>>>>,
    /// Odd while its holder was told that it has the directory and has not begun to give it back.
    turns: Rc<Cell<u64>>,
}

impl Batches {
    fn new() -> Self {
        Self {
            states: Rc::new(RefCell::new(Prefixes::new(BTreeMap::new()))),
            turns: Rc::default(),
        }
    }

    fn turn(&self) {
        self.turns.set(self.turns.get() + 1);
    }
}

/// A session that has a directory for itself.
struct Teller {
    fs: FileSystem,
    session: u64,
    directory: InodeId,
    numbers: Range<u64>,
    batches: Batches,
}

impl Teller {
    /// In a directory that is just made.
    async fn new(fs: FileSystem, path: &str, batches: Batches) -> anyhow::Result<Self> {
        let directory = InodeId(fs.mkdir(path, 0o755).await?.inode);
        let session = fs.session();
        ensure!(session != 0, "no session");
        Ok(Self {
            fs,
            session,
            directory,
            numbers: 0..0,
            batches,
        })
    }

    /// Again, as long as nobody knows that the session is over: by its own clock a client takes it for over first.
    async fn patiently<T, F>(&self, mut ask: impl FnMut() -> F) -> cairn_client::Result<T>
    where
        F: Future<Output = cairn_client::Result<T>>,
    {
        loop {
            match ask().await {
                Err(error)
                    if self.fs.session_may_live(self.session) && is_explained(error.code()) =>
                {
                    sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    async fn take(&self) -> cairn_client::Result<()> {
        let take = vec![self.directory];
        self.patiently(|| self.fs.delegate(self.session, take.clone(), Vec::new()))
            .await?;
        self.batches.turn();
        Ok(())
    }

    async fn give_back(&self) -> cairn_client::Result<()> {
        let give_back = vec![self.directory];
        self.batches.turn();
        self.patiently(|| {
            self.fs
                .delegate(self.session, Vec::new(), give_back.clone())
        })
        .await
    }

    async fn reserve(&self) -> cairn_client::Result<Range<u64>> {
        self.patiently(|| self.fs.reserve_inodes(self.session, NUMBERS))
            .await
    }

    /// Makes files and tells them at once.
    async fn tell(&mut self, prefix: &str) -> cairn_client::Result<()> {
        if self.numbers.end - self.numbers.start < STEPS {
            self.numbers = self.reserve().await?;
        }
        let made: Vec<(String, u64)> = (0..STEPS)
            .filter_map(|step| Some((format!("{prefix}-{step:02}"), self.numbers.next()?)))
            .collect();
        let steps: Vec<Step> = made
            .iter()
            .map(|(name, inode)| step(self.directory, name, *inode))
            .collect();
        let mut next = self.batches.states.borrow().state().clone();
        next.extend(made);
        self.batches.states.borrow_mut().begin(next);
        self.patiently(|| self.fs.write_behind(self.session, steps.clone()))
            .await?;
        self.batches.states.borrow_mut().acknowledge(|_| {});
        Ok(())
    }

    /// What was told stays.
    fn keep(&self) -> anyhow::Result<()> {
        let mut batches = self.batches.states.borrow_mut();
        let told = batches.acknowledged();
        batches.keep(told)
    }
}

/// Makes an empty file.
fn step(directory: InodeId, name: &str, inode: u64) -> Step {
    let create = Create {
        location: Location::entry(directory, name),
        kind: InodeKind::File as i32,
        mode: 0o644,
        if_exists: IfExists::Fail as i32,
        ..Create::default()
    };
    Step {
        operation: OperationKind::Create(create).into(),
        inode,
        ..Step::default()
    }
}

/// Another client lists the directory; names of its own kind do not count.
async fn look(fs: &FileSystem, path: &str, batches: &Batches) -> anyhow::Result<()> {
    let look = batches.states.borrow().look();
    let turn = batches.turns.get();
    let entries = fs.list_all(path).await?;
    let found: BTreeMap<String, u64> = entries
        .into_iter()
        .map(|entry| {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            (name, entry.inode)
        })
        .filter(|(name, _)| !name.starts_with("other-"))
        .collect();
    let count = found.len();
    let mut states = batches.states.borrow_mut();
    // Who gets in though nobody has given anything back has met the end of a session.
    let is_end = turn % 2 == 1 && turn == batches.turns.get();
    let seen = match is_end {
        true => states.seen_end(look, |state| *state == found),
        false => states.seen(look, |state| *state == found),
    };
    seen.with_context(|| format!("{count} names in {path}"))
}

fn make_root(stage: &mut Stage) -> anyhow::Result<()> {
    stage.act(|fs| async move {
        fs.mkdir(ROOT, 0o755).await?;
        Ok(())
    })
}

/// Whatever a client and the namenodes say to each other waits, or goes on and arrives late.
fn hold(stage: &mut Stage, client: &str, hold: bool) {
    let trace = &stage.cluster.trace;
    trace.event(format!(
        "{client} and the namenodes hear each other: {}",
        !hold
    ));
    for namenode in &stage.cluster.namenodes {
        let (client, namenode) = (client.to_owned(), namenode.name.clone());
        if hold {
            stage.cluster.sim.hold(client, namenode);
        } else {
            stage.cluster.sim.release(client, namenode);
        }
    }
}

/// Others look and put names there until it is over.
async fn visit(
    fs: FileSystem,
    (path, batches): (String, Batches),
    over: Rc<Cell<bool>>,
) -> anyhow::Result<()> {
    let mut visits = 0;
    while !over.get() {
        look(&fs, &path, &batches).await?;
        visits += 1;
        let own = format!("{path}/other-{visits}");
        let made = fs.create(own.as_str(), 0o644, IfExists::Fail).await?;
        ensure!(made.1, "{own} was there");
        sleep(PAUSE).await;
    }
    look(&fs, &path, &batches).await
}

/// A holder has a batch on its way when it loses the namenodes for longer or shorter than its session lives; what it sent arrives then.
/// It happened wholly before anybody else came in, or it never does.
pub(super) fn cut_off_and_back(stage: &mut Stage) -> anyhow::Result<()> {
    make_root(stage)?;
    for (round, away_ms) in [500, 2_600, 3_200, 4_000, 9_000].into_iter().enumerate() {
        one_absence(stage, round, away_ms)?;
    }
    stage.finish()
}

fn one_absence(stage: &mut Stage, round: usize, away_ms: u64) -> anyhow::Result<()> {
    let path = format!("{ROOT}/away-{round}");
    let batches = Batches::new();
    let (cut, over): (Rc<Cell<bool>>, Rc<Cell<bool>>) = Default::default();
    let told = Rc::new(Cell::new(false));
    let holder = {
        let (path, batches) = (path.clone(), batches.clone());
        let (cut, over, told) = (cut.clone(), over.clone(), told.clone());
        stage.begin(move |fs| async move {
            let mut teller = Teller::new(fs, &path, batches).await?;
            teller.take().await?;
            teller.tell("first").await?;
            teller.keep()?;
            told.set(true);
            while !cut.get() {
                sleep(PAUSE).await;
            }
            let came_back = come_back(&mut teller).await;
            over.set(true);
            came_back
        })
    };
    let limit = Duration::from_secs(30);
    stage
        .cluster
        .run_until(limit, "the first batch", |_, _| told.get())?;
    hold(stage, &holder, true);
    cut.set(true);
    let visiting = (path.clone(), batches.clone());
    let is_over = over.clone();
    stage.begin(move |fs| visit(fs, visiting, is_over));
    stage.pass(away_ms)?;
    hold(stage, &holder, false);
    stage.end()?;
    let cut = batches.states.borrow().is_cut();
    let many = batches.states.borrow().acknowledged();
    stage
        .cluster
        .trace
        .event(format!("away {away_ms} ms: {many} batches, cut {cut}"));
    // Half a second is not the end of a session, three times its life is.
    ensure!(away_ms > 1_000 || many > 1, "the session lived");
    ensure!(
        away_ms < 8_000 || (many == 1 && cut),
        "a session lived for {away_ms} ms"
    );
    Ok(())
}

/// What a holder may do when it is heard again.
async fn come_back(teller: &mut Teller) -> anyhow::Result<()> {
    let second = teller.tell("second").await;
    if second.is_ok() {
        teller.keep()?;
        teller.tell("third").await?;
        teller.keep()?;
        return Ok(teller.give_back().await?);
    }
    let code = second.err().map(|error| error.code());
    ensure!(code == Some(ErrorCode::OutcomeUnknown), "{code:?}");
    // In the session that is over nothing happens any more.
    let steps = vec![step(teller.directory, "late", teller.numbers.start)];
    let late = teller.fs.write_behind(teller.session, steps).await;
    let late = late.err().map(|error| error.code());
    ensure!(late == Some(ErrorCode::SessionExpired), "late: {late:?}");
    ensure!(teller.take().await.is_err(), "taken after the end");
    // In the next one it gets other numbers.
    let open = format!("{ROOT}/open-{}", teller.session);
    teller.fs.mkdir(open.as_str(), 0o755).await?;
    let session = teller.fs.session();
    ensure!(session > teller.session, "session {session}");
    let numbers = teller.fs.reserve_inodes(session, NUMBERS).await?;
    ensure!(numbers.start >= teller.numbers.end, "{numbers:?} again");
    Ok(())
}

/// A holder tells batch after batch while others want in, and the leader dies or hands over at every possible moment.
pub(super) fn recall_and_leader_change(stage: &mut Stage) -> anyhow::Result<()> {
    make_root(stage)?;
    let path = format!("{ROOT}/raced");
    let batches = Batches::new();
    let over: Rc<Cell<bool>> = Rc::default();
    let began = Rc::new(Cell::new(false));
    let (told, at, is_over) = (batches.clone(), path.clone(), over.clone());
    let has_begun = began.clone();
    stage.begin(move |fs| async move {
        let mut teller = Teller::new(fs, &at, told).await?;
        has_begun.set(true);
        race(&mut teller, is_over).await
    });
    let limit = Duration::from_secs(30);
    stage
        .cluster
        .run_until(limit, "the directory", |_, _| began.get())?;
    for _ in 0..2 {
        let visiting = (path.clone(), batches.clone());
        let is_over = over.clone();
        stage.begin(move |fs| look_often(fs, visiting, is_over));
    }
    for delay_ms in [40, 73, 111, 186, 307, 512] {
        stage.pass(delay_ms)?;
        let leader = stage.leader()?;
        let stop = if delay_ms % 2 == 0 {
            Stop::Kill
        } else {
            Stop::PowerLoss
        };
        stage.cluster.stop_namenode(leader, stop);
        stage.pass(1_200)?;
        let name = stage.cluster.namenodes[leader].name.clone();
        stage.cluster.start_machine(&name);
        stage.leader()?;
    }
    over.set(true);
    stage.end()?;
    let batches = batches.states.borrow();
    let (count, cut) = (batches.acknowledged(), batches.is_cut());
    ensure!(count > 20 && !cut, "{count} batches, cut {cut}");
    stage.finish()
}

async fn look_often(
    fs: FileSystem,
    (path, batches): (String, Batches),
    over: Rc<Cell<bool>>,
) -> anyhow::Result<()> {
    while !over.get() {
        look(&fs, &path, &batches).await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Takes the directory, tells until somebody wants it, tells once more, and gives it back.
async fn race(teller: &mut Teller, over: Rc<Cell<bool>>) -> anyhow::Result<()> {
    let options = WatchOptions {
        scope: WatchScope::All,
        others_only: true,
    };
    let mut watch = teller.fs.watch(options).await?;
    let mut batch = 0;
    while !over.get() && batch < BATCHES_MAX {
        teller.take().await?;
        for _ in 0..8 {
            batch += 1;
            teller.tell(&format!("batch-{batch:04}")).await?;
            teller.keep()?;
            if is_wanted(&mut watch, teller.directory).await? {
                break;
            }
        }
        batch += 1;
        teller.tell(&format!("batch-{batch:04}")).await?;
        teller.give_back().await?;
        teller.keep()?;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Whether somebody waits for the directory, as far as is heard by now. What was missed counts as that.
async fn is_wanted(watch: &mut Watch, directory: InodeId) -> anyhow::Result<bool> {
    let Ok(event) = timeout(PAUSE, watch.next()).await else {
        return Ok(false);
    };
    Ok(match event? {
        WatchEvent::Changes(sets) => sets
            .iter()
            .flat_map(|set| &set.changes)
            .any(|change| change.inode == directory.0),
        _ => true,
    })
}
