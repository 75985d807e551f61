//! Where transfers are sent when datanodes die: never to one that the cluster knows to be dead, and to another one for a client that found
//! out before the cluster did.

use std::time::Duration;

use cairn_client::FileSystem;
use cairn_protocol::ids::DatanodeId;
use cairn_tests::harness::{ClusterOptions, MiniCluster};
use reqwest::{Method, StatusCode};
use tokio::time::{sleep, timeout};

use super::{Web, options};

/// It says that a test hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// `host:port` of a gateway that a transfer is sent to, and the whole place.
async fn sent_to(web: &Web, method: Method, rest: &str) -> (String, String) {
    let answer = web.ok(method, &format!("{rest}&noredirect=true")).await;
    let location = answer["Location"].as_str().unwrap().to_owned();
    let rest = location.strip_prefix("http://").unwrap();
    let authority = rest.split_once('/').unwrap().0.to_owned();
    (authority, location)
}

/// Waits until the leader says so.
async fn known_to_be_dead(fs: &FileSystem, id: DatanodeId) {
    let known = async {
        loop {
            let status = fs.status().await.unwrap();
            let mut datanodes = status.datanodes.iter();
            if datanodes.any(|one| one.address.datanode == id.0 && !one.alive) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, known).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_are_not_sent_to_a_datanode_that_was_killed() {
    let wanted = ClusterOptions {
        namenodes: 3,
        datanodes: 4,
        replication: 2,
        ..options()
    };
    let mut cluster = MiniCluster::start(wanted).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let web = Web::new(&cluster);
    web.create("/file", "content").await;
    let (open, create) = ("/file?op=OPEN", "/new?op=CREATE&overwrite=true");
    let (killed, _) = sent_to(&web, Method::GET, open).await;
    let mut gateways = (0..4).map(|index| cluster.datanode_http(index).unwrap().to_string());
    let index = gateways.position(|one| one == killed).unwrap();
    let id = cluster.datanode_id(index).unwrap();
    cluster.kill_datanode(index).await;

    // Nobody knows yet but the client, who was sent there.
    let excluding = |rest: &str| format!("{rest}&excludedatanodes={killed}");
    for _ in 0..8 {
        let (other, location) = sent_to(&web, Method::GET, &excluding(open)).await;
        assert_ne!(other, killed);
        let read = web.client.get(&location).send().await.unwrap();
        assert_eq!(read.bytes().await.unwrap(), "content");
        let (other, location) = sent_to(&web, Method::PUT, &excluding(create)).await;
        assert_ne!(other, killed);
        let put = web.client.put(&location).body("new").send().await.unwrap();
        assert_eq!(put.status(), StatusCode::CREATED, "{location}");
    }
    assert_eq!(web.read(&excluding("/new?op=OPEN")).await, b"new");

    known_to_be_dead(&fs, id).await;
    // What a gateway has asked for it believes for a second: these have not asked yet.
    for gateway in 1..3 {
        let web = Web::at(cluster.namenode_http(gateway).unwrap());
        for _ in 0..16 {
            for (method, rest) in [(Method::GET, open), (Method::PUT, create)] {
                let (authority, _) = sent_to(&web, method, rest).await;
                assert_ne!(authority, killed, "{rest} from gateway {gateway}");
            }
            let checksum = "/file?op=GETFILECHECKSUM";
            let (authority, _) = sent_to(&web, Method::GET, checksum).await;
            assert_ne!(authority, killed, "{checksum} from gateway {gateway}");
        }
        assert_eq!(web.read(open).await, b"content");
    }
}
