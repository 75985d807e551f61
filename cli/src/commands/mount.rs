//! `dfs mount`: the cluster as a folder. Without `-f` the same program is started again in the background, and this process
//! ends when that one says that the folder can be used, or has failed with a reason.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_fuse_mount::{Mount as Mounted, MountConfig, check_mountpoint};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::arguments::Global;
use crate::cluster;
use crate::session::Ending;

/// What the process in the background says when the folder can be used.
const READY: &str = "ready";
/// Tells that process that somebody waits for the word.
const WAITED_FOR: &str = "CAIRN_MOUNT_WAITED_FOR";
/// How often we look whether somebody has unmounted.
const LOOK: Duration = Duration::from_millis(50);
/// For ever, as far as an operation is concerned.
const HARD: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Mount the cluster on an empty directory.
///
/// It returns when the folder can be used. `umount MOUNTPOINT` commits what was written and ends it; in the foreground Ctrl-C
/// does the same.
#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// An empty directory.
    mountpoint: PathBuf,
    /// Stay in the foreground.
    #[arg(short = 'f', long)]
    foreground: bool,
    /// Wait for ever while the cluster is away, instead of failing after --timeout.
    #[arg(long)]
    hard: bool,
    /// Options as of mount(8): ro, nosuid, nodev, noexec, noatime, allow_other, hard.
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',')]
    options: Vec<String>,
}

impl Mount {
    pub(crate) async fn run(self, global: &Global) -> anyhow::Result<Ending> {
        check_mountpoint(&self.mountpoint)?;
        if self.foreground {
            self.serve(global).await
        } else {
            spawn_blocking(start_in_background)
                .await
                .context("wait for the mount")?
        }
    }

    fn config(&self, global: &Global) -> anyhow::Result<(MountConfig, bool)> {
        let source = if global.cluster.is_empty() {
            "cairn".to_owned()
        } else {
            global.cluster.join(",")
        };
        let mountpoint = std::fs::canonicalize(&self.mountpoint)
            .with_context(|| format!("look at {}", self.mountpoint.display()))?;
        let mut config = MountConfig::new(mountpoint, source);
        config.allow_other = rustix::process::geteuid().is_root();
        let mut hard = self.hard;
        for option in &self.options {
            match option.as_str() {
                "ro" => config.read_only = true,
                "hard" => hard = true,
                "allow_other" => config.allow_other = true,
                "nosuid" | "suid" | "nodev" | "dev" | "noexec" | "exec" | "noatime" | "dirsync"
                | "sync" => config.kernel_options.push(option.clone()),
                // What fstab says to others, and what is so anyway.
                "" | "rw" | "defaults" | "relatime" | "auto" | "noauto" | "nofail" | "_netdev"
                | "async" | "user" | "nouser" => {}
                other if other.starts_with("x-") => {}
                other => bail!("mount option `{other}` is not known: see `dfs mount --help`"),
            }
        }
        Ok((config, hard))
    }

    /// Mounts, and stays until somebody unmounts or a signal comes.
    async fn serve(self, global: &Global) -> anyhow::Result<Ending> {
        let (config, hard) = self.config(global)?;
        let mut global = global.clone();
        if hard {
            global.timeout = HARD;
        }
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let fs = cluster::connect(&global, "dfs mount").await?;
        let runtime = tokio::runtime::Handle::current();
        let mounted = spawn_blocking(move || Mounted::start(fs, config, runtime))
            .await
            .context("mount")??;
        if std::env::var_os(WAITED_FOR).is_some() {
            tell_that_it_is_up()?;
        }
        let mut detached = false;
        while !mounted.has_ended() {
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = sleep(LOOK) => continue,
            }
            // Once is enough; a second signal must not end us before those who have files open are done.
            if !detached {
                match mounted.detach() {
                    Ok(()) => detached = true,
                    Err(error) => tracing::warn!(%error, "cannot unmount yet"),
                }
            }
        }
        mounted.finish().await?;
        Ok(Ending::Done)
    }
}

/// Starts this command again with `-f`, and waits for its word. What it has to say before, it says on our standard error.
fn start_in_background() -> anyhow::Result<Ending> {
    let program = std::env::current_exe().context("find this program")?;
    let name = std::env::args_os().next().unwrap_or_default();
    let mut command = std::process::Command::new(program);
    command
        .arg0(name)
        .args(std::env::args_os().skip(1))
        .arg("-f")
        .env(WAITED_FOR, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn().context("start the mount's process")?;
    let out = child
        .stdout
        .take()
        .context("listen to the mount's process")?;
    let mut line = String::new();
    BufReader::new(out)
        .read_line(&mut line)
        .context("listen to the mount's process")?;
    if line.trim() == READY {
        return Ok(Ending::Done);
    }
    let status = child.wait().context("wait for the mount's process")?;
    if status.success() {
        bail!("the mount ended before it could be used");
    }
    // It has said why.
    Ok(Ending::Failed)
}

/// Says the word, and lets go of the terminal.
fn tell_that_it_is_up() -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{READY}").context("say that the mount is up")?;
    out.flush().context("say that the mount is up")?;
    let nothing = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .context("open /dev/null")?;
    rustix::stdio::dup2_stdout(&nothing).context("let go of standard output")?;
    rustix::stdio::dup2_stderr(&nothing).context("let go of standard error")?;
    Ok(())
}

/// The command line of `mount.cairn SOURCE DIRECTORY [-sfnv] [-o OPTIONS]`, as mount(8) calls it, as one of `dfs mount`.
/// `None` if the program was called by another name.
pub(crate) fn as_mount_helper(
    arguments: impl Iterator<Item = std::ffi::OsString>,
) -> Option<Vec<std::ffi::OsString>> {
    let mut arguments = arguments.peekable();
    let name = PathBuf::from(arguments.peek()?);
    if name.file_name() != Some(Path::new("mount.cairn").as_os_str()) {
        return None;
    }
    let mut line = vec!["dfs".into(), "mount".into()];
    let mut positions = 0;
    while let Some(argument) = arguments.next_if(|_| true) {
        match argument.to_str() {
            _ if Path::new(&argument) == name && positions == 0 => positions = 1,
            Some("-o") => {
                line.push("-o".into());
                line.extend(arguments.next());
            }
            // Its own -f means something else, and our process in the background needs ours.
            Some("-f") if std::env::var_os(WAITED_FOR).is_some() => line.push("-f".into()),
            Some(flag) if flag.starts_with('-') => {}
            _ if positions == 1 => {
                positions = 2;
                line.push("--cluster".into());
                line.push(argument);
            }
            _ => line.push(argument),
        }
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::as_mount_helper;

    fn helper(line: &str) -> Option<String> {
        let words = as_mount_helper(line.split(' ').map(Into::into))?;
        let words = words.iter().map(|word| word.to_str().unwrap());
        Some(words.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn mount_calls_us_by_another_name() {
        assert_eq!(
            helper("/sbin/mount.cairn host:9000 /mnt -n -o rw,nosuid").unwrap(),
            "dfs mount --cluster host:9000 /mnt -o rw,nosuid"
        );
        assert_eq!(helper("dfs mount /mnt"), None);
    }
}
