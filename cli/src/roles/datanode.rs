//! A datanode as a process.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use cairn_daemon::disk::RealDisk;
use cairn_daemon::{Tasks, config};
use cairn_datanode::{Datanode, DatanodeConfig};
use cairn_gateway::{Gateway, GatewayOptions};
use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{cluster_of_gateway, listen_for_http, security, serve, traces};
use crate::session::Usage;

/// How to run a datanode.
#[derive(Debug, Args)]
pub(crate) struct DatanodeRole {
    /// Its settings; deploy/config/datanode.toml has all of them with their defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Namenodes, one is enough, instead of `namenodes` in the file.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    namenodes: Vec<String>,
    /// Where to listen, instead of `listen` in the file.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where others reach it, instead of `advertise` in the file.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// A directory for each disk, instead of `volumes` in the file.
    #[arg(long = "volume", value_name = "DIR")]
    volumes: Vec<PathBuf>,
    /// Where to listen for HTTP, instead of `http` in the file; empty for none.
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// Failure domain, instead of `rack` in the file.
    #[arg(long, value_name = "/RACK")]
    rack: Option<String>,
    /// Only check the settings.
    #[arg(long)]
    check: bool,
    /// End when standard input does.
    #[arg(long, hide = true)]
    follow_stdin: bool,
}

impl DatanodeRole {
    /// The file with what the options say instead.
    fn settings(&self) -> anyhow::Result<DatanodeConfig> {
        let mut settings: DatanodeConfig = match &self.config {
            Some(file) => config::load(file)?,
            None if self.volumes.is_empty() || self.namenodes.is_empty() => {
                return Usage::error("a datanode needs --config FILE, or --namenodes and --volume");
            }
            None => DatanodeConfig::default(),
        };
        if !self.namenodes.is_empty() {
            settings.namenodes.clone_from(&self.namenodes);
        }
        if let Some(listen) = &self.listen {
            settings.listen.clone_from(listen);
        }
        if let Some(advertise) = &self.advertise {
            settings.advertise.clone_from(advertise);
        }
        if !self.volumes.is_empty() {
            settings.volumes.clone_from(&self.volumes);
        }
        if let Some(http) = &self.http {
            settings.http.clone_from(http);
        }
        if let Some(rack) = &self.rack {
            settings.rack.clone_from(rack);
        }
        settings.validate().context(match &self.config {
            Some(file) => format!("config file {}", file.display()),
            None => "settings of the datanode".to_owned(),
        })?;
        Ok(settings)
    }
}

/// Runs it until it is told to stop.
pub(crate) async fn run(role: DatanodeRole) -> anyhow::Result<()> {
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

/// Starts a datanode and its gateway in `tasks`.
pub(crate) async fn start(mut settings: DatanodeConfig, tasks: &Tasks) -> anyhow::Result<Datanode> {
    let instance = match settings.advertise.as_str() {
        "" => &settings.listen,
        advertise => advertise,
    };
    let origin = traces::Origin {
        service: "cairn-datanode",
        instance,
    };
    traces::start(&settings.tracing, origin, tasks)?;
    let listening = listen_for_http(&settings.http).await?;
    // It tells the namenodes where its gateway is.
    if let Some(listening) = &listening {
        settings.http = with_port(&settings.http, listening.bound().port());
    }
    let (gateway, namenodes) = (settings.gateway.clone(), settings.namenodes.clone());
    let security = settings.security.clone();
    let rng = StdRng::seed_from_u64(rand::random());
    let datanode = Datanode::start(settings, Arc::new(RealDisk), tasks, rng).await?;
    traces::show_in(datanode.metrics());
    security::keep_fresh(datanode.tls().cloned(), security, tasks);
    if let Some(listening) = listening {
        let mut cluster = cluster_of_gateway(namenodes, datanode.tls());
        if !datanode.host().is_empty() {
            datanode.host().clone_into(&mut cluster.host);
        }
        let options = GatewayOptions {
            cluster,
            metrics: datanode.metrics().clone(),
            settings: gateway,
            leads: None,
        };
        Gateway::start(listening, options, tasks);
    }
    Ok(datanode)
}

/// The address with the port that was really bound.
fn with_port(address: &str, port: u16) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    format!("{host}:{port}")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::DatanodeRole;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        role: DatanodeRole,
    }

    #[test]
    fn options_are_enough_or_stand_above_the_file() {
        let role = |line: &str| Line::try_parse_from(line.split(' ')).unwrap().role;
        let settings = role("x --namenodes a:1,b:2 --volume /d/1 --volume /d/2 --rack /r")
            .settings()
            .unwrap();
        assert_eq!(
            (
                settings.namenodes.len(),
                settings.volumes.len(),
                settings.rack.as_str()
            ),
            (2, 2, "/r")
        );
        assert!(
            role("x --volume /d")
                .settings()
                .unwrap_err()
                .is::<crate::session::Usage>()
        );
        let error = role("x --namenodes a --volume /d").settings().unwrap_err();
        assert!(format!("{error:#}").contains("not host:port"), "{error:#}");
    }
}
