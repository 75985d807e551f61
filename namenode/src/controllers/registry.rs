//! What the leader knows of datanodes besides the committed state: who is heard, what space and load they report, and which of
//! their replicas have proven what they are. Soft: lost with leadership, rebuilt from registrations, heartbeats and reports.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, DatanodeId, Incarnation};
use cairn_protocol::messages::admin::DatanodeAdminState;
use cairn_protocol::messages::common::DatanodeAddress;
use cairn_protocol::messages::datanode::{VolumeReport, VolumeSpace};
use tokio::time::Instant;

use super::placement::Candidate;
use crate::store::records::DatanodeRecord;

/// Promised bytes that weigh as much as an open stream.
const STREAM_BYTES: u64 = 64 << 20;

/// One process of a datanode that registered with this leader.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub boot_nonce: Vec<u8>,
    pub volumes: Vec<VolumeReport>,
    pub write_streams: u32,
    /// All its replicas have been reported to this leader.
    pub reported: bool,
    /// When it was asked for that report last.
    pub report_asked: Option<Instant>,
    /// First chunk of the page that comes next, if none was lost.
    pub next_page: Option<u64>,
}

/// Why a replica cannot be what the committed state says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub code: ErrorCode,
    /// All that is wrong is that it ends here, too early, and it is not sealed.
    pub short_length: Option<u64>,
    /// There are files of it, and its datanode can make nothing of them. A start may: when a disk reads again, or newer software runs.
    pub unreadable: bool,
}

impl From<ErrorCode> for Fault {
    fn from(code: ErrorCode) -> Self {
        Self {
            code,
            short_length: None,
            unreadable: false,
        }
    }
}

/// A datanode of the committed state.
#[derive(Clone, Debug)]
pub(super) struct Datanode {
    pub record: DatanodeRecord,
    /// Last sign of life; when this leader began, if there was none.
    pub heard: Instant,
    /// `None` until it registers with this leader.
    pub process: Option<Process>,
    /// Death has been noticed and acted on.
    pub dead: bool,
    /// Bytes promised by placements since its last heartbeat.
    pub promised_bytes: u64,
    /// Replicas that confirmed (epoch of the seal, length) since the process started. Incarnations are unique in the cluster,
    /// so that eight bytes name a replica.
    pub verified: BTreeSet<Incarnation>,
    /// Replicas that cannot be what the committed state says, and why.
    pub failed: BTreeMap<Incarnation, Fault>,
    /// Replicas of which all bytes were read and are right, while another one of their chunk is known to have failed.
    pub proven: BTreeSet<Incarnation>,
    /// Replicas that could not be synced because their disk does not answer, until none of its disks hangs.
    pub hanging: BTreeMap<Incarnation, ChunkId>,
    /// Copies of which it is the destination.
    pub copies_in: usize,
    /// Copies of which it is the first source.
    pub copies_out: usize,
}

impl Datanode {
    fn new(record: DatanodeRecord, now: Instant) -> Self {
        Self {
            record,
            heard: now,
            process: None,
            dead: false,
            promised_bytes: 0,
            verified: BTreeSet::new(),
            failed: BTreeMap::new(),
            proven: BTreeSet::new(),
            hanging: BTreeMap::new(),
            copies_in: 0,
            copies_out: 0,
        }
    }

    /// What it is to be; a state that this software does not know is not a state to put replicas on.
    pub fn admin_state(&self) -> DatanodeAdminState {
        DatanodeAdminState::try_from(self.record.state).unwrap_or(DatanodeAdminState::Maintenance)
    }

    /// Registered with this leader and heard of lately.
    pub fn is_alive(&self) -> bool {
        self.process.is_some() && !self.dead
    }

    /// All its replicas have been reported: those that are not verified by now have to be asked.
    pub fn has_reported(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| process.reported)
    }

    /// Alive, in service: new replicas may go there.
    pub fn takes_replicas(&self) -> bool {
        self.is_alive() && self.admin_state() == DatanodeAdminState::InService
    }

    /// Its volumes, each beside the name of its machine.
    pub fn volumes(&self) -> impl Iterator<Item = (&str, &VolumeReport)> {
        let volumes = self.process.iter().flat_map(|process| &process.volumes);
        volumes.map(|volume| (self.record.host.as_str(), volume))
    }

    /// Space over volumes that work.
    pub fn space(&self) -> VolumeSpace {
        VolumeSpace::of(self.volumes())
    }

    /// Free bytes, less what was promised since they were reported.
    fn free_bytes(&self) -> u64 {
        self.space()
            .available_bytes
            .saturating_sub(self.promised_bytes)
    }
}

/// How far a replica of the committed state can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its datanode is alive and it is verified.
    Good,
    /// Its datanode may be alive; the replica has not said yet what it is.
    Unconfirmed,
    /// Its datanode is dead, or its disk does not answer and it was needed.
    Away,
    /// Known bad, short, gone or something else.
    Failed,
}

/// All datanodes.
#[derive(Debug, Default)]
pub(super) struct Registry {
    datanodes: BTreeMap<DatanodeId, Datanode>,
}

impl Registry {
    /// One of them.
    pub fn get(&self, datanode: DatanodeId) -> Option<&Datanode> {
        self.datanodes.get(&datanode)
    }

    /// One of them, to change.
    pub fn get_mut(&mut self, datanode: DatanodeId) -> Option<&mut Datanode> {
        self.datanodes.get_mut(&datanode)
    }

    /// All of them in order of ids.
    pub fn iter(&self) -> impl Iterator<Item = (DatanodeId, &Datanode)> {
        self.datanodes.iter().map(|(id, datanode)| (*id, datanode))
    }

