//! Runs `dfs`, and clusters of it, each in a directory of its own and on free ports. What a test starts ends with the test.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for anything. It says that a test hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program under test: `target/<profile>/dfs`, where the tests are in `target/<profile>/deps`.
fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("this test is a file");
    let profile = own.ancestors().nth(2).expect("tests are in <profile>/deps");
    let binary = profile.join("dfs");
    assert!(
        binary.is_file(),
        "{} is not there: build it first with `cargo build -p cairn-cli` (`make test` does)",
        binary.display()
    );
    binary
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Finished {
    /// Standard output of a command that must succeed and say nothing else, but for what it waits for on a busy machine.
    #[track_caller]
    pub(crate) fn ok(self) -> Vec<u8> {
        let said = self.err.lines();
        let said: Vec<&str> = said.filter(|line| !is_of_a_wait(line)).collect();
        assert_eq!(
            (self.status, said.as_slice()),
            (Some(0), [].as_slice()),
            "stdout: {}",
            self.out.escape_ascii()
        );
        self.out
    }

    /// The same as text.
    #[track_caller]
    pub(crate) fn text(self) -> String {
        String::from_utf8(self.ok()).expect("text")
    }

    /// A command that must fail with this status and this text somewhere in its message.
    #[track_caller]
    pub(crate) fn fails(self, status: i32, message: &str) {
        assert_eq!(self.status, Some(status), "stderr: {}", self.err);
        assert!(
            self.err.contains(message),
            "`{message}` is not in: {}",
            self.err
        );
    }
}

fn is_of_a_wait(line: &str) -> bool {
    let waits = ["dfs: no answer yet", "dfs: no namenode answers yet"];
    waits.iter().any(|wait| line.starts_with(wait))
}

/// A command without any configuration of the machine or its user.
pub(crate) fn dfs(home: &Path) -> Command {
    let mut command = Command::new(binary());
    command
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("none"))
        .stdin(Stdio::null());
    for variable in [
        "CAIRN_CLUSTER",
        "CAIRN_USER",
        "CAIRN_CA",
        "CAIRN_CERTIFICATE",
        "CAIRN_KEY",
        "CAIRN_TOKEN",
        "CAIRN_TOKEN_FILE",
        "RUST_LOG",
    ] {
        command.env_remove(variable);
    }
    command
}

/// Runs a command to its end, with this as standard input.
pub(crate) fn finish(command: &mut Command, input: &[u8]) -> Finished {
    let mut running = Running::start(command);
    running.feed(input);
    running.finish()
}

/// A command under way.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    out: Option<JoinHandle<Vec<u8>>>,
    err: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("start dfs");
        let stdin = child.stdin.take();
        let out = child.stdout.take().map(read_all);
        let err = child.stderr.take().map(read_all);
        Self {
            child,
            stdin,
            out,
            err,
        }
    }

    /// More standard input. A program that ended takes none, and its status says why.
    pub(crate) fn feed(&mut self, input: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(input);
        }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends standard input, and waits.
    pub(crate) fn finish(self) -> Finished {
        self.finish_within(PATIENCE)
    }

    /// The same for what takes longer than other things.
    pub(crate) fn finish_within(mut self, limit: Duration) -> Finished {
        self.stdin = None;
        let status = wait(&mut self.child, limit).code();
        let output = |stream: Option<JoinHandle<Vec<u8>>>| {
            stream
                .map(|thread| thread.join().expect("a reader does not panic"))
                .unwrap_or_default()
        };
        let out = output(self.out.take());
        let err = String::from_utf8_lossy(&output(self.err.take())).into_owned();
        Finished { status, out, err }
    }

    /// Gone at once, as if the power of this process alone had failed.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read_all(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

fn wait(child: &mut Child, limit: Duration) -> ExitStatus {
    let mut ended = None;
    within(limit, "a process ends", || {
        ended = child.try_wait().expect("wait for a child");
        ended.is_some()
    });
    ended.expect("it has ended")
}

/// Looks until it is so.
#[track_caller]
pub(crate) fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    within(PATIENCE, what, is_so);
}

