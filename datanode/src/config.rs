//! The datanode's configuration file.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use cairn_daemon::config::{
    ByteSize, GatewaySettings, SecuritySettings, TracingSettings, duration,
};

use crate::error::DatanodeError;

/// Everything that is configured on a datanode. Settings of the whole cluster come from its namenodes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatanodeConfig {
    /// Addresses (`host:port`) of the namenodes; one that answers is enough to find the others. At least one.
    pub namenodes: Vec<String>,
    /// Where to listen for clients and other datanodes, `host:port`; port 0 takes a free one. Default `0.0.0.0:9866`.
    pub listen: String,
    /// `host:port` under which clients and other datanodes reach this one; empty: `host` with the port of `listen`.
    pub advertise: String,
    /// Where to listen for HTTP, `host:port`; empty for none. Default `0.0.0.0:9864`.
    pub http: String,
    /// `host:port` under which HTTP clients reach this one; empty: the host of `advertise` with the port of `http`.
    pub http_advertise: String,
    /// Directories, one for each disk; made if absent. At least one.
    pub volumes: Vec<PathBuf>,
    /// Space to leave free on each volume, so that a full one can still seal and delete. At least 64 MiB, default 1 GiB.
    pub reserve: ByteSize,
    /// A disk that takes longer than this for one read or write takes nothing new until it answers; the others go on. 1 s to
    /// 1 h, default 30 s.
    #[serde(with = "duration")]
    pub disk_timeout: Duration,
    /// Failure domain of this machine, like `/room2/rack1`. Default `/default`.
    pub rack: String,
    /// Name of this machine: replicas of a chunk go to different ones. Empty: its host name.
    pub host: String,
    /// Time between heartbeats. 100 ms to 30 s, default 1 s.
    #[serde(with = "duration")]
    pub heartbeat_interval: Duration,
    /// Most write streams at once; more are refused. 1 to 100,000, default 4,096.
    pub write_streams_max: u32,
    /// Memory for the windows of write streams together; a stream that does not fit is refused. At least 1 MiB, default
    /// 1 GiB.
    pub write_memory: ByteSize,
    /// Most threads that read from the disks at once; more reads wait. Half are shared out evenly among the volumes, at least one
    /// each. Those that wait for a disk that hangs do not count. 1 to 10,000, default 64.
    pub reads_max: u32,
    /// Most copies of replicas made at once. 1 to 64, default 2.
    pub copies_max: u32,
    /// How fast sealed replicas are verified in the background, bytes per second over all volumes; 0 is never.
    /// Default 8 MiB: 4 TiB in six days.
    pub scrub_rate: ByteSize,
    /// The HTTP gateway.
    pub gateway: GatewaySettings,
    /// Who is believed, and what this datanode shows.
    pub security: SecuritySettings,
    /// Where traces go.
    pub tracing: TracingSettings,
}

impl Default for DatanodeConfig {
    fn default() -> Self {
        Self {
            namenodes: Vec::new(),
            listen: "0.0.0.0:9866".to_owned(),
            advertise: String::new(),
            http: "0.0.0.0:9864".to_owned(),
            http_advertise: String::new(),
            volumes: Vec::new(),
            reserve: ByteSize::gib(1),
            disk_timeout: Duration::from_secs(30),
            rack: "/default".to_owned(),
            host: String::new(),
            heartbeat_interval: Duration::from_secs(1),
            write_streams_max: 4096,
            write_memory: ByteSize::gib(1),
            reads_max: 64,
            copies_max: 2,
            scrub_rate: ByteSize::mib(8),
            gateway: GatewaySettings::default(),
            security: SecuritySettings::default(),
            tracing: TracingSettings::default(),
        }
    }
}

/// The chunk store looks at the free space every 16 MiB that it writes, so the reserve must be larger than that.
const RESERVE_MIN: ByteSize = ByteSize::mib(64);

