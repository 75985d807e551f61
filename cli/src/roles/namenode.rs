//! A namenode as a process, with its HTTP gateway.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use cairn_daemon::{Tasks, config};
use cairn_gateway::{Gateway, GatewayOptions};
use cairn_namenode::config::NamenodeConfig;
use cairn_namenode::{Doors, Namenode};
use clap::Args;

use super::{cluster_of_gateway, listen_for_http, security, serve, traces};
use crate::session::Usage;

/// How to run a namenode.
#[derive(Debug, Args)]
pub(crate) struct NamenodeRole {
    /// Its settings; deploy/config/namenode.toml has all of them with their defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory for log, state and identity, instead of `directory` in the file.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where to listen, instead of `listen` in the file.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where others reach it, instead of `advertise` in the file.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// All founding namenodes, instead of `namenodes` in the file.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    namenodes: Vec<String>,
    /// Where to listen for HTTP, instead of `http` in the file; empty for none.
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// Only check the settings.
    #[arg(long)]
    check: bool,
    /// End when standard input does.
    #[arg(long, hide = true)]
    follow_stdin: bool,
}

impl NamenodeRole {
    /// The file with what the options say instead.
    fn settings(&self) -> anyhow::Result<NamenodeConfig> {
        let mut settings: NamenodeConfig = match (&self.config, &self.dir) {
            (Some(file), _) => config::load(file)?,
            (None, Some(directory)) => NamenodeConfig::new(directory.clone()),
            (None, None) => return Usage::error("a namenode needs --config FILE or --dir DIR"),
        };
        if let Some(directory) = &self.dir {
            settings.directory.clone_from(directory);
        }
        if let Some(listen) = &self.listen {
            settings.listen.clone_from(listen);
        }
        if self.advertise.is_some() {
            settings.advertise.clone_from(&self.advertise);
        }
        if !self.namenodes.is_empty() {
            settings.namenodes.clone_from(&self.namenodes);
        }
        if let Some(http) = &self.http {
            settings.http.clone_from(http);
        }
        settings.validate().context(match &self.config {
            Some(file) => format!("config file {}", file.display()),
            None => "settings of the namenode".to_owned(),
        })?;
        Ok(settings)
    }
}

/// Runs it until it is told to stop.
pub(crate) async fn run(role: NamenodeRole) -> anyhow::Result<()> {
    let settings = role.settings()?;
    if role.check {
        writeln!(std::io::stdout(), "the settings are right")?;
        return Ok(());
    }
    serve(role.follow_stdin, async |tasks| {
        start(settings, tasks).await.map(|_| ())
    })
    .await
}

/// Starts a namenode and its gateway in `tasks`.
pub(crate) async fn start(settings: NamenodeConfig, tasks: &Tasks) -> anyhow::Result<Namenode> {
    let (gateway, security) = (settings.gateway.clone(), settings.security.clone());
    let instance = settings.advertise.as_ref().unwrap_or(&settings.listen);
    let origin = traces::Origin {
        service: "cairn-namenode",
        instance,
    };
    traces::start(&settings.tracing, origin, tasks)?;
    let listening = listen_for_http(&settings.http).await?;
    let directory = settings.directory.clone();
    if directory.as_os_str().is_empty() {
        bail!("directory: a path, not nothing");
    }
    let doors = Doors::real(&settings);
    let namenode = Namenode::start(settings, doors, tasks)
        .await
        .with_context(|| format!("namenode in {}", directory.display()))?;
    traces::show_in(namenode.metrics());
    security::keep_fresh(namenode.tls().cloned(), security, tasks);
    if let Some(listening) = listening {
        let namenodes = vec![namenode.address().to_owned()];
        let leadership = namenode.group().leadership();
        let options = GatewayOptions {
            cluster: cluster_of_gateway(namenodes, namenode.tls()),
            metrics: namenode.metrics().clone(),
            settings: gateway,
            leads: Some(Arc::new(move || leadership.borrow().ready)),
        };
        Gateway::start(listening, options, tasks);
    }
    Ok(namenode)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::NamenodeRole;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        role: NamenodeRole,
    }

    fn role(line: &str) -> NamenodeRole {
        Line::try_parse_from(line.split(' ')).unwrap().role
    }

    #[test]
    fn options_stand_above_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("namenode.toml");
        std::fs::write(&file, "directory = \"/a\"\nlisten = \"0.0.0.0:1\"\n").unwrap();
        let file = file.display();
        let settings = role(&format!("x --config {file} --listen 0.0.0.0:2 --http="))
            .settings()
            .unwrap();
        assert_eq!(settings.directory.to_str(), Some("/a"));
        assert_eq!(
            (settings.listen.as_str(), settings.http.as_str()),
            ("0.0.0.0:2", "")
        );
        let bad = role(&format!("x --config {file} --namenodes a:1,b:2"))
            .settings()
            .unwrap_err();
        assert!(format!("{bad:#}").contains("one, three or five"), "{bad:#}");
    }

    #[test]
    fn a_directory_is_enough_and_something_is_needed() {
        assert!(role("x --dir /b").settings().is_ok());
        assert!(
            role("x")
                .settings()
                .unwrap_err()
                .is::<crate::session::Usage>()
        );
    }
}
