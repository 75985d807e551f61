//! `/api/v1` against a cluster in this process: what WebHDFS cannot say.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cairn_daemon::config::{GatewayAuth, GatewaySettings};
use cairn_tests::harness::{ClusterOptions, MiniCluster};
use futures::StreamExt;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

async fn cluster() -> MiniCluster {
    let options = ClusterOptions {
        http: Some(GatewaySettings {
            auth: GatewayAuth::Simple,
            ..GatewaySettings::default()
        }),
        ..ClusterOptions::default()
    };
    MiniCluster::start(options).await.unwrap()
}

/// A gateway, asked in the name of a user.
struct Api {
    client: Client,
    base: String,
    user: &'static str,
}

impl Api {
    fn at(address: SocketAddr) -> Self {
        Self {
            client: Client::new(),
            base: format!("http://{address}"),
            user: "root",
        }
    }

    fn of(cluster: &MiniCluster) -> Self {
        Self::at(cluster.namenode_http(0).unwrap())
    }

    fn user(mut self, user: &'static str) -> Self {
        self.user = user;
        self
    }

    fn request(&self, method: Method, rest: &str) -> RequestBuilder {
        let sign = if rest.contains('?') { '&' } else { '?' };
        let url = format!("{}{rest}{sign}user.name={}", self.base, self.user);
        self.client.request(method, url)
    }

    async fn put(&self, path: &str, content: &'static str) {
        let rest = format!("/webhdfs/v1{path}?op=CREATE&overwrite=true&namenoderpcaddress=x");
        let sent = self.request(Method::PUT, &rest).body(content).send();
        assert_eq!(sent.await.unwrap().status(), 201, "{path}");
    }

    async fn read(&self, path: &str) -> String {
        let rest = format!("/webhdfs/v1{path}?op=OPEN&namenoderpcaddress=x");
        let sent = self.request(Method::GET, &rest).send().await.unwrap();
        sent.text().await.unwrap()
    }

    async fn get(&self, rest: &str) -> Value {
        said(self.request(Method::GET, rest), 200).await
    }

    async fn post(&self, rest: &str, body: Value, status: u16) -> Value {
        said(self.request(Method::POST, rest).json(&body), status).await
    }
}

