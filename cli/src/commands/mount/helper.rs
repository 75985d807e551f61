//! `mount.cairn`: the same program by the name under which mount(8) looks for it, with the arguments that mount(8) gives.

use std::ffi::OsString;
use std::path::Path;

/// The command line of `mount.cairn SOURCE DIRECTORY [-sfnvrw] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]` as one of `dfs mount`.
/// `None` if the program was called by another name.
pub(crate) fn as_mount_helper(arguments: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let mut arguments = arguments;
    let name = arguments.next()?;
    if Path::new(&name).file_name() != Some(Path::new("mount.cairn").as_os_str()) {
        return None;
    }
    let mut line: Vec<OsString> = vec!["dfs".into(), "mount".into()];
    let mut source_known = false;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("-o") => {
                line.push("-o".into());
                line.extend(arguments.next().map(without_additions));
            }
            // Theirs to know: a namespace that we are in already, and our own type.
            Some("-N" | "-t") => drop(arguments.next()),
            Some(flags) if flags.starts_with('-') && flags.len() > 1 => {
                line.extend(flags.chars().skip(1).filter_map(flag));
            }
            source if !source_known => {
                source_known = true;
                // One that names nobody means the configured cluster.
                if !matches!(source, Some("" | "none" | "cairn")) {
                    line.extend(["--cluster".into(), argument.clone()]);
                }
                // By this word `mount -a` sees that it is mounted.
                line.extend(["--source".into(), argument]);
            }
            _ => line.push(argument),
        }
    }
    Some(line)
}

/// To `user=NAME` (who may mount) mount(8) adds these two by itself, and nobody can tell whether fstab has them: programs and devices
/// of a cluster do not get rights in that way.
fn without_additions(options: OsString) -> OsString {
    let Some(text) = options.to_str() else {
        return options;
    };
    if !text.split(',').any(|word| word.starts_with("user=")) {
        return options;
    }
    let kept = text
        .split(',')
        .filter(|word| !matches!(*word, "suid" | "dev"));
    kept.collect::<Vec<_>>().join(",").into()
}

fn flag(letter: char) -> Option<OsString> {
    match letter {
        // Pretend: look at everything, and mount nothing.
        'f' => Some("--fake".into()),
        's' => Some("--sloppy".into()),
        'r' => Some("-oro".into()),
        // No mtab, more words, writable: nothing for us to do.
        _ => None,
    }
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
        for (line, expected) in [
            (
                "/sbin/mount.cairn host:9000 /mnt -n -o rw,nosuid",
                "dfs mount --cluster host:9000 --source host:9000 /mnt -o rw,nosuid",
            ),
            (
                "mount.cairn a:1,b:1 /mnt -sv -N /proc/7/ns/mnt -t cairn.x -o rw",
                "dfs mount --cluster a:1,b:1 --source a:1,b:1 /mnt --sloppy -o rw",
            ),
            (
                "mount.cairn cairn /mnt -o rw,user=ada,exec,suid,dev",
                "dfs mount --source cairn /mnt -o rw,user=ada,exec",
            ),
            (
                "mount.cairn cairn /mnt -o rw,user,suid,dev",
                "dfs mount --source cairn /mnt -o rw,user,suid,dev",
            ),
            (
                "/sbin/mount.cairn cairn /mnt -f -r",
                "dfs mount --source cairn /mnt --fake -oro",
            ),
        ] {
            assert_eq!(helper(line).unwrap(), expected);
        }
        assert_eq!(helper("dfs mount /mnt -f"), None);
    }
}
