//! The roles of a cluster as processes: a namenode, a datanode, and all of them together for a laptop.

pub(crate) mod datanode;
mod layout;
pub(crate) mod namenode;
pub(crate) mod processes;
mod security;
mod traces;
pub(crate) mod up;

use std::time::Duration;

use anyhow::Context;
use cairn_client::ClusterConfig;
use cairn_daemon::Tasks;
use cairn_daemon::telemetry::init_logs;
use cairn_gateway::HttpListener;
use cairn_protocol::messages::common::Caller;
use cairn_protocol::net::Tls;

use crate::cluster::client_config;

/// For requests to end and components to stop. What is cut off loses nothing acknowledged.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the gateway tries to get an answer from the cluster: longer than an election takes.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(20);

/// Nothing, if there is no address.
async fn listen_for_http(address: &str) -> anyhow::Result<Option<HttpListener>> {
    if address.is_empty() {
        return Ok(None);
    }
    let listening = HttpListener::on(address).await;
    listening.map(Some).context("HTTP gateway")
}

/// How a daemon's gateway reaches the cluster: it shows what the daemon shows.
fn cluster_of_gateway(namenodes: Vec<String>, tls: Option<&Tls>) -> ClusterConfig {
    let superuser = Caller::default();
    ClusterConfig {
        tls: tls.cloned(),
        ..client_config(namenodes, superuser, "gateway", GATEWAY_PATIENCE)
    }
}

/// Runs one role until a signal or a failure ends it.
async fn serve(
    follow_stdin: bool,
    start: impl AsyncFnOnce(&Tasks) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    init_logs("info,openraft=warn")?;
    let tasks = Tasks::new();
    tasks.shutdown_on_signals()?;
    if follow_stdin {
        end_with_stdin(&tasks);
    }
    let shutdown = tasks.shutdown_token();
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        started = start(&tasks) => started?,
    }
    tasks.run_until_shutdown(SHUTDOWN_TIMEOUT).await
}

/// Shuts down when standard input ends: it is a pipe from `dfs up`, which so takes its children along even if it is killed.
fn end_with_stdin(tasks: &Tasks) {
    let all = tasks.clone();
    tasks.component("parent", |stop| async move {
        let ended = cairn_daemon::blocking(|| {
            // Nothing is ever sent: whatever ends the reading ends the pipe.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = ended => {
                tracing::info!("the parent has ended");
                all.shutdown();
            }
        }
        anyhow::Ok(())
    });
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use cairn_daemon::config::load;
    use cairn_datanode::DatanodeConfig;
    use cairn_namenode::config::NamenodeConfig;

    fn reference(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../deploy/config")
            .join(name)
    }

    #[test]
    fn the_reference_of_the_namenode_has_the_defaults() {
        let found: NamenodeConfig = load(&reference("namenode.toml")).unwrap();
        found.validate().unwrap();
        let expected = NamenodeConfig::new(found.directory.clone());
        assert_eq!(format!("{found:#?}"), format!("{expected:#?}"));
    }

    #[test]
    fn the_reference_of_the_datanode_has_the_defaults() {
        let found: DatanodeConfig = load(&reference("datanode.toml")).unwrap();
        found.validate().unwrap();
        let (namenodes, volumes) = (found.namenodes.clone(), found.volumes.clone());
        assert_eq!(
            found,
            DatanodeConfig {
                namenodes,
                volumes,
                ..DatanodeConfig::default()
            }
        );
    }

    #[test]
    fn the_references_name_every_key() {
        let lines = |name: &str| std::fs::read_to_string(reference(name)).unwrap();
        let datanode = lines("datanode.toml");
        let table = toml::Table::try_from(DatanodeConfig::default()).unwrap();
        for key in table.keys() {
            assert!(
                datanode.lines().any(
                    |line| line.starts_with(&format!("{key} = ")) || line == format!("[{key}]")
                ),
                "{key}"
            );
        }
    }
}
