//! `dfs up`: a whole cluster on this machine.

use std::path::PathBuf;

use clap::Args;

use crate::arguments::Global;
use crate::roles;
use crate::session::Ending;

/// Start a whole cluster on this machine, with its data in one folder.
///
/// It listens on 127.0.0.1 only. Other shells then use it with nothing configured: `dfs ls /`. Ctrl-C stops it, and the
/// same command starts it again with all its files.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The folder; made if it does not exist.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Namenodes: 1, 3 or 5. Chosen when the folder is new. [default: 1]
    #[arg(long, value_name = "N", value_parser = namenode_count)]
    pub(crate) namenodes: Option<u16>,
    /// Datanodes, at most 64. More can be added later. [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) datanodes: Option<u16>,
    /// Each role as a process of its own, that can be killed.
    #[arg(long)]
    pub(crate) processes: bool,
    /// Start processes again that end: after a second, and later each time that they soon end again.
    #[arg(long, requires = "processes")]
    pub(crate) restart: bool,
    /// TLS on every port, and nobody is believed without a certificate or a token. Chosen when the folder is new.
    #[arg(long)]
    pub(crate) secure: bool,
    /// Port of the first namenode; the others follow, datanodes are at this plus 10. 0 takes free ports, also for the status
    /// page. Chosen when the folder is new. [default: 9000]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(0..=65_400))]
    pub(crate) port: Option<u16>,
    /// Port of the console (HTTP) on the first namenode; those of further namenodes follow. 0 for none. [default: 9870]
    #[arg(long, value_name = "PORT")]
    pub(crate) http: Option<u16>,
    /// Send traces to a collector, such as http://127.0.0.1:4318: OTLP over HTTP. This time only.
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<String>,
}

fn namenode_count(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        _ => Err("1, 3 or 5: a majority must always be able to decide".to_owned()),
    }
}

impl Up {
    pub(crate) async fn run(self, _global: &Global) -> anyhow::Result<Ending> {
        roles::up::run(self).await.map(|()| Ending::Done)
    }
}
