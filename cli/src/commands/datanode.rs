//! `dfs datanode`: runs a datanode, or administers those of a cluster.

use std::io::Write;

use cairn_protocol::ids::DatanodeId;
use cairn_protocol::messages::admin::DatanodeAdminState;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::status::{datanode_json, print_datanodes};
use super::with_session;
use crate::arguments::Global;
use crate::output::print_json;
use crate::roles;
use crate::session::{Ending, Session, about_member};

/// Run a datanode, or list those of a cluster and change what they are to be.
///
/// Without one of the commands below it runs a datanode in the foreground.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_help_heading = "Administration"
)]
pub(crate) struct Datanode {
    #[command(subcommand)]
    command: Option<DatanodeCommand>,
    #[command(flatten)]
    role: roles::datanode::DatanodeRole,
}

#[derive(Debug, Subcommand)]
enum DatanodeCommand {
    /// List the datanodes of the cluster.
    List {
        /// One JSON array of objects.
        #[arg(long)]
        json: bool,
    },
    /// Copy all its replicas elsewhere, so that it can go for good; `dfs datanode list` tells when that is done.
    Decommission {
        /// Which, see `dfs datanode list`.
        #[arg(required = true, value_parser = datanode_number)]
        ids: Vec<u64>,
    },
    /// Back into service, from decommissioning or maintenance.
    Recommission {
        /// Which, see `dfs datanode list`.
        #[arg(required = true, value_parser = datanode_number)]
        ids: Vec<u64>,
    },
    /// Away for a while on purpose: its replicas are not copied meanwhile.
    Maintenance {
        /// Which, see `dfs datanode list`.
        #[arg(required = true, value_parser = datanode_number)]
        ids: Vec<u64>,
    },
    /// Forget one that is dead or decommissioned.
    Forget {
        /// Which, see `dfs datanode list`.
        #[arg(required = true, value_parser = datanode_number)]
        ids: Vec<u64>,
    },
}

fn datanode_number(text: &str) -> Result<u64, String> {
    let number = text.parse();
    number.map_err(|_| "not a number; `dfs datanode list` shows those of the datanodes".to_owned())
}

impl Datanode {
    pub(crate) async fn run(self, global: &Global) -> anyhow::Result<Ending> {
        match self.command {
            None => roles::datanode::run(self.role).await.map(|()| Ending::Done),
            Some(command) => {
                with_session(global, "dfs datanode", async |session| {
                    command.run(session).await?;
                    Ok(session.ending())
                })
                .await
            }
        }
    }
}

impl DatanodeCommand {
    async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let (ids, state, done) = match self {
            Self::List { json } => return list(session, json).await,
            Self::Decommission { ids } => (
                ids,
                Some(DatanodeAdminState::Decommissioning),
                "is being decommissioned",
            ),
            Self::Recommission { ids } => {
                (ids, Some(DatanodeAdminState::InService), "is in service")
            }
            Self::Maintenance { ids } => (
                ids,
                Some(DatanodeAdminState::Maintenance),
                "is in maintenance",
            ),
            Self::Forget { ids } => (ids, None, "is forgotten"),
        };
        for id in ids {
            let changed = match state {
                Some(state) => session.fs.set_datanode_state(DatanodeId(id), state).await,
                None => session.fs.forget_datanode(DatanodeId(id)).await,
            };
            let changed = changed.map_err(|error| about_member("datanode", id, &error));
            if session.check(changed).is_some() {
                writeln!(session.out, "datanode {id} {done}")?;
            }
        }
        Ok(())
    }
}

async fn list(session: &mut Session, json: bool) -> anyhow::Result<()> {
    let datanodes = session.fs.status().await?.datanodes;
    if json {
        let list = datanodes.iter().map(datanode_json).collect();
        print_json(&mut session.out, &Value::Array(list))?;
    } else if datanodes.is_empty() {
        writeln!(session.out, "no datanode has ever registered")?;
    } else {
        print_datanodes(&mut session.out, &datanodes)?;
    }
    Ok(())
}
