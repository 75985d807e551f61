//! `dfs man`: manual pages, made from the definitions of the arguments.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{self, ExitStatus, Stdio};

use anyhow::{Context, bail};
use clap::{Args, Command};
use clap_mangen::Man as Page;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::grammar;
use crate::session::{Ending, Usage, local_error};

/// Show the manual page, or write one for each command into a directory.
///
/// On a terminal man(1) shows it; into a file or a pipe goes what man(1) reads.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Where to write dfs.1, dfs-put.1 and so on, such as /usr/local/share/man/man1.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The page of this command, such as `put` or `datanode decommission`.
    #[arg(conflicts_with = "out", value_name = "COMMAND")]
    words: Vec<String>,
}

impl Man {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let command = built();
        match &self.out {
            None => {
                let mut page = Vec::new();
                Page::new(chosen(command, &self.words)?).render(&mut page)?;
                if !io::stdout().is_terminal() || !show(&page) {
                    io::stdout().write_all(&page)?;
                }
            }
            Some(directory) => {
                // A path that is mistyped is to be told, not made.
                match fs::create_dir(directory) {
                    Err(error) if !directory.is_dir() => {
                        bail!("make {}", local_error(directory, &error));
                    }
                    _ => {}
                }
                let count = write_pages(&command, "dfs", directory)?;
                let directory = directory.display();
                writeln!(io::stdout(), "wrote {count} manual pages to {directory}")?;
            }
        }
        Ok(Ending::Done)
    }
}

/// Has man(1) show a page. False if it cannot, and has shown nothing of it.
fn show(page: &[u8]) -> bool {
    // Ctrl-C is for the pager: without it we would end beneath it.
    let _interrupts = signal(SignalKind::interrupt());
    // What its status says in the end may be the pager's, so it is asked first: with nobody to read, there is no pager.
    let can = man(page, Stdio::null(), Stdio::null());
    can.is_ok_and(|status| status.success())
        && man(page, Stdio::inherit(), Stdio::inherit()).is_ok()
}

/// Gives a page to man(1).
fn man(page: &[u8], out: Stdio, err: Stdio) -> io::Result<ExitStatus> {
    let mut man = process::Command::new("man")
        .args(["-l", "-"])
        .stdin(Stdio::piped())
        .stdout(out)
        .stderr(err)
        .spawn()?;
    if let Some(mut stdin) = man.stdin.take() {
        // One that does not read says why by its status.
        let _ = stdin.write_all(page);
    }
    man.wait()
}

/// The command of these words, under its full name.
fn chosen(mut command: Command, words: &[String]) -> anyhow::Result<Command> {
    let mut name = "dfs".to_owned();
    for word in words {
        let Some(below) = command.find_subcommand(word).cloned() else {
            return Usage::error(format!("`{name} {word}` is no command"));
        };
        name = format!("{name} {}", below.get_name());
        command = below;
    }
    // The library wants names that live as long as the program.
    let title: &'static str = name.replace(' ', "-").leak();
    Ok(command.name(title))
}

/// All commands, with what they inherit from those above them.
fn built() -> Command {
    let mut command = grammar();
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
    use super::{built, chosen, write_pages};

    #[test]
    fn one_command_has_its_page() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let name =
            |line| chosen(built(), &words(line)).map(|command| command.get_name().to_owned());
        assert_eq!(name("ls").unwrap(), "dfs-ls");
        assert_eq!(
            name("datanode decommission").unwrap(),
            "dfs-datanode-decommission"
        );
        assert!(name("frob").is_err());
    }

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
