//! What is acknowledged stays, whatever is killed or damaged.

use std::fs;
use std::os::unix::fs::FileExt;

use tempfile::tempdir;

use super::program::{Cluster, Running, content, eventually};

const PROCESSES: [&str; 5] = ["--processes", "--namenodes", "3", "--datanodes", "3"];

#[test]
fn a_put_survives_the_loss_of_the_leader_and_of_a_datanode() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &PROCESSES);
    let bytes = content(1, 90 << 20);
    let third = bytes.len() / 3;
    let mut put = Running::start(&mut cluster.command(["put", "-", "/large"]));
    // More than fits into pipes and windows, so a good part is with the cluster when each of them dies.
    put.feed(&bytes[..third]);
    let leader = cluster.leader();
    cluster.kill(&leader);
    put.feed(&bytes[third..2 * third]);
    cluster.kill("datanode-2");
    put.feed(&bytes[2 * third..]);
    put.finish().ok();
    assert_ne!(cluster.leader(), leader);
    assert!(cluster.run(["cat", "/large"]).ok() == bytes);
    // Small files go on too, with the datanodes that are left.
    for number in 0..20 {
        cluster
            .run_with(
                ["put", "-", &format!("/small-{number}")],
                &content(number, 5_000),
            )
            .ok();
    }
    for number in 0..20 {
        assert!(cluster.run(["cat", &format!("/small-{number}")]).ok() == content(number, 5_000));
    }
    let fsck = cluster.run(["--user", "0", "fsck"]);
    assert_eq!(fsck.status, Some(0), "{}", fsck.out.escape_ascii());
    // Without a majority the one that is left tells what it knows.
    cluster.kill(&cluster.leader());
    let status = cluster.run(["status"]);
    let text = String::from_utf8(status.out).unwrap();
    assert_eq!(status.status, Some(1), "{text}");
    assert!(
        text.starts_with("NO QUORUM: 1 of 3 namenodes answer"),
        "{text}"
    );
    assert_eq!(text.matches("does not answer").count(), 2, "{text}");
    assert!(
        text.contains(" files in ") && text.contains("not known"),
        "{text}"
    );
}

#[test]
fn everything_acknowledged_is_there_after_all_processes_were_killed() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &PROCESSES);
    let large = content(5, 30_000_000);
    cluster.run(["mkdir", "-p", "/d/e"]).ok();
    cluster.run_with(["put", "-", "/d/large"], &large).ok();
    for number in 0..30 {
        cluster
            .run_with(
                ["put", "-", &format!("/d/e/{number}")],
                &content(number, 1_000),
            )
            .ok();
    }
    cluster.run(["mv", "/d/e/0", "/d/moved"]).ok();
    cluster.run(["rm", "/d/e/1"]).ok();
    cluster.kill_all();

    let cluster = Cluster::up(&work, &PROCESSES);
    assert!(cluster.run(["cat", "/d/large"]).ok() == large);
    assert!(cluster.run(["cat", "/d/moved"]).ok() == content(0, 1_000));
    for number in 2..30 {
        assert!(cluster.run(["cat", &format!("/d/e/{number}")]).ok() == content(number, 1_000));
    }
    cluster
        .run(["cat", "/d/e/0", "/d/e/1"])
        .fails(1, "dfs: /d/e/1: No such file or directory");
    let fsck = cluster.run(["--user", "0", "fsck"]);
    assert_eq!(fsck.status, Some(0), "{}", fsck.out.escape_ascii());
}

#[test]
fn no_reader_gets_bytes_that_were_changed_on_a_disk() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let bytes = content(6, 3_000_000);
    cluster
        .run_with(["put", "--sync", "-", "/file"], &bytes)
        .ok();
    let replicas: Vec<_> = cluster
        .replica_files(".data")
        .into_iter()
        .filter(|path| fs::metadata(path).unwrap().len() >= bytes.len() as u64)
        .collect();
    assert_eq!(replicas.len(), 3, "{replicas:?}");
    let damaged = &replicas[1];
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(damaged)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1_500_000).unwrap();
    file.write_all_at(&[byte[0] ^ 0xff], 1_500_000).unwrap();
    // Replicas are tried in random order, so the damaged one has its turn.
    eventually("the damaged replica is replaced by a good one", || {
        assert!(cluster.run(["cat", "/file"]).ok() == bytes);
        let files = cluster.replica_files(".data");
        let contents: Vec<_> = files
            .iter()
            .filter_map(|path| fs::read(path).ok())
            .collect();
        contents
            .iter()
            .filter(|content| content.starts_with(&bytes))
            .count()
            == 3
    });
}

#[test]
fn a_datanode_that_is_killed_and_started_again_holds_what_it_held() {
    let work = tempdir().unwrap();
    let mut arguments = PROCESSES.to_vec();
    arguments.push("--restart");
    let cluster = Cluster::up(&work, &arguments);
    let bytes = content(7, 2_000_000);
    cluster.run_with(["put", "-", "/file"], &bytes).ok();
    let killed = cluster.process("datanode-3");
    cluster.kill("datanode-3");
    eventually("it runs again and all is safe", || {
        let status = cluster.status();
        let datanodes = status["datanodes"].as_array().expect("datanodes").clone();
        let alive = datanodes.iter().all(|datanode| datanode["alive"] == true);
        let started_again = cluster
            .process("datanode-3")
            .is_some_and(|now| Some(now) != killed);
        started_again && datanodes.len() == 3 && alive && status["safe"] == true
    });
    assert!(cluster.run(["cat", "/file"]).ok() == bytes);
}

#[test]
fn what_a_dead_datanode_held_is_copied_to_another() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &["--processes", "--datanodes", "4"]);
    for number in 0..6 {
        cluster
            .run_with(
                ["put", "-", &format!("/{number}")],
                &content(number, 3_000_000),
            )
            .ok();
    }
    cluster.kill("datanode-1");
    eventually("it is known to be dead", || alive(&cluster) == 3);
    eventually("every chunk has three live replicas", || {
        let fsck = cluster.run(["--user", "0", "fsck"]);
        String::from_utf8_lossy(&fsck.out).contains(": healthy")
    });
    for number in 0..6 {
        assert!(cluster.run(["cat", &format!("/{number}")]).ok() == content(number, 3_000_000));
    }
}

fn alive(cluster: &Cluster) -> usize {
    let status = cluster.status();
    let datanodes = status["datanodes"].as_array().expect("datanodes");
    datanodes
        .iter()
        .filter(|datanode| datanode["alive"] == true)
        .count()
}
