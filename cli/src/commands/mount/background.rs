//! A mount in the background: this program started again with `-f`, which says when the folder can be used.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::session::Ending;

/// What the process in the background says when the folder can be used.
const READY: &str = "ready";
/// Tells that process that somebody waits for the word.
const WAITED_FOR: &str = "CAIRN_MOUNT_WAITED_FOR";

/// Starts the command `line` again with `-f`, and waits for its word. What it has to say before, it says on our standard
/// error. Blocks.
pub(super) fn start(line: &[OsString]) -> anyhow::Result<Ending> {
    let program = std::env::current_exe().context("find this program")?;
    let mut child = Command::new(program)
        .arg0("dfs")
        .args(line.iter().skip(1))
        .arg("-f")
        .env(WAITED_FOR, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the mount's process")?;
    let out = child
        .stdout
        .take()
        .context("listen to the mount's process")?;
    let mut word = String::new();
    BufReader::new(out)
        .read_line(&mut word)
        .context("listen to the mount's process")?;
    if word.trim() == READY {
        return Ok(Ending::Done);
    }
    let status = child.wait().context("wait for the mount's process")?;
    if status.success() {
        bail!("the mount ended before it could be used");
    }
    // It has said why.
    Ok(Ending::Failed)
}

/// In the background: says the word, and lets go of terminal and working directory. From then on what there is to say goes
/// to `log`, if there is one. In the foreground nothing happens.
pub(super) fn detach(log: Option<&Path>) -> anyhow::Result<()> {
    if std::env::var_os(WAITED_FOR).is_none() {
        return Ok(());
    }
    let log = log.unwrap_or(Path::new("/dev/null"));
    let log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    // The folder that it was started in may be unmounted, the terminal closed.
    std::env::set_current_dir("/").context("leave the working directory")?;
    rustix::process::setsid().context("leave the terminal")?;
    let mut out = std::io::stdout();
    writeln!(out, "{READY}").context("say that the mount is up")?;
    out.flush().context("say that the mount is up")?;
    rustix::stdio::dup2_stdout(&log).context("let go of standard output")?;
    rustix::stdio::dup2_stderr(&log).context("let go of standard error")?;
    Ok(())
}
