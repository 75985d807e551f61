//! A namespace to test with: a store in a temporary directory, a log index, one session with its sequence
//! numbers.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::{Attributes, Caller, ClusterSettings, InodeKind, Location};
use cairn_protocol::messages::operation::{
    Create, IfExists, InodeOutcome, Mkdir, Operation, OperationKind, OutcomeKind, RemoveTree,
    Rename, RenameMode, Rmdir, Symlink, Unlink,
};
use cairn_protocol::messages::query::{List, QueryKind, QueryResult, Stat};
use tempfile::TempDir;

use crate::namespace::command::{
    Batch, ClientCommand, Command, CommandKind, FoundCluster, OpenSession, Outcome,
};
use crate::namespace::{OpError, apply_batch, query};
use crate::store::{AppliedState, ChangeSet, Read, Store, StoreOptions};

/// 2001-09-09, as a first stamp.
pub(super) const EPOCH_NS: u64 = 1_000_000_000_000_000_000;

/// Default grace of the tests' clusters.
pub(super) const GRACE_NS: u64 = 60_000_000_000;

/// A key and its value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

pub(super) struct World {
    pub store: Store,
    pub index: u64,
    pub now_ns: u64,
    pub session: u64,
    pub sequence: u64,
    /// What was changed; tests clear it.
    pub changes: Vec<ChangeSet>,
    /// As a leader says it whose group has no room.
    pub no_growth: bool,
    _dir: TempDir,
}

pub(super) fn user(uid: u32) -> Caller {
    Caller {
        uid,
        gid: uid,
        groups: Vec::new(),
        umask: 0,
        token: Vec::new(),
        session: 0,
    }
}

pub(super) fn settings() -> ClusterSettings {
    ClusterSettings {
        chunk_size: 64 << 20,
        replication: 3,
        sync_on_close: false,
        session_ttl_ms: 10_000,
        reclaim_grace_ms: GRACE_NS / 1_000_000,
        datanode_dead_after_ms: 30_000,
        datanode_sync_interval_ms: 5_000,
    }
}

pub(super) fn found(root_mode: u32) -> CommandKind {
    CommandKind::FoundCluster(FoundCluster {
        cluster_id: vec![7; 16],
        settings: settings(),
        key_secret: vec![1; 32],
        root_uid: 0,
        root_gid: 0,
        root_mode,
    })
}

impl World {
    /// A founded cluster whose root everybody may write, and a session.
    pub fn new() -> Self {
        let mut world = Self::unfounded();
        assert_eq!(world.command(found(0o777)).code, 0);
        world.session = world.open_session(1);
        world
    }

