//! What goes wrong and when: a schedule drawn from the seed.
//!
//! Bit rot and power loss are not drawn together: two damages could meet in all replicas of a chunk, and then loss is
//! what is promised.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_daemon::disk::Disk;
use cairn_daemon::disk::sim::SimDisk;
use cairn_protocol::ids::NamenodeId;
use rand::Rng;
use rand::rngs::StdRng;

use super::cluster::{Cluster, Stop};

/// Of each datanode.
const VOLUMES: usize = 2;
/// Seconds that a token for reading lives.
const TOKEN_LIFE_S: i64 = 15 * 60;
/// The part of the seeds in which dates jump that far.
const FAR_JUMPS_IN: f64 = 0.3;
/// Before an operator asks again.
const OPERATOR_PAUSE: Duration = Duration::from_millis(300);

/// Something that goes wrong, or right again.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// No messages between two machines.
    Partition(String, String),
    /// Messages of the first do not reach the second.
    PartitionOneway(String, String),
    /// Messages wait until the link is released: they arrive late.
    Hold(String, String),
    /// A machine hears and reaches nobody.
    Isolate(String),
    Repair(String, String),
    RepairOneway(String, String),
    Release(String, String),
    Rejoin(String),
    StopNamenode(usize, Stop),
    StopDatanode(usize, Stop),
    Start(String),
    StopAll(Stop),
    StartAll,
    /// Seconds by which a namenode's date moves.
    ClockJump(usize, i64),
    /// One bit of a replica's data.
    BitRot(usize),
    TransferLeadership,
    /// The spare namenode takes another one's place.
    ReplaceNamenode(usize),
    /// Writes and syncs of one of a datanode's volumes fail from now on, or its reads do, or both: it is gone.
    DiskFails {
        datanode: usize,
        volume: usize,
        reads: bool,
        writes: bool,
    },
    /// The next sync on a volume fails.
    SyncFails(usize, usize),
}

/// Draws faults for `window` from `start` on, in order of time.
pub(crate) fn draw(
    rng: &mut StdRng,
    cluster: &Cluster,
    clients: usize,
    start: Duration,
    window: Duration,
) -> Vec<(Duration, Fault)> {
    let rot = rng.random_bool(0.4);
    let mut schedule = Vec::new();
    for _ in 0..rng.random_range(3..9) {
        let at = start + window.mul_f64(rng.random_range(0.0..0.8));
        let for_long = if rng.random_bool(0.7) {
            200..1500
        } else {
            1500..4000
        };
        let until = (at + Duration::from_millis(rng.random_range(for_long))).min(start + window);
        let (fault, undo) = draw_one(rng, cluster, clients, rot);
        schedule.push((at, fault));
        schedule.extend(undo.map(|undo| (until, undo)));
    }
    if rot {
        for _ in 0..rng.random_range(1..4) {
            let at = start + window.mul_f64(rng.random_range(0.1..0.9));
            schedule.push((
                at,
                Fault::BitRot(rng.random_range(0..cluster.datanodes.len())),
            ));
        }
    }
    // Bytes that only one replica has left must not be on it: one disk, and not where others rot.
    if !rot && rng.random_bool(0.5) {
        let datanode = rng.random_range(0..cluster.datanodes.len());
        let at = start + window.mul_f64(rng.random_range(0.1..0.9));
        schedule.push((at, draw_disk(rng, datanode)));
    }
    if cluster.options.spare && rng.random_bool(0.8) {
        let at = start + window.mul_f64(rng.random_range(0.0..0.9));
        let replaced = rng.random_range(0..cluster.options.namenodes);
        schedule.push((at, Fault::ReplaceNamenode(replaced)));
    }
    schedule.sort_by_key(|(at, _)| *at);
    schedule
}

fn draw_disk(rng: &mut StdRng, datanode: usize) -> Fault {
    let volume = rng.random_range(0..VOLUMES);
    let fails = |reads, writes| Fault::DiskFails {
        datanode,
        volume,
        reads,
        writes,
    };
    match rng.random_range(0..4) {
        0 => Fault::SyncFails(datanode, volume),
        1 => fails(true, false),
        2 => fails(false, true),
        _ => fails(true, true),
    }
}

