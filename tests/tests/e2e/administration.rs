//! Machines come and go while the cluster serves.

use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::messages::admin::{StatusReply, StatusRequest};
use cairn_protocol::rpc::{ConnectionOptions, Hello, Peers, RpcError};
use cairn_protocol::{ErrorCode, Method};
use serde_json::Value;
use tempfile::tempdir;

use super::program::{Cluster, Running, content, dfs, eventually, finish, free_ports};

#[test]
fn a_datanode_is_decommissioned_and_forgotten() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &["--processes", "--datanodes", "4"]);
    for number in 0..8 {
        cluster
            .run_with(
                ["put", "-", &format!("/{number}")],
                &content(number, 2_000_000),
            )
            .ok();
    }
    let listed = datanodes(&cluster);
    for datanode in &listed {
        let address = datanode["address"].as_str().expect("an address");
        let role = cluster.datanode_on(address.rsplit(':').next().expect("a port"));
        assert_eq!(role, format!("datanode-{}", datanode["id"]));
    }
    let leaving = &listed[0];
    let id = leaving["id"].to_string();
    cluster
        .run(["datanode", "forget", &id])
        .fails(1, "decommission it first");
    cluster.run(["datanode", "decommission", &id]).ok();
    eventually("its replicas are elsewhere", || {
        datanodes(&cluster)
            .iter()
            .any(|datanode| datanode["id"] == leaving["id"] && datanode["replicas"] == 0)
    });
    eventually("it is decommissioned", || {
        cluster
            .run(["datanode", "list"])
            .text()
            .contains(" decommissioned ")
    });
    let port = leaving["address"]
        .as_str()
        .expect("an address")
        .rsplit(':')
        .next()
        .expect("a port")
        .to_owned();
    let role = cluster.datanode_on(&port);
    cluster.kill(&role);
    cluster.run(["datanode", "forget", &id]).ok();
    eventually("it is not listed any more", || {
        datanodes(&cluster).len() == 3
    });
    for number in 0..8 {
        assert!(cluster.run(["cat", &format!("/{number}")]).ok() == content(number, 2_000_000));
    }
}

#[test]
fn a_datanode_that_is_forgotten_while_it_runs_ends_and_says_what_to_do() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &["--processes", "--datanodes", "4"]);
    let leaving = &datanodes(&cluster)[3];
    let id = leaving["id"].to_string();
    cluster.run(["datanode", "decommission", &id]).ok();
    eventually("it is decommissioned", || {
        cluster
            .run(["datanode", "list"])
            .text()
            .contains(" decommissioned ")
    });
    let address = leaving["address"].as_str().expect("an address");
    let role = cluster.datanode_on(address.rsplit(':').next().expect("a port"));
    cluster.run(["datanode", "forget", &id]).ok();
    let folder = work.path().join("cluster");
    let log = folder.join(format!("logs/{role}.log"));
    let sentence = format!("datanode {id} was forgotten");
    eventually("it says why it ends", || {
        std::fs::read_to_string(&log)
            .expect("a log")
            .contains(&sentence)
    });
    // Neither it nor another start of it becomes another datanode.
    let again = || {
        let mut datanode = dfs(work.path());
        datanode.args(["datanode", "--config"]);
        finish(
            datanode.arg(folder.join(format!("config/{role}.toml"))),
            b"",
        )
    };
    eventually("its volume is free", || !again().err.contains("in use"));
    let refused = again();
    assert!(
        refused
            .err
            .contains(&folder.join(&role).display().to_string()),
        "{}",
        refused.err
    );
    refused.fails(1, &sentence);
    assert_eq!(datanodes(&cluster).len(), 3);
}

