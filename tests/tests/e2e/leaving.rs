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
    (0..8).for_each(put);
    let all_told = || {
        let status = cluster.status();
        living_replicas(&status) == 3 * chunks(&status)
    };
    eventually("all replicas are counted", all_told);
    let (away, dead) = (2, 4);
    let said = cluster.run(["datanode", "maintenance", "2"]).text();
    assert_eq!(said, "datanode 2 is in maintenance\n");
    assert_eq!(datanode(&cluster.status(), away)["state"], "maintenance");
    // Nothing new goes there.
    let held = datanode(&cluster.status(), away)["replicas"].clone();
    (8..16).for_each(put);
    eventually("all replicas are counted", all_told);
    assert_eq!(datanode(&cluster.status(), away)["replicas"], held);
    let held = held.as_u64().expect("a number");
    let all = chunks(&cluster.status());
    assert!(held > 0 && all > held, "{held} of {all}");

    // One dies that is expected to come back, and one that is not.
    for id in [away, dead] {
        let address = datanode(&cluster.status(), id)["address"].clone();
        let address = address.as_str().expect("an address");
        let role = cluster.datanode_on(address.rsplit(':').next().expect("a port"));
        cluster.kill(&role);
    }
    let settled = || {
        let status = cluster.status();
        let counts = &status["counts"];
        let both = [away, dead].map(|id| datanode(&status, id)["alive"] == false);
        let still = counts["copies_running"] == 0 && counts["chunks_under_replicated"] == 0;
        (both == [true; 2] && still).then(|| living_replicas(&status))
    };
    let expected = 3 * all - held;
    eventually("the other's replicas are copied", || {
        settled() == Some(expected)
    });

    let said = cluster.run(["datanode", "recommission", "2"]).text();
    assert_eq!(said, "datanode 2 is in service\n");
    eventually("now its own are, too", || settled() == Some(3 * all));
    for number in 0..16 {
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
        .fails(1, "Permission denied");
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
