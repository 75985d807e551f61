//! HTTP as people and their programs use it: the recipes of the README as written, clients of others unchanged, and a leader that is killed
//! under them.
//!
//! `scripts/http-clients` installs the clients; `make test` calls it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::tempdir;

use super::program::{Cluster, Finished, eventually, finish, free_ports};
use super::readme::{is_like, recipes};

/// What `scripts/http-clients` found or made.
struct Clients {
    /// One with the clients of PyPI.
    python: Option<PathBuf>,
    /// Where npm installed.
    node: Option<PathBuf>,
    java: bool,
}

impl Clients {
    fn installed() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let listed = finish(&mut Command::new(root.join("scripts/http-clients")), b"");
        assert_eq!(listed.status, Some(0), "{}", listed.err);
        // Says what is left out, and why.
        eprint!("{}", listed.err);
        let text = String::from_utf8(listed.out).expect("text");
        let path = |what: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(what));
            found.map(PathBuf::from)
        };
        Self {
            python: path("python "),
            node: path("node "),
            java: text.lines().any(|line| line == "java"),
        }
    }

    /// A client of PyPI, if those are here.
    fn python(&self, cluster: &HttpCluster, arguments: &[&str]) -> Option<Command> {
        let Some(python) = &self.python else {
            let client = arguments.last().unwrap_or(&"");
            eprintln!("skipped: no clients of PyPI for {client}; scripts/http-clients says why");
            return None;
        };
        let mut command = Command::new(python);
        command
            .arg(tests_file("clients.py"))
            .args(arguments)
            .env("HOME", cluster.work.path())
            .env("PYSPARK_PYTHON", python)
            .current_dir(cluster.work.path());
        Some(command)
    }
}

fn tests_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/e2e")
        .join(name)
}

/// Three namenodes and three datanodes, each a process with HTTP.
struct HttpCluster {
    cluster: Cluster,
    /// Of the namenodes' gateways.
    addresses: Vec<String>,
    // Removed after the cluster has stopped.
    work: tempfile::TempDir,
}

impl HttpCluster {
    fn up() -> Self {
        let work = tempdir().expect("a directory");
        let port = free_ports();
        let http = port.to_string();
        let cluster = Cluster::up(
            &work,
            &[
                "--processes",
                "--namenodes",
                "3",
                "--datanodes",
                "3",
                "--http",
                &http,
            ],
        );
        let addresses = (port..port + 3).map(|port| format!("127.0.0.1:{port}"));
        let addresses: Vec<String> = addresses.collect();
        let ready = |address: &String| {
            let url = format!("http://{address}/readyz");
            finish(Command::new("curl").args(["-sf", &url]), b"").status == Some(0)
        };
        eventually("all gateways are ready", || addresses.iter().all(ready));
        Self {
            cluster,
            addresses,
            work,
        }
    }

    fn url(&self, index: usize) -> String {
        format!("http://{}", self.addresses[index])
    }

    /// All of them, as HdfsCLI wants them.
    fn urls(&self) -> String {
        let all: Vec<String> = (0..3).map(|index| self.url(index)).collect();
        all.join(";")
    }
}

#[track_caller]
fn went_well(done: &Finished, says: &str) {
    let out = String::from_utf8_lossy(&done.out);
    assert!(
        done.status == Some(0) && out.contains(says),
        "{:?}: {out}\n{}",
        done.status,
        done.err
    );
}

#[test]
fn clients_of_others_make_their_round_trips() {
    let clients = Clients::installed();
    let cluster = HttpCluster::up();
    let user = whoami();
    let round_trip = |index: usize, name: &str| {
        let url = cluster.url(index);
        let arguments = [url.as_str(), &user, name];
        if let Some(mut client) = clients.python(&cluster, &arguments) {
            went_well(
                &finish(&mut client, b""),
                &format!("{name}: round trip done"),
            );
        }
    };
    for name in ["hdfscli", "fsspec", "pyhdfs"] {
        round_trip(1, name);
    }
    match &clients.node {
        None => eprintln!("skipped: no Node.js for webhdfs of npm"),
        Some(modules) => {
            let mut node = Command::new("node");
            node.arg(tests_file("clients.js"))
                .args([&cluster.addresses[2], &user])
                .env("NODE_PATH", modules.join("node_modules"));
            went_well(&finish(&mut node, b""), "webhdfs: round trip done");
        }
    }
    if clients.java {
        round_trip(0, "pyspark");
    } else {
        eprintln!("skipped: no Java for PySpark; scripts/http-clients says how to get one");
    }
    let fsck = cluster.cluster.run(["--user", "0", "fsck"]);
    assert_eq!(fsck.status, Some(0), "{}", fsck.out.escape_ascii());
}

#[test]
fn jobs_finish_though_the_leader_dies_under_them() {
    let clients = Clients::installed();
    let cluster = HttpCluster::up();
    let (urls, user) = (cluster.urls(), whoami());
    let arguments = [urls.as_str(), &user, "failover"];
    let Some(mut command) = clients.python(&cluster, &arguments) else {
        return;
    };
    let mut job = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start Python");
    let mut lines = BufReader::new(job.stdout.take().expect("a pipe")).lines();
    let said = lines.next().and_then(Result::ok);
    assert_eq!(said.as_deref(), Some("failover: in the middle"));
    let leader = cluster.cluster.leader();
    cluster.cluster.kill(&leader);
    let mut stdin = job.stdin.take().expect("a pipe");
    stdin.write_all(b"go on\n").expect("it waits");
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(job.wait().expect("wait").success(), "{rest:?}");
    assert_eq!(rest, ["failover: round trip done"]);
    assert_ne!(cluster.cluster.leader(), leader);
}

fn whoami() -> String {
    let id = finish(Command::new("id").arg("-un"), b"");
    id.text().trim().to_owned()
}

#[test]
fn the_recipes_of_the_readme_do_what_it_says() {
    let recipes = recipes("HTTP");
    assert!(recipes.len() >= 10, "{recipes:?}");
    let cluster = HttpCluster::up();
    // As written, but for the address: that of the README may be taken by another cluster.
    let mut script = format!(
        "curl() {{ command curl \"${{@//127.0.0.1:9870/{}}}\"; }}\nset -o pipefail\n",
        cluster.addresses[0]
    );
    for (command, _) in &recipes {
        script.push_str(&format!(
            "{command}\nstatus=$?; echo; echo \"@@ $status\"\n"
        ));
    }
    let mut bash = Command::new("bash");
    let done = finish(
        bash.args(["-c", &script]).current_dir(cluster.work.path()),
        b"",
    );
    let out = String::from_utf8(done.out).expect("text");
    let outputs: Vec<&str> = out.split_inclusive("\n@@ ").collect();
    assert_eq!(outputs.len(), recipes.len() + 1, "{out}{}", done.err);
    for (number, (command, expected)) in recipes.iter().enumerate() {
        // What comes after the mark of the command before.
        let own = outputs[number].strip_suffix("\n@@ ").expect("split there");
        let own = if number == 0 {
            own
        } else {
            own.split_once('\n').map_or("", |(_, own)| own)
        };
        let status = outputs[number + 1].chars().next();
        assert_eq!(status, Some('0'), "{command}: {own}{}", done.err);
        let lines: Vec<&str> = own.trim_end().lines().collect();
        let alike = lines.len() == expected.len()
            && expected
                .iter()
                .zip(&lines)
                .all(|(written, line)| is_like(written, line));
        assert!(alike, "{command}\nprints {lines:?}\nand not {expected:?}");
    }
}