    /// Takes in the committed records. Returns those whose administrative state changed.
    pub fn refresh(
        &mut self,
        records: BTreeMap<DatanodeId, DatanodeRecord>,
        now: Instant,
    ) -> Vec<DatanodeId> {
        self.datanodes.retain(|id, _| records.contains_key(id));
        let mut changed = Vec::new();
        for (id, record) in records {
            match self.datanodes.get_mut(&id) {
                None => {
                    self.datanodes.insert(id, Datanode::new(record, now));
                }
                Some(known) => {
                    if known.record.state != record.state {
                        changed.push(id);
                    }
                    known.record = record;
                }
            }
        }
        changed
    }

    /// A process registered. True if it is not the one that was known: nothing is verified then.
    pub fn registered(
        &mut self,
        datanode: DatanodeId,
        record: DatanodeRecord,
        (boot_nonce, volumes): (Vec<u8>, Vec<VolumeReport>),
        now: Instant,
    ) -> bool {
        let known = self
            .datanodes
            .entry(datanode)
            .or_insert_with(|| Datanode::new(record.clone(), now));
        known.record = record;
        known.heard = now;
        known.promised_bytes = 0;
        if let Some(process) = &mut known.process
            && process.boot_nonce == boot_nonce
        {
            process.volumes = volumes;
            process.reported = false;
            process.report_asked = Some(now);
            return false;
        }
        known.verified.clear();
        known.failed.clear();
        known.proven.clear();
        known.hanging.clear();
        known.process = Some(Process {
            boot_nonce,
            volumes,
            write_streams: 0,
            reported: false,
            // The answer to a registration asks for a report.
            report_asked: Some(now),
            next_page: None,
        });
        true
    }

    /// Nobody can have been heard for a while, so nobody is to blame.
    pub fn heard_all(&mut self, now: Instant) {
        for datanode in self.datanodes.values_mut() {
            datanode.heard = now;
        }
    }

    /// Notices who has not been heard for too long. Returns them.
    pub fn bury(&mut self, now: Instant, dead_after: Duration) -> Vec<DatanodeId> {
        let mut dead = Vec::new();
        for (id, datanode) in &mut self.datanodes {
            if !datanode.dead && now.saturating_duration_since(datanode.heard) > dead_after {
                datanode.dead = true;
                dead.push(*id);
            }
        }
        dead
    }

    /// True if a replica refused an order because its disk hangs, and has not been heard of since.
    pub fn is_hanging(&self, datanode: DatanodeId, incarnation: Incarnation) -> bool {
        let known = self.datanodes.get(&datanode);
        known.is_some_and(|known| !known.dead && known.hanging.contains_key(&incarnation))
    }

    /// How far a replica can be relied on.
    pub fn standing(&self, datanode: DatanodeId, incarnation: Incarnation) -> Standing {
        let Some(known) = self.datanodes.get(&datanode) else {
            return Standing::Away;
        };
        if known.failed.contains_key(&incarnation) {
            return Standing::Failed;
        }
        if known.dead || known.hanging.contains_key(&incarnation) {
            return Standing::Away;
        }
        if known.verified.contains(&incarnation) {
            return Standing::Good;
        }
        Standing::Unconfirmed
    }

    /// Datanodes that new replicas may go to, except some. `reserve` gives what each keeps free, by its capacity.
    pub fn candidates(
        &self,
        excluded: &BTreeSet<DatanodeId>,
        reserve: impl Fn(u64) -> u64,
    ) -> Vec<Candidate> {
        let free = self
            .iter()
            .filter(|(id, datanode)| datanode.takes_replicas() && !excluded.contains(id));
        free.map(|(id, datanode)| {
            let streams = datanode
                .process
                .as_ref()
                .map_or(0, |process| process.write_streams);
            Candidate {
                datanode: id,
                rack: datanode.record.rack.clone(),
                host: datanode.record.host.clone(),
                free_bytes: datanode
                    .free_bytes()
                    .saturating_sub(reserve(datanode.space().capacity_bytes)),
                load: u64::from(streams)
                    + datanode.copies_in as u64
                    + datanode.promised_bytes.div_ceil(STREAM_BYTES),
            }
        })
        .collect()
    }

    /// Whether a datanode may still introduce itself to this leader, which began less than `within` ago.
    pub fn awaits(&self, excluded: &BTreeSet<DatanodeId>, now: Instant, within: Duration) -> bool {
        self.iter().any(|(id, datanode)| {
            let silent = datanode.process.is_none() && !datanode.dead;
            silent
                && datanode.admin_state() == DatanodeAdminState::InService
                && !excluded.contains(&id)
                && now.saturating_duration_since(datanode.heard) < within
        })
    }

    /// Datanodes that serve, alive or not, or are to serve again, or are not replaced yet: how large the cluster is meant to be.
    pub fn meant_count(&self) -> usize {
        let gone =
            |datanode: &Datanode| datanode.admin_state() == DatanodeAdminState::Decommissioned;
        self.iter().filter(|(_, datanode)| !gone(datanode)).count()
    }

    /// Where a datanode is.
    pub fn address(&self, datanode: DatanodeId) -> Option<DatanodeAddress> {
        self.get(datanode)
            .map(|known| address(datanode, &known.record))
    }
}

/// Where a datanode is, as the wire has it.
pub(super) fn address(datanode: DatanodeId, record: &DatanodeRecord) -> DatanodeAddress {
    DatanodeAddress {
        datanode: datanode.0,
        address: record.address.clone(),
        host: record.host.clone(),
        rack: record.rack.clone(),
        local_socket: record.local_socket.clone(),
        http_address: record.http_address.clone(),
    }
}
