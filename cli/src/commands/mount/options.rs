//! What stands behind `-o`: words of mount(8) and fstab(5), and our own.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_daemon::config::duration;
use cairn_fuse_mount::AccessTimes;

use crate::quantity;

/// What may be read ahead by all open files together, in bytes.
const READ_AHEAD: RangeInclusive<u64> = 2 << 20..=1 << 30;

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
    /// A file with what proves who asks.
    pub(super) token_file: Option<PathBuf>,
    /// Most bytes that are held for what is read ahead.
    pub(super) read_ahead_bytes_max: Option<usize>,
    /// Which reads are noted.
    pub(super) access_times: AccessTimes,
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
            ("token_file", Some(value)) => options.token_file = Some(value.into()),
            ("read_ahead_max", Some(value)) => {
                let bytes = quantity::size(value).map_err(anyhow::Error::msg);
                let bytes = bytes.with_context(|| format!("mount option `{word}`"))?;
                if !READ_AHEAD.contains(&bytes) {
                    bail!("mount option `{word}`: from 2M to 1G");
                }
                options.read_ahead_bytes_max = Some(bytes as usize);
            }
            ("noatime", None) => {
                options.access_times = AccessTimes::Off;
                options.kernel.push(word.clone());
            }
            ("nodiratime", None) if options.access_times == AccessTimes::On => {
                options.access_times = AccessTimes::NotOfDirectories;
            }
            ("atime" | "relatime", None) => {
                options.access_times = AccessTimes::On;
                options.kernel.retain(|word| word != "noatime");
            }
            (
                "nosuid" | "suid" | "nodev" | "dev" | "noexec" | "exec" | "dirsync" | "sync",
                None,
            ) => options.kernel.push(word.clone()),
            // What fstab says to others, and what is so anyway.
            (
                "" | "defaults" | "diratime" | "nodiratime" | "auto" | "noauto" | "nofail"
                | "_netdev" | "async" | "user" | "nouser" | "users" | "nousers" | "owner" | "group"
                | "nomand" | "norelatime" | "nolazytime",
                None,
            ) => {}
            ("comment" | "user", Some(_)) => {}
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

    use cairn_fuse_mount::AccessTimes;

    use super::{Options, parse};

    fn words(line: &str) -> Vec<String> {
        line.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn words_of_fstab_are_understood() {
        let line = "rw,_netdev,nofail,x-systemd.automount,comment=data,timeout=5m,hard,suid,log=/var/log/m,user=ada,token_file=/etc/t,read_ahead_max=256M";
        let expected = Options {
            hard: true,
            timeout: Some(Duration::from_secs(300)),
            log: Some("/var/log/m".into()),
            token_file: Some("/etc/t".into()),
            read_ahead_bytes_max: Some(256 << 20),
            kernel: words("suid"),
            ..Options::default()
        };
        assert_eq!(parse(&words(line), false).unwrap(), expected);
        for (line, which) in [
            ("noatime", AccessTimes::Off),
            ("noatime,nodiratime", AccessTimes::Off),
            ("nodiratime", AccessTimes::NotOfDirectories),
            ("noatime,relatime", AccessTimes::On),
        ] {
            let options = parse(&words(line), false).unwrap();
            assert_eq!(options.access_times, which, "{line}");
        }
        assert!(parse(&words("ro,defaults"), false).unwrap().read_only);
    }

    #[test]
    fn an_unknown_word_is_named_unless_the_caller_is_sloppy() {
        for word in [
            "bogus",
            "timeout",
            "timeout=soon",
            "ro=1",
            "size=3",
            "read_ahead_max=much",
            "read_ahead_max=1M",
            "read_ahead_max=2G",
        ] {
            let error = parse(&words(word), false).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
        assert_eq!(parse(&words("bogus"), true).unwrap(), Options::default());
    }
}
