//! Completions and manual pages that people install: for every shell, and for every command.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use tempfile::tempdir;

use super::program::{dfs, finish};

/// Each with a line that its script has.
const SHELLS: [(&str, &str); 5] = [
    ("bash", "complete -F _dfs"),
    ("zsh", "#compdef dfs"),
    ("fish", "complete -c dfs"),
    ("elvish", "edit:completion:arg-completer[dfs]"),
    (
        "powershell",
        "Register-ArgumentCompleter -Native -CommandName 'dfs'",
    ),
];

#[test]
fn every_shell_gets_completions() {
    let work = tempdir().unwrap();
    for (shell, says) in SHELLS {
        let script = finish(dfs(work.path()).args(["completions", shell]), b"").text();
        for word in [says, "decommission", "setfattr", "human-readable"] {
            assert!(script.contains(word), "{shell} lacks `{word}`");
        }
        // Those that are here say whether they understand it.
        let file = work.path().join(shell);
        fs::write(&file, &script).unwrap();
        let known = Command::new(shell).arg("-c").arg("true").output();
        if matches!(shell, "bash" | "zsh" | "fish") && known.is_ok_and(|it| it.status.success()) {
            finish(Command::new(shell).arg("-n").arg(&file), b"").ok();
        }
    }
    finish(dfs(work.path()).args(["completions", "csh"]), b"").fails(2, "possible values");
}

#[test]
fn bash_completes_commands_and_options() {
    let work = tempdir().unwrap();
    let script = finish(dfs(work.path()).args(["completions", "bash"]), b"").text();
    let file = work.path().join("completions");
    fs::write(&file, script).unwrap();
    let completed = |words: &str| {
        let count = words.split(' ').count();
        let program = format!(
            ". {}\nCOMP_WORDS=({words})\nCOMP_CWORD={}\n_dfs dfs \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            file.display(),
            count - 1
        );
        finish(Command::new("bash").args(["-c", &program]), b"").text()
    };
    let lines = |text: String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(
        lines(completed("dfs setf")),
        BTreeSet::from(["setfacl".into(), "setfattr".into()])
    );
    assert_eq!(
        lines(completed("dfs datanode m")),
        BTreeSet::from(["maintenance".into()])
    );
    assert_eq!(
        lines(completed("dfs put --rep")),
        BTreeSet::from(["--replication".into()])
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let work = tempdir().unwrap();
    let pages = work.path().join("man1");
    let mut command = dfs(work.path());
    let wrote = finish(command.args(["man", "--out"]).arg(&pages), b"").text();
    let files: BTreeSet<String> = fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        wrote,
        format!(
            "wrote {} manual pages to {}\n",
            files.len(),
            pages.display()
        )
    );
    // Each command that the help lists, and those below some of them.
    let help = finish(dfs(work.path()).arg("--help"), b"").text();
    let listed: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // A line further to the right goes on with the one before.
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(listed.len() > 40, "{listed:?}");
    for name in listed
        .into_iter()
        .chain(["namenode-transfer", "datanode-maintenance"])
    {
        assert!(
            files.contains(&format!("dfs-{name}.1")),
            "{name}: {files:?}"
        );
    }
    let one = finish(dfs(work.path()).args(["man", "put"]), b"").text();
    assert_eq!(one, fs::read_to_string(pages.join("dfs-put.1")).unwrap());
    for part in [".TH dfs-put 1", ".SH SYNOPSIS", "\\-\\-remove\\-source"] {
        assert!(one.contains(part), "{part} is not in {one}");
    }
}
