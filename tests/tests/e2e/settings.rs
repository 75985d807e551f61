//! Settings that cannot be meant are refused before anything happens, in words that help.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use tempfile::tempdir;

use super::program::{Cluster, Finished, dfs, finish};

fn check(role: &str, settings: &str) -> Finished {
    let work = tempdir().expect("a directory");
    let file = work.path().join("settings.toml");
    fs::write(&file, settings).expect("write settings");
    finish(
        dfs(work.path())
            .arg(role)
            .arg("--config")
            .arg(&file)
            .arg("--check"),
        b"",
    )
}

#[test]
fn settings_that_are_right_are_told_so() {
    assert_eq!(check("namenode", "directory = \"/x\"").status, Some(0));
    assert_eq!(
        check("datanode", "namenodes = [\"a:1\"]\nvolumes = [\"/x\"]").status,
        Some(0)
    );
}

#[test]
fn unknown_keys_are_named() {
    check("namenode", "directory = \"/x\"\nreplicas = 3\n").fails(1, "unknown field `replicas`");
    check("namenode", "directory = \"/x\"\n[cluster]\nreplicas = 3\n")
        .fails(1, "unknown field `replicas`");
    check("datanode", "volume = [\"/x\"]\n").fails(1, "unknown field `volume`");
}

#[test]
fn values_without_or_with_bad_units_are_refused() {
    let header = "namenodes = [\"a:1\"]\nvolumes = [\"/x\"]\n";
    check("datanode", &format!("{header}reserve = \"1 gallon\""))
        .fails(1, "`1 gallon` is not a size");
    check("datanode", &format!("{header}heartbeat_interval = 3")).fails(1, "such as \"10s\"");
    check("datanode", &format!("{header}reserve = \"1 MiB\"")).fails(1, "must stay free");
    check(
        "namenode",
        "directory = \"/x\"\n[cluster]\nchunk_size = \"1 GiB\"",
    )
    .fails(1, "1 MiB to 128 MiB");
    check(
        "namenode",
        "directory = \"/x\"\nnamenodes = [\"a:1\", \"b:1\"]",
    )
    .fails(1, "one, three or five");
}

#[test]
fn a_directory_in_use_or_full_of_other_things_is_refused() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let home = work.path();
    let directory = work.path().join("cluster");
    let again = |directory: &std::path::Path| {
        finish(
            dfs(home)
                .args(["up", "--port", "0", "--http", "0", "--dir"])
                .arg(directory),
            b"",
        )
    };
    again(&directory).fails(1, "in use");
    let volume = directory.join("datanode-1");
    let second = finish(
        dfs(home)
            .args([
                "datanode",
                "--listen",
                "127.0.0.1:0",
                "--namenodes",
                &cluster.address,
                "--volume",
            ])
            .arg(&volume),
        b"",
    );
    second.fails(1, "in use");
    let other = work.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.txt"), "years of work").unwrap();
    again(&other).fails(1, "thesis.txt");
    assert_eq!(
        fs::read_to_string(other.join("thesis.txt")).unwrap(),
        "years of work"
    );
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
}

#[test]
fn a_refused_start_leaves_nothing_behind_and_changes_nothing() {
    let work = tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let up = |directory: &Path, options: &[&str]| {
        let mut command = dfs(work.path());
        command.args(["up", "--dir"]).arg(directory).args(options);
        finish(&mut command, b"")
    };
    let options = [
        (["--port", "0", "--otlp", "nowhere"], "otlp"),
        (["--port", &port, "--http", "0"], "cannot be used"),
    ];
    for (options, message) in options {
        up(&work.path().join("new/cluster"), &options).fails(1, message);
        assert!(!work.path().join("new").exists(), "{options:?}");
    }
    // A cluster that exists stays as it is.
    let cluster = Cluster::up(&work, &[]);
    let directory = cluster.directory().to_path_buf();
    assert_eq!(cluster.stop(), Some(0));
    let files = || -> Vec<_> {
        let entries = fs::read_dir(&directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort_unstable();
        names
    };
    let layout = || fs::read_to_string(directory.join("up.toml")).unwrap();
    let before = (files(), layout());
    up(&directory, &["--datanodes", "5", "--http", &port]).fails(1, "cannot be used");
    assert_eq!((files(), layout()), before);
}

#[test]
fn volumes_of_another_cluster_are_refused_and_left_alone() {
    let (work, other) = (tempdir().unwrap(), tempdir().unwrap());
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/file"], b"ours").ok();
    assert_eq!(cluster.stop(), Some(0));
    let strangers = Cluster::up(&other, &[]);
    let volume = work.path().join("cluster/datanode-1");
    let mut datanode = dfs(work.path());
    datanode.args(["datanode", "--listen", "127.0.0.1:0"]);
    datanode
        .args(["--namenodes", &strangers.address, "--volume"])
        .arg(&volume);
    finish(&mut datanode, b"").fails(1, "belong to cluster");
    assert_eq!(
        strangers.status()["datanodes"].as_array().map(Vec::len),
        Some(3)
    );
    drop(strangers);
    let cluster = Cluster::up(&work, &[]);
    assert_eq!(cluster.run(["cat", "/file"]).text(), "ours");
}