impl DatanodeConfig {
    /// Refuses values that make no sense, naming the key, the limit and the way out.
    pub fn validate(&self) -> Result<(), DatanodeError> {
        let bad = |text: String| Err(DatanodeError::Config(text));
        if self.namenodes.is_empty() {
            return bad(
                "`namenodes` is empty: name at least one, such as [\"namenode1:9000\"]".to_owned(),
            );
        }
        for (key, address) in self.addresses() {
            let port = address
                .rsplit_once(':')
                .filter(|(host, _)| !host.is_empty());
            if port
                .and_then(|(_, port)| port.parse::<u16>().ok())
                .is_none()
            {
                return bad(format!("`{key}`: `{address}` is not host:port"));
            }
        }
        if self.volumes.is_empty() {
            return bad(
                "`volumes` is empty: name one directory for each disk, such as [\"/data/1\"]"
                    .to_owned(),
            );
        }
        for (index, volume) in self.volumes.iter().enumerate() {
            if self.volumes[..index].contains(volume) {
                return bad(format!("`volumes` names {} twice", volume.display()));
            }
        }
        if self.reserve < RESERVE_MIN {
            return bad(format!(
                "`reserve` is {}, at least {RESERVE_MIN} must stay free",
                self.reserve
            ));
        }
        if !self.rack.starts_with('/') || self.rack.len() > 255 {
            return bad(format!(
                "`rack` is `{}`: it must start with / and have at most 255 bytes",
                self.rack
            ));
        }
        if self.write_memory < ByteSize::mib(1) {
            return bad(format!(
                "`write_memory` is {}, at least 1 MiB is needed",
                self.write_memory
            ));
        }
        let interval = self.heartbeat_interval;
        if interval < Duration::from_millis(100) || interval > Duration::from_secs(30) {
            let interval = duration::display(interval);
            return bad(format!(
                "`heartbeat_interval` is {interval}, 100ms to 30s are allowed"
            ));
        }
        let limit = self.disk_timeout;
        if limit < Duration::from_secs(1) || limit > Duration::from_secs(3600) {
            let limit = duration::display(limit);
            return bad(format!("`disk_timeout` is {limit}, 1s to 1h are allowed"));
        }
        let gateway = self.gateway.check();
        gateway.map_err(|error| DatanodeError::Config(error.to_string()))?;
        let tracing = self.tracing.check();
        tracing.map_err(|error| DatanodeError::Config(error.to_string()))?;
        let counts = [
            ("write_streams_max", self.write_streams_max, 100_000),
            ("reads_max", self.reads_max, 10_000),
            ("copies_max", self.copies_max, 64),
        ];
        match counts
            .into_iter()
            .find(|(_, value, max)| *value == 0 || value > max)
        {
            Some((key, value, max)) => bad(format!("`{key}` is {value}, 1 to {max} are allowed")),
            None => Ok(()),
        }
    }

    fn addresses(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let optional = [
            ("advertise", self.advertise.as_str()),
            ("http", self.http.as_str()),
            ("http_advertise", self.http_advertise.as_str()),
        ];
        let namenodes = self
            .namenodes
            .iter()
            .map(|address| ("namenodes", address.as_str()));
        let ours = [("listen", self.listen.as_str())].into_iter();
        namenodes.chain(ours).chain(
            optional
                .into_iter()
                .filter(|(_, address)| !address.is_empty()),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::DatanodeConfig;
    use cairn_daemon::config::{ByteSize, parse};

    fn good() -> DatanodeConfig {
        DatanodeConfig {
            namenodes: vec!["a:1".to_owned()],
            volumes: vec!["/data/1".into()],
            ..DatanodeConfig::default()
        }
    }

    #[test]
    fn a_file_needs_only_namenodes_and_volumes() {
        let text = "namenodes = [\"a:1\"]\nvolumes = [\"/data/1\"]";
        let config: DatanodeConfig = parse(text, Path::new("x.toml")).unwrap();
        assert_eq!(config, good());
        config.validate().unwrap();
        assert!(parse::<DatanodeConfig>("volume = []", Path::new("x.toml")).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        type Change = fn(&mut DatanodeConfig);
        let cases: [(&str, Change); 11] = [
            ("`namenodes` is empty", |c| c.namenodes.clear()),
            ("`namenodes`: `a` is not host:port", |c| {
                c.namenodes = vec!["a".into()]
            }),
            ("`advertise`: `b:x` is not host:port", |c| {
                c.advertise = "b:x".into()
            }),
            ("`volumes` is empty", |c| c.volumes.clear()),
            ("twice", |c| c.volumes.push("/data/1".into())),
            ("`reserve` is 1 MiB", |c| c.reserve = ByteSize::mib(1)),
            ("`disk_timeout` is 500ms", |c| {
                c.disk_timeout = std::time::Duration::from_millis(500)
            }),
            ("`rack`", |c| c.rack = "rack1".into()),
            ("`reads_max` is 0", |c| c.reads_max = 0),
            ("`http`: `x` is not host:port", |c| c.http = "x".into()),
            ("`gateway.connections_max`", |c| {
                c.gateway.connections_max = 0
            }),
        ];
        for (expected, change) in cases {
            let mut config = good();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
