//! Settings of the HTTP gateway, the same in namenodes and datanodes: the table `[gateway]` of their files.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ByteSize, duration};

/// How a gateway learns who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayAuth {
    /// Only what proves itself: nothing can yet, so requests for files are refused.
    #[default]
    Token,
    /// `user.name` in the request is believed, as Hadoop's simple authentication does.
    Simple,
}

/// What a namenode that does not lead does with requests for files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayFollower {
    /// Carries them out, with the leader's help where that is needed: any namenode will do.
    #[default]
    Forward,
    /// Answers `StandbyException`, as a standby namenode of HDFS does: clients configured for that go on to the next.
    Standby,
}

/// Settings of the HTTP gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySettings {
    /// Who is believed: `token` (nobody yet) or `simple` (everybody). Default `token`.
    pub auth: GatewayAuth,
    /// With `simple`: who asks if a request does not say. A name that this machine does not know is nobody. Default `dr.who`.
    pub default_user: String,
    /// Most connections at once, 1 to 100,000; more are told so and closed. Default 4,096.
    pub connections_max: u32,
    /// Most connections from one address at once, 1 to 100,000. Default 512.
    pub connections_per_address_max: u32,
    /// With `simple`: names of this machine besides those that the gateway knows by itself. A request that calls it by another name is
    /// refused: it may come from a page whose server pretends to be this machine. Default none.
    pub hosts: Vec<String>,
    /// A connection is closed that waits this long for a request. A body may rest for 10 minutes, or for as long as this if that is
    /// longer. 1s to 1h, default 60s.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// Most requests of one user per second, 1 to 1,000,000; more are told to come back. Default 100,000.
    pub requests_per_second_max: u32,
    /// Largest upload in one request, at least 1 MiB. Default 1 TiB.
    pub upload_size_max: ByteSize,
    /// What a namenode that does not lead does: `forward` or `standby`. Default `forward`.
    pub follower: GatewayFollower,
    /// File for the audit log, one line of JSON for each request that changes something. Empty: lines go to the daemon's log. At
    /// 64 MiB it is renamed to `….1`; four old ones are kept. Default empty.
    pub audit_log: String,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            auth: GatewayAuth::Token,
            default_user: "dr.who".to_owned(),
            hosts: Vec::new(),
            connections_max: 4096,
            connections_per_address_max: 512,
            idle_timeout: Duration::from_secs(60),
            requests_per_second_max: 100_000,
            upload_size_max: ByteSize::gib(1024),
            follower: GatewayFollower::Forward,
            audit_log: String::new(),
        }
    }
}

/// A value that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {rule}, not {found}")]
pub struct BadGatewaySetting {
    /// The key in the file.
    pub key: &'static str,
    /// What is allowed.
    pub rule: &'static str,
    /// What was found.
    pub found: String,
}

impl GatewaySettings {
    /// Refuses values that make no sense.
    pub fn check(&self) -> Result<(), BadGatewaySetting> {
        let count = "1 to 100000";
        let allowed = 1..=100_000;
        let idle = Duration::from_secs(1)..=Duration::from_secs(3600);
        let cases = [
            (
                "gateway.default_user",
                "a name of 1 to 255 bytes",
                (1..=255).contains(&self.default_user.len()),
                self.default_user.clone(),
            ),
            (
                "gateway.connections_max",
                count,
                allowed.contains(&self.connections_max),
                self.connections_max.to_string(),
            ),
            (
                "gateway.connections_per_address_max",
                count,
                allowed.contains(&self.connections_per_address_max),
                self.connections_per_address_max.to_string(),
            ),
            (
                "gateway.idle_timeout",
                "1s to 1h",
                idle.contains(&self.idle_timeout),
                duration::display(self.idle_timeout).to_string(),
            ),
            (
                "gateway.requests_per_second_max",
                "1 to 1000000",
                (1..=1_000_000).contains(&self.requests_per_second_max),
                self.requests_per_second_max.to_string(),
            ),
            (
                "gateway.upload_size_max",
                "at least 1 MiB",
                self.upload_size_max >= ByteSize::mib(1),
                self.upload_size_max.to_string(),
            ),
        ];
        match cases.into_iter().find(|(_, _, good, _)| !good) {
            Some((key, rule, _, found)) => Err(BadGatewaySetting { key, rule, found }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::{GatewayAuth, GatewayFollower, GatewaySettings};
    use crate::config::{ByteSize, parse};

    #[test]
    fn nobody_is_believed_unless_the_file_says_so() {
        let path = Path::new("x.toml");
        let settings: GatewaySettings = parse("", path).unwrap();
        assert_eq!(settings, GatewaySettings::default());
        assert_eq!(settings.auth, GatewayAuth::Token);
        let settings: GatewaySettings = parse("auth = \"simple\"", path).unwrap();
        assert_eq!(settings.auth, GatewayAuth::Simple);
        let settings: GatewaySettings = parse("follower = \"standby\"", path).unwrap();
        assert_eq!(settings.follower, GatewayFollower::Standby);
        let error = parse::<GatewaySettings>("auth = \"none\"", path).unwrap_err();
        assert!(error.to_string().contains("simple"), "{error}");
    }

    #[test]
    fn limits_are_named() {
        let bad = |change: fn(&mut GatewaySettings)| {
            let mut settings = GatewaySettings::default();
            change(&mut settings);
            settings.check().unwrap_err().to_string()
        };
        assert!(
            bad(|all| all.connections_max = 0)
                .contains("`gateway.connections_max`: 1 to 100000, not 0")
        );
        assert!(bad(|all| all.idle_timeout = Duration::ZERO).contains("idle_timeout"));
        assert!(bad(|all| all.default_user.clear()).contains("default_user"));
        assert!(bad(|all| all.requests_per_second_max = 0).contains("1 to 1000000"));
        let size = bad(|all| all.upload_size_max = ByteSize::kib(1));
        assert!(size.contains("at least 1 MiB, not 1 KiB"), "{size}");
        GatewaySettings::default().check().unwrap();
    }
}