#[track_caller]
fn within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// `kill -9` or the like, by number.
pub(crate) fn signal(name: &str, pid: u32) {
    let line = format!("kill -{name} {pid}");
    let status = Command::new("sh")
        .args(["-c", &line])
        .status()
        .expect("run sh");
    assert!(status.success(), "{line}");
}

/// The first of some ports in a row that nobody listens on. They are below those that the kernel gives to outgoing connections,
/// any of which could take one while a cluster is being started again.
pub(crate) fn free_ports() -> u16 {
    const SPAN: u16 = 20;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 1000).expect("below 1000");
    for _ in 0..1000 {
        let place = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 1000;
        let first = 11_000 + place * SPAN;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (first..first + SPAN).all(free) {
            return first;
        }
    }
    panic!("no free ports from 11000 on");
}

/// A cluster of `dfs up`.
pub(crate) struct Cluster {
    up: Child,
    /// Where it says things.
    directory: PathBuf,
    /// Addresses of its namenodes.
    pub(crate) address: String,
    /// What it said until it was ready.
    pub(crate) said: String,
    home: PathBuf,
}

impl Cluster {
    /// Starts one in `work/cluster`, or starts the one that is there again. It is ready when this returns.
    pub(crate) fn up(work: &TempDir, arguments: &[&str]) -> Self {
        if work.path().join("cluster").exists() {
            return Self::try_up(work, arguments, None).unwrap_or_else(|error| panic!("{error}"));
        }
        // Another program may take a port between the look and the start.
        for _ in 0..5 {
            match Self::try_up(work, arguments, Some(free_ports())) {
                Ok(cluster) => return cluster,
                Err(error) if error.contains("ddress already in use") => {
                    let _ = fs::remove_dir_all(work.path().join("cluster"));
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no free ports");
    }

    fn try_up(work: &TempDir, arguments: &[&str], port: Option<u16>) -> Result<Self, String> {
        let directory = work.path().join("cluster");
        let home = work.path().join("home");
        fs::create_dir_all(&home).expect("make a home");
        let log = work.path().join("up.err");
        let errors = fs::File::create(&log).expect("files of the cluster");
        let mut command = dfs(&home);
        command
            .arg("up")
            .arg("--dir")
            .arg(&directory)
            .args(arguments);
        if !arguments.contains(&"--http") {
            command.args(["--http", "0"]);
        }
        if let Some(port) = port {
            command.args(["--port", &port.to_string()]);
        }
        let mut up = command
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("start dfs up");
        let mut lines = BufReader::new(up.stdout.take().expect("a pipe")).lines();
        let (mut address, mut said) = (None, String::new());
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some(rest) = line.trim().strip_prefix("export CAIRN_CLUSTER=") {
                address = Some(rest.to_owned());
            }
            said = said + &line + "\n";
            if line.starts_with("Ctrl-C") {
                break;
            }
        }
        // What it says later is nobody's; it must not block it.
        thread::spawn(move || lines.for_each(drop));
        let Some(address) = address else {
            let _ = up.kill();
            let _ = up.wait();
            let errors = fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("dfs up is not ready: {errors}"));
        };
        Ok(Self {
            up,
            directory,
            address,
            said,
            home,
        })
    }

    /// A command for this cluster.
    pub(crate) fn command<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = self.stranger(arguments);
        let security = self.directory.join("security");
        if security.exists() {
            command
                .env("CAIRN_CA", security.join("ca.pem"))
                .env("CAIRN_CERTIFICATE", security.join("operator.pem"))
                .env("CAIRN_KEY", security.join("operator.key"));
        }
        command
    }

