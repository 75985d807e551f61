//! `dfs watch`: a second terminal sees what the first one does.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value;
use tempfile::tempdir;

use super::program::{Cluster, signal};

/// A watch under way. It has begun.
struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Self {
        let mut command = cluster.command(["watch"]);
        command.args(arguments);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start dfs");
        let mut said = String::new();
        let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
        errors.read_line(&mut said).expect("read what it says");
        assert!(said.starts_with("dfs: watching "), "{said}");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// Lines up to this one, without those that say again that a file is written.
    fn until(&mut self, last: &str) -> Vec<String> {
        let mut said: Vec<String> = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.expect("a line");
            if said.last() != Some(&line) {
                said.push(line);
            }
            if said.last().is_some_and(|line| line == last) {
                return said;
            }
        }
        panic!("ended before `{last}`: {said:?}");
    }

    fn interrupt(mut self) -> Option<i32> {
        signal("INT", self.child.id());
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // One that has ended does not mind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_one_terminal_does_the_other_one_sees() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "-p", "/a/deep", "/other"]).ok();
    cluster.run_with(["put", "-", "/a/deep/old"], b"old").ok();
    let mut below = Watching::start(&cluster, &["-R", "/a"]);
    let mut in_it = Watching::start(&cluster, &["/a"]);
    let mut json = Watching::start(&cluster, &["-R", "--json", "/a"]);
    cluster.run(["mkdir", "/a/new", "/other/unseen"]).ok();
    cluster.run(["chmod", "600", "/a/deep/old"]).ok();
    cluster
        .run_with(["append", "-", "/a/deep/old"], b"more")
        .ok();
    cluster.run(["mv", "/a/deep", "/a/new/deeper"]).ok();
    cluster
        .run(["truncate", "-s", "1", "/a/new/deeper/old"])
        .ok();
    cluster.run(["mv", "/a/new/deeper/old", "/other/"]).ok();
    cluster.run(["rm", "-r", "/a/new"]).ok();
    let expected = [
        "created /a/new",
        "attributes /a/deep/old",
        "written /a/deep/old",
        "renamed /a/deep -> /a/new/deeper",
        "written /a/new/deeper/old",
        "removed /a/new/deeper/old",
        "removed /a/new",
    ];
    assert_eq!(below.until("removed /a/new"), expected);
    let expected = ["created /a/new", "removed /a/deep", "removed /a/new"];
    assert_eq!(in_it.until("removed /a/new"), expected);
    let first = json.lines.next().unwrap().unwrap();
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(
        (&first["event"], &first["path"]),
        (&"created".into(), &"/a/new".into())
    );
    assert_eq!(below.interrupt(), Some(130));
    cluster
        .run(["watch", "/none"])
        .fails(1, "dfs: /none: No such file or directory");
}
