//! One TOML file per daemon, read into one struct with `deny_unknown_fields`. Errors name the file, the line, the key and
//! what is allowed; sizes and durations carry their units.
//!
//! Checking what values mean is not done here: each daemon's config has its own `validate()`.

pub mod duration;
mod gateway;
mod security;
mod size;
mod tracing;

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub use gateway::{BadGatewaySetting, GatewayAuth, GatewayFollower, GatewaySettings};
pub use security::{Auth, BadSecurity, SecurityFiles, SecuritySettings};
pub use size::ByteSize;
pub use tracing::{BadTracing, Collector, TracingSettings};

/// Longer files are certainly not ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a config was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("config file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is not TOML, has an unknown key or a bad value.
    #[error("config file {}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, column, key and what is allowed, over several lines.
        reason: String,
    },
}

/// A number with a unit that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a {noun}: write a whole number and a unit ({units}), such as \"{example}\""
)]
pub struct BadQuantity {
    text: String,
    noun: &'static str,
    units: &'static str,
    example: &'static str,
}

/// Reads a config file. It does not go through the disk door: configs are read before anything is simulated.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    let len = std::fs::metadata(path).map_err(unreadable)?.len();
    if len > FILE_BYTES_MAX {
        let text = format!("{len} bytes, at most {FILE_BYTES_MAX} are allowed");
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(&text, path)
}

/// Reads a config from text; `path` is for messages.
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::Invalid {
        path: path.to_path_buf(),
        reason: error.to_string().trim_end().to_owned(),
    })
}

/// Splits `10 MiB` into 10 and `MiB`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim_start()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Deserialize, Serialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Example {
        chunk_size: ByteSize,
        #[serde(with = "duration")]
        session_ttl: Duration,
    }

    impl Default for Example {
        fn default() -> Example {
            Example {
                chunk_size: ByteSize::mib(128),
                session_ttl: Duration::from_secs(30),
            }
        }
    }

    fn refused(text: &str) -> String {
        let path = Path::new("/etc/cairn/x.toml");
        let text = parse::<Example>(text, path).unwrap_err().to_string();
        assert!(
            text.starts_with("config file /etc/cairn/x.toml: "),
            "{text}"
        );
        text
    }

    #[test]
    fn a_file_is_read_and_written_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, "chunk_size = \"64 MiB\"\nsession_ttl = \"500ms\"\n").unwrap();
        let config: Example = load(&path).unwrap();
        let expected = Example {
            chunk_size: ByteSize::mib(64),
            session_ttl: Duration::from_millis(500),
        };
        assert_eq!(config, expected);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(text, "chunk_size = \"64 MiB\"\nsession_ttl = \"500ms\"\n");
        assert_eq!(parse::<Example>(&text, &path).unwrap(), expected);
        assert_eq!(parse::<Example>("", &path).unwrap(), Example::default());
        assert_eq!(
            parse::<Example>("chunk_size = 4096", &path)
                .unwrap()
                .chunk_size
                .bytes(),
            4096
        );
    }

    #[test]
    fn errors_name_file_line_key_and_what_is_allowed() {
        let text = refused("chunk_size = \"1 GiB\"\nchunk_sise = 3\n");
        assert!(text.contains("line 2"), "{text}");
        assert!(text.contains("unknown field `chunk_sise`"), "{text}");
        assert!(
            text.contains("`chunk_size`") && text.contains("`session_ttl`"),
            "{text}"
        );

        let text = refused("chunk_size = \"64 M\"");
        assert!(
            text.contains("line 1") && text.contains("chunk_size"),
            "{text}"
        );
        assert!(
            text.contains("`64 M` is not a size") && text.contains("MiB"),
            "{text}"
        );

        let text = refused("session_ttl = 30");
        assert!(
            text.contains("line 1") && text.contains("session_ttl"),
            "{text}"
        );
        assert!(text.contains("such as \"10s\""), "{text}");

        let text = refused("session_ttl = \"3 weeks\"");
        assert!(text.contains("`3 weeks` is not a duration"), "{text}");

        let text = refused("chunk_size = -1");
        assert!(text.contains("line 1"), "{text}");
        assert!(refused("chunk_size").contains("line 1"));
    }

    #[test]
    fn an_absent_file_is_named() {
        let error = load::<Example>(Path::new("/nowhere/x.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nowhere/x.toml") && error.contains("No such file"),
            "{error}"
        );
    }
}
