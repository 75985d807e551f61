//! The file system as a value: connects, owns what its operations share, and closes.
//!
//! The operations are in `operations.rs` (changes), `queries.rs` (questions), `admin.rs` (operators), `read/` and `write/`.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_protocol::messages::common::{Caller, ClusterSettings};
use cairn_protocol::net::Role;
use cairn_protocol::rpc::{ConnectionOptions, Hello};
use cairn_protocol::trace;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::config::ClusterConfig;
use crate::datanodes::Datanodes;
use crate::error::{Result, Subject};
use crate::namenode::{Namenode, Waiting, lock};
use crate::open_file::OpenFiles;
use crate::read::hedging::Hedging;
use crate::read::local::LocalReplicas;
use crate::session::Sessions;
use crate::write::replication::Wishes;
use crate::write::small::SmallFiles;

/// How long [`FileSystem::close`] waits for writers to give their chunks back.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of files that a [`FileSystem`] holds, by its own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Written or on their way, and not yet committed: at most [`ClusterConfig::in_flight_bytes_max`].
    pub in_flight_bytes: usize,
    /// Read ahead for open files, or still in the hands of those who read them: at most
    /// [`ClusterConfig::read_ahead_bytes_max`].
    pub read_ahead_bytes: usize,
}

/// Waits for locks that a namenode is asked about at a time. Others look again and again.
const LOCK_WAITS_MAX: usize = 256;

/// A connected file system. Cheap to clone: clones share session, connections and limits.
///
/// ```no_run
/// use cairn_client::{ClusterConfig, FileSystem, WriteOptions};
/// use cairn_protocol::messages::common::Caller;
///
/// # async fn example() -> Result<(), cairn_client::Error> {
/// let caller = Caller { uid: 1000, gid: 1000, ..Caller::default() };
/// let config = ClusterConfig::new(vec!["namenode1:9000".into()], caller);
/// let fs = FileSystem::connect(config).await?;
/// fs.mkdir("/logs", 0o755).await?;
/// fs.write_file("/logs/today", "hello\n".into(), &WriteOptions::default()).await?;
/// assert_eq!(fs.open("/logs/today").await?.read_at(0, 100).await?, "hello\n");
/// fs.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct FileSystem {
    pub(crate) inner: Arc<Inner>,
    /// In whose name, if not in that of the one who connected.
    acting: Acting,
}

/// In whose name a [`FileSystem`] asks and changes.
#[derive(Clone)]
enum Acting {
    /// The one who connected.
    Connected,
    /// Changes of the namespace only.
    Changes(Arc<Caller>),
    /// Everything.
    Everything(Arc<Caller>),
}

/// What the operations share. Dropped with the last clone, and with it every background task.
pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    pub(crate) small: SmallFiles,
    pub(crate) wishes: Wishes,
    /// See [`Background`].
    tasks: Arc<Mutex<JoinSet<()>>>,
}

/// What background tasks share with operations. It does not own the tasks, which hold it.
pub(crate) struct Core {
    pub(crate) config: ClusterConfig,
    pub(crate) namenode: Arc<Namenode>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) datanodes: Datanodes,
    pub(crate) hedging: Hedging,
    pub(crate) local: Arc<LocalReplicas>,
    /// One permit per byte that is sent and not yet committed, over all writers.
    pub(crate) in_flight: Arc<Semaphore>,
    /// Somebody waits for `in_flight`.
    pub(crate) shortage: Shortage,
    /// Bytes read ahead of those who will ask for them, over all open files.
    pub(crate) read_ahead: Arc<Semaphore>,
    /// Set when the file system is closed: open files then write what they have at once.
    pub(crate) closing: CancellationToken,
    /// Open files with something to write.
    pub(crate) dirty_files: TaskTracker,
    pub(crate) open_files: OpenFiles,
    /// There was a pipeline: if there is none now, that is a failure that may pass.
    pub(crate) has_written: AtomicBool,
    pub(crate) background: Background,
    /// One permit for each wait for a lock that the namenode is asked about.
    pub(crate) lock_waits: Semaphore,
}

