//! How a client finds its cluster and how patient it is. Values only; [`crate::FileSystem::connect`] uses them.

use std::time::Duration;

use cairn_protocol::messages::common::Caller;
use cairn_protocol::net::Tls;
use cairn_protocol::user_token::UserToken;

/// Where the cluster is, who asks, and the limits of this client.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// `host:port` of at least one namenode; the others are learnt from it.
    pub namenodes: Vec<String>,
    /// Who asks.
    pub caller: Caller,
    /// For people who look at the cluster's sessions: host, process, role. At most 255 bytes.
    pub client_name: String,
    /// Name of this machine: replicas on it are preferred. Empty if unknown.
    pub host: String,
    /// Seed of jitter and nonces; `None` takes one from the system. Two clients of one cluster must not share it.
    pub seed: Option<u64>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Bytes sent and not yet committed, over all writers. At least 2 MiB. Default 64 MiB.
    pub in_flight_bytes_max: usize,
    /// Bytes in flight in one writer's pipeline, 1 MiB to 16 MiB. Default 8 MiB.
    pub write_window_bytes: usize,
    /// Speak TLS with all of the cluster.
    pub tls: Option<Tls>,
    /// Says who asks, where the cluster believes nobody without.
    pub token: Option<UserToken>,
    /// Bytes that one sequential reader fetches ahead, 1 MiB to 64 MiB. Default 8 MiB.
    pub read_ahead_bytes: usize,
    /// The same over all files that are open for reads and writes, as those of a mount, with what is still being read out of it. At
    /// least 2 MiB. Default 64 MiB.
    pub read_ahead_bytes_max: usize,
}

impl ClusterConfig {
    /// The defaults, for a cluster reached through `namenodes`.
    pub fn new(namenodes: Vec<String>, caller: Caller) -> Self {
        Self {
            namenodes,
            caller,
            client_name: String::new(),
            host: String::new(),
            seed: None,
            timeouts: Timeouts::default(),
            in_flight_bytes_max: 64 << 20,
            write_window_bytes: 8 << 20,
            read_ahead_bytes: 8 << 20,
            read_ahead_bytes_max: 64 << 20,
            tls: None,
            token: None,
        }
    }

    /// The same with every limit inside its range.
    pub(crate) fn clamped(mut self) -> Self {
        self.in_flight_bytes_max = self.in_flight_bytes_max.clamp(2 << 20, 1 << 30);
        self.write_window_bytes = self.write_window_bytes.clamp(1 << 20, 16 << 20);
        self.read_ahead_bytes = self.read_ahead_bytes.clamp(1 << 20, 64 << 20);
        self.read_ahead_bytes_max = self.read_ahead_bytes_max.clamp(2 << 20, 1 << 30);
        self
    }
}

/// How long things may take.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// In all, for one operation over every retry. Default 60 s.
    pub patience: Duration,
    /// To connect and introduce ourselves. Default 2 s.
    pub connect: Duration,
    /// For one answer of a namenode, before the same request goes to another one. Default 3 s.
    pub request: Duration,
    /// For one answer of a datanode to a read, before the next replica is asked. Default 5 s.
    pub read: Duration,
    /// At least so long without an answer before a second replica is asked as well. Default 30 ms.
    pub hedge: Duration,
    /// Without any acknowledgement, before a pipeline is given up. Default 10 s.
    pub pipeline: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(60),
            connect: Duration::from_secs(2),
            request: Duration::from_secs(3),
            read: Duration::from_secs(5),
            hedge: Duration::from_millis(30),
            pipeline: Duration::from_secs(10),
        }
    }
}
