//! What stands behind `-o`: words of mount(8) and fstab(5), and our own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_daemon::config::duration;

/// Options of one mount.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) read_only: bool,
    pub(super) allow_other: bool,
    pub(super) hard: bool,
    /// Names are told to the cluster before calls return.
    pub(super) wsync: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) log: Option<PathBuf>,
    /// Only change how it is mounted already.
    pub(super) remount: bool,
    /// Words that the kernel understands.
    pub(super) kernel: Vec<String>,
}

/// Reads the list; `sloppy` lets unknown words pass.
///
/// # Errors
/// The word that is not understood.
pub(super) fn parse(words: &[String], sloppy: bool) -> anyhow::Result<Options> {
    let mut options = Options::default();
    for word in words {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word.as_str(), None),
        };
        match (key, value) {
            ("ro", None) => options.read_only = true,
            ("rw", None) => options.read_only = false,
            ("hard", None) => options.hard = true,
            ("wsync", None) => options.wsync = true,
            ("soft", None) => options.hard = false,
            ("allow_other", None) => options.allow_other = true,
            ("remount", None) => options.remount = true,
            ("timeout", Some(value)) => {
                let timeout = duration::parse(value).map_err(anyhow::Error::msg);
                let timeout = timeout.with_context(|| format!("mount option `{word}`"))?;
                options.timeout = Some(timeout);
            }
            ("log", Some(value)) => options.log = Some(value.into()),
            (
                "nosuid" | "suid" | "nodev" | "dev" | "noexec" | "exec" | "noatime" | "dirsync"
                | "sync",
                None,
            ) => options.kernel.push(word.clone()),
            // What fstab says to others, and what is so anyway.
            (
                "" | "defaults" | "relatime" | "atime" | "diratime" | "nodiratime" | "auto"
                | "noauto" | "nofail" | "_netdev" | "async" | "user" | "nouser" | "users"
                | "nousers" | "owner" | "group" | "nomand" | "norelatime" | "nolazytime",
                None,
            ) => {}
            ("comment", Some(_)) => {}
            (key, _) if key.starts_with("x-") || key.starts_with("X-") => {}
            _ if sloppy => {}
            _ => bail!("mount option `{word}` is not known: see `dfs mount --help`"),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Options, parse};

    fn words(line: &str) -> Vec<String> {
        line.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn words_of_fstab_are_understood() {
        let line = "rw,_netdev,nofail,x-systemd.automount,comment=data,timeout=5m,hard,suid,log=/var/log/m";
        let expected = Options {
            hard: true,
            timeout: Some(Duration::from_secs(300)),
            log: Some("/var/log/m".into()),
            kernel: words("suid"),
            ..Options::default()
        };
        assert_eq!(parse(&words(line), false).unwrap(), expected);
        assert!(parse(&words("ro,defaults"), false).unwrap().read_only);
    }

    #[test]
    fn an_unknown_word_is_named_unless_the_caller_is_sloppy() {
        for word in ["bogus", "timeout", "timeout=soon", "ro=1", "size=3"] {
            let error = parse(&words(word), false).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
        assert_eq!(parse(&words("bogus"), true).unwrap(), Options::default());
    }
}
