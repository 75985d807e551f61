//! Several operations in one step: all of them happen, or none.

use cairn_client::WriteOptions;
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{
    Mkdir, OperationKind, OutcomeKind, Precondition, Rename, RenameMode, Unlink,
};
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};
use tokio::task::JoinSet;

fn mkdir(path: &str) -> OperationKind {
    OperationKind::Mkdir(Mkdir {
        location: Location::path(path),
        mode: 0o755,
        parents: false,
    })
}

fn rename(source: &str, target: &str) -> OperationKind {
    let (source, target) = (Location::path(source), Location::path(target));
    OperationKind::Rename(Rename {
        source,
        target,
        mode: RenameMode::Replace as i32,
    })
}

fn unlink(path: &str) -> OperationKind {
    OperationKind::Unlink(Unlink {
        location: Location::path(path),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_happens_wholly_or_not_at_all() {
    let mut cluster = MiniCluster::start(ClusterOptions::of_namenodes(3))
        .await
        .unwrap();
    let fs = cluster.client().await.unwrap();
    fs.write_file("/new", content(1, 2000), &WriteOptions::default())
        .await
        .unwrap();
    fs.write_file("/current", content(2, 2000), &WriteOptions::default())
        .await
        .unwrap();
    // Later operations see earlier ones.
    let operations = vec![
        mkdir("/old"),
        rename("/current", "/old/1"),
        rename("/new", "/current"),
    ];
    let outcomes = fs.transaction(Vec::new(), operations).await.unwrap();
    assert_eq!(outcomes.len(), 3);
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, OutcomeKind::Inode(_)))
    );
    assert!(fs.read_file("/current").await.unwrap() == content(1, 2000));
    assert!(fs.read_file("/old/1").await.unwrap() == content(2, 2000));
    // The last one fails: nothing happens.
    let operations = vec![mkdir("/half"), unlink("/current"), unlink("/missing")];
    let error = fs.transaction(Vec::new(), operations).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound, "{error}");
    assert_eq!(
        fs.stat("/half").await.unwrap_err().code(),
        ErrorCode::NotFound
    );
    assert!(fs.read_file("/current").await.unwrap() == content(1, 2000));
    cluster.wait_equal_states().await.unwrap();
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_compare_and_swap_one_wins_each_time() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    fs.mkdir("/lock", 0o755).await.unwrap();
    let mut version = fs.stat("/lock").await.unwrap().version;
    for round in 0..5 {
        let mut clients = JoinSet::new();
        for client in 0..4 {
            let fs = fs.clone();
            clients.spawn(async move {
                let same = Precondition {
                    location: Location::path("/lock"),
                    version: Some(version),
                    ..Precondition::default()
                };
                fs.transaction(vec![same], vec![mkdir(&format!("/lock/{round}-{client}"))])
                    .await
            });
        }
        let results = clients.join_all().await;
        assert_eq!(
            results.iter().filter(|result| result.is_ok()).count(),
            1,
            "{results:?}"
        );
        for error in results.into_iter().filter_map(Result::err) {
            assert_eq!(error.code(), ErrorCode::PreconditionFailed, "{error}");
        }
        let now = fs.stat("/lock").await.unwrap().version;
        assert!(now > version);
        version = now;
    }
    assert_eq!(fs.list_all("/lock").await.unwrap().len(), 5);
    cluster.check(&fs).await.unwrap();
}
