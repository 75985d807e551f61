//! `dfs namenode`: runs a namenode, or administers those of a cluster.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_client::{ClusterConfig, Error, found_cluster};
use cairn_protocol::ids::NamenodeId;
use cairn_protocol::net;
use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::time::timeout;

use super::status::{namenode_json, print_namenodes};
use super::with_session;
use crate::arguments::Global;
use crate::cluster::{Cluster, addresses, caller};
use crate::output::print_json;
use crate::roles;
use crate::session::{Ending, Session, about_member, complain, without_number};

/// For a look at the address of a new namenode.
const LOOK: Duration = Duration::from_secs(2);

/// Run a namenode, or list, add, replace and remove those of a cluster.
///
/// Without one of the commands below it runs a namenode in the foreground.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_help_heading = "Administration"
)]
pub(crate) struct Namenode {
    #[command(subcommand)]
    command: Option<NamenodeCommand>,
    #[command(flatten)]
    role: roles::namenode::NamenodeRole,
}

#[derive(Debug, Subcommand)]
enum NamenodeCommand {
    /// List the namenodes of the cluster.
    List {
        /// One JSON array of objects.
        #[arg(long)]
        json: bool,
    },
    /// Found a new cluster with a namenode that is running and belongs to none, and with the others that its settings name.
    Found {
        /// Where it listens: the first of `namenodes` in its settings. [default: the first of --cluster]
        #[arg(value_name = "HOST:PORT")]
        address: Option<String>,
    },
    /// Add a namenode that is running and belongs to no cluster yet; it catches up, then votes.
    Add {
        /// Where it listens.
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// Remove this one in the same step.
        #[arg(long, value_name = "ID", value_parser = namenode_number)]
        replace: Option<u64>,
    },
    /// Remove a namenode.
    Remove {
        /// Which, see `dfs namenode list`.
        #[arg(value_parser = namenode_number)]
        id: u64,
    },
    /// Hand leadership over.
    Transfer {
        /// To which; without it, to the one that is furthest.
        #[arg(value_parser = namenode_number)]
        id: Option<u64>,
    },
}

fn namenode_number(text: &str) -> Result<u64, String> {
    let number = text.parse();
    number.map_err(|_| "not a number; `dfs namenode list` shows those of the namenodes".to_owned())
}

impl Namenode {
    pub(crate) async fn run(self, global: &Global) -> anyhow::Result<Ending> {
        match self.command {
            None => roles::namenode::run(self.role).await.map(|()| Ending::Done),
            // There is no cluster to connect to yet.
            Some(NamenodeCommand::Found { address }) => found(global, address).await,
            Some(command) => {
                with_session(global, "dfs namenode", async |session| {
                    command.run(session, global.timeout).await?;
                    Ok(session.ending())
                })
                .await
            }
        }
    }
}

async fn found(global: &Global, address: Option<String>) -> anyhow::Result<Ending> {
    let mut cluster = Cluster::find(global)?;
    let address = match address {
        Some(address) => addresses(&[address])?.concat(),
        None => cluster.namenodes.swap_remove(0),
    };
    let config = ClusterConfig::new(vec![address.clone()], caller(global)?);
    let config = cluster.secure(config)?;
    let founded = found_cluster(&config, global.timeout).await;
    let founded = founded.with_context(|| format!("found a cluster at {address}"))?;
    let cluster: String = founded
        .cluster_id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    writeln!(
        io::stdout(),
        "{address} belongs to cluster {cluster} of {}",
        founded.namenodes.join(", ")
    )?;
    Ok(Ending::Done)
}

/// Why leadership was not handed over.
fn about_leadership(to: Option<u64>, error: &Error) -> String {
    match (to, error) {
        (Some(id), _) => about_member("namenode", id, error),
        (None, Error::Refused { failure, .. }) if !failure.message.is_empty() => {
            format!("leadership stays where it is: {}", failure.message)
        }
        (None, _) => error.to_string(),
    }
}

/// Whether somebody listens there, as seen from here.
async fn look_at(address: &str) -> Result<(), String> {
    match timeout(LOOK, net::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(without_number(&error.to_string())),
        Err(_) => Err(format!("no answer within {LOOK:?}")),
    }
}

impl NamenodeCommand {
    async fn run(self, session: &mut Session, patience: Duration) -> anyhow::Result<()> {
        match self {
            Self::Found { .. } => bail!("founding needs no connected session"),
            Self::List { json } => {
                let namenodes = session.fs.status().await?.namenodes;
                if json {
                    let list = namenodes.iter().map(namenode_json).collect();
                    print_json(&mut session.out, &Value::Array(list))?;
                } else {
                    print_namenodes(&mut session.out, &namenodes)?;
                }
            }
            Self::Add { address, replace } => {
                let address = addresses(&[address])?.concat();
                // The namenodes keep trying; whoever waits shall know why.
                if let Err(error) = look_at(&address).await {
                    complain(format_args!(
                        "{address} cannot be reached from here ({error}); the cluster tries it for up to {:?}",
                        patience
                    ));
                }
                session
                    .fs
                    .add_namenode(address.clone(), replace.map(NamenodeId))
                    .await?;
                writeln!(session.out, "added {address}")?;
            }
            Self::Remove { id } => {
                let removed = session.fs.remove_namenode(NamenodeId(id)).await;
                let removed = removed.map_err(|error| about_member("namenode", id, &error));
                if session.check(removed).is_some() {
                    writeln!(session.out, "removed {id}")?;
                }
            }
            Self::Transfer { id } => {
                let handed = session.fs.transfer_leadership(id.map(NamenodeId)).await;
                let handed = handed.map_err(|error| about_leadership(id, &error));
                if session.check(handed).is_some() {
                    writeln!(session.out, "leadership handed over")?;
                }
            }
        }
        Ok(())
    }
}
