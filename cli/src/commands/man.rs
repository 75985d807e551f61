//! `dfs man`: manual pages, made from the definitions of the arguments.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man as Page;

use crate::arguments::Arguments;
use crate::session::Ending;

/// Print the manual page, or write one for each command into a directory.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Where to write dfs.1, dfs-put.1 and so on, such as /usr/local/share/man/man1.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let command = built();
        match &self.out {
            None => {
                let mut page = Vec::new();
                Page::new(command).render(&mut page)?;
                io::stdout().write_all(&page)?;
            }
            Some(directory) => {
                fs::create_dir_all(directory)
                    .with_context(|| format!("make {}", directory.display()))?;
                let count = write_pages(&command, "dfs", directory)?;
                println!("wrote {count} manual pages to {}", directory.display());
            }
        }
        Ok(Ending::Done)
    }
}

/// All commands, with what they inherit from those above them.
fn built() -> Command {
    let mut command = Arguments::command();
    command.build();
    command
}

fn write_pages(command: &Command, name: &str, directory: &Path) -> anyhow::Result<usize> {
    let mut count = 1;
    // The library wants names that live as long as the program; there are a few dozen.
    let title: &'static str = name.to_owned().leak();
    let mut page = Vec::new();
    Page::new(command.clone().name(title)).render(&mut page)?;
    let path = directory.join(format!("{name}.1"));
    fs::write(&path, page).with_context(|| format!("write {}", path.display()))?;
    for below in command
        .get_subcommands()
        .filter(|below| below.get_name() != "help")
    {
        count += write_pages(below, &format!("{name}-{}", below.get_name()), directory)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::{built, write_pages};

    #[test]
    fn every_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let count = write_pages(&built(), "dfs", directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), count);
        let page = std::fs::read_to_string(directory.path().join("dfs-put.1")).unwrap();
        assert!(
            page.contains("\\-\\-force") && page.contains("SYNOPSIS"),
            "{page}"
        );
        assert!(
            directory
                .path()
                .join("dfs-datanode-decommission.1")
                .exists()
        );
    }
}
