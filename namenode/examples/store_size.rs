//! How large the namenode's state is, and how fast it applies and reads: makes small files through the real commands, with
//! the sizes, times and checksums of no pattern that real ones have, then prints bytes per file on disk, memory, rates, and how long a restart takes to the first read.
//!
//! `cargo run --release -p cairn-namenode --example store_size -- [files] [directory]`

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use cairn_namenode::namespace::command::{
    Batch, ClientCommand, Command, CommandKind, FoundCluster, OpenSession, Outcome, Placement,
    RegisterDatanode,
};
use cairn_namenode::namespace::{apply_batch, query};
use cairn_namenode::store::{AppliedState, Store, StoreOptions};
use cairn_protocol::messages::common::{Caller, ClusterSettings, InodeKind, Location};
use cairn_protocol::messages::operation::{
    AllocateChunk, CommitExtent, Create, Mkdir, Operation, OperationKind, OutcomeKind,
};
use cairn_protocol::messages::query::{QueryKind, Stat};

const FILES_PER_DIRECTORY: u64 = 1000;
const FILE_BYTES_MAX: u64 = 16 << 10;
const CHUNK_BYTES: u64 = 128 << 20;
/// Commands of one log entry under load.
const BATCH: usize = 256;
const START_NS: u64 = 1_700_000_000_000_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let files: u64 = arguments.next().as_deref().unwrap_or("1000000").parse()?;
    let scratch = tempfile::tempdir()?;
    let directory = arguments
        .next()
        .map_or_else(|| scratch.path().join("state"), Into::into);
    let mut load = Load::new(&directory)?;
    load.fill(files)?;
    println!("{files} files of up to {FILE_BYTES_MAX} bytes");
    println!(
        "create with content: {:.0} per CPU second, {:.1} us each",
        files as f64 / load.applying.as_secs_f64(),
        load.applying.as_secs_f64() * 1e6 / files as f64
    );
    println!("memory after filling: {} MiB", memory_bytes()? >> 20);
    load.store.compact()?;
    let disk = load.store.disk_bytes()?;
    println!(
        "on disk: {} bytes, {:.1} per file",
        disk,
        disk as f64 / files as f64
    );
    drop(load);
    reopen(&directory, files)
}

/// Feeds commands as the state machine would.
struct Load {
    store: Store,
    index: u64,
    session: u64,
    sequence: u64,
    pending: Vec<Command>,
    /// CPU time of the applying thread.
    applying: Duration,
}

impl Load {
    fn new(directory: &Path) -> Result<Self, Box<dyn Error>> {
        let store = Store::open(directory, StoreOptions::default())?;
        let applying = Duration::ZERO;
        let pending = Vec::new();
        let mut load = Self {
            store,
            index: 0,
            session: 0,
            sequence: 0,
            pending,
            applying,
        };
        load.command(found())?;
        let name = "store_size".to_string();
        let open = OpenSession {
            client_name: name,
            nonce: vec![1; 16],
            ..OpenSession::default()
        };
        load.session = load.command(CommandKind::OpenSession(open))?.id;
        for number in 1..=3u8 {
            load.command(CommandKind::RegisterDatanode(RegisterDatanode {
                uuid: vec![number; 16],
                address: format!("10.0.0.{number}:9866"),
                ..RegisterDatanode::default()
            }))?;
        }
        Ok(load)
    }

    fn fill(&mut self, files: u64) -> Result<(), Box<dyn Error>> {
        let mut chunk = 0;
        let mut offset = CHUNK_BYTES;
        for number in 0..files {
            if number % FILES_PER_DIRECTORY == 0 {
                let location = directory_of(number);
                self.push(
                    OperationKind::Mkdir(Mkdir {
                        location,
                        mode: 0o755,
                        parents: true,
                    }),
                    None,
                )?;
            }
            if offset + FILE_BYTES_MAX > CHUNK_BYTES {
                chunk = self.allocate()?;
                offset = 0;
            }
            self.push(create(number, chunk, offset), None)?;
            offset += size_of(number);
        }
        self.apply_pending()?;
        Ok(())
    }

    fn allocate(&mut self) -> Result<u64, Box<dyn Error>> {
        self.apply_pending()?;
        let operation = AllocateChunk {
            replication: 3,
            ..AllocateChunk::default()
        };
        let placement = Placement {
            datanodes: vec![1, 2, 3],
            reuse_chunk: 0,
        };
        self.push(OperationKind::AllocateChunk(operation), Some(placement))?;
        let outcome = self.apply_pending()?;
        match outcome
            .and_then(|outcome| outcome.value)
            .and_then(|value| value.kind)
        {
            Some(OutcomeKind::Chunk(grant)) => Ok(grant.chunk),
            other => Err(format!("no chunk: {other:?}").into()),
        }
    }