#[test]
fn a_cluster_on_one_machine_starts_without_a_datanode_that_was_forgotten() {
    for how in [&["--processes"][..], &[]] {
        let work = tempdir().unwrap();
        let cluster = Cluster::up(&work, &[&["--datanodes", "4"], how].concat());
        cluster.run_with(["put", "-", "/file"], b"kept").ok();
        let id = datanodes(&cluster)[3]["id"].to_string();
        cluster.run(["datanode", "decommission", &id]).ok();
        eventually("it is decommissioned", || {
            let list = cluster.run(["datanode", "list"]).text();
            list.contains(" decommissioned ")
        });
        cluster.run(["datanode", "forget", &id]).ok();
        cluster.stop();

        let cluster = Cluster::up(&work, how);
        let volume = cluster.directory().join("datanode-4");
        let sentence = "datanode-4 is not started: the cluster has forgotten it";
        assert!(cluster.said.contains(sentence), "{}", cluster.said);
        assert!(
            cluster.said.contains("3 datanodes") && cluster.said.contains(volume.to_str().unwrap()),
            "{}",
            cluster.said
        );
        assert_eq!(datanodes(&cluster).len(), 3);
        assert_eq!(cluster.run(["cat", "/file"]).text(), "kept");
        assert!(volume.join("VERSION").exists());
        assert_eq!(cluster.stop(), Some(0));

        std::fs::remove_dir_all(&volume).unwrap();
        let cluster = Cluster::up(&work, how);
        assert!(!cluster.said.contains("not started"), "{}", cluster.said);
        assert_eq!(datanodes(&cluster).len(), 4);
        assert_eq!(cluster.run(["cat", "/file"]).text(), "kept");
    }
}

/// What a namenode itself says of its cluster.
fn ask_locally(address: &str) -> Result<StatusReply, RpcError> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let peers = Peers::new(Hello::new("client", None, 0), ConnectionOptions::default());
        let request = StatusRequest {
            local: true,
            ..StatusRequest::default()
        };
        let patience = Duration::from_secs(60);
        let asked = peers.call_typed(
            address,
            Method::Status.into(),
            &request,
            Bytes::new(),
            patience,
        );
        asked.await.map(|(status, _)| status)
    })
}

fn datanodes(cluster: &Cluster) -> Vec<Value> {
    let list = cluster.run(["datanode", "list", "--json"]).ok();
    serde_json::from_slice(&list).expect("a JSON array")
}

#[test]
fn a_namenode_is_replaced_and_leadership_handed_over() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &["--processes", "--namenodes", "3"]);
    cluster.run_with(["put", "-", "/file"], b"before").ok();
    let before = namenodes(&cluster);
    let old = before
        .iter()
        .find(|namenode| namenode["role"] == "follower")
        .expect("a follower");
    let leader = before
        .iter()
        .find(|namenode| namenode["role"] == "leader")
        .expect("a leader");

    let address = format!("127.0.0.1:{}", free_ports());
    let directory = work.path().join("fourth");
    let mut fourth = dfs(work.path());
    fourth.args([
        "namenode",
        "--http",
        "",
        "--listen",
        &address,
        "--advertise",
        &address,
    ]);
    fourth
        .args(["--namenodes", &cluster.address, "--dir"])
        .arg(&directory)
        .arg("--follow-stdin");
    let fourth = Running::start(&mut fourth);
    eventually("the new namenode can be added", || {
        let add = [
            "--user",
            "0",
            "namenode",
            "add",
            &address,
            "--replace",
            &old["id"].to_string(),
        ];
        cluster.run(add).status == Some(0)
    });
    let after = namenodes(&cluster);
    assert_eq!(after.len(), 3);
    assert!(
        after
            .iter()
            .any(|namenode| namenode["address"] == address.as_str()),
        "{after:?}"
    );
    assert!(
        !after.iter().any(|namenode| namenode["id"] == old["id"]),
        "{after:?}"
    );

    cluster.run(["--user", "0", "namenode", "transfer"]).ok();
    eventually("another one leads", || {
        namenodes(&cluster)
            .iter()
            .any(|namenode| namenode["role"] == "leader" && namenode["id"] != leader["id"])
    });
    cluster.run_with(["put", "-", "/after"], b"after").ok();
    assert_eq!(
        cluster.run(["cat", "/file", "/after"]).text(),
        "beforeafter"
    );
    assert_eq!(fourth.finish().status, Some(0));
}

