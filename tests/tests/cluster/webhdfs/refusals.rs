//! What is refused: people who are not believed, requests that make no sense, what Cairn has not, and too much of anything.

use std::time::Duration;

use cairn_daemon::config::{ByteSize, GatewayAuth, GatewayFollower, GatewaySettings};
use cairn_tests::harness::{ClusterOptions, MiniCluster};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use reqwest::{Body, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Web, options, refusal};

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
            assert!(message.contains("Authentication required"), "{message}");
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
    web.refused(
        Method::PUT,
        "/none?op=REMOVEACL",
        404,
        "FileNotFoundException",
    )
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_leaves_a_line_in_the_audit_log_and_denied_ones_too() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.log");
    let cluster = MiniCluster::start(ClusterOptions {
        http: Some(GatewaySettings {
            auth: GatewayAuth::Simple,
            audit_log: log.display().to_string(),
            ..GatewaySettings::default()
        }),
        datanodes: 1,
        replication: 1,
        ..ClusterOptions::default()
    })
    .await
    .unwrap();
    // One process, one file: this cluster's daemons share it, so only one of them is asked.
    let web = Web::at(cluster.datanode_http(0).unwrap());
    web.create("/f", "x").await;
    web.put("/f?op=RENAME&destination=/g%20h").await;
    web.get("/?op=LISTSTATUS").await;
    let stranger = Web::at(cluster.datanode_http(0).unwrap()).user("4711");
    let delete = "/g%20h?op=DELETE";
    stranger
        .refused(Method::DELETE, delete, 403, "AccessControlException")
        .await;
    let unknown = Web::at(cluster.datanode_http(0).unwrap()).user("no-such-user-here");
    unknown
        .refused(Method::DELETE, delete, 401, "SecurityException")
        .await;
    // What is refused before anybody looks at it.
    let foreign = web.client.delete(web.url(delete));
    let foreign = foreign.header("origin", "http://evil.example").send();
    assert_eq!(foreign.await.unwrap().status(), StatusCode::FORBIDDEN);
    let locks = web.url("?").replace("/webhdfs/v1", "/api/v1/locks");
    let untyped = web.client.post(&locks).body("{}").send().await.unwrap();
    assert_eq!(untyped.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let mut lines = Vec::new();
    cluster
        .until("all lines are there", async || {
            let text = std::fs::read_to_string(&log)?;
            let read = text.lines().map(serde_json::from_str);
            lines = read.collect::<Result<Vec<Value>, _>>()?;
            anyhow::ensure!(lines.len() >= 6, "{text}");
            Ok(())
        })
        .await
        .unwrap();
    let short: Vec<[&str; 4]> = lines
        .iter()
        .map(|line| ["user", "operation", "path", "outcome"].map(|key| line[key].as_str().unwrap()))
        .collect();
    assert_eq!(
        short,
        [
            ["root", "CREATE", "/f", "ok"],
            ["root", "RENAME", "/f", "ok"],
            ["4711", "DELETE", "/g h", "AccessControlException"],
            ["no-such-user-here", "DELETE", "/g h", "SecurityException"],
            ["root", "DELETE", "/g h", "PermissionDenied"],
            ["root", "LOCK", "", "UnsupportedMediaType"],
        ]
    );
    assert_eq!(lines[1]["destination"], "/g h");
    assert_eq!(lines[2]["status"], 403);
    assert!(lines[0]["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(lines[0]["duration_ms"].as_f64().unwrap() > 0.0);

    // Whoever goes away while a lock is waited for.
    let write = serde_json::json!({ "path": "/g h", "mode": "write", "wait_seconds": 60 });
    let held = web.client.post(&locks).json(&write).send().await.unwrap();
    assert_eq!(held.status(), StatusCode::CREATED);
    let body = write.to_string();
    let request = format!(
        "POST /api/v1/locks?user.name=root HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let address = cluster.datanode_http(0).unwrap().to_string();
    cluster
        .until("a client that went away is in the log", async || {
            let mut stream = cairn_protocol::net::connect(&address).await?;
            stream.write_all(request.as_bytes()).await?;
            drop(stream);
            let text = std::fs::read_to_string(&log)?;
            anyhow::ensure!(text.contains("\"outcome\":\"client gone\""), "{text}");
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_may_not_be_searched_is_refused_and_not_empty() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    web.create("/d/f", "x").await;
    web.put("/d?op=SETPERMISSION&permission=744").await;
    let stranger = Web::new(&cluster).user("4711");
    for operation in [
        "LISTSTATUS",
        "LISTSTATUS_BATCH",
        "GETCONTENTSUMMARY",
        "GETQUOTAUSAGE",
    ] {
        let rest = format!("/d?op={operation}");
        stranger
            .refused(Method::GET, &rest, 403, "AccessControlException")
            .await;
    }
    let page = stranger
        .url("?path=/d")
        .replace("/webhdfs/v1", "/api/v1/files");
    let page = stranger.client.get(page).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::FORBIDDEN);
    let listed = web.get("/d?op=LISTSTATUS").await;
    assert_eq!(listed["FileStatuses"]["FileStatus"][0]["pathSuffix"], "f");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_too_often_or_sends_too_much_is_told_so() {
    let cluster = MiniCluster::start(ClusterOptions {
        http: Some(GatewaySettings {
            auth: GatewayAuth::Simple,
            requests_per_second_max: 3,
            upload_size_max: ByteSize::mib(1),
            ..GatewaySettings::default()
        }),
        ..ClusterOptions::default()
    })
    .await
    .unwrap();
    let web = Web::new(&cluster);
    let mut often = None;
    for _ in 0..1000 {
        let answer = web.send(Method::GET, "/?op=GETHOMEDIRECTORY", "").await;
        if answer.status() != StatusCode::OK {
            often = Some(answer);
            break;
        }
    }
    let often = often.unwrap();
    assert_eq!(often.headers()[RETRY_AFTER], "1");
    let message = refusal(often, 429, "RetriableException").await;
    assert!(message.contains("requests_per_second_max"), "{message}");
    // Others are not concerned.
    let large = vec![7; (1 << 20) + 1];
    let there = Web::at(cluster.datanode_http(0).unwrap()).user("0");
    let chunked = |bytes: &[u8]| {
        let pieces = bytes
            .chunks(1000)
            .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()));
        Body::wrap_stream(futures::stream::iter(pieces.collect::<Vec<_>>()))
    };
    let rest = "/large?op=CREATE&namenoderpcaddress=x";
    for body in [Body::from(large.clone()), chunked(&large)] {
        let answer = there.send(Method::PUT, rest, body).await;
        let message = refusal(answer, 413, "IOException").await;
        assert!(message.contains("more than 1 MiB"), "{message}");
    }
    let just = there.send(Method::PUT, rest, chunked(&large[1..])).await;
    assert_eq!(just.status(), StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_helps_or_says_that_it_is_one() {
    for follower in [GatewayFollower::Forward, GatewayFollower::Standby] {
        let cluster = MiniCluster::start(ClusterOptions {
            namenodes: 3,
            http: Some(GatewaySettings {
                auth: GatewayAuth::Simple,
                follower,
                ..GatewaySettings::default()
            }),
            ..ClusterOptions::default()
        })
        .await
        .unwrap();
        let leader = cluster.leader().await.unwrap();
        for index in 0..3 {
            let address = cluster.namenode_http(index).unwrap();
            let web = Web::at(address);
            let answer = web.send(Method::PUT, "/x?op=MKDIRS", "").await;
            if index == leader || follower == GatewayFollower::Forward {
                assert_eq!(answer.status(), StatusCode::OK);
            } else {
                let message = refusal(answer, 403, "StandbyException").await;
                assert!(message.ends_with("StandbyException"), "{message}");
            }
            let query = "qry=Hadoop:service=NameNode,name=NameNodeStatus";
            let jmx = web.client.get(format!("http://{address}/jmx?{query}"));
            let jmx: Value = jmx.send().await.unwrap().json().await.unwrap();
            let state = if index == leader { "active" } else { "standby" };
            assert_eq!(jmx["beans"][0]["State"], state);
        }
        // Datanodes carry out in any case.
        let there = Web::at(cluster.datanode_http(0).unwrap());
        there.create("/x/file", "x").await;
    }
}
