//! What a namenode pays to apply the changes of names, without the log and the network: makes, renames and removes entries of
//! one directory through the real commands, in log entries of the size that 64 callers make.
//!
//! `cargo run --release -p cairn-namenode --example apply_cost -- [count] [commands of an entry]`

use std::error::Error;
use std::time::Duration;

use cairn_namenode::namespace::apply_batch;
use cairn_namenode::namespace::command::{
    Batch, ClientCommand, Command, CommandKind, FoundCluster, OpenSession, Outcome,
};
use cairn_namenode::store::{AppliedState, Store, StoreOptions};
use cairn_protocol::messages::common::{Caller, ClusterSettings, InodeKind, Location};
use cairn_protocol::messages::operation::{
    Create, Mkdir, Operation, OperationKind, Rename, RenameMode, Unlink,
};
use prost::Message;

const START_NS: u64 = 1_700_000_000_000_000_000;
const DIRECTORY: &str = "/bench/meta";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: u64 = arguments.next().as_deref().unwrap_or("100000").parse()?;
    let batch: usize = arguments.next().as_deref().unwrap_or("32").parse()?;
    let scratch = tempfile::tempdir()?;
    let mut load = Load::new(Store::open(scratch.path(), StoreOptions::default())?, batch)?;
    load.run("mkdir", count, |index| {
        let location = name('d', index);
        let (mode, parents) = (0o755, false);
        OperationKind::Mkdir(Mkdir {
            location,
            mode,
            parents,
        })
    })?;
    load.run("rename", count, |index| {
        OperationKind::Rename(Rename {
            source: name('d', index),
            target: name('e', index),
            mode: RenameMode::Replace as i32,
        })
    })?;
    load.run("create", count, |index| {
        OperationKind::Create(Create {
            location: name('f', index),
            kind: InodeKind::File as i32,
            mode: 0o644,
            ..Create::default()
        })
    })?;
    load.run("unlink", count, |index| {
        let location = name('f', index);
        OperationKind::Unlink(Unlink { location })
    })
}

fn name(kind: char, index: u64) -> Location {
    Location::path(format!("{DIRECTORY}/{kind}{index}"))
}

/// Feeds commands as the state machine would.
struct Load {
    store: Store,
    batch: usize,
    index: u64,
    session: u64,
    sequence: u64,
}

impl Load {
    fn new(store: Store, batch: usize) -> Result<Self, Box<dyn Error>> {
        let mut load = Self {
            store,
            batch,
            index: 0,
            session: 0,
            sequence: 0,
        };
        load.apply(vec![found().into()])?;
        let open = OpenSession {
            client_name: "apply_cost".to_owned(),
            nonce: vec![1; 16],
            host: "127.0.0.1".to_owned(),
            ..OpenSession::default()
        };
        let outcomes = load.apply(vec![CommandKind::OpenSession(open).into()])?;
        load.session = outcomes.first().ok_or("no outcome")?.id;
        let (location, mode, parents) = (Location::path(DIRECTORY), 0o755, true);
        let command = load.command(OperationKind::Mkdir(Mkdir {
            location,
            mode,
            parents,
        }));
        load.apply(vec![command])?;
        Ok(load)
    }

    fn run(
        &mut self,
        what: &str,
        count: u64,
        operation: impl Fn(u64) -> OperationKind,
    ) -> Result<(), Box<dyn Error>> {
        let mut spent = Duration::ZERO;
        let mut entry_bytes = 0;
        let mut next = 0;
        while next < count {
            let end = (next + self.batch as u64).min(count);
            let commands: Vec<Command> = (next..end)
                .map(|index| self.command(operation(index)))
                .collect();
            entry_bytes += commands.iter().map(Message::encoded_len).sum::<usize>();
            let begun = cpu_time()?;
            self.apply(commands)?;
            spent += cpu_time()? - begun;
            next = end;
        }
        println!(
            "{what}: {:.2} us of CPU each, {} bytes of log",
            spent.as_secs_f64() * 1e6 / count as f64,
            entry_bytes as u64 / count
        );
        Ok(())
    }

    fn command(&mut self, kind: OperationKind) -> Command {
        self.sequence += 1;
        let client = ClientCommand {
            session: self.session,
            sequence: self.sequence,
            lowest_unanswered: self.sequence.saturating_sub(64).max(1),
            caller: Caller::default(),
            operation: Operation::from(kind),
            placement: None,
        };
        CommandKind::Client(client).into()
    }

    fn apply(&mut self, commands: Vec<Command>) -> Result<Vec<Outcome>, Box<dyn Error>> {
        self.index += 1;
        let stamp_ns = START_NS + self.index * 1_000_000;
        let batch = Batch {
            stamp_ns,
            commands,
            no_growth: false,
        };
        let mut txn = self.store.begin();
        let outcomes = apply_batch(&mut txn, &batch, self.index)?;
        txn.commit(AppliedState {
            index: self.index,
            ..AppliedState::default()
        })?;
        match outcomes.iter().find(|outcome| outcome.code != 0) {
            Some(failed) => Err(format!("error {}: {}", failed.code, failed.message).into()),
            None => Ok(outcomes),
        }
    }
}

fn found() -> CommandKind {
    CommandKind::FoundCluster(FoundCluster {
        cluster_id: vec![1; 16],
        settings: ClusterSettings {
            chunk_size: 128 << 20,
            replication: 3,
            sync_on_close: false,
            session_ttl_ms: 30_000,
            reclaim_grace_ms: 60_000,
            datanode_dead_after_ms: 60_000,
            datanode_sync_interval_ms: 5_000,
        },
        key_secret: vec![1; 32],
        root_uid: 0,
        root_gid: 0,
        root_mode: 0o755,
    })
}

/// What this thread had of a CPU: other load on the machine does not count.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let on_cpu = text
        .split_whitespace()
        .next()
        .ok_or("no time in schedstat")?;
    Ok(Duration::from_nanos(on_cpu.parse()?))
}
