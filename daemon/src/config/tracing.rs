//! Where traces go: the table `[tracing]`, the same in namenodes and datanodes.

use serde::{Deserialize, Serialize};

/// Settings of traces. Nothing is recorded, and nothing costs anything, while `otlp` is empty.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingSettings {
    /// Collector that takes spans as OTLP over HTTP: `http://HOST:PORT`, or with a path, which is `/v1/traces` else. Empty: nothing is recorded.
    /// Default empty.
    pub otlp: String,
    /// One of so many traces is recorded, 1 to 1,000,000; traces that a client began are recorded if it says so. Default 1: all.
    pub one_in: u32,
}

impl Default for TracingSettings {
    fn default() -> Self {
        Self {
            otlp: String::new(),
            one_in: 1,
        }
    }
}

/// A value that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {rule}, not {found}")]
pub struct BadTracing {
    /// The key in the file.
    pub key: &'static str,
    /// What is allowed.
    pub rule: &'static str,
    /// What was found.
    pub found: String,
}

/// A collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// `host:port`.
    pub address: String,
    /// Where spans are posted to, with host and path.
    pub url: String,
}

impl TracingSettings {
    /// Refuses values that make no sense.
    pub fn check(&self) -> Result<(), BadTracing> {
        let (allowed, rule) = (1..=1_000_000, "1 to 1000000");
        if !allowed.contains(&self.one_in) {
            return Err(BadTracing {
                key: "tracing.one_in",
                rule,
                found: self.one_in.to_string(),
            });
        }
        self.collector().map(|_| ())
    }

    /// Where spans go, if anywhere.
    pub fn collector(&self) -> Result<Option<Collector>, BadTracing> {
        if self.otlp.is_empty() {
            return Ok(None);
        }
        let collector = collector(&self.otlp).ok_or_else(|| BadTracing {
            key: "tracing.otlp",
            rule: "http://HOST:PORT, such as http://127.0.0.1:4318",
            found: self.otlp.clone(),
        });
        collector.map(Some)
    }
}

fn collector(url: &str) -> Option<Collector> {
    let rest = url.strip_prefix("http://")?;
    let (address, path) = match rest.split_once('/') {
        Some((address, path)) => (address, path),
        None => (rest, ""),
    };
    let (host, port) = address.rsplit_once(':')?;
    // Names, passwords and queries have no place here: the address ends up in logs.
    let plain = |c: char| c.is_ascii_graphic() && !"@?#\"<>\\^`{|}".contains(c);
    if host.is_empty() || !url.chars().all(plain) || port.parse::<u16>().ok()? == 0 {
        return None;
    }
    let path = if path.is_empty() { "v1/traces" } else { path };
    Some(Collector {
        address: address.to_owned(),
        url: format!("http://{address}/{path}"),
    })
}

#[cfg(test)]
mod tests {
    use super::TracingSettings;

    fn settings(otlp: &str, one_in: u32) -> TracingSettings {
        TracingSettings {
            otlp: otlp.to_owned(),
            one_in,
        }
    }

    #[test]
    fn collectors_are_read_and_others_are_refused() {
        assert_eq!(TracingSettings::default().collector(), Ok(None));
        let collector = settings("http://a:4318", 1).collector().unwrap().unwrap();
        assert_eq!(
            (collector.address.as_str(), collector.url.as_str()),
            ("a:4318", "http://a:4318/v1/traces")
        );
        let collector = settings("http://[::1]:1/x/y", 1).collector();
        assert_eq!(collector.unwrap().unwrap().url, "http://[::1]:1/x/y");
        for bad in [
            "a:4318",
            "https://a:4318",
            "http://a",
            "http://:1",
            "http://a:0",
            "http://a:b",
            "http://u:p@a:1",
            "http://a:1/?key=1",
            "http://a:1/ x",
        ] {
            let error = settings(bad, 1).check().unwrap_err().to_string();
            assert!(
                error.contains("tracing.otlp") && error.contains(bad),
                "{error}"
            );
        }
        assert!(settings("", 0).check().is_err());
        assert!(settings("", 1_000_001).check().is_err());
    }
}
