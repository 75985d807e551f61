//! Who leaves for a while, and who leaves for good: datanodes in maintenance, namenodes that are removed.

use serde_json::Value;
use tempfile::tempdir;

use super::program::{Cluster, content, eventually};

/// Replicas on datanodes that live.
fn living_replicas(status: &Value) -> u64 {
    let datanodes = status["datanodes"].as_array().expect("datanodes");
    let living = datanodes.iter().filter(|one| one["alive"] == true);
    living.filter_map(|one| one["replicas"].as_u64()).sum()
}

fn datanode(status: &Value, id: u64) -> Value {
    let datanodes = status["datanodes"].as_array().expect("datanodes");
    let found = datanodes.iter().find(|one| one["id"] == id);
    found.expect("a known datanode").clone()
}

fn chunks(status: &Value) -> u64 {
    status["counts"]["chunks"].as_u64().expect("a number")
}

#[test]
fn what_a_datanode_in_maintenance_holds_is_not_copied() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &["--processes", "--datanodes", "5"]);
    let put = |number: u64| {
        let path = format!("/{number}");
        let bytes = content(number, 200_000);
        cluster.run_with(["put", "-", &path], &bytes).ok();
    };
    put(0);
    let all_told = || {
        let status = cluster.status();
        living_replicas(&status) == 3 * chunks(&status)
    };
    eventually("all replicas are counted", all_told);
    let status = cluster.status();
    let datanodes = status["datanodes"].as_array().expect("datanodes");
    let holders = datanodes.iter().filter(|one| one["replicas"] != 0);
    let holders: Vec<u64> = holders.filter_map(|one| one["id"].as_u64()).collect();
    let [away, dead, ..] = holders[..] else {
        panic!("three hold a chunk: {holders:?}");
    };
    let said = cluster.run(["datanode", "maintenance", &away.to_string()]);
    assert_eq!(said.text(), format!("datanode {away} is in maintenance\n"));
    assert_eq!(datanode(&cluster.status(), away)["state"], "maintenance");
    // Nothing new goes there.
    (1..8).for_each(put);
    eventually("all replicas are counted", all_told);
    assert_eq!(datanode(&cluster.status(), away)["replicas"], 1);
    let all = chunks(&cluster.status());
    assert!(all > 1, "{all}");

    // One dies that is expected to come back, and one that is not.
    for id in [away, dead] {
        let address = datanode(&cluster.status(), id)["address"].clone();
        let address = address.as_str().expect("an address");
        let role = cluster.datanode_on(address.rsplit(':').next().expect("a port"));
        cluster.kill(&role);
    }
    let settled = || {
        let status = cluster.status();
        let gone = [away, dead].map(|id| datanode(&status, id)["alive"] == false);
        let rests = status["counts"]["copies_running"] == 0;
        (gone == [true; 2] && rests).then(|| living_replicas(&status))
    };
    eventually("the other's replicas are copied", || {
        settled() == Some(3 * all - 1)
    });
    let checked = cluster.run(["--user", "0", "fsck"]).text();
    assert!(checked.contains(": 2 of 3 replicas live"), "{checked}");

    let said = cluster.run(["datanode", "recommission", &away.to_string()]);
    assert_eq!(said.text(), format!("datanode {away} is in service\n"));
    eventually("now its own are, too", || settled() == Some(3 * all));
    for number in 0..8 {
        let read = cluster.run(["cat", &format!("/{number}")]).ok();
        assert!(read == content(number, 200_000), "{number}");
    }
    cluster
        .run(["datanode", "maintenance", "42"])
        .fails(1, "datanode 42");
    cluster
        .run(["datanode", "maintenance", "all"])
        .fails(2, "not a number");
}

#[test]
fn a_namenode_that_is_removed_is_needed_no_more() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &["--processes", "--namenodes", "3"]);
    cluster.run_with(["put", "-", "/file"], b"before").ok();
    let namenodes = || -> Vec<Value> {
        let list = cluster.run(["namenode", "list", "--json"]).ok();
        serde_json::from_slice(&list).expect("a JSON array")
    };
    let before = namenodes();
    let follower = before.iter().find(|it| it["role"] == "follower");
    let follower = follower.expect("a follower");
    let id = follower["id"].to_string();
    cluster
        .run(["--user", "4321", "namenode", "remove", &id])
        .fails(1, "only the superuser may");
    assert_eq!(namenodes().len(), 3);
    let said = cluster.run(["namenode", "remove", &id]).text();
    assert_eq!(said, format!("removed {id}\n"));
    let after = namenodes();
    assert!(
        after.len() == 2 && after.iter().all(|it| it["id"] != follower["id"]),
        "{after:?}"
    );
    let place = cluster
        .address
        .split(',')
        .position(|address| follower["address"] == address);
    cluster.kill(&format!("namenode-{}", place.expect("a known address") + 1));
    cluster.run_with(["put", "-", "/after"], b"after").ok();
    assert_eq!(
        cluster.run(["cat", "/file", "/after"]).text(),
        "beforeafter"
    );
    cluster
        .run(["namenode", "remove", &id])
        .fails(1, &format!("namenode {id}"));
}
