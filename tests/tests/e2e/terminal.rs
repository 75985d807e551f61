//! What people see who watch, and what Ctrl-C leaves: progress on a terminal and none in a pipe; a put that is interrupted.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::tempdir;

use super::program::{Cluster, Running, content, dfs, eventually, finish, signal};

fn text(path: &Path) -> &str {
    path.to_str().expect("tests name their files in UTF-8")
}

/// What a command for a cluster prints on a terminal.
fn on_a_terminal(cluster: &Cluster, line: &str) -> String {
    shown(&cluster.command::<&str>([]), line)
}

/// What a program with these arguments prints on a terminal: script(1) makes one.
fn shown(program: &Command, line: &str) -> String {
    let mut command = Command::new("script");
    let dfs = text(Path::new(program.get_program())).to_owned();
    let line = format!("stty cols 120 rows 24 && exec {dfs} {line}");
    command.args(["-q", "-e", "-c", &line, "/dev/null"]);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let done = finish(command.env("TERM", "xterm").env("SHELL", "/bin/sh"), b"");
    let out = String::from_utf8_lossy(&done.out).into_owned();
    assert_eq!(done.status, Some(0), "{out}{}", done.err);
    out
}

fn has_script() -> bool {
    let has = Command::new("script").arg("--version").output().is_ok();
    if !has {
        eprintln!("not tested: script(1), which makes terminals, is not here");
    }
    has
}

#[test]
fn a_manual_page_on_a_terminal_is_shown_by_man() {
    if !has_script() {
        return;
    }
    let work = tempdir().unwrap();
    let man = work.path().join("man");
    let path = format!(
        "{}:{}",
        text(work.path()),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut program = dfs(work.path());
    program.env("PATH", path);
    for (script, shows, roff) in [
        (
            "echo \"man $*\"; grep -c '^.SH SYNOPSIS'",
            "man -l -\r\n1\r\n",
            false,
        ),
        // One that cannot, and one whose reader goes away.
        ("exit 3", "", true),
        (
            "cat > /dev/null; test ! -t 1 || { echo shown; exit 3; }",
            "shown\r\n",
            false,
        ),
    ] {
        // Of a program that this process had open for writing, another test might have begun a child meanwhile, and it could not run.
        let mut make = Command::new("sh");
        make.args(["-ec", "cat > \"$0\"; chmod 755 \"$0\""])
            .arg(&man);
        let made = finish(&mut make, format!("#!/bin/sh\n{script}\n").as_bytes());
        assert_eq!(made.status, Some(0), "{}", made.err);
        let seen = shown(&program, "man put");
        assert!(
            seen.starts_with(shows) && seen.contains(".TH dfs-put 1") == roff,
            "{script}: {seen}"
        );
    }
}

#[test]
fn progress_is_for_those_who_watch() {
    if !has_script() {
        return;
    }
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let local = |name: &str| text(&work.path().join(name)).to_owned();
    let bytes = content(1, 30_000_000);
    fs::write(local("large"), &bytes).unwrap();
    for (number, line) in [
        format!("put {} /large", local("large")),
        format!("get /large {}", local("back")),
        format!("append {} /large", local("large")),
        format!("getmerge /large {}", local("merged")),
    ]
    .into_iter()
    .enumerate()
    {
        let seen = on_a_terminal(&cluster, &line);
        // Files, bytes of all bytes, rate, and the time that is left.
        for part in ["0/1 files", "iB/", "iB/s", " left"] {
            assert!(seen.contains(part), "{line}: `{part}` is not in {seen:?}");
        }
        // The line is gone at the end, and whoever wants none has none.
        assert!(
            seen.ends_with("\u{1b}[2K") || seen.ends_with('\r'),
            "{seen:?}"
        );
        let quiet = match number {
            0 => line.replacen("put", "put -f -q", 1),
            1 => line.replacen("get", "get -f -q", 1),
            2 => line.replacen("append", "append -q", 1),
            _ => line.replacen("getmerge", "getmerge -q", 1),
        };
        assert_eq!(on_a_terminal(&cluster, &quiet), "");
    }
    assert!(fs::read(local("merged")).unwrap().len() == 3 * bytes.len());
    // In a pipe there is nothing at all.
    for line in [
        format!("put -f {} /large", local("large")),
        format!("get -f /large {}", local("back")),
        format!("append {} /large", local("large")),
        format!("getmerge /large {}", local("merged")),
    ] {
        let done = cluster.run(line.split(' '));
        assert_eq!((done.ok().len(), line.is_empty()), (0, false));
    }
}

#[test]
fn a_put_that_is_interrupted_leaves_nothing() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/kept"], b"before").ok();
    let inodes = || -> u64 {
        let df = cluster.run(["df", "--json"]).ok();
        let df: serde_json::Value = serde_json::from_slice(&df).expect("JSON");
        df["inodes"].as_u64().expect("a number")
    };
    let before = inodes();
    for arguments in [
        ["put", "-", "/half"].as_slice(),
        &["put", "-f", "-", "/kept"],
    ] {
        let mut put = Running::start(&mut cluster.command(arguments));
        // More than pipes and windows hold: some of it is with the cluster.
        put.feed(&content(1, 24 << 20));
        signal("INT", put.id());
        let done = put.finish();
        assert_eq!(done.status, Some(130), "{}", done.err);
        assert_eq!(done.err, "");
    }
    assert_eq!(cluster.run(["ls", "-A", "/"]).text(), "kept\n");
    assert_eq!(cluster.run(["cat", "/kept"]).text(), "before");
    cluster
        .run(["cat", "/half"])
        .fails(1, "dfs: /half: No such file or directory");
    // Nothing without a name is left either.
    eventually("what was written is gone", || inodes() == before);
}
