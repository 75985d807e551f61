//! Ways of typing that fingers bring along and the grammar has no words for: `hdfs dfs` puts a dash before its commands
//! and only one before long options, and `tail -5` is older than options with values.

use std::ffi::OsString;

use crate::arguments::grammar;

/// Options before the command that have a value behind them.
const WITH_VALUE: [&str; 7] = [
    "--cluster",
    "--user",
    "--timeout",
    "--ca",
    "--token-file",
    "--certificate",
    "--key",
];

/// Commands of `hdfs dfs` that are one of ours with an option.
const JOINED: [(&str, [&str; 2]); 4] = [
    ("rmr", ["rm", "-r"]),
    ("lsr", ["ls", "-R"]),
    ("dus", ["du", "-s"]),
    ("moveFromLocal", ["put", "--remove-source"]),
];

/// Long options with one dash, by command.
const LONG: [(&str, &str, &str); 4] = [
    ("rm", "-skipTrash", "--skip-trash"),
    ("rm", "-safely", "-i"),
    ("getmerge", "-nl", "--newline"),
    ("getmerge", "-skip-empty-file", "--skip-empty-file"),
];

/// Options of `hdfs dfs` that change nothing here, by command, and whether a value stands behind them: no checksum is ever left out, nothing is
/// written in another way, and there are no snapshots to leave out.
const IDLE: [(&str, &str, bool); 14] = [
    ("cat", "-ignoreCrc", false),
    ("text", "-ignoreCrc", false),
    ("get", "-ignoreCrc", false),
    ("get", "-crc", false),
    ("copyToLocal", "-ignoreCrc", false),
    ("copyToLocal", "-crc", false),
    ("put", "-l", false),
    ("put", "-d", false),
    ("put", "-t", true),
    ("copyFromLocal", "-l", false),
    ("copyFromLocal", "-d", false),
    ("copyFromLocal", "-t", true),
    ("count", "-x", false),
    ("du", "-x", false),
];

/// What `hdfs dfs` has without an option in front of it, or with an option that is none here. Only behind a dash: without it the words are
/// those of coreutils.
fn in_words_of_hdfs(command: &str, words: Vec<OsString>) -> Vec<OsString> {
    let mut line = Vec::with_capacity(words.len() + 1);
    // There nothing takes the place of a file unless it is said to.
    let is_option = |word: &OsString| word == "-f" || word == "-n";
    if matches!(command, "mv" | "cp") && !words.iter().any(is_option) {
        line.push("--no-clobber".into());
    }
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default();
        let idle = IDLE
            .iter()
            .find(|(of, option, _)| *of == command && *option == text);
        if let Some((_, _, has_value)) = idle {
            if *has_value {
                words.next();
            }
            continue;
        }
        let is_first = line.is_empty();
        match (command, text) {
            ("cp", text) if text.starts_with("-p") && text.len() > 2 => line.push("-p".into()),
            // It is done when this returns.
            ("truncate", "-w") => {}
            ("truncate", text) if is_first && !text.starts_with('-') => {
                line.extend(["-s".into(), word])
            }
            ("stat", text) if is_first && text.contains('%') => line.extend(["-c".into(), word]),
            _ => line.push(word),
        }
    }
    line
}

/// The same line in the words of the grammar.
pub(crate) fn translated(line: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut line: Vec<OsString> = line.collect();
    let Some(place) = place_of_command(&line) else {
        return line;
    };
    let mut rest = line.split_off(place).into_iter();
    let command = rest.next().unwrap_or_default();
    let word = command.to_str().unwrap_or_default();
    let joined = JOINED
        .iter()
        .find(|(name, _)| *name == word.trim_start_matches('-'));
    let dashed = word.strip_prefix('-').filter(|name| name.len() > 1);
    let is_dashed = dashed.is_some();
    if let Some((_, words)) = joined {
        line.extend(words.map(OsString::from));
        line.extend(rest);
        return line;
    }
    match dashed {
        Some("help" | "usage") => {
            line.extend(rest.next().map(|of| {
                let of = of.to_string_lossy();
                OsString::from(of.trim_start_matches('-'))
            }));
            line.push("--help".into());
            return line;
        }
        // What is longer than flags can sensibly be was meant as a command, and is told to be none.
        Some(name) if name.len() > 2 || is_command(name) => line.push(name.into()),
        Some(_) | None => line.push(command),
    }
    let name = line[place].to_string_lossy().into_owned();
    let mut rest: Vec<OsString> = rest.collect();
    if is_dashed {
        rest = in_words_of_hdfs(&name, rest);
    }
    extend_with_options(&mut line, &name, rest.into_iter());
    line
}

