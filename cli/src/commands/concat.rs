//! `dfs concat`: joins files without moving data.

use std::ffi::OsString;

use cairn_client::Place;
use clap::Args;

use super::expand;
use crate::session::Session;

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
        let target = session.path(&self.target)?;
        let sources = expand(session, &self.sources).await;
        // A source that is missing would leave the others joined in an order that nobody asked for.
        if session.ending() == crate::session::Ending::Done {
            session
                .fs
                .concat(&target, sources.into_iter().map(Place::from))
                .await?;
        }
        Ok(())
    }
}
