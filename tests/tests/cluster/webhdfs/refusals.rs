//! What is refused: people who are not believed, requests that make no sense, what Cairn has not, and too much of anything.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_daemon::config::{GatewayAuth, GatewaySettings};
use cairn_tests::harness::{ClusterOptions, MiniCluster};
use reqwest::header::{CONTENT_TYPE, USER_AGENT};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Web, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_believed_unless_the_operator_says_so() {
    let cluster = MiniCluster::start(ClusterOptions {
        http: Some(GatewaySettings::default()),
        ..ClusterOptions::default()
    })
    .await
    .unwrap();
    for address in [cluster.namenode_http(0), cluster.datanode_http(0)] {
        let web = Web::at(address.unwrap());
        for (method, rest) in [
            (Method::GET, "/?op=LISTSTATUS"),
            (Method::GET, "/?op=GETHOMEDIRECTORY"),
            (Method::PUT, "/x?op=MKDIRS"),
            (Method::PUT, "/x?op=CREATE&namenoderpcaddress=x"),
        ] {
            let message = web.refused(method, rest, 401, "SecurityException").await;
            assert!(
                message.contains("tokens are not supported yet"),
                "{message}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_those_of_this_machine() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster).user("no-such-user-here");
    let message = web
        .refused(Method::GET, "/?op=LISTSTATUS", 401, "SecurityException")
        .await;
    assert!(message.contains("no user `no-such-user-here`"), "{message}");
    let root = Web::new(&cluster);
    root.refused(
        Method::GET,
        "/?op=LISTSTATUS&doas=nobody",
        403,
        "AuthorizationException",
    )
    .await;
    root.refused(
        Method::GET,
        "/?op=LISTSTATUS&delegation=abc",
        401,
        "SecurityException",
    )
    .await;
    // Without a name: nobody, who makes nothing here.
    let nobody = format!("{}/x?op=MKDIRS", root.base);
    let refused = root.client.put(nobody).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(refused.text().await.unwrap().contains("user=dr.who"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_named() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    for (method, rest) in [
        (Method::GET, "/?op=FLY"),
        (Method::GET, "/?x=y"),
        (Method::GET, "/?op=CREATE"),
        (Method::POST, "/?op=LISTSTATUS"),
        (Method::GET, "/?op=OPEN&offset=minus"),
        (Method::PUT, "/x?op=CREATE&overwrite=perhaps"),
        (Method::PUT, "/x?op=RENAME"),
        (Method::POST, "/x?op=TRUNCATE"),
        (Method::POST, "/x?op=CONCAT&sources=,"),
        (Method::GET, "/x%00y?op=GETFILESTATUS"),
    ] {
        web.refused(method, rest, 400, "IllegalArgumentException")
            .await;
    }
    let long = format!("/{}?op=GETFILESTATUS", "x".repeat(300));
    web.refused(Method::GET, &long, 403, "PathComponentTooLongException")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cairn_has_not_is_never_a_success() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    web.create("/f", "x").await;
    for (method, op, status, exception) in [
        (
            Method::PUT,
            "ALLOWSNAPSHOT",
            400,
            "UnsupportedOperationException",
        ),
        (Method::PUT, "DISALLOWSNAPSHOT", 403, "SnapshotException"),
        (Method::PUT, "CREATESNAPSHOT", 403, "SnapshotException"),
        (Method::PUT, "RENAMESNAPSHOT", 403, "SnapshotException"),
        (Method::DELETE, "DELETESNAPSHOT", 403, "SnapshotException"),
        (Method::GET, "GETSNAPSHOTDIFF", 403, "SnapshotException"),
        (Method::GET, "GETSNAPSHOTLIST", 403, "SnapshotException"),
        (Method::PUT, "SETACL", 403, "AclException"),
        (Method::PUT, "MODIFYACLENTRIES", 403, "AclException"),
        (Method::PUT, "REMOVEACL", 403, "AclException"),
        (
            Method::PUT,
            "SETQUOTA",
            400,
            "UnsupportedOperationException",
        ),
        (
            Method::PUT,
            "SETQUOTABYSTORAGETYPE",
            400,
            "UnsupportedOperationException",
        ),
        (
            Method::PUT,
            "SETECPOLICY&ecpolicy=RS-6-3-1024k",
            400,
            "HadoopIllegalArgumentException",
        ),
        (Method::GET, "GETECPOLICY", 403, "NoECPolicySetException"),
        (Method::POST, "UNSETECPOLICY", 403, "NoECPolicySetException"),
        (
            Method::PUT,
            "SATISFYSTORAGEPOLICY",
            400,
            "UnsupportedOperationException",
        ),
        (
            Method::PUT,
            "SETSTORAGEPOLICY&storagepolicy=COLD",
            400,
            "HadoopIllegalArgumentException",
        ),
        (Method::PUT, "RENEWDELEGATIONTOKEN", 403, "InvalidToken"),
        (Method::PUT, "CANCELDELEGATIONTOKEN", 403, "InvalidToken"),
    ] {
        web.refused(method, &format!("/f?op={op}"), status, exception)
            .await;
    }
    web.refused(Method::PUT, "/none?op=SETACL", 404, "FileNotFoundException")
        .await;
    assert_eq!(
        web.get("/?op=GETDELEGATIONTOKEN").await,
        json!({ "Token": null })
    );
    assert_eq!(
        web.get("/?op=GETSNAPSHOTTABLEDIRECTORYLIST").await["SnapshottableDirectoryList"],
        json!([])
    );
    assert_eq!(
        web.get("/?op=GETECPOLICIES").await["ErasureCodingPolicies"]["ErasureCodingPolicy"],
        json!([])
    );
    let policy = web.get("/f?op=GETSTORAGEPOLICY").await;
    assert_eq!(policy["BlockStoragePolicy"]["name"], "HOT");
    web.put("/f?op=SETSTORAGEPOLICY&storagepolicy=HOT").await;
    web.post("/f?op=UNSETSTORAGEPOLICY").await;
    let all = web.get("/?op=GETALLSTORAGEPOLICY").await;
    assert_eq!(
        all["BlockStoragePolicies"]["BlockStoragePolicy"][0]["id"],
        7
    );
    let defaults = web.get("/?op=GETSERVERDEFAULTS").await;
    assert_eq!(defaults["FsServerDefaults"]["replication"], 3);
    let space = web.get("/?op=GETSTATUS").await;
    assert!(space["FsStatus"]["capacity"].as_u64().unwrap() > 0);
    let trash = web.get("/f?op=GETTRASHROOT").await;
    assert_eq!(trash, json!({ "Path": "/user/root/.Trash" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_is_told_no_type_of_json() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    for (rest, agent, expected) in [
        ("/?op=LISTSTATUS", "Java/17.0.1", None),
        ("/none?op=LISTSTATUS", "Java/17.0.1", None),
        ("/?op=LISTSTATUS", "curl/8", Some("application/json")),
    ] {
        let request = web.client.get(web.url(rest)).header(USER_AGENT, agent);
        let answer = request.send().await.unwrap();
        let found = answer
            .headers()
            .get(CONTENT_TYPE)
            .map(|kind| kind.to_str().unwrap());
        assert_eq!(found, expected, "{rest} {agent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_is_refused_in_words() {
    let cluster = MiniCluster::start(ClusterOptions {
        http: Some(GatewaySettings {
            auth: GatewayAuth::Simple,
            connections_per_address_max: 2,
            idle_timeout: Duration::from_secs(1),
            ..GatewaySettings::default()
        }),
        ..ClusterOptions::default()
    })
    .await
    .unwrap();
    let address = cluster.namenode_http(0).unwrap().to_string();
    let ask = async |text: String| {
        let mut stream = cairn_protocol::net::connect(&address).await.unwrap();
        // It may be answered and closed before all is sent.
        let _ = stream.write_all(text.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let lines: String = (0..200)
        .map(|number| format!("x-{number}: y\r\n"))
        .collect();
    let many = ask(format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n")).await;
    assert!(many.starts_with("HTTP/1.1 431"), "{many}");
    let long = "y".repeat(100_000);
    let large = ask(format!(
        "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-a: {long}\r\n\r\n"
    ))
    .await;
    assert!(large.starts_with("HTTP/1.1 431"), "{large}");

    // Two that say nothing are open: a third is too many, until they have been silent for too long.
    let mut silent = Vec::new();
    for _ in 0..2 {
        let mut stream = cairn_protocol::net::connect(&address).await.unwrap();
        stream.write_all(b"GET /").await.unwrap();
        silent.push(stream);
    }
    let alive = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    cluster
        .until("a third connection is refused", async || {
            let third = ask(alive.to_owned()).await;
            anyhow::ensure!(third.starts_with("HTTP/1.1 503"), "{third}");
            anyhow::ensure!(third.contains("connections_per_address_max"), "{third}");
            Ok(())
        })
        .await
        .unwrap();
    cluster
        .until("the silent ones are closed", async || {
            let next = ask(alive.to_owned()).await;
            anyhow::ensure!(next.starts_with("HTTP/1.1 200"), "{next}");
            Ok(())
        })
        .await
        .unwrap();
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_daemons_tell_how_they_are() {
    let mut cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    web.create("/f", "12345").await;
    let client = &web.client;
    for (address, daemon) in [
        (cluster.namenode_http(0).unwrap(), "namenode"),
        (cluster.datanode_http(0).unwrap(), "datanode"),
    ] {
        for (path, expected) in [("healthz", "alive\n"), ("readyz", "ready\n")] {
            let answer = client
                .get(format!("http://{address}/{path}"))
                .send()
                .await
                .unwrap();
            assert_eq!(answer.text().await.unwrap(), expected);
        }
        let metrics = client
            .get(format!("http://{address}/metrics"))
            .send()
            .await
            .unwrap();
        let metrics = metrics.text().await.unwrap();
        let own = format!("dfs_{daemon}_http_connections ");
        assert!(metrics.contains(&own), "{metrics}");
        assert!(metrics.ends_with("# EOF\n"));
    }
    let address = cluster.datanode_http(0).unwrap();
    cluster.kill_namenode(0).await;
    let ready = client
        .get(format!("http://{address}/readyz"))
        .send()
        .await
        .unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let alive = client
        .get(format!("http://{address}/healthz"))
        .send()
        .await
        .unwrap();
    assert_eq!(alive.status(), StatusCode::OK);
}

/// Lines of the audit log, kept.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// On one thread, whose subscriber is the test's own.
#[tokio::test]
async fn every_change_leaves_a_line_in_the_audit_log_and_denied_ones_too() {
    let kept = Kept::default();
    let writer = kept.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("audit=info")
        .without_time()
        .with_level(false)
        .with_target(false)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    web.create("/f", "x").await;
    web.put("/f?op=RENAME&destination=/g%20h").await;
    web.get("/?op=LISTSTATUS").await;
    let stranger = Web::new(&cluster).user("4711");
    stranger
        .refused(
            Method::DELETE,
            "/g%20h?op=DELETE",
            403,
            "AccessControlException",
        )
        .await;
    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    let short: Vec<(&str, &str, &str, &str)> = lines
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap();
            (
                text("user"),
                text("operation"),
                text("path"),
                text("outcome"),
            )
        })
        .collect();
    assert_eq!(
        short,
        [
            ("root", "CREATE", "/f", "ok"),
            ("root", "RENAME", "/f", "ok"),
            ("4711", "DELETE", "/g h", "AccessControlException"),
        ]
    );
    assert_eq!(lines[1]["destination"], "/g h");
    assert_eq!(lines[2]["status"], 403);
    assert!(lines[0]["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(lines[0]["duration_ms"].as_f64().unwrap() > 0.0);
}
