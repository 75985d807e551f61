//! A cluster with TLS and tokens: it works, and nobody gets in on any port without proof.

#![expect(
    clippy::unwrap_used,
    reason = "all of this is tests: helpers fail where their test does"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::messages::transfer::ReadReplica;
use cairn_protocol::net::Tls;
use cairn_protocol::rpc::{ConnectionOptions, Hello, Peers};
use cairn_protocol::{ErrorCode, Method};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use super::mounted::{Mounted, can_mount, tool};
use super::program::{Cluster, Finished, Running, content, eventually, finish, free_ports};

/// A user whom no machine knows by name.
const ADA: &str = "4321";

fn secure(work: &TempDir) -> (Cluster, String) {
    let http = free_ports();
    let port = http.to_string();
    let arguments = [
        "--secure",
        "--processes",
        "--restart",
        "--namenodes",
        "3",
        "--datanodes",
        "3",
        "--http",
        &port,
    ];
    (Cluster::up(work, &arguments), format!("127.0.0.1:{http}"))
}

/// A command with nothing but this CA, and perhaps a token.
fn user(cluster: &Cluster, ca: &Path, token: Option<&str>, arguments: &[&str]) -> Command {
    let mut command = cluster.stranger(arguments);
    command.env("CAIRN_CA", ca);
    if let Some(token) = token {
        command.env("CAIRN_TOKEN", token);
    }
    command
}