fn draw_one(
    rng: &mut StdRng,
    cluster: &Cluster,
    clients: usize,
    rot: bool,
) -> (Fault, Option<Fault>) {
    let namenode = rng.random_range(0..cluster.namenodes.len());
    let datanode = rng.random_range(0..cluster.datanodes.len());
    let stop = if rot || rng.random_bool(0.5) {
        Stop::Kill
    } else {
        Stop::PowerLoss
    };
    let mut names = cluster.machine_names();
    names.extend((0..clients).map(|index| format!("client-{index}")));
    let a = names.swap_remove(rng.random_range(0..names.len()));
    let b = names.swap_remove(rng.random_range(0..names.len()));
    let pair = || (a.clone(), b.clone());
    match rng.random_range(0..100) {
        0..12 => (
            Fault::Partition(pair().0, pair().1),
            Some(Fault::Repair(a, b)),
        ),
        12..20 => (
            Fault::PartitionOneway(pair().0, pair().1),
            Some(Fault::RepairOneway(a, b)),
        ),
        20..30 => (Fault::Hold(pair().0, pair().1), Some(Fault::Release(a, b))),
        30..40 => (Fault::Isolate(a.clone()), Some(Fault::Rejoin(a))),
        40..55 => {
            let start = Fault::Start(cluster.namenodes[namenode].name.clone());
            (Fault::StopNamenode(namenode, stop), Some(start))
        }
        55..72 => {
            let start = Fault::Start(cluster.datanodes[datanode].name.clone());
            (Fault::StopDatanode(datanode, stop), Some(start))
        }
        72..78 => (Fault::StopAll(stop), Some(Fault::StartAll)),
        78..85 => (
            Fault::ClockJump(namenode, rng.random_range(-100..100)),
            None,
        ),
        85..98 if rot => (Fault::BitRot(datanode), None),
        _ => (Fault::TransferLeadership, None),
    }
}

/// Draws jumps of namenodes' dates beyond what a token lives, in some seeds, by when after the begin.
pub(crate) fn draw_far_jumps(
    rng: &mut StdRng,
    cluster: &Cluster,
    window: Duration,
) -> Vec<(Duration, Fault)> {
    if !rng.random_bool(FAR_JUMPS_IN) {
        return Vec::new();
    }
    let one = |_| {
        let at = window.mul_f64(rng.random_range(0.0..0.9));
        let seconds = rng.random_range(TOKEN_LIFE_S..5 * TOKEN_LIFE_S);
        let seconds = if rng.random_bool(0.5) {
            seconds
        } else {
            -seconds
        };
        let namenode = rng.random_range(0..cluster.namenodes.len());
        (at, Fault::ClockJump(namenode, seconds))
    };
    (0..3).map(one).collect()
}

/// Draws what goes wrong with holders of delegated directories and those who visit them, by when after the begin: they are cut off
/// for longer or less long than sessions live, and what they and the namenodes say to each other comes late or not at all.
pub(crate) fn draw_for_holders(
    rng: &mut StdRng,
    cluster: &Cluster,
    names: &[String],
    window: Duration,
) -> Vec<(Duration, Fault)> {
    let mut schedule = Vec::new();
    for _ in 0..rng.random_range(0..5) {
        // The first is a holder.
        let who = if rng.random_bool(0.5) {
            0
        } else {
            rng.random_range(0..names.len())
        };
        let who = names[who].clone();
        let namenode = rng.random_range(0..cluster.namenodes.len());
        let namenode = cluster.namenodes[namenode].name.clone();
        let at = window.mul_f64(rng.random_range(0.05..0.8));
        let ttl = cluster.options.session_ttl;
        let until = (at + ttl.mul_f64(rng.random_range(0.1..2.0))).min(window);
        let (fault, undo) = match rng.random_range(0..10) {
            0..5 => (Fault::Isolate(who.clone()), Fault::Rejoin(who)),
            5..7 => (
                Fault::PartitionOneway(namenode.clone(), who.clone()),
                Fault::RepairOneway(namenode, who),
            ),
            _ => (
                Fault::Hold(who.clone(), namenode.clone()),
                Fault::Release(who, namenode),
            ),
        };
        schedule.push((at, fault));
        schedule.push((until, undo));
    }
    schedule
}

