//! Settings of one namenode: one TOML file, unknown keys refused. `deploy/config/namenode.toml` is the reference.

use std::path::PathBuf;
use std::time::Duration;

use cairn_daemon::config::{ByteSize, GatewaySettings, SecuritySettings, TracingSettings};
use cairn_protocol::messages::common::ClusterSettings;
use serde::Deserialize;

use crate::consensus::group::GroupOptions;
use crate::controllers::ControllerOptions;
use crate::store::StoreOptions;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {rule}, not {found}")]
pub struct BadSetting {
    /// The key in the file.
    pub key: &'static str,
    /// What is allowed.
    pub rule: &'static str,
    /// What was found.
    pub found: String,
}

fn bad(key: &'static str, rule: &'static str, found: impl ToString) -> BadSetting {
    BadSetting {
        key,
        rule,
        found: found.to_string(),
    }
}

/// Settings of one namenode.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamenodeConfig {
    /// Directory for log, state and identity; on a disk of its own if there is one. Required.
    pub directory: PathBuf,
    /// Address to listen on, `host:port`. Default `0.0.0.0:9000`.
    #[serde(default = "default_listen")]
    pub listen: String,
    /// `host:port` under which others reach this namenode. Default: what it listens on.
    #[serde(default)]
    pub advertise: Option<String>,
    /// Addresses (`advertise`) of all founding namenodes, the same list in the same order on each: one, three or five. Only `dfs
    /// namenode found`, which is told to the first of them, looks at it. Default: this one alone.
    #[serde(default)]
    pub namenodes: Vec<String>,
    /// Where to listen for HTTP, `host:port`; empty for none. Default `0.0.0.0:9870`.
    #[serde(default = "default_http")]
    pub http: String,
    /// Settings of the cluster when it is founded; afterwards they are replicated state.
    #[serde(default)]
    pub cluster: FoundingSettings,
    /// Memory for cached metadata. Default 256 MiB, at least 8 MiB.
    #[serde(default = "default_cache")]
    pub cache: ByteSize,
    /// What stays free on the disk of `directory`: below it this namenode says that it has little room, and when too few have enough,
    /// only what removes is accepted. More than the directory takes is best: compaction and snapshots need room of their own. Default
    /// 1 GiB, at least 64 MiB.
    #[serde(default = "default_reserve")]
    pub reserve: ByteSize,
    /// Replicas move from full datanodes to empty ones while the fullest is so many percentage points fuller than the emptiest, while this
    /// namenode leads. Default 10, 1 to 100 (never).
    #[serde(default = "default_balance_threshold")]
    pub balance_threshold: u32,
    /// Timing of the Raft group; the same on all namenodes.
    #[serde(default)]
    pub raft: RaftSettings,
    /// The HTTP gateway.
    #[serde(default)]
    pub gateway: GatewaySettings,
    /// Who is believed, and what this namenode shows.
    #[serde(default)]
    pub security: SecuritySettings,
    /// Where traces go.
    #[serde(default)]
    pub tracing: TracingSettings,
}

fn default_listen() -> String {
    "0.0.0.0:9000".to_owned()
}

fn default_http() -> String {
    "0.0.0.0:9870".to_owned()
}

fn default_balance_threshold() -> u32 {
    ControllerOptions::default().balance_threshold
}

fn default_reserve() -> ByteSize {
    ByteSize::gib(1)
}

fn default_cache() -> ByteSize {
    ByteSize::mib(256)
}

/// Settings of the cluster when it is founded.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FoundingSettings {
    /// Largest chunk, 1 MiB to 128 MiB. Default 128 MiB.
    pub chunk_size: ByteSize,
    /// Replicas of a file unless it says otherwise, 1 to 16. Default 3.
    pub replication: u32,
    /// Whether close makes data durable on the disks of all replicas. Default false: close makes it visible, and datanodes
    /// sync every few seconds.
    pub sync_on_close: bool,
    /// A client that is not heard for this long loses its open chunks and locks. Default 30s, 1s to 1h.
    #[serde(with = "cairn_daemon::config::duration")]
    pub session_ttl: Duration,
    /// How long what was deleted stays for those who still read it. Default 30s, 0s to 24h.
    #[serde(with = "cairn_daemon::config::duration")]
    pub reclaim_grace: Duration,
    /// Without a heartbeat for this long a datanode is dead and its chunks are copied. Default 30s, 1s to 24h.
    #[serde(with = "cairn_daemon::config::duration")]
    pub datanode_dead_after: Duration,
    /// How often datanodes sync open chunks. Default 5s, 100ms to 1h.
    #[serde(with = "cairn_daemon::config::duration")]
    pub datanode_sync_interval: Duration,
    /// Mode of the root directory. Default 0o755 (493), so that only the superuser makes top-level directories.
    pub root_mode: u32,
    /// Owner of the root directory. Default 0.
    pub root_uid: u32,
    /// Group of the root directory. Default 0.
    pub root_gid: u32,
}

impl Default for FoundingSettings {
    fn default() -> Self {
        Self {
            chunk_size: ByteSize::mib(128),
            replication: 3,
            sync_on_close: false,
            session_ttl: Duration::from_secs(30),
            reclaim_grace: Duration::from_secs(30),
            datanode_dead_after: Duration::from_secs(30),
            datanode_sync_interval: Duration::from_secs(5),
            root_mode: 0o755,
            root_uid: 0,
            root_gid: 0,
        }
    }
}

impl FoundingSettings {
    /// As they are replicated.
    pub fn to_cluster(&self) -> ClusterSettings {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        ClusterSettings {
            chunk_size: self.chunk_size.bytes(),
            replication: self.replication,
            sync_on_close: self.sync_on_close,
            session_ttl_ms: millis(self.session_ttl),
            reclaim_grace_ms: millis(self.reclaim_grace),
            datanode_dead_after_ms: millis(self.datanode_dead_after),
            datanode_sync_interval_ms: millis(self.datanode_sync_interval),
        }
    }
}

