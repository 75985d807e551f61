//! Bad input gets a clear error, changes nothing and loses nothing.

use std::time::Duration;

use bytes::Bytes;
use cairn_client::{Error, WriteOptions};
use cairn_daemon::Tasks;
use cairn_daemon::config::GatewaySettings;
use cairn_daemon::disk::RealDisk;
use cairn_datanode::Datanode;
use cairn_namenode::store::Read;
use cairn_protocol::ErrorCode::{
    self, AlreadyExists, BadToken, InvalidArgument, IsADirectory, NameTooLong, NotADirectory,
    NotEmpty, NotEnoughDatanodes, NotFound,
};
use cairn_protocol::ids::ChunkId;
use cairn_protocol::messages::common::{Caller, Location};
use cairn_protocol::messages::operation::{IfExists, Mkdir, OperationKind, RenameMode};
use cairn_protocol::messages::session::{
    MutateReply, MutateRequest, OpenSessionReply, OpenSessionRequest,
};
use cairn_protocol::messages::transfer::{ReadReplica, ReadReply};
use cairn_protocol::rpc::{ConnectionOptions, Hello, Peers, RpcError};
use cairn_protocol::token::{Grant, GrantKind, KeyRing, TokenKey, mint};
use cairn_protocol::{Method, net};
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ANSWER_MAX: Duration = Duration::from_secs(20);

fn refused<T: std::fmt::Debug>(result: Result<T, Error>, code: ErrorCode) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_paths_are_refused_and_odd_names_kept() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    for path in ["", "relative", "/a\0b"] {
        refused(fs.mkdir(path, 0o755).await, InvalidArgument);
    }
    let long = format!("/{}", "n".repeat(256));
    assert!(refused(fs.mkdir(&long, 0o755).await, NameTooLong).contains("255"));
    let deep = "/d".repeat(2049);
    assert!(refused(fs.mkdir(&deep, 0o755).await, NameTooLong).contains("4096"));
    // The client resolves `..`; a namenode that is sent one refuses it, and so it does with the rest.
    let raw = [
        b"/../etc".to_vec(),
        b"/a/../b".to_vec(),
        b"/a\0b".to_vec(),
        vec![b'n'; 256],
        deep.into_bytes(),
    ];
    for path in raw {
        let location = Location::path(path);
        let mkdir = OperationKind::Mkdir(Mkdir {
            location,
            mode: 0o755,
            parents: true,
        });
        let error = fs.transaction(Vec::new(), vec![mkdir]).await.unwrap_err();
        assert!(
            matches!(error.code(), InvalidArgument | NameTooLong),
            "{error}"
        );
    }
    assert_eq!(fs.list_all("/").await.unwrap(), []);
    // What is not text is kept byte by byte.
    let odd: Vec<Vec<u8>> = vec![
        b"\x01\n".to_vec(),
        b"caf\xe9".to_vec(),
        vec![0xff; 255],
        b"\xf0\x9f\xa6\x80".to_vec(),
    ];
    for name in &odd {
        let path = [b"/", &name[..]].concat();
        fs.write_file(
            path.as_slice(),
            Bytes::copy_from_slice(name),
            &WriteOptions::default(),
        )
        .await
        .unwrap();
        assert!(fs.read_file(path.as_slice()).await.unwrap() == name[..]);
    }
    let names: Vec<Vec<u8>> = fs
        .list_all("/")
        .await
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    let mut sorted = odd.clone();
    sorted.sort();
    assert_eq!(names, sorted);
    assert!(
        refused(fs.stat(&b"/missing-\xff"[..]).await, NotFound).starts_with("/missing-\\xff: ")
    );
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_directories_are_not_taken_for_each_other() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    fs.mkdir_all("/dir/sub", 0o755).await.unwrap();
    fs.write_file("/file", content(1, 100), &WriteOptions::default())
        .await
        .unwrap();
    refused(fs.stat("/file/below").await, NotADirectory);
    refused(fs.mkdir("/file/below", 0o755).await, NotADirectory);
    refused(fs.mkdir_all("/file/below/it", 0o755).await, NotADirectory);
    refused(fs.rmdir("/file").await, NotADirectory);
    refused(fs.read_file("/dir").await, IsADirectory);
    refused(fs.unlink("/dir").await, IsADirectory);
    refused(fs.truncate("/dir", 0).await, IsADirectory);
    refused(
        fs.record_append("/dir", Bytes::from_static(b"x")).await,
        IsADirectory,
    );
    refused(fs.open_append("/dir").await.map(|_| ()), IsADirectory);
    for (if_exists, code) in [
        (IfExists::Fail, AlreadyExists),
        (IfExists::Replace, IsADirectory),
        (IfExists::Truncate, IsADirectory),
    ] {
        for len in [10, 2 << 20] {
            let options = WriteOptions {
                if_exists,
                ..WriteOptions::default()
            };
            refused(fs.write_file("/dir", content(1, len), &options).await, code);
        }
    }
    refused(
        fs.rename("/dir", "/file", RenameMode::Replace).await,
        NotADirectory,
    );
    refused(
        fs.rename("/file", "/dir", RenameMode::Replace).await,
        IsADirectory,
    );
    refused(
        fs.rename("/dir", "/dir/sub/below", RenameMode::Replace)
            .await,
        InvalidArgument,
    );
    refused(
        fs.rename("/file", "/dir", RenameMode::NoReplace).await,
        AlreadyExists,
    );
    refused(fs.rmdir("/dir").await, NotEmpty);
    refused(
        fs.clone_range("/dir", 0, 10, "/file", 0).await,
        IsADirectory,
    );
    assert!(fs.read_file("/file").await.unwrap() == content(1, 100));
    assert_eq!(fs.list_all("/dir").await.unwrap().len(), 1);
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_replicas_than_datanodes_is_a_clear_error() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    for len in [100, 3 << 20] {
        let options = WriteOptions {
            replication: 5,
            ..WriteOptions::default()
        };
        let text = refused(
            fs.write_file("/file", content(1, len), &options).await,
            NotEnoughDatanodes,
        );
        assert!(
            text.starts_with("/file: ") && text.contains('5') && text.contains('3'),
            "{text}"
        );
        let options = WriteOptions {
            replication: 17,
            ..WriteOptions::default()
        };
        let text = refused(
            fs.write_file("/file", content(1, len), &options).await,
            InvalidArgument,
        );
        assert!(text.contains("16"), "{text}");
    }
    refused(fs.stat("/file").await, NotFound);
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_in_use_is_refused() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let config = cluster.datanode_config(0);
    let tasks = Tasks::new();
    let error = Datanode::start(
        config,
        std::sync::Arc::new(RealDisk),
        &tasks,
        StdRng::seed_from_u64(5),
    )
    .await
    .unwrap_err();
    let volume = cluster.volume(0).display().to_string();
    assert!(
        error.to_string().contains(&volume) && error.to_string().contains("use"),
        "{error}"
    );
    let error = format!("{:#}", cluster.start_namenode(0).await.unwrap_err());
    assert!(
        error.contains(&cluster.namenode_directory(0).display().to_string())
            && error.contains("use"),
        "{error}"
    );
    let fs = cluster.client().await.unwrap();
    fs.write_file("/file", content(1, 100), &WriteOptions::default())
        .await
        .unwrap();
    cluster.check(&fs).await.unwrap();
}

