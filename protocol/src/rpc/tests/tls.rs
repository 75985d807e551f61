//! Connections under TLS: who may talk to whom, and what those hear who may not.

use std::time::Duration;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::AsyncReadExt;

use super::{CLUSTER, LONG, PROVE, Raw, Server, client_hello, echo, server, server_at, text};
use crate::ErrorCode;
use crate::frame::Frame;
use crate::limits::BUFFER_BYTES;
use crate::net::{Proof, Role, Tls};
use crate::rpc::{Connection, ConnectionOptions, FramedStream, Hello, ServerOptions};
use crate::{Failure, net};

struct Ca {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    fn node(&self, host: &str, role: Option<Role>) -> Tls {
        self.node_trusting(self, host, role)
    }

    fn node_trusting(&self, trusted: &Ca, host: &str, role: Option<Role>) -> Tls {
        let mut names = vec![host.to_owned()];
        names.extend(role.map(|role| role.dns_name().to_owned()));
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let key = key.serialize_pem();
        Tls::node(
            trusted.certificate.as_bytes(),
            certificate.as_bytes(),
            key.as_bytes(),
        )
        .unwrap()
    }

    fn client(&self) -> Tls {
        Tls::client(self.certificate.as_bytes()).unwrap()
    }

    async fn server(&self) -> Server {
        self.server_with(ServerOptions::default()).await
    }

    async fn server_with(&self, options: ServerOptions) -> Server {
        let options = ServerOptions {
            tls: Some(self.node("127.0.0.1", Some(Role::Namenode))),
            ..options
        };
        server_at("127.0.0.1:0", options).await
    }
}

fn with(tls: Tls) -> ConnectionOptions {
    ConnectionOptions {
        tls: Some(tls),
        ..ConnectionOptions::default()
    }
}

async fn refused(server: &Server, hello: Hello, options: ConnectionOptions) -> Failure {
    let refused = Connection::connect(&server.address, hello, options).await;
    let failure = refused.unwrap_err();
    assert_eq!(failure.code, ErrorCode::Unauthenticated, "{failure}");
    failure
}

#[tokio::test]
async fn calls_and_streams_work_and_tell_who_is_there() {
    let ca = Ca::new();
    let server = ca.server().await;
    let connection = Connection::connect(&server.address, client_hello(), with(ca.client()))
        .await
        .unwrap();
    assert_eq!(echo(&connection, "x").await.unwrap(), "x");
    assert!(connection.peer().proof.allows(Role::Namenode));
    assert!(!connection.peer().proof.allows(Role::Datanode));
    assert_ne!(connection.peer().proof, Proof::Clear);

    let options = with(ca.node("127.0.0.1", Some(Role::Datanode)));
    let hello = Hello::new("datanode", Some(CLUSTER), 1);
    let stream = FramedStream::connect(&server.address, hello, &options)
        .await
        .unwrap();
    let (mut sender, mut receiver) = stream.split();
    let payload = Bytes::from(vec![7; BUFFER_BYTES]);
    for id in 0..8 {
        let frame = Frame {
            request_id: id,
            payload: payload.clone(),
            ..Frame::default()
        };
        sender.send(frame).await.unwrap();
        let back = receiver.recv().await.unwrap().unwrap();
        assert_eq!((back.request_id, &back.payload), (id, &payload));
    }
    sender.finish().await.unwrap();
    assert!(!matches!(receiver.recv().await, Ok(Some(_))));
}

#[tokio::test]
async fn a_role_needs_a_certificate_that_states_it() {
    let ca = Ca::new();
    let server = ca.server().await;
    for tls in [
        ca.client(),
        ca.node("127.0.0.1", None),
        ca.node("127.0.0.1", Some(Role::Datanode)),
    ] {
        let hello = Hello::new("namenode", Some(CLUSTER), 1);
        let failure = refused(&server, hello, with(tls)).await;
        assert!(failure.message.contains("certificate"), "{failure}");
    }
    let expecting = ConnectionOptions {
        expects: Some(Role::Datanode),
        ..with(ca.client())
    };
    let failure = refused(&server, client_hello(), expecting).await;
    assert!(
        failure.message.contains("no certificate of a datanode"),
        "{failure}"
    );
}