/// Behind the options of every command.
fn place_of_command(line: &[OsString]) -> Option<usize> {
    let mut words = line.iter().enumerate().skip(1);
    while let Some((place, word)) = words.next() {
        if !word.as_encoded_bytes().starts_with(b"--") {
            return Some(place);
        }
        if WITH_VALUE.iter().any(|option| word == option) {
            words.next();
        }
    }
    None
}

fn is_command(name: &str) -> bool {
    let grammar = grammar();
    grammar.find_subcommand(name).is_some()
}

fn extend_with_options(
    line: &mut Vec<OsString>,
    command: &str,
    rest: impl Iterator<Item = OsString>,
) {
    let (mut options, mut is_value) = (true, false);
    for word in rest {
        let text = word.to_str().unwrap_or_default();
        options &= text != "--";
        if options && !is_value {
            let long = LONG
                .iter()
                .find(|(of, long, _)| *of == command && *long == text);
            if let Some((_, _, ours)) = long {
                line.push(ours.into());
                continue;
            }
            let digits = text.strip_prefix('-').unwrap_or_default();
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            if is_number && matches!(command, "head" | "tail") {
                line.extend(["-n".into(), digits.into()]);
                continue;
            }
        }
        // What stands behind these is theirs, also with a dash.
        is_value = matches!(text, "-n" | "-c" | "--lines" | "--bytes");
        line.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::translated;

    fn translate(line: &str) -> String {
        let words = translated(line.split(' ').map(Into::into));
        let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn the_words_of_hdfs_are_understood() {
        for (typed, meant) in [
            ("dfs -ls /", "dfs ls /"),
            (
                "dfs --cluster a --user root -mkdir -p /x",
                "dfs --cluster a --user root mkdir -p /x",
            ),
            ("dfs -copyFromLocal -f a /b", "dfs copyFromLocal -f a /b"),
            ("dfs -rm -r -skipTrash /x", "dfs rm -r --skip-trash /x"),
            ("dfs -rmr /x", "dfs rm -r /x"),
            ("dfs moveFromLocal x /y", "dfs put --remove-source x /y"),
            ("dfs -getmerge -nl /x y", "dfs getmerge --newline /x y"),
            ("dfs -cat -ignoreCrc /x", "dfs cat /x"),
            ("dfs -put -l -t 4 -f x /y", "dfs put -f x /y"),
            ("dfs -cp -ptopax /x /y", "dfs cp --no-clobber -p /x /y"),
            ("dfs -cp -f -p /x /y", "dfs cp -f -p /x /y"),
            ("dfs -mv /x /y", "dfs mv --no-clobber /x /y"),
            ("dfs -truncate -w 5 /x", "dfs truncate -s 5 /x"),
            ("dfs -stat %n:%s /x /%y", "dfs stat -c %n:%s /x /%y"),
            ("dfs -help ls", "dfs ls --help"),
            ("dfs -help", "dfs --help"),
            ("dfs -frob", "dfs frob"),
            ("dfs tail -5 /x", "dfs tail -n 5 /x"),
            ("dfs tail -n -5 /x", "dfs tail -n -5 /x"),
            ("dfs head -- -5", "dfs head -- -5"),
        ] {
            assert_eq!(translate(typed), meant);
        }
    }

    #[test]
    fn everything_else_stays() {
        for line in [
            "dfs",
            "dfs --help",
            "dfs -h",
            "dfs -hV",
            "dfs --cluster",
            "dfs ls -ls",
            "dfs rm -- -skipTrash",
            "dfs find / -name -ls",
            "dfs truncate -s -5 /x",
            "dfs stat %n",
            "dfs cp -pv /x /y",
        ] {
            assert_eq!(translate(line), line);
        }
    }
}
