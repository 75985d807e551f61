//! The console in a real browser, and `/api/v1` under a machine that tries what people do not.
//!
//! `scripts/web-tools` installs browser and tools. `CAIRN_SCREENSHOTS=docs/console` makes the pictures of the documentation anew.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Cluster, Running, eventually, finish, free_ports};

/// What `scripts/web-tools` found or made.
struct Tools(String);

impl Tools {
    fn installed() -> Self {
        let found = finish(&mut Command::new(root().join("scripts/web-tools")), b"");
        assert_eq!(found.status, Some(0), "{}", found.err);
        // Says what is left out, and why.
        eprint!("{}", found.err);
        Self(String::from_utf8(found.out).expect("text"))
    }

    fn path(&self, what: &str) -> Option<PathBuf> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(what));
        line.map(|path| PathBuf::from(path.trim()))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Three namenodes and three datanodes with HTTP.
struct Served {
    cluster: Cluster,
    base: String,
    // Removed after the cluster has stopped.
    work: TempDir,
}

impl Served {
    fn up() -> Self {
        let work = tempfile::tempdir().expect("a directory");
        let port = free_ports().to_string();
        let nodes = ["--processes", "--namenodes", "3", "--datanodes", "3"];
        let arguments = [&nodes[..], &["--http", &port]].concat();
        let cluster = Cluster::up(&work, &arguments);
        let served = Self {
            cluster,
            base: format!("http://127.0.0.1:{port}"),
            work,
        };
        eventually("the gateway is ready", || served.get("/readyz").0);
        served
    }

    /// Whether a request succeeds, and what it says.
    fn get(&self, path: &str) -> (bool, Vec<u8>) {
        let url = format!("{}{path}", self.base);
        let done = finish(Command::new("curl").args(["-sf", &url]), b"");
        (done.status == Some(0), done.out)
    }
}

/// The names in a document, with those around them.
fn names(document: &Value, around: &str, found: &mut BTreeSet<String>) {
    match document {
        Value::Object(all) => all.iter().for_each(|(name, value)| {
            let name = format!("{around}.{name}");
            names(value, &name, found);
            found.insert(name);
        }),
        Value::Array(all) => all.iter().for_each(|value| names(value, around, found)),
        _ => {}
    }
}

#[test]
fn status_over_http_says_what_the_command_says() {
    let served = Served::up();
    let all = |document: &Value| {
        let mut found = BTreeSet::new();
        names(document, "", &mut found);
        found
    };
    // What a gateway says of the cluster is up to a second old.
    eventually("both say the same", || {
        let (ok, text) = served.get("/api/v1/status");
        assert!(ok);
        let here = serde_json::from_slice(&text).expect("JSON");
        all(&here) == all(&served.cluster.status())
    });
}

#[test]
fn no_answer_of_the_api_is_a_surprise() {
    let Some(program) = Tools::installed().path("schemathesis ") else {
        return;
    };
    let served = Served::up();
    // What the examples of the description speak of.
    for path in ["/a", "/f", "/log", "/counter"] {
        served.cluster.run_with(["put", "-", path], b"content").ok();
    }
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    let mut command = Command::new(program);
    command
        .current_dir(served.work.path())
        .arg("run")
        .arg(format!("{}/api/v1/openapi.json", served.base))
        .args(["--checks", checks, "--phases", "examples,coverage,fuzzing"])
        // Streams without an end.
        .args([
            "--exclude-path",
            "/api/v1/changes",
            "--exclude-path",
            "/api/v1/events",
        ])
        .args([
            "--max-examples",
            "15",
            "--seed",
            "7",
            "--request-timeout",
            "60",
        ])
        .args(["--no-color", "--generation-database", "none"]);
    let done = finish(&mut command, b"");
    let said = String::from_utf8_lossy(&done.out);
    assert_eq!(done.status, Some(0), "{said}\n{}", done.err);
}

#[test]
fn the_console_is_used_in_a_browser() {
    let tools = Tools::installed();
    let (Some(modules), Some(chromium)) = (tools.path("modules "), tools.path("chromium ")) else {
        return;
    };
    let served = Served::up();
    let screenshots = std::env::var_os("CAIRN_SCREENSHOTS").map(|path| root().join(path));
    let settings = json!({
        "base": served.base,
        "chromium": chromium,
        "modules": modules,
        "work": served.work.path(),
        "screenshots": screenshots,
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/console/drive.mjs");
    let errors = served.work.path().join("drive.err");
    let mut driver = Command::new("node")
        .arg(script)
        .arg(settings.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&errors).expect("a file"))
        .spawn()
        .expect("start node");
    let mut done = driver.stdin.take().expect("a pipe");
    let asked = BufReader::new(driver.stdout.take().expect("a pipe"));
    let mut revived = None;
    for line in asked.lines().map_while(Result::ok) {
        match line.as_str() {
            "kill" => served.cluster.kill("datanode-2"),
            "revive" => revived = Some(Running::start(&mut served.cluster.role("datanode-2"))),
            other => panic!("the driver says {other}"),
        }
        writeln!(done, "done").expect("the driver listens");
    }
    let status = driver.wait().expect("it ends");
    let wrong = fs::read_to_string(errors).expect("what it says");
    assert!(status.success(), "{wrong}");
    drop(revived);
}