#[tokio::test]
async fn who_speaks_in_the_clear_is_told_so() {
    let ca = Ca::new();
    let server = ca.server().await;
    let failure = refused(&server, client_hello(), ConnectionOptions::default()).await;
    assert!(failure.message.contains("speaks TLS only"), "{failure}");
    let mut raw = Raw::connect(&server).await;
    raw.send(super::ECHO, 1).await;
    assert_eq!(raw.refusal().await.code(), ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn who_expects_tls_hears_that_there_is_none() {
    let server = server().await;
    let failure = refused(&server, client_hello(), with(Ca::new().client())).await;
    assert!(failure.message.contains("does not speak TLS"), "{failure}");
}

#[tokio::test]
async fn certificates_of_others_and_for_other_hosts_are_refused() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let server = ours.server().await;
    let failure = refused(&server, client_hello(), with(theirs.client())).await;
    assert!(failure.message.contains("not accepted"), "{failure}");
    // Trusts the server, and is not trusted by it: hears of that with the first answer.
    let stranger = with(theirs.node_trusting(&ours, "127.0.0.1", Some(Role::Datanode)));
    let hello = Hello::new("datanode", Some(CLUSTER), 1);
    let refused_by_server = Connection::connect(&server.address, hello, stranger).await;
    assert!(refused_by_server.is_err());
    assert!(server.service.hellos.lock().unwrap().is_empty());
    let options = ServerOptions {
        tls: Some(ours.node("elsewhere.example", Some(Role::Namenode))),
        ..ServerOptions::default()
    };
    let elsewhere = server_at("127.0.0.1:0", options).await;
    let failure = refused(&elsewhere, client_hello(), with(ours.client())).await;
    assert!(failure.message.contains("not accepted"), "{failure}");
}

#[tokio::test]
async fn renewed_certificates_are_used_for_new_connections() {
    let (before, after) = (Ca::new(), Ca::new());
    let tls = before.node("127.0.0.1", Some(Role::Namenode));
    let options = ServerOptions {
        tls: Some(tls.clone()),
        ..ServerOptions::default()
    };
    let server = server_at("127.0.0.1:0", options).await;
    let old = Connection::connect(&server.address, client_hello(), with(before.client()))
        .await
        .unwrap();
    tls.renew(&after.node("127.0.0.1", Some(Role::Namenode)));
    let new = Connection::connect(&server.address, client_hello(), with(after.client()))
        .await
        .unwrap();
    assert_eq!(echo(&new, "new").await.unwrap(), "new");
    assert_eq!(echo(&old, "old").await.unwrap(), "old");
    refused(&server, client_hello(), with(before.client())).await;
}

#[tokio::test]
async fn a_silent_caller_is_not_waited_for() {
    let ca = Ca::new();
    let server = ca.server().await;
    let mut silent = net::connect(&server.address).await.unwrap();
    let connection = Connection::connect(&server.address, client_hello(), with(ca.client()));
    let connection = connection.await.unwrap();
    assert_eq!(echo(&connection, "x").await.unwrap(), "x");
    let mut byte = [0];
    assert_eq!(silent.read(&mut byte).await.unwrap(), 0, "it is sent away");
    assert_eq!(echo(&connection, "y").await.unwrap(), "y");
}

async fn prove(connection: &Connection) {
    connection
        .call(PROVE, &text(""), Bytes::new(), LONG)
        .await
        .unwrap();
}

#[tokio::test]
async fn who_proves_nothing_is_sent_away_and_who_does_stays() {
    let ca = Ca::new();
    let server = ca
        .server_with(ServerOptions {
            unproved_timeout: Duration::from_millis(500),
            ..ServerOptions::default()
        })
        .await;
    let certified = with(ca.node("127.0.0.1", Some(Role::Datanode)));
    let hello = Hello::new("datanode", Some(CLUSTER), 1);
    let certified = Connection::connect(&server.address, hello, certified)
        .await
        .unwrap();
    let guest = || Connection::connect(&server.address, client_hello(), with(ca.client()));
    let proved = guest().await.unwrap();
    prove(&proved).await;
    let (unproved, idle) = (guest().await.unwrap(), guest().await.unwrap());
    // However busy it is.
    while echo(&unproved, "x").await.is_ok() {}
    while echo(&idle, "x").await.is_ok() {}
    assert_eq!(echo(&proved, "x").await.unwrap(), "x");
    assert_eq!(echo(&certified, "x").await.unwrap(), "x");
}

#[tokio::test]
async fn an_address_has_few_connections_that_prove_nothing_and_certified_ones_have_their_own() {
    let ca = Ca::new();
    let server = ca
        .server_with(ServerOptions {
            unproved_per_address_max: 2,
            connections_max: 8,
            certified_reserve: 4,
            ..ServerOptions::default()
        })
        .await;
    let guest = || Connection::connect(&server.address, client_hello(), with(ca.client()));
    let node = || {
        let options = with(ca.node("127.0.0.1", Some(Role::Datanode)));
        let hello = Hello::new("datanode", Some(CLUSTER), 1);
        Connection::connect(&server.address, hello, options)
    };
    let (first, second) = (guest().await.unwrap(), guest().await.unwrap());
    assert_eq!(guest().await.unwrap_err().code, ErrorCode::Overloaded);
    prove(&first).await;
    let third = guest().await.unwrap();
    prove(&second).await;
    prove(&third).await;
    let fourth = guest().await.unwrap();
    prove(&fourth).await;
    assert_eq!(guest().await.unwrap_err().code, ErrorCode::Overloaded);
    let nodes = [node().await.unwrap(), node().await.unwrap()];
    for connection in nodes.iter().chain([&first, &second, &third, &fourth]) {
        assert_eq!(echo(connection, "x").await.unwrap(), "x");
    }
}

#[tokio::test]
async fn who_is_not_admitted_hears_why() {
    let ca = Ca::new();
    let server = ca.server().await;
    let hello = client_hello().with_token(&b"bad"[..]);
    let failure = refused(&server, hello, with(ca.client())).await;
    assert!(failure.message.contains("not genuine"), "{failure}");
}
