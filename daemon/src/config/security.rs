//! Who is believed, and what proves it: the table `[security]`, the same in namenodes, datanodes and clients.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longer files are certainly neither keys nor certificates.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Who is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Everybody, about who they are; nothing is encrypted.
    #[default]
    Simple,
    /// Nodes with a certificate of the cluster's CA and users with a token; everything is under TLS.
    Tokens,
}

/// Settings of security; with `auth = "simple"` the others mean nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecuritySettings {
    /// `simple`: everybody is believed, nothing is encrypted. `tokens`: TLS on every port, certificates between namenodes and
    /// datanodes, tokens for users. The same in all processes of a cluster. Default `simple`.
    pub auth: Auth,
    /// Certificate of the cluster's CA, from `dfs admin ca init`.
    pub ca: PathBuf,
    /// This node's certificate, from `dfs admin ca issue`. It is read again when it changes.
    pub certificate: PathBuf,
    /// The key of this node's certificate; only its owner may read it.
    pub key: PathBuf,
}

/// What the files hold, all PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct SecurityFiles {
    /// Certificate of the CA.
    pub ca: Vec<u8>,
    /// Own certificate and its key.
    pub own: Option<(Vec<u8>, Vec<u8>)>,
}

impl SecurityFiles {
    /// Own certificate and its key.
    pub fn own(&self) -> Option<(&[u8], &[u8])> {
        let own = self.own.as_ref();
        own.map(|(certificate, key)| (certificate.as_slice(), key.as_slice()))
    }
}

/// Settings that do not work. Says which file, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum BadSecurity {
    /// A setting is missing.
    #[error("security.{key} is not set, and auth = \"tokens\" needs it; {way_out}")]
    Missing {
        /// The key in `[security]`.
        key: &'static str,
        /// What to do.
        way_out: &'static str,
    },
    /// A file cannot be read.
    #[error("security.{key}: {}: {source}; {way_out}", path.display())]
    Unreadable {
        /// The key in `[security]`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// What to do.
        way_out: &'static str,
    },
    /// Others than its owner may read the key.
    #[error("security.key: others may read {}: chmod 600 it, and issue a new one if they may have done so", path.display())]
    OpenKey {
        /// The file.
        path: PathBuf,
    },
}

const FROM_INIT: &str = "`dfs admin ca init` makes it, and every node and client has a copy";
const FROM_ISSUE: &str = "`dfs admin ca issue` makes it for each node";

impl SecuritySettings {
    /// What a namenode or datanode needs; `None` with `auth = "simple"`. Reads the files, which may block.
    pub fn read_for_node(&self) -> Result<Option<SecurityFiles>, BadSecurity> {
        if self.auth == Auth::Simple {
            return Ok(None);
        }
        let ca = read("ca", &self.ca, FROM_INIT)?;
        let certificate = read("certificate", &self.certificate, FROM_ISSUE)?;
        let key = read_key(&self.key)?;
        Ok(Some(SecurityFiles {
            ca,
            own: Some((certificate, key)),
        }))
    }

    /// What a client needs: the CA, and a certificate only if it is an operator's.
    pub fn read_for_client(&self) -> Result<Option<SecurityFiles>, BadSecurity> {
        if !self.certificate.as_os_str().is_empty() {
            return self.read_for_node();
        }
        if self.auth == Auth::Simple {
            return Ok(None);
        }
        let ca = read("ca", &self.ca, FROM_INIT)?;
        Ok(Some(SecurityFiles { ca, own: None }))
    }
}

fn read(key: &'static str, path: &Path, way_out: &'static str) -> Result<Vec<u8>, BadSecurity> {
    if path.as_os_str().is_empty() {
        return Err(BadSecurity::Missing { key, way_out });
    }
    let unreadable = |source| BadSecurity::Unreadable {
        key,
        path: path.to_path_buf(),
        source,
        way_out,
    };
    let len = std::fs::metadata(path).map_err(unreadable)?.len();
    if len > FILE_BYTES_MAX {
        let text = format!("{len} bytes, at most {FILE_BYTES_MAX} are allowed");
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    std::fs::read(path).map_err(unreadable)
}

fn read_key(path: &Path) -> Result<Vec<u8>, BadSecurity> {
    use std::os::unix::fs::PermissionsExt;
    let key = read("key", path, FROM_ISSUE)?;
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        return Err(BadSecurity::OpenKey {
            path: path.to_path_buf(),
        });
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::{Auth, SecuritySettings};

    #[test]
    fn what_is_missing_is_named_with_the_way_out() {
        let mut settings = SecuritySettings::default();
        assert!(settings.read_for_node().unwrap().is_none());
        assert!(settings.read_for_client().unwrap().is_none());
        settings.auth = Auth::Tokens;
        let text = settings.read_for_client().err().unwrap().to_string();
        assert!(
            text.contains("security.ca") && text.contains("dfs admin ca init"),
            "{text}"
        );
        settings.ca = PathBuf::from("/nowhere/ca.pem");
        let text = settings.read_for_node().err().unwrap().to_string();
        assert!(text.contains("/nowhere/ca.pem: No such file"), "{text}");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, mode| {
            let path = directory.path().join(name);
            std::fs::write(&path, name).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let mut settings = SecuritySettings {
            auth: Auth::Tokens,
            ca: file("ca", 0o644),
            certificate: file("certificate", 0o644),
            key: file("key", 0o640),
        };
        let text = settings.read_for_node().err().unwrap().to_string();
        assert!(text.contains("chmod 600"), "{text}");
        settings.key = file("key2", 0o600);
        let files = settings.read_for_node().unwrap().unwrap();
        assert_eq!(files.ca, b"ca");
        assert_eq!(
            files.own.unwrap(),
            (b"certificate".to_vec(), b"key2".to_vec())
        );
    }
}
