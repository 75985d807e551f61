//! The files of the cluster's certificate authority: `ca.pem` and `ca.key` in a directory, and what is issued with them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_daemon::Clock;
use cairn_daemon::authority::{Authority, Issued};
use cairn_protocol::net::Role;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Certificate and key of the authority in its directory.
pub(crate) fn authority_files(directory: &Path) -> (PathBuf, PathBuf) {
    (directory.join("ca.pem"), directory.join("ca.key"))
}

/// A new authority in `directory`, which is made if need be. One that is there is left alone: what it issued would be worthless.
pub(crate) fn init(directory: &Path, name: &str, days: u32) -> anyhow::Result<PathBuf> {
    let (certificate, key) = authority_files(directory);
    for path in [&certificate, &key] {
        if path.exists() {
            bail!(
                "{} exists: a new CA would make all that it issued worthless; move it away if that is meant",
                path.display()
            );
        }
    }
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let made = Authority::create(name, DAY * days, &Clock::system()).context("make a CA")?;
    write_key(&key, &made.key)?;
    write(&certificate, &made.certificate, 0o644)?;
    Ok(certificate)
}

/// What a new certificate shall say.
pub(crate) struct Request<'a> {
    /// Whom it is about, and how its files are called.
    pub(crate) name: &'a str,
    pub(crate) roles: &'a [Role],
    /// Host names and addresses.
    pub(crate) hosts: &'a [String],
    pub(crate) days: u32,
}

/// A certificate and its key, as `NAME.pem` and `NAME.key` in `out`; those that are there are replaced: a renewal.
pub(crate) fn issue(
    authority: &Path,
    out: &Path,
    request: &Request<'_>,
) -> anyhow::Result<(PathBuf, PathBuf)> {
    let name = request.name;
    if name.is_empty() || name.len() > 64 || name.contains(['/', '\0']) || name == "ca" {
        bail!("`{name}` cannot be a name: 1 to 64 bytes, no slash, and not `ca`");
    }
    let (certificate, key) = authority_files(authority);
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| {
            format!(
                "read {}; `dfs admin ca init` makes it, and it is only where that was done",
                path.display()
            )
        })
    };
    let loaded = Authority::load(&read(&certificate)?, &read(&key)?);
    let loaded = loaded.with_context(|| format!("CA in {}", authority.display()))?;
    let roles = request.roles.iter().map(|role| role.dns_name().to_owned());
    let names = request.hosts.iter().cloned().chain(roles).collect();
    let issued: Issued = loaded
        .issue(name, names, DAY * request.days, &Clock::system())
        .with_context(|| format!("issue a certificate for {name}"))?;
    fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    let (certificate, key) = (
        out.join(format!("{name}.pem")),
        out.join(format!("{name}.key")),
    );
    write_key(&key, &issued.key)?;
    write(&certificate, &issued.certificate, 0o644)?;
    Ok((certificate, key))
}

/// A secret, for its owner alone.
pub(crate) fn write_key(path: &Path, text: &str) -> anyhow::Result<()> {
    write(path, text, 0o600)
}

/// Replaces the file as a whole: a process that reads it anew sees the old or the new one.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    // A name that is nobody's: `ada.new` beside `ada.token` could be.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{:016x}.new", rand::random::<u64>()));
    let temporary = PathBuf::from(temporary);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // It may not even have been made.
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use cairn_daemon::authority::describe;
    use cairn_protocol::net::{Role, Tls};

    use super::{Request, init, issue};

    #[test]
    fn what_is_issued_works_and_its_key_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let ca = init(path, "Cairn CA", 10).unwrap();
        let again = init(path, "Cairn CA", 10).unwrap_err().to_string();
        assert!(again.contains("ca.pem exists"), "{again}");
        let request = Request {
            name: "nn1",
            roles: &[Role::Namenode],
            hosts: &["nn1.example".to_owned()],
            days: 5,
        };
        let (certificate, key) = issue(path, path, &request).unwrap();
        for secret in [&key, &path.join("ca.key")] {
            let mode = std::fs::metadata(secret).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", secret.display());
        }
        let read = |path: &std::path::Path| std::fs::read(path).unwrap();
        let said = describe(&read(&certificate)).unwrap();
        assert_eq!(said.names, ["nn1.example", Role::Namenode.dns_name()]);
        assert!(Tls::node(&read(&ca), &read(&certificate), &read(&key)).is_ok());
        // A renewal replaces both, and nothing else.
        let (beside, count) = (path.join("nn1.new"), 5);
        std::fs::write(&beside, "mine").unwrap();
        let before = read(&key);
        issue(path, path, &request).unwrap();
        assert_ne!(before, read(&key));
        assert_eq!(read(&beside), b"mine");
        assert_eq!(std::fs::read_dir(path).unwrap().count(), count);
        let bad = Request {
            name: "a/b",
            ..request
        };
        assert!(issue(path, path, &bad).is_err());
    }
}