impl Cluster {
    /// Lets it happen.
    pub(crate) fn inflict(&mut self, fault: &Fault) {
        match fault {
            Fault::StopNamenode(..) | Fault::StopDatanode(..) | Fault::Start(_) => {}
            fault => self.trace.event(format!("fault: {fault:?}")),
        }
        match fault.clone() {
            Fault::Partition(a, b) => self.sim.partition(a, b),
            Fault::PartitionOneway(a, b) => self.sim.partition_oneway(a, b),
            Fault::Hold(a, b) => self.sim.hold(a, b),
            Fault::Repair(a, b) => self.sim.repair(a, b),
            Fault::RepairOneway(a, b) => self.sim.repair_oneway(a, b),
            Fault::Release(a, b) => self.sim.release(a, b),
            Fault::Isolate(a) => self
                .others(&a)
                .into_iter()
                .for_each(|b| self.sim.partition(a.clone(), b)),
            Fault::Rejoin(a) => self
                .others(&a)
                .into_iter()
                .for_each(|b| self.sim.repair(a.clone(), b)),
            Fault::StopNamenode(index, stop) if self.runs(&self.namenodes[index].name.clone()) => {
                self.stop_namenode(index, stop);
            }
            Fault::StopDatanode(index, stop) if self.runs(&self.datanodes[index].name.clone()) => {
                self.stop_datanode(index, stop);
            }
            Fault::StopNamenode(..) | Fault::StopDatanode(..) => {}
            Fault::Start(name) if !self.runs(&name) => self.start_machine(&name),
            Fault::Start(_) => {}
            Fault::StopAll(stop) => self.stop_all(stop),
            Fault::StartAll => self.start_all(),
            Fault::ClockJump(index, seconds) => self.jump(index, seconds),
            Fault::BitRot(index) => drop(self.rot(index)),
            Fault::TransferLeadership => self.transfer(),
            Fault::ReplaceNamenode(index) => self.replace(index),
            Fault::DiskFails {
                datanode,
                volume,
                reads,
                writes,
            } => self.fail_disk(datanode, volume, (reads, writes)),
            Fault::SyncFails(datanode, volume) => self.fail_sync(datanode, volume),
        }
    }

    fn runs(&mut self, name: &str) -> bool {
        self.sim.is_host_running(name.to_owned())
    }

    fn others(&self, name: &str) -> Vec<String> {
        self.machine_names()
            .into_iter()
            .filter(|other| other != name)
            .collect()
    }

    fn jump(&self, index: usize, seconds: i64) {
        if let Some(running) = self.namenodes[index].running.borrow().as_ref() {
            let by = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 {
                running.clock.jump_backwards(by);
            } else {
                running.clock.jump_forwards(by);
            }
        }
    }

    /// Asks the leader, from a machine of its own, to hand over.
    fn transfer(&mut self) {
        let name = format!("operator-{}", self.now().as_millis());
        let mut config = self.client_config(&name);
        config.timeouts.patience = Duration::from_secs(1);
        let trace = self.trace.clone();
        self.client(&name, async move {
            if let Ok(fs) = cairn_client::FileSystem::connect(config).await {
                let handed = fs.transfer_leadership(None).await;
                trace.event(format!("leadership transfer: {}", handed.is_ok()));
            }
            Ok(())
        });
    }

    /// An operator puts the spare namenode into the place of another, and does not give up.
    fn replace(&mut self, index: usize) {
        let spare = format!("namenode-{}:9000", self.options.namenodes);
        let old = format!("namenode-{index}:9000");
        let config = self.client_config("replacing-operator");
        let (trace, replaced) = (self.trace.clone(), self.replaced.clone());
        self.client("replacing-operator", async move {
            loop {
                match try_replace(&config, &spare, &old).await {
                    Ok(()) => break,
                    Err(error) => trace.event(format!("not replaced yet: {error:#}")),
                }
                tokio::time::sleep(OPERATOR_PAUSE).await;
            }
            replaced.set(Some(index));
            trace.event(format!("{old} is replaced"));
            Ok(())
        });
    }

