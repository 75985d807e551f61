//! Finding the leader, and doing things exactly once.

use std::collections::BTreeSet;

use cairn_client::Error;
use cairn_protocol::ids::NamenodeId;
use cairn_protocol::{ErrorCode, Failure};

use crate::fake::{FakeCluster, Interrupted};

#[tokio::test]
async fn a_hint_leads_to_the_leader() {
    let cluster = FakeCluster::start(3, 0).await;
    cluster.state().leader = 2;
    let fs = cluster.connect().await;
    fs.mkdir("/a", 0o755).await.unwrap();
    cluster.state().leader = 1;
    fs.mkdir("/b", 0o755).await.unwrap();
    assert_eq!(cluster.state().count("mkdir"), 2);
}

#[tokio::test]
async fn without_hints_all_members_are_tried() {
    let cluster = FakeCluster::start(3, 0).await;
    {
        let mut state = cluster.state();
        state.leader = 2;
        state.faults.silent_followers = true;
    }
    let mut config = cluster.config();
    // The others are learnt.
    config.namenodes.truncate(1);
    let fs = cairn_client::FileSystem::connect(config).await.unwrap();
    fs.mkdir("/a", 0o755).await.unwrap();
    cluster.state().leader = 0;
    fs.mkdir("/b", 0o755).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_number() {
    let cluster = FakeCluster::start(1, 0).await;
    let fs = cluster.connect().await;
    fs.mkdir("/a", 0o755).await.unwrap();
    cluster.state().faults.lost_answers = 3;
    fs.mkdir("/b", 0o755).await.unwrap();
    let state = cluster.state();
    assert_eq!(state.count("mkdir"), 2);
    assert_eq!(state.attempts.len(), 5);
    let distinct: BTreeSet<_> = state.attempts.iter().collect();
    assert_eq!(distinct.len(), 2);
}

#[tokio::test]
async fn numbers_of_concurrent_mutations_are_distinct() {
    let cluster = FakeCluster::start(1, 0).await;
    let fs = cluster.connect().await;
    let all = (0..100).map(|i| fs.mkdir(format!("/{i}"), 0o755));
    for result in futures::future::join_all(all).await {
        result.unwrap();
    }
    let state = cluster.state();
    let distinct: BTreeSet<_> = state.attempts.iter().collect();
    assert_eq!(distinct.len(), 100);
    assert_eq!(state.sessions.len(), 1);
}

#[tokio::test]
async fn a_mutation_whose_session_ended_is_unknown_if_it_may_have_happened_and_the_next_one_is_fine()
 {
    for (interrupted, done) in [(Interrupted::Before, 0), (Interrupted::After, 1)] {
        let cluster = FakeCluster::start(1, 0).await;
        let fs = cluster.connect().await;
        fs.mkdir("/a", 0o755).await.unwrap();
        cluster.state().faults.interrupted = Some(("mkdir", interrupted));
        let error = fs.mkdir("/b", 0o755).await.unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
        assert_eq!(error.code(), ErrorCode::OutcomeUnknown);
        fs.mkdir("/c", 0o755).await.unwrap();
        let state = cluster.state();
        assert_eq!(state.count("mkdir"), 2 + done);
        assert_eq!(state.sessions.len(), 2);
    }
}

#[tokio::test]
async fn a_mutation_that_only_hears_that_its_session_is_over_happens_in_the_next() {
    let cluster = FakeCluster::start(1, 0).await;
    let fs = cluster.connect().await;
    fs.mkdir("/a", 0o755).await.unwrap();
    for session in cluster.state().sessions.values_mut() {
        session.alive = false;
    }
    fs.mkdir("/b", 0o755).await.unwrap();
    let state = cluster.state();
    assert_eq!(state.count("mkdir"), 2);
    assert_eq!(state.sessions.len(), 2);
}

#[tokio::test]
async fn a_refusal_names_the_path_and_is_not_retried() {
    let cluster = FakeCluster::start(1, 0).await;
    let fs = cluster.connect().await;
    let failure = Failure::from(ErrorCode::PermissionDenied);
    cluster
        .state()
        .faults
        .refusals
        .insert("mkdir", vec![failure]);
    let error = fs.mkdir("/a/b", 0o755).await.unwrap_err();
    assert_eq!(error.to_string(), "/a/b: Permission denied");
    assert_eq!(cluster.state().attempts.len(), 1);
}

#[tokio::test]
async fn a_token_that_ends_does_not_tell_what_became_of_a_mutation_before() {
    let cluster = FakeCluster::start(1, 0).await;
    let fs = cluster.connect().await;
    {
        let faults = &mut cluster.state().faults;
        (faults.lost_answers, faults.unproved) = (1, 1);
    }
    let error = fs.mkdir("/a", 0o755).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert_eq!(cluster.state().count("mkdir"), 1);
    // What nobody can have received has not happened.
    cluster.state().faults.unproved = 1;
    let error = fs.mkdir("/b", 0o755).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::Unauthenticated);
    assert_eq!(cluster.state().count("mkdir"), 1);
}