fn issue(cluster: &Cluster, arguments: &[&str]) -> String {
    let line: Vec<&str> = ["token", "issue"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    cluster.run(line).text().trim().to_owned()
}

fn number_of_last_token(cluster: &Cluster) -> String {
    let list: Value =
        serde_json::from_slice(&cluster.run(["token", "list", "--json"]).ok()).unwrap();
    let ids = list.as_array().unwrap().iter().map(|one| &one["id"]);
    ids.filter_map(Value::as_u64).max().unwrap().to_string()
}

#[test]
fn with_security_on_everything_works_and_only_proof_counts() {
    let work = tempdir().unwrap();
    let (cluster, http) = secure(&work);
    let ca = cluster.directory().join("security/ca.pem");
    goes_on_when_the_leader_dies(&cluster);
    users_are_their_tokens(&cluster, &ca);
    nobody_gets_in_without_proof(&cluster, &ca, work.path());
    http_wants_tokens_too(&cluster, &ca, &http);
    large_contents_come_over_http(&cluster, &ca, &http, work.path());
    ports_between_nodes_are_for_nodes(&cluster, &ca);
    if can_mount() {
        a_mount_acts_as_its_token(&cluster, &ca, work.path());
    }
    refusals_are_in_the_audit_log(&cluster);
}

fn goes_on_when_the_leader_dies(cluster: &Cluster) {
    let bytes = content(7, 24 << 20);
    let half = bytes.len() / 2;
    let mut put = Running::start(&mut cluster.command(["put", "-", "/large"]));
    put.feed(&bytes[..half]);
    cluster.kill(&cluster.leader());
    put.feed(&bytes[half..]);
    put.finish().ok();
    assert!(cluster.run(["cat", "/large"]).ok() == bytes);
}

fn users_are_their_tokens(cluster: &Cluster, ca: &Path) {
    let token = issue(cluster, &[ADA]);
    let ada = |arguments: &[&str], input: &[u8]| {
        finish(&mut user(cluster, ca, Some(&token), arguments), input)
    };
    let who = ada(&["token", "whoami", "--user", "0"], b"").text();
    assert!(
        who.contains("uid 4321") && who.contains("by token"),
        "{who}"
    );
    cluster.run_with(["put", "-", "/secret"], b"x").ok();
    cluster.run(["chmod", "600", "/secret"]).ok();
    ada(&["cat", "/secret"], b"").fails(1, "Permission denied");
    ada(&["--user", "0", "cat", "/secret"], b"").fails(1, "Permission denied");
    ada(&["put", "-", "/of-ada"], b"hello").ok();
    assert_eq!(ada(&["cat", "/of-ada"], b"").ok(), b"hello");
    let owner = cluster.run(["stat", "--format", "%u", "/of-ada"]).text();
    assert_eq!(owner.trim(), ADA);
    // Home is hers, whoever runs this.
    ada(&["ls"], b"").fails(1, "/user/4321, your home directory");
    cluster.run(["mkdir", "-p", "/user/4321"]).ok();
    cluster.run(["chown", ADA, "/user/4321"]).ok();
    ada(&["put", "-", "note"], b"mine").ok();
    assert_eq!(cluster.run(["cat", "/user/4321/note"]).ok(), b"mine");
    ada(&["token", "issue", "0"], b"").fails(1, "only the superuser may");
    ada(&["fsck"], b"").fails(1, "only the superuser may");
}

fn nobody_gets_in_without_proof(cluster: &Cluster, ca: &Path, work: &Path) {
    let ask = |token: Option<&str>| -> Finished {
        finish(&mut user(cluster, ca, token, &["ls", "/"]), b"")
    };
    finish(&mut cluster.stranger(["ls", "/"]), b"").fails(
        1,
        "speaks TLS only: say which CA it has with --ca FILE or CAIRN_CA=FILE",
    );
    ask(None).fails(1, "wants a token");

    let good = issue(cluster, &[ADA]);
    ask(Some(&good)).ok();
    let last = if good.ends_with('0') { "1" } else { "0" };
    let forged = format!("{}{last}", &good[..good.len() - 1]);
    ask(Some(&forged)).fails(1, "not genuine");
    ask(Some("nonsense")).fails(1, "CAIRN_TOKEN: that is not a token");

    let id = number_of_last_token(cluster);
    let issued_with_it = user(cluster, ca, Some(&good), &["token", "issue"]);
    let child = finish(&mut { issued_with_it }, b"")
        .text()
        .trim()
        .to_owned();
    ask(Some(&child)).ok();
    cluster.run(["token", "revoke", &id]).ok();
    ask(Some(&good)).fails(1, "was revoked");
    ask(Some(&child)).fails(1, "was revoked with token");
    cluster.run(["token", "renew", &id]).fails(1, "was revoked");

    let short = issue(cluster, &[ADA, "--lifetime", "1ms", "--renewable", "1h"]);
    eventually("the token has expired", || {
        ask(Some(&short)).status == Some(1)
    });
    ask(Some(&short)).fails(1, "has expired");
    let id = number_of_last_token(cluster);
    cluster.run(["token", "renew", &id]).ok();
    ask(Some(&short)).ok();

    let other = work.join("other-ca");
    let dir = other.display().to_string();
    cluster.run(["admin", "ca", "init", "--dir", &dir]).text();
    let stranger = user(cluster, &other.join("ca.pem"), Some(&short), &["ls", "/"]);
    finish(&mut { stranger }, b"").fails(1, "is not accepted");

    // An operator of another cluster is told so at once, not when the patience is over.
    let request = ["admin", "ca", "issue", "op", "--role", "operator"];
    let words = request.into_iter().chain(["--dir", &dir, "--out", &dir]);
    cluster.run(words).text();
    let mut operator = user(cluster, ca, None, &["ls", "/", "--timeout", "1h"]);
    operator.env("CAIRN_CERTIFICATE", other.join("op.pem"));
    operator.env("CAIRN_KEY", other.join("op.key"));
    finish(&mut operator, b"").fails(1, "refused: it is not of this cluster's CA");
}

/// Status and body.
fn curl(ca: &Path, arguments: &[&str]) -> (String, String) {
    let ca = ca.display().to_string();
    let fixed = ["-s", "-L", "-w", "\n%{http_code}", "--cacert", &ca];
    let line: Vec<&str> = fixed.iter().chain(arguments).copied().collect();
    let answer = tool("curl", &line);
    let text = String::from_utf8_lossy(&answer.out).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

fn http_wants_tokens_too(cluster: &Cluster, ca: &Path, http: &str) {
    let token = issue(cluster, &[ADA]);
    let url = |path: &str, query: &str| format!("https://{http}/webhdfs/v1{path}?op={query}");
    // Its namenode may be the one that was killed.
    eventually("the gateway answers", || {
        curl(ca, &[&format!("https://{http}/healthz")]).0 == "200"
    });
    let (status, body) = curl(ca, &[&url("/", "LISTSTATUS")]);
    assert_eq!(status, "401", "{body}");
    let (status, body) = curl(ca, &[&url("/", "LISTSTATUS&user.name=root")]);
    assert_eq!(status, "401", "{body}");
    let (status, _) = curl(ca, &[&format!("http://{http}/webhdfs/v1/?op=LISTSTATUS")]);
    assert_eq!(status, "400");

    let bearer = format!("Authorization: Bearer {token}");
    let (status, body) = curl(ca, &["-H", &bearer, &url("/of-ada", "OPEN")]);
    assert_eq!((status.as_str(), body.as_str()), ("200", "hello"));
    let (status, body) = curl(ca, &["-H", &bearer, &url("/secret", "OPEN")]);
    assert_eq!(status, "403", "{body}");
    let (status, body) = curl(ca, &["-H", &bearer, &url("/", "LISTSTATUS&doas=root")]);
    assert_eq!(status, "403", "{body}");

    let (_, body) = curl(ca, &["-H", &bearer, &url("/", "GETDELEGATIONTOKEN")]);
    let answer: Value = serde_json::from_str(&body).unwrap();
    let delegation = answer["Token"]["urlString"].as_str().unwrap();
    let opened = url("/of-ada", &format!("OPEN&delegation={delegation}"));
    assert_eq!(curl(ca, &[&opened]).1, "hello");
    let cancel = url("/", &format!("CANCELDELEGATIONTOKEN&token={delegation}"));
    let (status, body) = curl(ca, &["-X", "PUT", "-H", &bearer, &cancel]);
    assert_eq!(status, "200", "{body}");
    let (status, body) = curl(ca, &[&opened]);
    assert_eq!(status, "401", "{body}");
}

fn large_contents_come_over_http(cluster: &Cluster, ca: &Path, http: &str, work: &Path) {
    let bearer = format!("Authorization: Bearer {}", issue(cluster, &[ADA]));
    let bytes = content(11, 3 << 20);
    let file = work.join("large-of-ada");
    fs::write(&file, &bytes).unwrap();
    let file = file.display().to_string();
    let url = |query: &str| format!("https://{http}/webhdfs/v1/large-of-ada?op={query}");
    let put = ["-H", &bearer, "-T", &file, &url("CREATE&permission=600")];
    let (status, body) = curl(ca, &put);
    assert_eq!(status, "201", "{body}");
    let append = ["-H", &bearer, "-X", "POST", "-T", &file, &url("APPEND")];
    let (status, body) = curl(ca, &append);
    assert_eq!(status, "200", "{body}");
    assert!(cluster.run(["cat", "/large-of-ada"]).ok() == bytes.repeat(2));
    let owner = cluster.run(["stat", "--format", "%u", "/large-of-ada"]);
    assert_eq!(owner.text().trim(), ADA);
}

fn ports_between_nodes_are_for_nodes(cluster: &Cluster, ca: &Path) {
    let read = |name: &str| fs::read(cluster.directory().join("security").join(name)).unwrap();
    let anonymous = Tls::client(&fs::read(ca).unwrap()).unwrap();
    let operator = Tls::node(
        &read("ca.pem"),
        &read("operator.pem"),
        &read("operator.key"),
    )
    .unwrap();
    let namenode = cluster.status()["namenodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["role"] == "leader")
        .and_then(|one| one["address"].as_str())
        .unwrap()
        .to_owned();
    let datanode = cluster.status()["datanodes"][0]["address"]
        .as_str()
        .unwrap()
        .to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ask = |tls: Option<Tls>, address: &str, method: Method| {
        let options = ConnectionOptions {
            tls,
            ..ConnectionOptions::default()
        };
        let peers = Peers::new(Hello::new("client", None, 0), options);
        let request = ReadReplica {
            length: 1,
            ..ReadReplica::default()
        };
        let timeout = Duration::from_secs(30);
        let call = peers.call(address, method.into(), &request, Bytes::new(), timeout);
        runtime.block_on(call).unwrap_err().code()
    };
    for method in [
        Method::RaftAppend,
        Method::RaftVote,
        Method::ReadIndex,
        Method::Heartbeat,
    ] {
        for tls in [None, Some(anonymous.clone()), Some(operator.clone())] {
            assert_eq!(ask(tls, &namenode, method), ErrorCode::Unauthenticated);
        }
    }
    assert_eq!(
        ask(None, &datanode, Method::ReadReplica),
        ErrorCode::Unauthenticated
    );
    for tls in [anonymous, operator] {
        let instruct = ask(Some(tls.clone()), &datanode, Method::Instruct);
        assert_eq!(instruct, ErrorCode::Unauthenticated);
        let read = ask(Some(tls), &datanode, Method::ReadReplica);
        assert_eq!(read, ErrorCode::BadToken);
    }
}

fn a_mount_acts_as_its_token(cluster: &Cluster, ca: &Path, work: &Path) {
    let token = work.join("token");
    let file = token.display().to_string();
    cluster.run(["token", "issue", ADA, "--out", &file]).text();
    // The file that is named for this command comes before the token for all.
    let by_file = ["--token-file", &file, "ls", "/"];
    finish(&mut user(cluster, ca, Some("nonsense"), &by_file), b"").ok();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o640)).unwrap();
    finish(&mut user(cluster, ca, None, &by_file), b"").fails(1, "can be read by others");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let options = ["--ca", &ca.display().to_string(), "--token-file", &file];
    let mounted = Mounted::on_as_stranger(cluster, work.join("mnt"), &options);
    fs::write(mounted.path().join("by-mount"), b"through the kernel").unwrap();
    assert_eq!(fs::read(mounted.path().join("of-ada")).unwrap(), b"hello");
    assert!(fs::read(mounted.path().join("secret")).is_err());
    mounted.unmount();
    assert_eq!(
        cluster.run(["cat", "/by-mount"]).ok(),
        b"through the kernel"
    );
    let owner = cluster.run(["stat", "--format", "%u", "/by-mount"]).text();
    assert_eq!(owner.trim(), ADA);
}

fn refusals_are_in_the_audit_log(cluster: &Cluster) {
    let logs = cluster.directory().join("logs");
    let mut text = String::new();
    for entry in fs::read_dir(logs).unwrap() {
        text += &fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    let audit = |word: &str| {
        let mut lines = text.lines();
        assert!(
            lines.any(|line| line.contains(" audit: ") && line.contains(word)),
            "{word}"
        );
    };
    for word in [
        "not genuine",
        "was revoked",
        "has expired",
        "wants a token",
        "operation=\"RaftVote\"",
        "operation=\"read\"",
        "outcome=\"issued\"",
        "outcome=\"revoked\"",
    ] {
        audit(word);
    }
    assert!(!text.contains("cairn-010000"), "a token is in a log");
}
