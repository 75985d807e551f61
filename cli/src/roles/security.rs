//! TLS of the roles: certificates that are read again when they change, and those of `dfs up --secure`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cairn_daemon::config::{Auth, SecuritySettings};
use cairn_daemon::{Tasks, blocking};
use cairn_protocol::net::{Role, Tls};
use tokio::time::sleep;

use crate::authority::{Request, authority_files, init, issue};

/// How often certificates are looked at.
const LOOK: Duration = Duration::from_secs(60);

/// The certificate of all roles of `dfs up`.
pub(super) const NODE: &str = "node";

/// The certificate of whoever has the folder.
pub(super) const OPERATOR: &str = "operator";

/// Years for a folder on a laptop: nobody renews anything there.
const DAYS: u32 = 3650;

/// Uses certificates as they are renewed, as long as the process runs.
pub(super) fn keep_fresh(tls: Option<Tls>, settings: SecuritySettings, tasks: &Tasks) {
    let Some(tls) = tls else { return };
    tasks.component("certificates", |stop| async move {
        let mut used = None;
        loop {
            let settings = settings.clone();
            match blocking(move || settings.read_for_node()).await {
                // The first look is at what the process started with.
                Ok(files) if used.is_none() => used = Some(files),
                Ok(files) if used.as_ref() == Some(&files) => {}
                Ok(files) => {
                    let read = files.as_ref().map(|files| Tls::new(&files.ca, files.own()));
                    match read {
                        Some(Ok(newer)) => {
                            tls.renew(&newer);
                            tracing::info!("new certificates are in use");
                        }
                        Some(Err(error)) => tracing::error!(%error, "new certificates do not work"),
                        None => {}
                    }
                    used = Some(files);
                }
                Err(error) => tracing::error!(%error, "certificates cannot be read"),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return anyhow::Ok(()),
                () = sleep(LOOK) => {}
            }
        }
    });
}

/// The settings by which something in the folder shows the certificate of this name.
pub(super) fn of(folder: &Path, name: &str) -> SecuritySettings {
    let directory = folder.join("security");
    SecuritySettings {
        auth: Auth::Tokens,
        ca: authority_files(&directory).0,
        certificate: directory.join(format!("{name}.pem")),
        key: directory.join(format!("{name}.key")),
    }
}

/// Makes the folder's CA and its certificates, unless they are there.
pub(super) fn prepare(folder: &Path) -> anyhow::Result<()> {
    let directory = folder.join("security");
    if !authority_files(&directory).0.exists() {
        // What is left of an attempt that did not end.
        let _ = fs::remove_file(authority_files(&directory).1);
        init(&directory, "Cairn CA of dfs up", DAYS)?;
    }
    let hosts = ["127.0.0.1", "localhost", "::1"].map(str::to_owned);
    let wanted: [(&str, &[Role]); 2] = [
        (NODE, &[Role::Namenode, Role::Datanode]),
        (OPERATOR, &[Role::Operator]),
    ];
    for (name, roles) in wanted {
        if !directory.join(format!("{name}.pem")).exists() {
            let request = Request {
                name,
                roles,
                hosts: &hosts,
                days: DAYS,
            };
            issue(&directory, &directory, &request)?;
        }
    }
    Ok(())
}