/// The document that a request is answered with, and its status.
async fn said(request: RequestBuilder, status: u16) -> Value {
    let response = request.send().await.unwrap();
    let found = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(found.as_u16(), status, "{text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_carried_out_as_a_whole_by_who_may() {
    let cluster = cluster().await;
    let root = Api::of(&cluster);
    root.put("/a", "one").await;
    let both = json!({
        "preconditions": [{ "path": "/a", "exists": true }, { "path": "/d", "exists": false }],
        "operations": [
            { "op": "mkdir", "path": "/d", "mode": "750" },
            { "op": "rename", "source": "/a", "target": "/d/a" },
        ],
    });
    let ada = Api::of(&cluster).user("77");
    let refused = ada.post("/api/v1/transactions", both.clone(), 403).await;
    assert_eq!(refused["code"], "PermissionDenied");
    let done = root.post("/api/v1/transactions", both.clone(), 200).await;
    assert_eq!(done["outcomes"].as_array().unwrap().len(), 2);
    assert_eq!(root.read("/d/a").await, "one");
    let again = root.post("/api/v1/transactions", both, 412).await;
    assert_eq!(again["code"], "PreconditionFailed");
    // The second fails, so the first does not happen.
    let half = json!({ "operations": [
        { "op": "mkdir", "path": "/e" },
        { "op": "rmdir", "path": "/d" },
    ]});
    assert_eq!(
        root.post("/api/v1/transactions", half, 409).await["code"],
        "NotEmpty"
    );
    let names = root.get("/api/v1/files?path=/").await;
    assert_eq!(names["entries"].as_array().unwrap().len(), 1, "{names}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_and_clones() {
    let cluster = cluster().await;
    let root = Api::of(&cluster);
    root.put("/log", "").await;
    for (record, offset) in [("first\n", 0), ("second\n", 6)] {
        let request = root.request(Method::POST, "/api/v1/files/append?path=/log");
        let appended = said(request.body(record), 200).await;
        assert_eq!(
            appended,
            json!({ "offset": offset, "length": record.len() })
        );
    }
    let clone = json!({ "source": "/log", "target": "/copy" });
    let cloned = root.post("/api/v1/files/clone", clone.clone(), 201).await;
    assert_eq!(cloned["size"], 13);
    let request = root.request(Method::POST, "/api/v1/files/append?path=/log");
    said(request.body("third\n"), 200).await;
    assert_eq!(root.read("/copy").await, "first\nsecond\n");
    let again = root.post("/api/v1/files/clone", clone, 409).await;
    assert_eq!(again["code"], "AlreadyExists");
    let over = json!({ "source": "/log", "target": "/copy", "overwrite": true });
    root.post("/api/v1/files/clone", over, 201).await;
    assert_eq!(root.read("/copy").await, "first\nsecond\nthird\n");

    let details = root.get("/api/v1/files/details?path=/copy").await;
    let covered = details["extents"].as_array().unwrap().iter();
    let covered: u64 = covered.map(|one| one["length"].as_u64().unwrap()).sum();
    assert_eq!(covered, 19, "{details}");
    let replicas = details["chunks"][0]["replicas"].as_array().unwrap();
    assert_eq!(replicas.len(), 3);
    // A gateway that has just begun to look may not know yet.
    assert!(
        replicas.iter().all(|one| one["alive"] != false),
        "{details}"
    );
    let names = root.get("/api/v1/files?path=/").await;
    assert_eq!(names["entries"].as_array().unwrap().len(), 2, "{names}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_lasts_as_long_as_its_lease() {
    let cluster = cluster().await;
    let (root, ada) = (Api::of(&cluster), Api::of(&cluster).user("77"));
    root.put("/counter", "0").await;
    said(
        root.request(
            Method::PUT,
            "/webhdfs/v1/counter?op=SETPERMISSION&permission=666",
        ),
        200,
    )
    .await;
    let write = json!({ "path": "/counter", "mode": "write" });
    let held = root.post("/api/v1/locks", write.clone(), 201).await;
    let name = format!("/api/v1/locks/{}", held["lock"].as_str().unwrap());
    // From another gateway, too.
    let elsewhere = Api::at(cluster.datanode_http(0).unwrap()).user("77");
    let refused = elsewhere.post("/api/v1/locks", write.clone(), 409).await;
    assert_eq!(refused["holder"]["mode"], "write", "{refused}");
    let locks = ada.get("/api/v1/locks?path=/counter").await;
    assert_eq!(locks.as_array().unwrap().len(), 1);
    assert_eq!(
        said(root.request(Method::PUT, &name), 200).await["lease_seconds"],
        30
    );
    said(ada.request(Method::DELETE, &name), 404).await;
    said(root.request(Method::DELETE, &name), 204).await;
    said(root.request(Method::DELETE, &name), 404).await;

    // Nobody renews this one: who waits gets it when its lease ends.
    let brief = json!({ "path": "/counter", "mode": "write", "lease_seconds": 1 });
    root.post("/api/v1/locks", brief, 201).await;
    let wait = json!({ "path": "/counter", "mode": "write", "wait_seconds": 60 });
    elsewhere.post("/api/v1/locks", wait, 201).await;
    root.post(
        "/api/v1/locks",
        json!({ "path": "/counter", "mode": "read", "lease_seconds": 0 }),
        400,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_was_lost_is_not_renewed() {
    let mut cluster = MiniCluster::start(ClusterOptions {
        http: Some(GatewaySettings {
            auth: GatewayAuth::Simple,
            ..GatewaySettings::default()
        }),
        namenodes: 1,
        datanodes: 1,
        replication: 1,
        ..ClusterOptions::default()
    })
    .await
    .unwrap();
    let root = Api::at(cluster.datanode_http(0).unwrap());
    root.put("/counter", "0").await;
    let write = json!({ "path": "/counter", "mode": "write", "lease_seconds": 600 });
    let held = root.post("/api/v1/locks", write, 201).await;
    let name = format!("/api/v1/locks/{}", held["lock"].as_str().unwrap());
    said(root.request(Method::PUT, &name), 200).await;
    // Nobody hears of the gateway for longer than its session lives.
    cluster.kill_namenode(0).await;
    let renewed = async || {
        let sent = root.request(Method::PUT, &name).send().await.unwrap();
        let lost = sent.json::<Value>().await.unwrap();
        anyhow::ensure!(lost["code"] == "LockLost", "{lost}");
        Ok(())
    };
    cluster.until("the lock is lost", renewed).await.unwrap();
    said(root.request(Method::PUT, &name), 404).await;
    cluster.start_namenode(0).await.unwrap();
    // It is free as soon as the namenode, too, has seen that session end, and the gateway has let go of it.
    let wait = json!({ "path": "/counter", "mode": "write", "wait_seconds": 60 });
    root.post("/api/v1/locks", wait, 201).await;
}

/// Reads a feed until an event has this text.
async fn hears(response: Response, name: &str, text: &str) {
    let mut stream = response.bytes_stream();
    let mut all = String::new();
    let heard = timeout(PATIENCE, async {
        while let Some(bytes) = stream.next().await {
            all.push_str(&String::from_utf8_lossy(&bytes.unwrap()));
            let event = all.split("\n\n").find(|event| event.contains(text));
            if event.is_some_and(|event| event.contains(&format!("event: {name}"))) {
                return;
            }
        }
    });
    assert!(heard.await.is_ok(), "no {name} with {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_tell_what_changes_and_what_changed_before() {
    let cluster = cluster().await;
    let root = Api::of(&cluster);
    root.put("/before", "x").await;
    let before = root.get("/api/v1/status").await["applied_index"]
        .as_u64()
        .unwrap();
    let feed = root
        .request(Method::GET, "/api/v1/changes?path=/")
        .send()
        .await
        .unwrap();
    assert_eq!(feed.headers()["content-type"], "text/event-stream");
    root.put("/named-now", "x").await;
    hears(feed, "changes", "named-now").await;
    let resumed = root.request(Method::GET, "/api/v1/changes");
    let resumed = resumed.header("last-event-id", before.to_string()).send();
    hears(resumed.await.unwrap(), "changes", "named-now").await;
    let with_paths = "/api/v1/changes?paths=true";
    let resumed = root.request(Method::GET, with_paths);
    let resumed = resumed.header("last-event-id", before.to_string()).send();
    hears(resumed.await.unwrap(), "changes", "\"path\":\"/named-now\"").await;
    for (name, text) in [
        ("overview", "All data is safe"),
        ("changes", "\"path\":\"/before\""),
    ] {
        let events = root.request(Method::GET, "/api/v1/events").send();
        hears(events.await.unwrap(), name, text).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_overview_says_what_is_at_risk_and_that_it_is_over() {
    let mut cluster = cluster().await;
    let root = Api::of(&cluster);
    root.put("/a", "content").await;
    let level = |overview: &Value| overview["safety"]["level"].as_str().unwrap().to_owned();
    let is = async |wanted: &str| {
        let reached = async {
            loop {
                let overview = root.get("/api/v1/overview").await;
                if level(&overview) == wanted {
                    return overview;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap()
    };
    let safe = is("safe").await;
    assert_eq!(safe["status"]["counts"]["files"], 1);
    assert_eq!(safe["safety"]["repair"]["state"], "none");
    assert_eq!(safe["user"], "root");
    cluster.kill_datanode(0).await;
    let warned = is("warned").await;
    assert_eq!(warned["safety"]["since_seen"], true, "{}", warned["safety"]);
    cluster.start_datanode(0).await.unwrap();
    is("safe").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_sites_change_nothing() {
    let cluster = cluster().await;
    let root = Api::of(&cluster);
    root.put("/a", "x").await;
    for rest in ["/webhdfs/v1/a?op=DELETE", "/api/v1/locks/1"] {
        let foreign = root
            .request(Method::DELETE, rest)
            .header("origin", "http://evil.example");
        assert_eq!(said(foreign, 403).await["code"], "PermissionDenied");
        let foreign = root
            .request(Method::DELETE, rest)
            .header("sec-fetch-site", "cross-site");
        said(foreign, 403).await;
    }
    assert_eq!(root.read("/a").await, "x");
    // A page whose name server says that its name is our address is of no other site to the browser.
    for rest in ["/webhdfs/v1/a?op=OPEN", "/api/v1/files?path=/"] {
        let rebound = root.request(Method::GET, rest);
        let rebound = rebound.header("host", "evil.example:9870");
        assert_eq!(said(rebound, 403).await["code"], "PermissionDenied");
    }
    let named = root.request(Method::GET, "/api/v1/files?path=/");
    said(named.header("host", "localhost:9870"), 200).await;
    let own = root
        .request(Method::DELETE, "/webhdfs/v1/a?op=DELETE")
        .header("origin", &root.base);
    said(own, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_told_why() {
    let cluster = cluster().await;
    let root = Api::of(&cluster);
    let get = |rest: &str| root.request(Method::GET, rest);
    for (request, status) in [
        (get("/api/v1/files"), 400),
        (get("/api/v1/files?path=a"), 400),
        (get("/api/v1/files?path=/none"), 404),
        (get("/api/v1/files/details?path=/%00"), 400),
        (get("/api/v1/files/details?path=/&offset=x"), 400),
        (get("/api/v1/none"), 404),
        (root.request(Method::DELETE, "/api/v1/status"), 405),
        (root.request(Method::PUT, "/api/v1/locks/x"), 404),
        (root.request(Method::PUT, "/api/v1/locks/%ff"), 400),
        (root.request(Method::POST, "/api/v1/locks").body("{}"), 415),
        (
            root.request(Method::POST, "/api/v1/locks").json(&json!({})),
            400,
        ),
        (
            root.request(Method::POST, "/api/v1/files/append?path=/"),
            409,
        ),
        (root.request(Method::GET, "/api/v1/changes?path=/none"), 404),
    ] {
        let problem = said(request, status).await;
        assert!(
            problem["error"].is_string() && problem["code"].is_string(),
            "{problem}"
        );
    }
    let stranger = Api::of(&cluster).user("no-such-user");
    let problem = said(stranger.request(Method::GET, "/api/v1/files?path=/"), 401).await;
    assert_eq!(problem["code"], "Unauthenticated");
}

/// Names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let word = |letter: char| !(letter.is_ascii_alphanumeric() || letter == '_');
    let names = text.split(word).filter(|name| name.starts_with("dfs_"));
    names.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dashboards_and_alerts_name_metrics_that_exist() {
    let cluster = cluster().await;
    let root = Api::of(&cluster);
    // What is counted by a label is there when something was counted.
    root.put("/a", "x").await;
    let datanode = Api::at(cluster.datanode_http(0).unwrap());
    datanode.put("/b", "x").await;
    assert!(datanode.read("/none").await.contains("FileNotFound"));
    root.get("/api/v1/overview").await;
    let mut exposed = String::new();
    for api in [&root, &datanode] {
        let text = api
            .client
            .get(format!("{}/metrics", api.base))
            .send()
            .await
            .unwrap();
        exposed.push_str(&text.text().await.unwrap());
    }
    let exposed = metrics_in(&exposed);
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    for file in ["grafana/cairn.json", "prometheus/cairn.rules.yml"] {
        let text = fs::read_to_string(deploy.join(file)).unwrap();
        let named: Vec<String> = metrics_in(&text)
            .into_iter()
            .filter(|name| !name.ends_with('_'))
            .collect();
        assert!(named.len() > 10, "{named:?}");
        for name in named {
            assert!(
                exposed.contains(&name),
                "{file} names {name}, which is nowhere in {exposed:?}"
            );
        }
    }
}
