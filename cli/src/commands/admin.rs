//! `dfs admin`: what operators do once. So far: the cluster's certificate authority.

use std::path::PathBuf;

use anyhow::{Context, bail};
use cairn_daemon::Clock;
use cairn_daemon::authority::describe;
use cairn_protocol::net::Role;
use clap::{Args, Subcommand};

use crate::authority::{self, Request};
use crate::session::Ending;

/// Make and look at the certificates that prove who is who when the cluster runs with `auth = "tokens"`.
///
/// None of it needs a cluster: it works with files.
#[derive(Debug, Args)]
pub(crate) struct Admin {
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// The cluster's certificate authority.
    Ca {
        #[command(subcommand)]
        command: CaCommand,
    },
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Make the cluster's CA: `ca.pem`, which every node and client gets, and `ca.key`, which stays here.
    Init {
        /// Where; made if it does not exist.
        #[arg(long, value_name = "DIR", default_value = "/etc/cairn/ca")]
        dir: PathBuf,
        /// What it calls itself.
        #[arg(long, default_value = "Cairn cluster CA")]
        name: String,
        /// How long it is good.
        #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Issue a certificate for a node or an operator: NAME.pem and NAME.key. Issued again, it is renewed: nodes read changed
    /// files by themselves.
    Issue {
        /// Whom it is for, such as its host name.
        name: String,
        /// What its owner may be; several for a machine with several roles. An operator acts as the superuser.
        #[arg(long = "role", value_name = "ROLE", required = true, value_parser = role)]
        roles: Vec<Role>,
        /// A name or address by which others reach it; several are allowed. Needed for namenodes and datanodes.
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// The directory of `dfs admin ca init`.
        #[arg(long, value_name = "DIR", default_value = "/etc/cairn/ca")]
        dir: PathBuf,
        /// Where to put the files; the directory of the CA if it is not given.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// How long it is good.
        #[arg(long, value_name = "N", default_value_t = 397, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Tell what certificates say.
    Show {
        /// Files with certificates.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

fn role(text: &str) -> Result<Role, String> {
    Role::from_name(text).ok_or_else(|| "namenode, datanode or operator".to_owned())
}

impl Admin {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let AdminCommand::Ca { command } = self.command;
        match command {
            CaCommand::Init { dir, name, days } => {
                let certificate = authority::init(&dir, &name, days)?;
                println!(
                    "made {} and its key; copy {} to every node and client, and ca.key nowhere",
                    certificate.display(),
                    certificate.display()
                );
            }
            CaCommand::Issue {
                name,
                roles,
                hosts,
                dir,
                out,
                days,
            } => {
                if hosts.is_empty() && roles.iter().any(|role| *role != Role::Operator) {
                    bail!("{name}: --host says by which names or addresses others reach it");
                }
                let request = Request {
                    name: &name,
                    roles: &roles,
                    hosts: &hosts,
                    days,
                };
                let out = out.as_deref().unwrap_or(&dir);
                let (certificate, key) = authority::issue(&dir, out, &request)?;
                println!("made {} and {}", certificate.display(), key.display());
            }
            CaCommand::Show { files } => {
                for file in files {
                    show(&file)?;
                }
            }
        }
        Ok(Ending::Done)
    }
}

fn show(file: &std::path::Path) -> anyhow::Result<()> {
    let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let said = describe(&text).with_context(|| file.display().to_string())?;
    let is_role = |name: &String| Role::ALL.iter().any(|role| role.dns_name() == name);
    let roles = Role::ALL
        .into_iter()
        .filter(|role| said.names.iter().any(|name| name == role.dns_name()));
    let roles: Vec<_> = roles.map(Role::name).collect();
    let hosts: Vec<_> = said.names.iter().filter(|name| !is_role(name)).collect();
    let hosts: Vec<_> = hosts.into_iter().map(String::as_str).collect();
    let date = |secs: i64| {
        jiff::Timestamp::from_second(secs).map_or_else(|_| secs.to_string(), |at| at.to_string())
    };
    let now_secs = i64::try_from(Clock::system().now_ns() / 1_000_000_000).unwrap_or(i64::MAX);
    let state = match said.good_until_secs - now_secs {
        left if left <= 0 => "expired".to_owned(),
        left => format!("{} days left", left / 86_400),
    };
    println!("{}", file.display());
    println!("  subject  {}", said.subject);
    println!("  issuer   {}", said.issuer);
    if said.is_authority {
        println!("  kind     certificate authority");
    }
    println!("  roles    {}", roles.join(", "));
    println!("  hosts    {}", hosts.join(", "));
    println!(
        "  good     {} to {} ({state})",
        date(said.good_from_secs),
        date(said.good_until_secs)
    );
    Ok(())
}