    pub fn unfounded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state"), StoreOptions::default()).unwrap();
        Self {
            store,
            index: 0,
            now_ns: EPOCH_NS,
            session: 0,
            sequence: 0,
            changes: Vec::new(),
            no_growth: false,
            _dir: dir,
        }
    }

    pub fn open_session(&mut self, nonce: u8) -> u64 {
        let open = OpenSession {
            client_name: "test".into(),
            nonce: vec![nonce; 16],
            ..OpenSession::default()
        };
        let outcome = self.command(CommandKind::OpenSession(open));
        assert_eq!(outcome.code, 0, "{}", outcome.message);
        outcome.id
    }

    /// One log entry.
    pub fn batch(&mut self, commands: Vec<Command>) -> Vec<Outcome> {
        self.index += 1;
        let batch = Batch {
            stamp_ns: self.now_ns,
            commands,
            no_growth: self.no_growth,
        };
        let mut txn = self.store.begin();
        let outcomes = apply_batch(&mut txn, &batch, self.index).unwrap();
        let applied = AppliedState {
            index: self.index,
            ..AppliedState::default()
        };
        self.changes.extend(txn.take_changes());
        txn.commit(applied).unwrap();
        outcomes
    }

    pub fn command(&mut self, kind: CommandKind) -> Outcome {
        let mut outcomes = self.batch(vec![kind.into()]);
        assert_eq!(outcomes.len(), 1);
        outcomes.remove(0)
    }

    /// The next mutation of the session.
    pub fn next(&mut self, caller: &Caller, operation: OperationKind) -> ClientCommand {
        self.sequence += 1;
        ClientCommand {
            session: self.session,
            sequence: self.sequence,
            lowest_unanswered: self.sequence,
            caller: caller.clone(),
            operation: Operation::from(operation),
            placement: None,
        }
    }

    pub fn outcome(&mut self, caller: &Caller, operation: OperationKind) -> Outcome {
        let command = self.next(caller, operation);
        self.command(CommandKind::Client(command))
    }

    pub fn apply(
        &mut self,
        caller: &Caller,
        operation: OperationKind,
    ) -> Result<OutcomeKind, ErrorCode> {
        let outcome = self.outcome(caller, operation);
        match ErrorCode::from_number(outcome.code) {
            Some(code) => {
                assert!(outcome.value.is_none());
                Err(code)
            }
            None => Ok(outcome.value.unwrap().kind.unwrap()),
        }
    }

    pub fn change(
        &mut self,
        caller: &Caller,
        operation: OperationKind,
    ) -> Result<InodeOutcome, ErrorCode> {
        self.apply(caller, operation).map(|kind| match kind {
            OutcomeKind::Inode(outcome) => outcome,
            other => panic!("not about an inode: {other:?}"),
        })
    }

    pub fn query(&self, caller: &Caller, kind: &QueryKind) -> Result<QueryResult, ErrorCode> {
        match query(&self.store.snapshot(), caller, kind) {
            Ok(result) => Ok(result),
            Err(OpError::Failure(failure)) => Err(failure.code),
            Err(OpError::Delegated(_)) => Err(ErrorCode::Delegated),
            Err(OpError::Store(error)) => panic!("{error}"),
        }
    }

    pub fn stat(&self, caller: &Caller, path: &str) -> Result<Attributes, ErrorCode> {
        self.stat_at(caller, Location::path(path), false)
    }

    pub fn stat_at(
        &self,
        caller: &Caller,
        location: Location,
        follow: bool,
    ) -> Result<Attributes, ErrorCode> {
        let result = self.query(caller, &QueryKind::Stat(Stat { location, follow }))?;
        let QueryResult::Attributes(attributes) = result else {
            panic!("not attributes")
        };
        Ok(attributes)
    }

    pub fn names(&self, caller: &Caller, path: &str) -> Result<Vec<String>, ErrorCode> {
        let list = List {
            location: Location::path(path),
            start_after: Vec::new(),
            limit: 0,
            attributes: false,
        };
        let QueryResult::Listing(listing) = self.query(caller, &QueryKind::List(list))? else {
            panic!("not a listing");
        };
        let names = listing.entries.into_iter();
        Ok(names
            .map(|entry| String::from_utf8(entry.name).unwrap())
            .collect())
    }

    /// Every key and value of the state.
    pub fn dump(&self) -> Vec<Row> {
        let mut all = Vec::new();
        let visit = &mut |key: &[u8], value: &[u8]| {
            all.push((key.to_vec(), value.to_vec()));
            Ok(true)
        };
        self.store.snapshot().scan(&[], &[0xFF], visit).unwrap();
        all
    }

    pub fn mkdir(&mut self, caller: &Caller, path: &str) -> Result<InodeOutcome, ErrorCode> {
        self.change(caller, mkdir(path, 0o755))
    }

    pub fn create(&mut self, caller: &Caller, path: &str) -> Result<InodeOutcome, ErrorCode> {
        self.change(caller, OperationKind::Create(create(path)))
    }

    pub fn unlink(&mut self, caller: &Caller, path: &str) -> Result<InodeOutcome, ErrorCode> {
        self.change(
            caller,
            OperationKind::Unlink(Unlink {
                location: Location::path(path),
            }),
        )
    }

    pub fn rmdir(&mut self, caller: &Caller, path: &str) -> Result<InodeOutcome, ErrorCode> {
        self.change(
            caller,
            OperationKind::Rmdir(Rmdir {
                location: Location::path(path),
            }),
        )
    }

    pub fn remove_tree(&mut self, caller: &Caller, path: &str) -> Result<InodeOutcome, ErrorCode> {
        let location = Location::path(path);
        self.change(caller, OperationKind::RemoveTree(RemoveTree { location }))
    }

    pub fn symlink(
        &mut self,
        caller: &Caller,
        target: &str,
        path: &str,
    ) -> Result<InodeOutcome, ErrorCode> {
        let location = Location::path(path);
        let target = target.as_bytes().to_vec();
        self.change(caller, OperationKind::Symlink(Symlink { location, target }))
    }

    pub fn rename(
        &mut self,
        caller: &Caller,
        source: &str,
        target: &str,
        mode: RenameMode,
    ) -> Result<InodeOutcome, ErrorCode> {
        let rename = Rename {
            source: Location::path(source),
            target: Location::path(target),
            mode: mode as i32,
        };
        self.change(caller, OperationKind::Rename(rename))
    }
}

pub(super) fn mkdir(path: &str, mode: u32) -> OperationKind {
    OperationKind::Mkdir(Mkdir {
        location: Location::path(path),
        mode,
        parents: false,
    })
}

pub(super) fn create(path: &str) -> Create {
    Create {
        location: Location::path(path),
        kind: InodeKind::File as i32,
        mode: 0o644,
        rdev: 0,
        if_exists: IfExists::Fail as i32,
        replication: 0,
        extents: Vec::new(),
        orphan: false,
        parents: false,
        mtime_ns: 0,
        atime_ns: 0,
        size: 0,
    }
}