    /// A command that knows where this cluster is, and nothing that proves who it is.
    pub(crate) fn stranger<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = dfs(&self.home);
        command.env("CAIRN_CLUSTER", &self.address).args(arguments);
        command
    }

    /// The folder of `dfs up`.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs a command.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Finished {
        finish(&mut self.command(arguments), b"")
    }

    /// Runs a command with this as standard input.
    pub(crate) fn run_with<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Finished {
        finish(&mut self.command(arguments), input)
    }

    /// `dfs status --json`.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_slice(&self.run(["status", "--json"]).ok()).expect("JSON")
    }

    /// `namenode-2`, say: which process leads.
    pub(crate) fn leader(&self) -> String {
        let status = self.status();
        let namenodes = status["namenodes"].as_array().expect("namenodes");
        let leader = namenodes
            .iter()
            .find(|namenode| namenode["role"] == "leader")
            .expect("a leader");
        let address = leader["address"].as_str().expect("an address");
        let place = self
            .address
            .split(',')
            .position(|known| known == address)
            .expect("a known address");
        format!("namenode-{}", place + 1)
    }

    /// The process that plays a role in `dfs up --processes`, if one does.
    pub(crate) fn process(&self, role: &str) -> Option<u32> {
        let pid = fs::read_to_string(self.directory.join("pids").join(role)).ok()?;
        pid.trim().parse().ok()
    }

    /// Kills a process of `dfs up --processes`.
    pub(crate) fn kill(&self, role: &str) {
        signal("KILL", self.process(role).expect("it runs"));
    }

    /// Kills everything: first `dfs up`, so that it says goodbye to nobody, then each role.
    pub(crate) fn kill_all(mut self) {
        let entries = fs::read_dir(self.directory.join("pids")).expect("files of the cluster");
        let roles: Vec<_> = entries
            .map(|entry| entry.expect("files of the cluster").file_name())
            .collect();
        assert!(roles.len() > 1, "{roles:?}");
        let line: Vec<String> = roles
            .iter()
            .map(|role| {
                fs::read_to_string(self.directory.join("pids").join(role))
                    .expect("files of the cluster")
                    .trim()
                    .to_owned()
            })
            .collect();
        let line = format!("kill -KILL {} {}", self.up.id(), line.join(" "));
        assert!(
            Command::new("sh")
                .args(["-c", &line])
                .status()
                .expect("files of the cluster")
                .success(),
            "{line}"
        );
        self.up.wait().expect("wait");
        for pid in line.split(' ').skip(3) {
            eventually("a killed process is gone", || is_gone(pid));
        }
    }

    /// The command that brings back a role that was killed.
    pub(crate) fn role(&self, role: &str) -> Command {
        let kind = role.split('-').next().expect("a name");
        let config = self.directory.join("config").join(format!("{role}.toml"));
        let mut command = dfs(&self.home);
        command.arg(kind).arg("--config").arg(config);
        command
    }

    /// Asks it to stop, as Ctrl-C does, and waits.
    pub(crate) fn stop(mut self) -> Option<i32> {
        signal("TERM", self.up.id());
        wait(&mut self.up, PATIENCE).code()
    }

    /// `datanode-2`, say: which datanode listens on this port.
    pub(crate) fn datanode_on(&self, port: &str) -> String {
        let layout =
            fs::read_to_string(self.directory.join("up.toml")).expect("files of the cluster");
        let datanodes = layout.split("datanodes").nth(1).expect("datanodes");
        let addresses: Vec<&str> = datanodes
            .split('"')
            .filter(|text| text.starts_with("127."))
            .collect();
        let ending = format!(":{port}");
        let place = addresses
            .iter()
            .position(|address| address.ends_with(&ending))
            .expect("a known port");
        format!("datanode-{}", place + 1)
    }

    /// Files of this name pattern's end below the data of all datanodes.
    pub(crate) fn replica_files(&self, suffix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.directory.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).expect("files of the cluster") {
                let path = entry.expect("files of the cluster").path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.to_string_lossy().ends_with(suffix) {
                    found.push(path);
                }
            }
        }
        found
    }
}

/// Whether no process has this number, or what has it has ended wholly and waits to be collected. Until the last of its threads has
/// ended, its sockets are open.
fn is_gone(pid: &str) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    let ended = stat
        .rsplit(") ")
        .next()
        .is_some_and(|rest| rest.starts_with('Z'));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    ended && threads <= 1
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.up.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        signal("TERM", self.up.id());
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.up.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                let _ = self.up.kill();
                let _ = self.up.wait();
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Bytes that no other seed has.
pub(crate) fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