fn peers(cluster_id: [u8; 16]) -> Peers {
    Peers::new(
        Hello::new("client", Some(cluster_id), 0),
        ConnectionOptions::default(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_is_served_without_a_good_token() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    // A client has several chunks for small files open at once; of so many files, two share one.
    let mut located = Vec::new();
    for seed in 0..20 {
        let path = format!("/{seed}");
        fs.write_file(&path, content(seed, 1000), &WriteOptions::default())
            .await
            .unwrap();
        located.push(fs.extents(&path, 0, 1000).await.unwrap().extents.remove(0));
    }
    let (extent, token) = (located[0].extent, located[0].token.clone());
    let neighbour = located[1..]
        .iter()
        .find(|other| other.extent.chunk == extent.chunk);
    let neighbour = neighbour.expect("a neighbour in the same chunk").extent;
    let peers = peers(fs.cluster_id());
    let address = cluster.datanode(0).unwrap().address().to_owned();
    let read = async |offset, token: Vec<u8>| {
        let request = ReadReplica {
            chunk: extent.chunk,
            offset,
            length: 1000,
            token,
            sequential: false,
        };
        let reply: Result<(ReadReply, Bytes), RpcError> = peers
            .call_typed(
                &address,
                Method::ReadReplica.into(),
                &request,
                Bytes::new(),
                ANSWER_MAX,
            )
            .await;
        reply.map(|(_, bytes)| bytes).map_err(|error| error.code())
    };
    assert!(
        read(extent.offset_in_chunk, token.clone())
            .await
            .unwrap()
            .len()
            >= 1000
    );
    // The neighbour's bytes, no token, a changed one, one that has expired.
    assert_eq!(
        read(neighbour.offset_in_chunk, token.clone()).await,
        Err(BadToken)
    );
    assert_eq!(
        read(extent.offset_in_chunk, Vec::new()).await,
        Err(BadToken)
    );
    for index in 0..token.len() {
        let mut forged = token.clone();
        forged[index] ^= 1;
        assert_eq!(
            read(extent.offset_in_chunk, forged).await,
            Err(BadToken),
            "byte {index}"
        );
    }
    let store = cluster.namenode(0).unwrap().group().state().store();
    let record = store.snapshot().cluster_record().unwrap();
    let secret = record.keys[0].secret.as_slice().try_into().unwrap();
    let ring = KeyRing {
        cluster: fs.cluster_id(),
        current: TokenKey {
            id: record.keys[0].id,
            secret,
        },
        previous: None,
    };
    let kind = GrantKind::Read {
        offset: extent.offset_in_chunk,
        len: 1000,
    };
    let mut grant = Grant {
        chunk: ChunkId(extent.chunk),
        kind,
        expires_at_ms: record.last_stamp_ns / 1_000_000 - 60_000,
    };
    assert_eq!(
        read(extent.offset_in_chunk, mint(&ring, &grant)).await,
        Err(BadToken),
        "expired"
    );
    grant.expires_at_ms += 3_600_000;
    assert!(
        read(extent.offset_in_chunk, mint(&ring, &grant))
            .await
            .is_ok(),
        "the same, not expired"
    );
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mutation_that_is_sent_again_happens_once() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let address = cluster.addresses()[0].clone();
    let peers = peers(fs.cluster_id());
    let open = OpenSessionRequest {
        client_name: "replay".to_owned(),
        nonce: vec![7; 16],
    };
    let open = async || {
        let reply: (OpenSessionReply, Bytes) = peers
            .call_typed(
                &address,
                Method::OpenSession.into(),
                &open,
                Bytes::new(),
                ANSWER_MAX,
            )
            .await
            .unwrap();
        reply.0.session
    };
    let session = open().await;
    assert_eq!(open().await, session, "the same nonce, the same session");
    let mutate = async |sequence, lowest_unanswered, path: &str| {
        let mkdir = OperationKind::Mkdir(Mkdir {
            location: Location::path(path),
            mode: 0o755,
            parents: false,
        });
        let caller = Caller::default();
        let request = MutateRequest {
            session,
            sequence,
            lowest_unanswered,
            caller,
            operation: Some(mkdir.into()),
        };
        let reply: Result<(MutateReply, Bytes), RpcError> = peers
            .call_typed(
                &address,
                Method::Mutate.into(),
                &request,
                Bytes::new(),
                ANSWER_MAX,
            )
            .await;
        reply
            .map(|(reply, _)| reply.outcome)
            .map_err(|error| error.code())
    };
    let first = mutate(1, 1, "/a").await.unwrap();
    assert_eq!(
        mutate(1, 1, "/a").await.unwrap(),
        first,
        "the first answer again"
    );
    let refused = mutate(2, 1, "/a").await;
    assert_eq!(refused, Err(AlreadyExists));
    fs.rmdir("/a").await.unwrap();
    assert_eq!(mutate(1, 1, "/a").await.unwrap(), first);
    assert_eq!(
        mutate(2, 1, "/a").await,
        Err(AlreadyExists),
        "a refusal is remembered too"
    );
    assert_eq!(
        fs.stat("/a").await.unwrap_err().code(),
        NotFound,
        "it was not made again"
    );
    // What was answered and forgotten is not done again either.
    mutate(3, 3, "/b").await.unwrap();
    fs.rmdir("/b").await.unwrap();
    mutate(4, 4, "/c").await.unwrap();
    assert!(mutate(3, 3, "/b").await.is_err());
    assert_eq!(fs.stat("/b").await.unwrap_err().code(), NotFound);
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_on_any_port_disturbs_nobody() {
    let mut cluster = MiniCluster::start(ClusterOptions {
        http: Some(GatewaySettings::default()),
        ..ClusterOptions::default()
    })
    .await
    .unwrap();
    let fs = cluster.client().await.unwrap();
    fs.write_file("/before", content(1, 5000), &WriteOptions::default())
        .await
        .unwrap();
    let mut rng = StdRng::seed_from_u64(11);
    for address in [
        cluster.addresses()[0].clone(),
        cluster.datanode(0).unwrap().address().to_owned(),
        cluster.namenode_http(0).unwrap().to_string(),
        cluster.datanode_http(0).unwrap().to_string(),
    ] {
        for round in 0..40 {
            let mut rubbish = vec![0; 1 << (round % 12)];
            rng.fill_bytes(&mut rubbish);
            match round % 4 {
                0 => rubbish.fill(0),
                1 => rubbish.fill(0xff),
                2 => rubbish = [b"GET / HTTP/1.1\r\n\r\n", &rubbish[..]].concat(),
                // A head that does not end as one.
                3 if round % 8 == 3 => {
                    rubbish = [b"PUT /webhdfs/v1/before HTTP/1.1\r\nHost: ", &rubbish[..]].concat();
                }
                _ => {}
            }
            let mut stream = net::connect(&address).await.unwrap();
            // The other side may have closed it already.
            let _ = stream.write_all(&rubbish).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let closed = tokio::time::timeout(ANSWER_MAX, stream.read_to_end(&mut answer)).await;
            assert!(closed.is_ok(), "{address} keeps a connection that ended");
        }
    }
    assert!(fs.read_file("/before").await.unwrap() == content(1, 5000));
    fs.write_file("/after", content(2, 5000), &WriteOptions::default())
        .await
        .unwrap();
    cluster.check(&fs).await.unwrap();
}