#[test]
fn a_namenode_that_was_removed_while_it_was_down_says_so() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &["--processes", "--namenodes", "3"]);
    let before = namenodes(&cluster);
    let follower = before.iter().find(|one| one["role"] == "follower");
    let follower = follower.expect("a follower");
    let (id, address) = (follower["id"].to_string(), &follower["address"]);
    let address = address.as_str().expect("an address");
    let place = cluster.address.split(',').position(|one| one == address);
    let role = format!("namenode-{}", place.expect("a known address") + 1);
    cluster.kill(&role);
    cluster.run(["--user", "0", "namenode", "remove", &id]).ok();
    let log = work.path().join("removed.log");
    let mut removed = cluster.role(&role);
    removed
        .arg("--follow-stdin")
        .stdin(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap());
    let mut removed = removed.spawn().unwrap();
    eventually("it says that it was removed", || {
        let log = std::fs::read_to_string(&log).unwrap();
        log.contains("was removed from its cluster or replaced: stop it and remove its directory")
    });
    let refused = ask_locally(address).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Unavailable);
    assert!(
        refused.to_string().contains("was removed from its cluster"),
        "{refused}"
    );
    // The others go on without it, and it still knows where they are.
    cluster.run_with(["put", "-", "/after"], b"after").ok();
    let list = ["namenode", "list", "--json", "--cluster", address];
    let list: Vec<Value> = serde_json::from_slice(&cluster.run(list).ok()).expect("JSON");
    assert!(
        list.len() == 2 && list.iter().all(|one| one["reachable"] == true),
        "{list:?}"
    );
    drop(removed.stdin.take());
    assert!(removed.wait().unwrap().success());
}

#[test]
fn a_cluster_is_founded_by_command_and_never_by_a_namenode_that_lost_its_data() {
    let work = tempdir().unwrap();
    let port = free_ports();
    let addresses: Vec<String> = (0..3)
        .map(|index| format!("127.0.0.1:{}", port + index))
        .collect();
    let start = |index: usize| {
        let mut namenode = dfs(work.path());
        namenode
            .args([
                "namenode",
                "--http",
                "",
                "--follow-stdin",
                "--listen",
                &addresses[index],
            ])
            .args(["--namenodes", &addresses.join(","), "--dir"])
            .arg(work.path().join(format!("namenode-{index}")));
        Running::start(&mut namenode)
    };
    let operator = |arguments: &[&str]| {
        let mut operator = dfs(work.path());
        operator.args(["--cluster", &addresses.join(","), "--user", "0"]);
        finish(operator.args(arguments), b"")
    };
    let (first, second) = (start(0), start(1));
    let found = ["namenode", "found"];
    let early = ["--timeout", "5s", "namenode", "found"];
    for address in &addresses[..2] {
        eventually("a namenode listens", || TcpStream::connect(address).is_ok());
    }
    operator(&early).fails(1, &addresses[2]);
    let third = start(2);
    operator(&["namenode", "found", &addresses[1]])
        .fails(1, &format!("dfs namenode found {}", addresses[0]));
    for _ in 0..2 {
        let founded = operator(&found).text();
        assert!(
            addresses.iter().all(|address| founded.contains(address)),
            "{founded}"
        );
    }
    operator(&["mkdir", "/kept"]).ok();
    let before = operator(&["namenode", "list", "--json"]).ok();
    assert_eq!(first.finish().status, Some(0));
    std::fs::remove_dir_all(work.path().join("namenode-0")).unwrap();
    let first = start(0);
    operator(&found).fails(1, &format!("dfs namenode add {}", addresses[0]));
    operator(&["test", "-d", "/kept"]).ok();
    let before: Vec<Value> = serde_json::from_slice(&before).expect("a JSON array");
    let lost = before
        .iter()
        .find(|namenode| namenode["address"] == addresses[0].as_str());
    let lost = lost.expect("the first namenode")["id"].to_string();
    operator(&["namenode", "add", &addresses[0], "--replace", &lost]).ok();
    // With it there is a majority without the second.
    assert_eq!(second.finish().status, Some(0));
    operator(&["test", "-d", "/kept"]).ok();
    for namenode in [first, third] {
        assert_eq!(namenode.finish().status, Some(0));
    }
}

fn namenodes(cluster: &Cluster) -> Vec<Value> {
    let list = cluster.run(["namenode", "list", "--json"]).ok();
    serde_json::from_slice(&list).expect("a JSON array")
}
