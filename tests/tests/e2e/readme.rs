//! What the README says that commands print, and whether they do: the quick tour, and the defaults that it rests on.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::tempdir;

use super::program::{Cluster, dfs, eventually, finish, signal};

/// The ports of `dfs up` that nobody asked for others, as the README and `dfs up --help` tell them.
const DEFAULT_PORTS: [u16; 5] = [9000, 9010, 9011, 9012, 9870];

/// Commands of one of the README's sections, each with what it prints.
pub(crate) fn recipes(name: &str) -> Vec<(String, Vec<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(path).expect("the README");
    let section = readme
        .split("\n## ")
        .find(|section| section.starts_with(name));
    let mut recipes: Vec<(String, Vec<String>)> = Vec::new();
    let mut inside = false;
    for line in section.expect("a section of this name").lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let (true, Some(command)) = (inside, line.strip_prefix("$ ")) {
            recipes.push((command.to_owned(), Vec::new()));
        } else if let (true, Some((_, output))) = (inside, recipes.last_mut()) {
            output.push(line.to_owned());
        }
    }
    recipes
}

/// Whether a line is like one in which `…` stands for anything.
pub(crate) fn is_like(written: &str, line: &str) -> bool {
    let mut rest = line;
    let mut pieces = written.split('…').peekable();
    if let Some(first) = pieces.next() {
        match rest.strip_prefix(first) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// Both with each number as one sign, whatever it is, and no more blanks than one.
fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    for char in line.chars() {
        let char = if char.is_ascii_digit() { '#' } else { char };
        let repeated = text.ends_with(char) && (char == '#' || char == ' ');
        if !repeated {
            text.push(char);
        }
    }
    text
}

/// Whether two lines are the same but for the minute in which files were made.
fn same_but_for_times(written: &str, line: &str) -> bool {
    let words = |line| str::split_whitespace(line);
    let is_time = |word: &str| {
        let shape = without_numbers(word);
        shape == "#-#-#" || shape == "#:#"
    };
    let same = |(written, word): (&str, &str)| written == word || is_time(written) && is_time(word);
    words(written).count() == words(line).count() && words(written).zip(words(line)).all(same)
}

fn id(option: &str) -> String {
    let id = finish(Command::new("id").arg(option), b"");
    id.text().trim().to_owned()
}

#[test]
fn the_quick_tour_goes_as_it_is_told() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let (user, group) = (id("-un"), id("-gn"));
    let mut seen = 0;
    for (command, expected) in recipes("A quick tour") {
        let elsewhere = ["export PATH", "dfs up", "make demo"];
        if elsewhere.iter().any(|it| command.starts_with(it)) {
            continue;
        }
        let program = cluster.command::<&str>([]);
        let directory = Path::new(program.get_program()).parent().unwrap();
        let path = format!(
            "{}:{}",
            directory.display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut bash = Command::new("bash");
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        bash.args(["-c", &format!("{{ {command}\n}} 2>&1")])
            .env("PATH", path)
            .current_dir(work.path());
        let done = finish(&mut bash, b"");
        let out = String::from_utf8(done.out).expect("text");
        let fails = expected.first().is_some_and(|it| it.starts_with("dfs: "));
        assert_eq!(done.status, Some(i32::from(fails)), "{command}: {out}");
        seen += 1;
        // Ids, ports and space are another machine's.
        if command == "dfs status" {
            continue;
        }
        let expected: Vec<String> = expected
            .iter()
            .map(|line| line.replace("root root", &format!("{user} {group}")))
            .map(|line| line.replace("root", &user))
            .collect();
        let lines: Vec<&str> = out.lines().collect();
        let alike = |written: &str, line: &str| match command.as_str() {
            // How chunks are shared is up to the cluster.
            "dfs --user 0 fsck" => without_numbers(written) == without_numbers(line),
            _ => same_but_for_times(written, line),
        };
        let all =
            lines.len() == expected.len() && expected.iter().zip(&lines).all(|(a, b)| alike(a, b));
        assert!(all, "{command}\nprints {lines:#?}\nand not {expected:#?}");
    }
    assert!(seen >= 15, "{seen} commands");
}

#[test]
fn nothing_needs_to_be_configured() {
    let taken = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_err();
    if let Some(port) = DEFAULT_PORTS.iter().find(|port| taken(port)) {
        eprintln!("not tested: port {port} of a default `dfs up` is in use");
        return;
    }
    let work = tempdir().unwrap();
    let directory = work.path().join("cairn");
    let mut command = dfs(work.path());
    command.args(["up", "--dir"]).arg(&directory);
    let mut up = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said: Vec<String> = Vec::new();
    for line in BufReader::new(up.stdout.take().unwrap()).lines() {
        said.push(line.unwrap());
        if said.last().is_some_and(|line| line.starts_with("Ctrl-C")) {
            break;
        }
    }
    if said.is_empty() {
        up.wait().unwrap();
        let mut error = String::new();
        let mut stderr = up.stderr.take().unwrap();
        stderr.read_to_string(&mut error).unwrap();
        assert!(error.contains("ddress already in use"), "{error}");
        eprintln!("not tested: another program was faster to take a port: {error}");
        return;
    }
    let recipes = recipes("A quick tour");
    let written = recipes.iter().find(|(it, _)| it == "dfs up --dir ~/cairn");
    let (_, written) = written.expect("the README starts a cluster");
    let own = directory.display().to_string();
    let told: Vec<String> = said
        .iter()
        .map(|line| without_numbers(&line.replace(&own, "/root/cairn")))
        .collect();
    let written: Vec<String> = written.iter().map(|it| without_numbers(it)).collect();

    let asked = finish(dfs(work.path()).args(["ls", "/"]), b"");
    let made = finish(dfs(work.path()).args(["mkdir", "/made"]), b"");
    let again = finish(dfs(work.path()).args(["ls", "/"]), b"");
    let ready = ["-sf", "http://127.0.0.1:9870/readyz"];
    let ready = finish(Command::new("curl").args(ready), b"");
    signal("INT", up.id());
    eventually("Ctrl-C stops it", || up.try_wait().unwrap().is_some());
    assert_eq!(asked.text(), "");
    made.ok();
    assert_eq!(again.text(), "made\n");
    assert_eq!(ready.text(), "ready\n");
    assert_eq!(told, written);
}