/// Tells those who hold bytes that wait for company that others wait for the memory.
#[derive(Default)]
pub(crate) struct Shortage {
    waiting: AtomicUsize,
    begun: Notify,
}

/// Somebody waits for memory, until it is dropped.
pub(crate) struct ShortageWait<'a>(&'a Shortage);

impl Shortage {
    pub(crate) fn begin(&self) -> ShortageWait<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.begun.notify_waiters();
        ShortageWait(self)
    }

    pub(crate) fn exists(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Ends when the next shortage begins, also one that begins before it is polled.
    pub(crate) fn begun(&self) -> Notified<'_> {
        self.begun.notified()
    }
}

impl Drop for ShortageWait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Tasks that outlive the operation that started them: writers' engines, chunks being given back, reports.
///
/// Owned by `Inner`, which ends them on drop; whoever starts one holds a clone that keeps nothing alive.
#[derive(Clone, Default)]
pub(crate) struct Background(std::sync::Weak<Mutex<JoinSet<()>>>);

impl Background {
    /// Runs `future` until it ends or the file system is dropped. It belongs to the request that starts it.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_for_all(trace::within(trace::current(), future));
    }

    /// The same for what many requests share.
    pub(crate) fn spawn_for_all(&self, future: impl Future<Output = ()> + Send + 'static) {
        // Writers may be dropped where no runtime is, or when it ends: then the cluster cleans up when the session expires.
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        if let Some(tasks) = self.0.upgrade() {
            let mut tasks = lock(&tasks);
            while tasks.try_join_next().is_some() {}
            tasks.spawn(future);
        }
    }
}

impl FileSystem {
    /// Connects to the cluster: asks a namenode who belongs to it. Cancel-safe.
    ///
    /// # Errors
    /// `Unavailable` or the like if no namenode answers within [`crate::Timeouts::patience`].
    pub async fn connect(config: ClusterConfig) -> Result<Self> {
        let config = config.clamped();
        let namenode = Arc::new(Namenode::new(&config)?);
        let patience = config.timeouts.patience;
        let refreshed = namenode.refresh(patience).await;
        refreshed.map_err(|error| error.into_error(&Subject::Cluster, patience))?;
        let hello = Hello::new("client", namenode.cluster_id(), 0);
        let options = ConnectionOptions {
            connect_timeout: config.timeouts.connect,
            tls: config.tls.clone(),
            expects: Some(Role::Datanode),
            ..Default::default()
        };
        let sessions = Arc::new(Sessions::new(namenode.clone(), config.client_name.clone()));
        let tasks = Arc::new(Mutex::new(JoinSet::new()));
        let core = Arc::new(Core {
            datanodes: Datanodes::new(hello, options, config.host.clone()),
            hedging: Hedging::new(config.timeouts.hedge),
            local: Arc::default(),
            has_written: AtomicBool::new(false),
            in_flight: Arc::new(Semaphore::new(config.in_flight_bytes_max)),
            shortage: Shortage::default(),
            read_ahead: Arc::new(Semaphore::new(config.read_ahead_bytes_max)),
            closing: CancellationToken::new(),
            dirty_files: TaskTracker::new(),
            open_files: OpenFiles::default(),
            background: Background(Arc::downgrade(&tasks)),
            lock_waits: Semaphore::new(LOCK_WAITS_MAX),
            namenode,
            sessions,
            config,
        });
        Ok(Self {
            inner: Arc::new(Inner {
                small: SmallFiles::new(core.clone()),
                wishes: Wishes::default(),
                core,
                tasks,
            }),
            acting: Acting::Connected,
        })
    }

