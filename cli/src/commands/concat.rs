//! `dfs concat`: joins files without moving data.

use std::ffi::OsString;

use cairn_client::Place;
use clap::Args;

use super::{expand, file_path};
use crate::session::{Session, about_any};

/// Move the content of files, in order, to the end of another, and remove them. No data moves.
#[derive(Debug, Args)]
pub(crate) struct Concat {
    /// The file that grows.
    target: OsString,
    /// The files that go.
    #[arg(required = true)]
    sources: Vec<OsString>,
}

impl Concat {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let target = file_path(session, &self.target).await;
        let target = target.map_err(anyhow::Error::msg)?;
        let sources = expand(session, &self.sources).await;
        // A source that is missing would leave the others joined in an order that nobody asked for.
        if session.ending() == crate::session::Ending::Done {
            let places = sources.iter().cloned().map(Place::from);
            let joined = session.fs.concat(&target, places).await;
            let all = || sources.iter().map(Vec::as_slice);
            let all = || {
                [target.as_slice()]
                    .into_iter()
                    .chain(all())
                    .collect::<Vec<_>>()
            };
            session.check(joined.map_err(|error| about_any(&all(), &error)));
        }
        Ok(())
    }
}