    fn fail_disk(&mut self, index: usize, volume: usize, (reads, writes): (bool, bool)) {
        let disk = &self.datanodes[index].disk;
        let path = volume_path(volume);
        if reads {
            disk.fail_reads(&path);
        }
        if writes {
            disk.fail_writes(&path);
        }
        self.disk_failed(index, path);
    }

    /// Of an open chunk if there is one: the others are synced already.
    fn fail_sync(&mut self, index: usize, volume: usize) {
        let disk = &self.datanodes[index].disk;
        let path = volume_path(volume);
        let of_volume = data_files(disk).into_iter();
        let files: Vec<_> = of_volume
            .filter(|(file, _)| file.starts_with(&path))
            .collect();
        for (file, _) in files {
            disk.fail_next_sync(&file);
        }
        self.disk_failed(index, path);
    }

    /// The volume is withdrawn, and with it what was not synced elsewhere may be: as after a loss of power.
    fn disk_failed(&mut self, index: usize, path: PathBuf) {
        self.failed_disks.insert((index, path));
        self.power_losses.borrow_mut().push(index);
    }

    /// Flips a bit in one replica on this datanode, of a chunk of which no other replica was damaged.
    /// Whether there was one.
    pub(crate) fn rot(&mut self, index: usize) -> bool {
        let disk = self.datanodes[index].disk.clone();
        let files = data_files(&disk);
        let whole = files
            .into_iter()
            .filter(|(path, _)| !self.rotten.contains(&chunk_of(path)));
        let whole: Vec<_> = whole.collect();
        if whole.is_empty() {
            return false;
        }
        let (path, len) = whole[self.rng.random_range(0..whole.len())].clone();
        let offset = self.rng.random_range(0..len);
        self.rotten.insert(chunk_of(&path));
        let flipped = disk.flip_bit(&path, offset);
        let (name, path) = (&self.datanodes[index].name, path.display());
        self.trace.event(format!(
            "bit rot on {name}: {path} at {offset}: {}",
            flipped.is_ok()
        ));
        flipped.is_ok()
    }

    /// Ends everything that goes wrong.
    pub(crate) fn heal(&mut self, clients: &[String]) {
        self.trace.event("heal");
        let mut names = self.machine_names();
        names.extend_from_slice(clients);
        for (index, a) in names.iter().enumerate() {
            for b in &names[index + 1..] {
                self.sim.repair(a.clone(), b.clone());
                self.sim.release(a.clone(), b.clone());
            }
        }
        for (index, path) in std::mem::take(&mut self.failed_disks) {
            let machine = self.datanodes[index].clone();
            machine.disk.repair_reads(&path);
            machine.disk.repair_writes(&path);
            // A volume that was withdrawn is opened anew by the next process.
            if self.runs(&machine.name) {
                self.stop_datanode(index, Stop::Kill);
            }
        }
        self.start_all();
    }
}

/// Finds out the id of the one that goes, and asks. May be repeated.
async fn try_replace(
    config: &cairn_client::ClusterConfig,
    spare: &str,
    old: &str,
) -> anyhow::Result<()> {
    let fs = cairn_client::FileSystem::connect(config.clone()).await?;
    let status = fs.status().await?;
    let id_of = |address: &str| {
        let mut namenodes = status.namenodes.iter();
        namenodes
            .find(|namenode| namenode.address == address)
            .map(|namenode| namenode.namenode)
    };
    let Some(id) = id_of(old) else {
        // An answer was lost: it is done.
        anyhow::ensure!(id_of(spare).is_some(), "neither is a member");
        return Ok(());
    };
    fs.add_namenode(spare, Some(NamenodeId(id))).await?;
    Ok(())
}

fn volume_path(volume: usize) -> PathBuf {
    PathBuf::from(format!("/volume-{volume}"))
}

fn chunk_of(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Data files with something in them, with their lengths.
pub(crate) fn data_files(disk: &SimDisk) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut directories = vec![
        PathBuf::from("/volume-0/chunks"),
        PathBuf::from("/volume-1/chunks"),
    ];
    while let Some(directory) = directories.pop() {
        for entry in disk.list(&directory).unwrap_or_default() {
            let path = directory.join(&entry.name);
            if entry.is_dir {
                directories.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "data")
                && entry.len > 0
            {
                found.push((path, entry.len));
            }
        }
    }
    found.sort();
    found
}
