//! Owner, group and mode are checked for every operation.

use std::time::Duration;

use bytes::Bytes;
use cairn_client::{AttributeChange, FileSystem, TokenName, TokenWish, WriteOptions};
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::operation::{IfExists, RenameMode};
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};

async fn user(cluster: &mut MiniCluster, uid: u32, groups: &[u32]) -> FileSystem {
    let caller = Caller {
        uid,
        gid: uid,
        groups: groups.to_vec(),
        umask: 0,
        token: Vec::new(),
        session: 0,
    };
    cluster.client_as(caller).await.unwrap()
}

fn denied<T: std::fmt::Debug>(result: Result<T, cairn_client::Error>) {
    let error = result.unwrap_err();
    let code = error.code();
    assert!(
        matches!(code, ErrorCode::PermissionDenied | ErrorCode::NotPermitted),
        "{error}"
    );
}

fn mode(mode: u32) -> AttributeChange {
    AttributeChange {
        mode: Some(mode),
        ..AttributeChange::default()
    }
}

fn owner(uid: u32, gid: u32) -> AttributeChange {
    AttributeChange {
        uid: Some(uid),
        gid: Some(gid),
        ..AttributeChange::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_can_do_what_the_mode_says_and_nothing_else() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let root = cluster.client().await.unwrap();
    let anna = user(&mut cluster, 1000, &[]).await;
    let ben = user(&mut cluster, 1001, &[50]).await;
    denied(anna.mkdir("/anna", 0o755).await);
    root.mkdir("/anna", 0o755).await.unwrap();
    root.set_attributes("/anna", owner(1000, 50)).await.unwrap();
    let bytes = content(1, 2000);
    anna.write_file("/anna/file", bytes.clone(), &WriteOptions::default())
        .await
        .unwrap();
    assert_eq!(anna.stat("/anna/file").await.unwrap().uid, 1000);

    // 0644 in 0755: ben reads, and changes nothing.
    assert!(ben.read_file("/anna/file").await.unwrap() == bytes);
    denied(
        ben.record_append("/anna/file", Bytes::from_static(b"x"))
            .await,
    );
    denied(
        ben.write_at("/anna/file", 0, Bytes::from_static(b"x"))
            .await,
    );
    denied(ben.open_append("/anna/file").await.map(|_| ()));
    denied(ben.truncate("/anna/file", 0).await);
    denied(ben.unlink("/anna/file").await);
    denied(
        ben.rename("/anna/file", "/anna/moved", RenameMode::Replace)
            .await,
    );
    denied(ben.create("/anna/new", 0o644, IfExists::Fail).await);
    denied(ben.set_attributes("/anna/file", mode(0o777)).await);
    denied(ben.remove_tree("/anna").await);
    let replace = WriteOptions {
        if_exists: IfExists::Replace,
        ..WriteOptions::default()
    };
    denied(
        ben.write_file("/anna/file", Bytes::from_static(b"x"), &replace)
            .await,
    );
    // 0600: only anna and the superuser read.
    anna.set_attributes("/anna/file", mode(0o600))
        .await
        .unwrap();
    denied(ben.read_file("/anna/file").await);
    denied(ben.extents("/anna/file", 0, 100).await);
    root.read_file("/anna/file").await.unwrap();
    // The group of the directory may search it, others may not.
    anna.set_attributes("/anna/file", mode(0o644))
        .await
        .unwrap();
    anna.set_attributes("/anna", mode(0o710)).await.unwrap();
    assert!(ben.read_file("/anna/file").await.unwrap() == bytes);
    denied(ben.list_all("/anna").await);
    let carl = user(&mut cluster, 1002, &[]).await;
    denied(carl.stat("/anna/file").await);
    // Owners do not give files away.
    denied(anna.set_attributes("/anna/file", owner(1001, 1001)).await);
    assert!(
        anna.read_file("/anna/file").await.unwrap() == bytes,
        "nothing was changed"
    );
    cluster.check(&root).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_sticky_directory_everyone_keeps_their_own() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let root = cluster.client().await.unwrap();
    root.mkdir("/tmp", 0o1777).await.unwrap();
    let anna = user(&mut cluster, 1000, &[]).await;
    let ben = user(&mut cluster, 1001, &[]).await;
    anna.write_file("/tmp/a", content(1, 10), &WriteOptions::default())
        .await
        .unwrap();
    denied(ben.unlink("/tmp/a").await);
    denied(ben.rename("/tmp/a", "/tmp/b", RenameMode::Replace).await);
    ben.write_file("/tmp/b", content(1, 10), &WriteOptions::default())
        .await
        .unwrap();
    denied(ben.rename("/tmp/b", "/tmp/a", RenameMode::Replace).await);
    // A tree with something of somebody else's in it goes wholly or not at all.
    anna.mkdir("/tmp/tree", 0o777).await.unwrap();
    ben.mkdir("/tmp/tree/ben", 0o700).await.unwrap();
    ben.write_file(
        "/tmp/tree/ben/file",
        content(1, 10),
        &WriteOptions::default(),
    )
    .await
    .unwrap();
    denied(anna.remove_tree("/tmp/tree").await);
    assert_eq!(ben.list_all("/tmp/tree/ben").await.unwrap().len(), 1);
    anna.unlink("/tmp/a").await.unwrap();
    cluster.check(&root).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_superuser_administers() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let anna = user(&mut cluster, 1000, &[]).await;
    denied(anna.add_namenode("127.0.0.1:1", None).await);
    denied(anna.transfer_leadership(None).await);
    denied(anna.fsck_page(Vec::new(), 0).await);
    let datanode = cluster.datanode_id(0).unwrap();
    denied(anna.forget_datanode(datanode).await);
}

#[tokio::test]
async fn where_everybody_is_believed_nobody_gets_a_token_for_the_day_when_that_ends() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let root = cluster.client().await.unwrap();
    let (bearer, _) = root.who_am_i().await.unwrap();
    let wish = TokenWish {
        user: "root".to_owned(),
        bearer,
        lifetime: Duration::from_secs(3600),
        renewable: Duration::ZERO,
        acts_for_others: true,
    };
    let error = root.issue_token(wish).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotSupported, "{error}");
    let renewed = root.renew_token(TokenName::Id(1), Duration::from_secs(1));
    assert_eq!(renewed.await.unwrap_err().code(), ErrorCode::NotSupported);
    assert_eq!(root.list_tokens(0).await.unwrap(), (vec![], None));
}