#[tokio::test]
async fn a_namenode_that_believes_nobody_does_not_keep_anybody_from_the_others() {
    let cluster = FakeCluster::start(3, 0).await;
    cluster.state().leader = 1;
    cluster.state().faults.distrusting = BTreeSet::from([0]);
    let fs = cluster.connect().await;
    fs.mkdir("/a", 0o755).await.unwrap();
    assert_eq!(cluster.state().count("mkdir"), 1);

    cluster.state().faults.distrusting = BTreeSet::from([0, 1, 2]);
    let error = cairn_client::FileSystem::connect(cluster.config())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn a_leader_that_believes_nobody_is_asked_until_patience_ends() {
    let cluster = FakeCluster::start(3, 0).await;
    cluster.state().leader = 1;
    cluster.state().faults.distrusting = BTreeSet::from([1]);
    let mut config = cluster.config();
    config.timeouts.patience = std::time::Duration::from_millis(300);
    let fs = cairn_client::FileSystem::connect(config).await.unwrap();
    let error = fs.mkdir("/a", 0o755).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_unreachable() {
    let cluster = FakeCluster::start(1, 0).await;
    let mut config = cluster.config();
    drop(cluster);
    config.timeouts.patience = std::time::Duration::from_millis(300);
    let error = cairn_client::FileSystem::connect(config).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_namenode_whose_removal_was_not_answered_may_be_gone_when_asked_again() {
    let cluster = FakeCluster::start(1, 0).await;
    let fs = cluster.connect().await;
    let (gone, lost) = (ErrorCode::NotFound, ErrorCode::Unavailable);
    // The last one comes first.
    cluster.state().faults.removals = vec![gone.into(), lost.into()];
    fs.remove_namenode(NamenodeId(7)).await.unwrap();
    cluster.state().faults.removals = vec![gone.into()];
    let error = fs.remove_namenode(NamenodeId(7)).await.unwrap_err();
    assert_eq!(error.code(), gone);
}

#[tokio::test]
async fn whoever_gives_up_in_the_middle_of_an_attempt_tells_why_the_last_one_failed() {
    let cluster = FakeCluster::start(1, 0).await;
    let (config, patience) = (cluster.config(), std::time::Duration::from_secs(2));
    let failure = Failure::new(ErrorCode::Unavailable, "the third is down");
    cluster.state().faults.foundings = vec![failure];
    let founded = cairn_client::found_cluster(&config, patience).await;
    let error = founded.unwrap_err();
    assert!(error.to_string().contains("the third is down"), "{error}");
}

#[tokio::test]
async fn closing_ends_the_session() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    fs.write_file("/a", "data".into(), &Default::default())
        .await
        .unwrap();
    fs.close().await.unwrap();
    let state = cluster.state();
    assert_eq!(state.applied.last(), Some(&"close"));
    assert_eq!(state.returned.len(), 1);
}

#[tokio::test]
async fn a_leader_that_does_not_know_the_session_yet_does_not_end_it() {
    let cluster = FakeCluster::start(1, 0).await;
    cluster.state().session_ttl_ms = 3000;
    cluster.state().faults.refused_keep_alives = 3;
    let fs = cluster.connect().await;
    fs.mkdir("/a", 0o755).await.unwrap();
    while cluster.state().keep_alives < 4 {
        tokio::task::yield_now().await;
    }
    fs.mkdir("/b", 0o755).await.unwrap();
    assert_eq!(cluster.state().sessions.len(), 1);
}
