//! `dfs completions`: completions for a shell.

use std::io::{self, Write};

use clap::Args;
use clap_complete::Shell;

use crate::arguments::grammar;
use crate::session::Ending;

/// Print completions for a shell, such as `dfs completions bash > /etc/bash_completion.d/dfs`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// For which shell.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut grammar(), "dfs", &mut script);
        io::stdout().write_all(&script)?;
        Ok(Ending::Done)
    }
}
