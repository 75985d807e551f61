//! What is waited for is said: a cluster that does not answer, replicas that cannot be.

use std::net::{TcpListener, TcpStream};
use std::thread;

use tempfile::tempdir;

use super::program::{Cluster, Running, dfs, eventually, finish, free_ports};

#[test]
fn without_a_quorum_everybody_is_told_what_is_waited_for() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &["--namenodes", "3", "--processes"]);
    cluster.run_with(["put", "-", "/f"], b"f").ok();
    let leader = cluster.leader();
    let all = ["namenode-1", "namenode-2", "namenode-3"];
    let left = *all.iter().find(|role| **role != leader).unwrap();
    for role in all.iter().filter(|role| **role != left) {
        cluster.kill(role);
    }
    // All at once: each of them waits.
    let ask = |line: &'static str| {
        let words = line.split(' ').chain(["--timeout", "5s"]);
        (line, Running::start(&mut cluster.command(words)))
    };
    let asked = ["ls /", "df", "fsck", "put - /g", "namenode list"].map(ask);
    for (line, running) in asked {
        let finished = running.finish();
        let told = &finished.err;
        assert_eq!(
            (finished.status, finished.out.len()),
            (Some(1), 0),
            "{line}: {told}"
        );
        let notices = told.matches("no answer yet: ").count();
        assert_eq!(notices, 1, "{line}: {told}");
        assert!(
            told.contains("1 of 3 namenodes answers (127.0.0.1:")
                && told.contains("and 2 are needed; not 127.0.0.1:")
                && told.contains("tried for up to 5s (--timeout)"),
            "{line}: {told}"
        );
    }
    let status = cluster.run(["status"]);
    assert!(
        status.err.contains("1 of 3 namenodes answers"),
        "{}",
        status.err
    );
    let told = String::from_utf8_lossy(&status.out).into_owned();
    assert!(
        status.status == Some(1) && told.starts_with("NO QUORUM"),
        "{told}"
    );
}

#[test]
fn a_dead_namenode_is_waited_for_with_a_word() {
    let work = tempdir().unwrap();
    let port = free_ports().to_string();
    let dead = format!("127.0.0.1:{port}");
    let asked = finish(dfs(work.path()).args(["ls", "/", "--cluster", &dead]), b"");
    let yet =
        format!("dfs: no namenode answers yet at {dead} (Connection refused); trying for 6s\n");
    assert_eq!(asked.err.matches(&yet).count(), 1, "{}", asked.err);
    asked.fails(1, "is the cluster running there?");
    // One that accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    thread::spawn(move || silent.incoming().map_while(Result::ok).collect::<Vec<_>>());
    let mut command = dfs(work.path());
    command.args(["ls", "/", "--timeout", "4s", "--cluster", &address]);
    let asked = finish(&mut command, b"");
    let yet = format!("dfs: no answer yet of {address}; trying for up to 4s (--timeout)\n");
    assert!(asked.err.contains(&yet), "{}", asked.err);
    asked.fails(1, "does not answer as a namenode does");
}

#[test]
fn a_namenode_without_a_cluster_is_told_and_not_waited_for() {
    let work = tempdir().unwrap();
    let port = free_ports();
    let [empty, dead] = [port, port + 1].map(|port| format!("127.0.0.1:{port}"));
    let mut namenode = dfs(work.path());
    namenode
        .args([
            "namenode",
            "--http",
            "",
            "--follow-stdin",
            "--listen",
            &empty,
        ])
        .arg("--dir")
        .arg(work.path().join("empty"));
    let namenode = Running::start(&mut namenode);
    eventually("it listens", || TcpStream::connect(&empty).is_ok());
    let ask = |words: &[&str]| finish(dfs(work.path()).args(words), b"");
    for command in [&["ls", "/"][..], &["status"]] {
        ask(&[command, &["--cluster", &empty]].concat()).fails(
            1,
            &format!(
                "{empty} belongs to no cluster: `dfs namenode found {empty}` founds a new one"
            ),
        );
    }
    // Who waits for ever waits for that, too.
    let mountpoint = work.path().join("mountpoint");
    std::fs::create_dir(&mountpoint).unwrap();
    let log = work.path().join("mount.err");
    let mut mount = dfs(work.path());
    mount
        .args(["mount", "-f", "--hard", "--cluster", &empty])
        .arg(&mountpoint)
        .stderr(std::fs::File::create(&log).unwrap());
    let mut mount = mount.spawn().unwrap();
    eventually("it says what it waits for", || {
        let told = std::fs::read_to_string(&log).unwrap();
        told.contains("belongs to no cluster") || told.contains("no answer yet")
    });
    // Another one may belong to one: it is waited for,
    let both = format!("{empty},{dead}");
    ask(&["ls", "/", "--timeout", "5s", "--cluster", &both]).fails(1, "no answer within 5s");
    // and found.
    let cluster = Cluster::up(&work, &[]);
    let both = format!("{empty},{}", cluster.address);
    ask(&["ls", "/", "--cluster", &both]).ok();
    assert!(mount.try_wait().unwrap().is_none(), "it waits still");
    mount.kill().unwrap();
    mount.wait().unwrap();
    assert_eq!(namenode.finish().status, Some(0));
}

#[test]
fn replicas_that_cannot_be_are_not_waited_for_in_silence() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/f"], b"f").ok();
    let log = work.path().join("setrep.err");
    let mut command = cluster.command(["setrep", "-w", "5", "/f"]);
    command.stderr(std::fs::File::create(&log).unwrap());
    let mut waiting = command.spawn().unwrap();
    let told = || std::fs::read_to_string(&log).unwrap();
    eventually("it says what it waits for", || told().ends_with('\n'));
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    let told = told();
    assert!(
        told.starts_with("dfs: waiting for 5 replicas of /f: there can be 3 now"),
        "{told}"
    );
    assert_eq!(
        cluster.run(["stat", "--format", "%r", "/f"]).text(),
        "5\n",
        "the wish stays"
    );
}