    fn push(
        &mut self,
        operation: OperationKind,
        placement: Option<Placement>,
    ) -> Result<(), Box<dyn Error>> {
        self.sequence += 1;
        let client = ClientCommand {
            session: self.session,
            sequence: self.sequence,
            lowest_unanswered: self.sequence.saturating_sub(64).max(1),
            caller: superuser(),
            operation: Operation::from(operation),
            placement,
        };
        self.pending.push(CommandKind::Client(client).into());
        if self.pending.len() >= BATCH {
            self.apply_pending()?;
        }
        Ok(())
    }

    fn command(&mut self, kind: CommandKind) -> Result<Outcome, Box<dyn Error>> {
        self.pending.push(kind.into());
        self.apply_pending()?.ok_or_else(|| "no outcome".into())
    }

    /// Applies what is pending as one log entry. Answers the last outcome.
    fn apply_pending(&mut self) -> Result<Option<Outcome>, Box<dyn Error>> {
        self.index += 1;
        let commands = std::mem::take(&mut self.pending);
        let batch = Batch {
            stamp_ns: START_NS + self.index * 1_000_000,
            commands,
            no_growth: false,
        };
        let begun = cpu_time()?;
        let mut txn = self.store.begin();
        let outcomes = apply_batch(&mut txn, &batch, self.index)?;
        txn.commit(AppliedState {
            index: self.index,
            ..AppliedState::default()
        })?;
        self.applying += cpu_time()? - begun;
        if let Some(failed) = outcomes.iter().find(|outcome| outcome.code != 0) {
            return Err(format!("error {}: {}", failed.code, failed.message).into());
        }
        Ok(outcomes.into_iter().next_back())
    }
}

fn found() -> CommandKind {
    CommandKind::FoundCluster(FoundCluster {
        cluster_id: vec![1; 16],
        settings: ClusterSettings {
            chunk_size: CHUNK_BYTES,
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

fn create(number: u64, chunk: u64, offset: u64) -> OperationKind {
    let extent = CommitExtent {
        offset_in_file: 0,
        chunk,
        epoch: 1,
        offset_in_chunk: offset,
        length: size_of(number),
        crc32c: scatter(number) as u32,
        synced: false,
    };
    OperationKind::Create(Create {
        location: file_of(number),
        kind: InodeKind::File as i32,
        mode: 0o644,
        extents: vec![extent],
        // Within a year, to the nanosecond.
        mtime_ns: START_NS - scatter(number) % (365 * 24 * 3600 * 1_000_000_000),
        ..Create::default()
    })
}

/// A number without a pattern (the finalizer of SplitMix64).
fn scatter(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

fn size_of(number: u64) -> u64 {
    1 + scatter(number) % FILE_BYTES_MAX
}

fn directory_of(number: u64) -> Location {
    let group = number / FILES_PER_DIRECTORY;
    Location::path(format!("/data/{:04}/batch-{:04}", group / 100, group % 100))
}

fn file_of(number: u64) -> Location {
    let mut location = directory_of(number);
    location
        .path
        .extend(format!("/record-{number:08}.json").into_bytes());
    location
}

fn superuser() -> Caller {
    Caller {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        umask: 0,
        session: 0,
        token: Vec::new(),
    }
}

fn reopen(directory: &Path, files: u64) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let store = Store::open(directory, StoreOptions::default())?;
    stat(&store, files / 2)?;
    println!(
        "restart to first read: {:.1} ms",
        begun.elapsed().as_secs_f64() * 1e3
    );
    for (what, span) in [
        ("over all files", files),
        ("over 10,000 files", 10_000.min(files)),
    ] {
        let count = 200_000.min(files);
        // Twice: the first round fills the cache.
        let mut elapsed = Duration::ZERO;
        for _ in 0..2 {
            let begun = cpu_time()?;
            for step in 0..count {
                stat(&store, scatter(step) % span)?;
            }
            elapsed = cpu_time()? - begun;
        }
        let each = elapsed.as_secs_f64() * 1e6 / count as f64;
        println!("stat by path of 4 components {what}: {each:.1} us of CPU each");
    }
    println!("memory after reading: {} MiB", memory_bytes()? >> 20);
    Ok(())
}

fn stat(store: &Store, number: u64) -> Result<(), Box<dyn Error>> {
    let stat = Stat {
        location: file_of(number),
        follow: false,
    };
    query(&store.snapshot(), &superuser(), &QueryKind::Stat(stat))?;
    Ok(())
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

fn memory_bytes() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .ok_or("no VmRSS")?;
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .ok_or("no value of VmRSS")?
        .parse()?;
    Ok(kib << 10)
}