    /// The same file system, whose changes of the namespace are made in the name of somebody else: a mount acts for every
    /// process of its machine. Session, connections and limits are shared; questions and data are still the connected
    /// caller's.
    pub fn with_caller(&self, caller: Caller) -> Self {
        Self {
            inner: self.inner.clone(),
            acting: Acting::Changes(Arc::new(caller)),
        }
    }

    /// The same file system, for somebody else in everything: questions, changes, and what may be opened. A gateway acts so for
    /// each request. Session, connections and limits are shared. What has been opened is read and written without asking again who
    /// it is.
    pub fn on_behalf_of(&self, caller: Caller) -> Self {
        Self {
            inner: self.inner.clone(),
            acting: Acting::Everything(Arc::new(caller)),
        }
    }

    /// The same file system, for the one who connected.
    pub(crate) fn as_connected(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            acting: Acting::Connected,
        }
    }

    /// True if questions are asked for somebody else than the one who connected.
    pub(crate) fn is_for_another(&self) -> bool {
        matches!(self.acting, Acting::Everything(_))
    }

    /// Who changes the namespace.
    pub(crate) fn caller(&self) -> Caller {
        match &self.acting {
            Acting::Changes(caller) | Acting::Everything(caller) => Caller::clone(caller),
            Acting::Connected => self.core().namenode.caller(),
        }
    }

    /// Who asks.
    pub fn asker(&self) -> Caller {
        match &self.acting {
            Acting::Everything(caller) => Caller::clone(caller),
            Acting::Changes(_) | Acting::Connected => self.core().namenode.caller(),
        }
    }

    /// How many bytes of files are held now. Small contents that are read, and what is joined for a packet, come on top.
    pub fn memory_use(&self) -> MemoryUse {
        let core = self.core();
        let used = |max: usize, free: &Semaphore| max.saturating_sub(free.available_permits());
        MemoryUse {
            in_flight_bytes: used(core.config.in_flight_bytes_max, &core.in_flight),
            read_ahead_bytes: used(core.config.read_ahead_bytes_max, &core.read_ahead),
        }
    }

    /// What this client tries in vain, if it does: for those who sit before a screen. Nothing while namenodes answer; an election
    /// shows for a moment.
    pub fn waiting(&self) -> Option<Waiting> {
        self.core().namenode.waiting()
    }

    /// The cluster's settings as last heard.
    pub fn settings(&self) -> ClusterSettings {
        self.core().namenode.settings()
    }

    /// The cluster's id: 16 bytes.
    pub fn cluster_id(&self) -> [u8; 16] {
        self.core().namenode.cluster_id().unwrap_or_default()
    }

    /// Gives open chunks back and ends the session. Writers should be closed before: those that are not will fail. Without
    /// this call the cluster cleans up by itself when the session expires. Not cancel-safe.
    pub async fn close(self) -> Result<()> {
        self.core().closing.cancel();
        self.core().dirty_files.close();
        if timeout(CLOSE_TIMEOUT, self.core().dirty_files.wait())
            .await
            .is_err()
        {
            debug!("open files cut off at close");
        }
        self.inner.small.close();
        // Engines end once their callers are gone and their chunks are given back.
        if timeout(CLOSE_TIMEOUT, self.drain()).await.is_err() {
            debug!("background tasks cut off at close");
        }
        self.core().sessions.close().await
    }

    /// Waits until no background task is left; those that run may start others.
    async fn drain(&self) {
        loop {
            let mut tasks = std::mem::take(&mut *lock(&self.inner.tasks));
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }
}

impl std::fmt::Debug for FileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSystem")
            .field("namenodes", &self.core().config.namenodes)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::task::JoinSet;

    use super::Background;
    use crate::namenode::lock;

    #[test]
    fn what_begins_where_no_runtime_is_is_left_out() {
        let tasks = Arc::new(Mutex::new(JoinSet::new()));
        Background(Arc::downgrade(&tasks)).spawn(async {});
        assert!(lock(&tasks).is_empty());
    }
}