/// Timing of the Raft group.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftSettings {
    /// Leader to followers. Default 100ms.
    #[serde(with = "cairn_daemon::config::duration")]
    pub heartbeat_interval: Duration,
    /// A follower that hears nothing for a random time between this (default 500ms) …
    #[serde(with = "cairn_daemon::config::duration")]
    pub election_timeout_min: Duration,
    /// … and this (default 900ms) stands for election.
    #[serde(with = "cairn_daemon::config::duration")]
    pub election_timeout_max: Duration,
    /// A snapshot after so many log entries. Default 50000, at least 100.
    pub snapshot_every_entries: u64,
}

impl Default for RaftSettings {
    fn default() -> Self {
        let options = GroupOptions::default();
        Self {
            heartbeat_interval: options.heartbeat_interval,
            election_timeout_min: options.election_timeout_min,
            election_timeout_max: options.election_timeout_max,
            snapshot_every_entries: options.snapshot_every_entries,
        }
    }
}

impl NamenodeConfig {
    /// A configuration with defaults for a directory.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            listen: default_listen(),
            advertise: None,
            namenodes: Vec::new(),
            http: default_http(),
            cluster: FoundingSettings::default(),
            cache: default_cache(),
            reserve: default_reserve(),
            balance_threshold: default_balance_threshold(),
            raft: RaftSettings::default(),
            gateway: GatewaySettings::default(),
            security: SecuritySettings::default(),
            tracing: TracingSettings::default(),
        }
    }

    /// Checks what parsing cannot.
    pub fn validate(&self) -> Result<(), BadSetting> {
        if !matches!(self.namenodes.len(), 0 | 1 | 3 | 5) {
            return Err(bad(
                "namenodes",
                "one, three or five addresses",
                self.namenodes.len(),
            ));
        }
        let mut sorted = self.namenodes.clone();
        sorted.sort();
        sorted.dedup();
        if sorted.len() != self.namenodes.len() {
            return Err(bad(
                "namenodes",
                "each address once",
                self.namenodes.join(", "),
            ));
        }
        let cluster = &self.cluster;
        in_range(
            "cluster.chunk_size",
            "1 MiB to 128 MiB",
            1 << 20,
            128 << 20,
            cluster.chunk_size.bytes(),
        )?;
        in_range(
            "cluster.replication",
            "1 to 16",
            1,
            16,
            cluster.replication.into(),
        )?;
        let millis = cluster.to_cluster();
        in_range(
            "cluster.session_ttl",
            "1s to 1h",
            1_000,
            3_600_000,
            millis.session_ttl_ms,
        )?;
        in_range(
            "cluster.reclaim_grace",
            "0s to 24h",
            0,
            86_400_000,
            millis.reclaim_grace_ms,
        )?;
        in_range(
            "cluster.datanode_dead_after",
            "1s to 24h",
            1_000,
            86_400_000,
            millis.datanode_dead_after_ms,
        )?;
        in_range(
            "cluster.datanode_sync_interval",
            "100ms to 1h",
            100,
            3_600_000,
            millis.datanode_sync_interval_ms,
        )?;
        in_range(
            "cluster.root_mode",
            "0 to 4095 (0o7777)",
            0,
            0o7777,
            cluster.root_mode.into(),
        )?;
        in_range(
            "cache",
            "8 MiB to 1 TiB",
            8 << 20,
            1 << 40,
            self.cache.bytes(),
        )?;
        in_range(
            "reserve",
            "at least 64 MiB",
            64 << 20,
            u64::MAX,
            self.reserve.bytes(),
        )?;
        in_range(
            "raft.snapshot_every_entries",
            "at least 100",
            100,
            u64::MAX,
            self.raft.snapshot_every_entries,
        )?;
        in_range(
            "balance_threshold",
            "1 to 100",
            1,
            100,
            self.balance_threshold.into(),
        )?;
        let gateway = self.gateway.check();
        gateway.map_err(|error| bad(error.key, error.rule, error.found))?;
        let tracing = self.tracing.check();
        tracing.map_err(|error| bad(error.key, error.rule, error.found))?;
        let raft = &self.raft;
        if raft.heartbeat_interval * 2 > raft.election_timeout_min
            || raft.election_timeout_min >= raft.election_timeout_max
        {
            let found = format!(
                "{:?}, {:?}, {:?}",
                raft.heartbeat_interval, raft.election_timeout_min, raft.election_timeout_max
            );
            return Err(bad(
                "raft",
                "election_timeout_min at least twice heartbeat_interval and below election_timeout_max",
                found,
            ));
        }
        Ok(())
    }

    pub(crate) fn group_options(&self) -> GroupOptions {
        GroupOptions {
            heartbeat_interval: self.raft.heartbeat_interval,
            election_timeout_min: self.raft.election_timeout_min,
            election_timeout_max: self.raft.election_timeout_max,
            snapshot_every_entries: self.raft.snapshot_every_entries,
            entries_kept: self.raft.snapshot_every_entries / 5,
        }
    }

    pub(crate) fn store_options(&self) -> StoreOptions {
        let cache_bytes = usize::try_from(self.cache.bytes()).unwrap_or(usize::MAX);
        StoreOptions {
            cache_bytes,
            ..StoreOptions::default()
        }
    }
}

fn in_range(
    key: &'static str,
    rule: &'static str,
    min: u64,
    max: u64,
    found: u64,
) -> Result<(), BadSetting> {
    if (min..=max).contains(&found) {
        return Ok(());
    }
    Err(bad(key, rule, found))
}
