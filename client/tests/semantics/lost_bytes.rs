//! What an open file may never do: bring old bytes back, or lose bytes without telling everybody who has the file open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_client::{Custodian, Error, FileSystem, InCustody, OpenFile};
use cairn_protocol::messages::operation::{Commit, IfExists};
use cairn_protocol::{ErrorCode, Failure};
use futures::future::BoxFuture;

use crate::fake::{FakeCluster, Interrupted, Shared, pattern};

async fn create(fs: &FileSystem, path: &str) -> OpenFile {
    let created = fs.create(path, 0o644, IfExists::Fail).await;
    let (attributes, _) = created.expect("the name is new");
    fs.open_file_known(&attributes)
}

fn refuse_commit(cluster: &FakeCluster, code: ErrorCode) {
    let refusal = vec![Failure::from(code)];
    cluster.state().faults.refusals.insert("commit", refusal);
}

#[tokio::test]
async fn a_file_that_was_dropped_with_much_to_write_and_is_opened_again_is_the_same_file() {
    let cluster = FakeCluster::start(1, 3).await;
    cluster.state().chunk_size = 64 << 20;
    let fs = cluster.connect().await;
    let file = create(&fs, "/f").await;
    let inode = file.inode();
    let mut expected = pattern(24 << 20, 1).to_vec();
    for at in (0..expected.len()).step_by(1 << 20) {
        let piece = expected[at..at + (1 << 20)].to_vec();
        file.write(at as u64, piece.into()).await.unwrap();
    }
    drop(file);
    let file = fs.open_file(inode).await.unwrap();
    assert!(file.read(0, 1 << 20).await.unwrap() == expected[..1 << 20]);
    file.write(0, "new!".into()).await.unwrap();
    expected[..4].copy_from_slice(b"new!");
    file.sync().await.unwrap();
    assert!(cluster.state().content("/f").unwrap() == expected);
    drop(file);
    fs.close().await.unwrap();
    assert!(cluster.state().content("/f").unwrap() == expected);
}

#[tokio::test]
async fn bytes_of_a_failed_flush_do_not_come_over_those_of_the_next_open() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let file = create(&fs, "/f").await;
    let inode = file.inode();
    file.write(0, "old, longer".into()).await.unwrap();
    refuse_commit(&cluster, ErrorCode::NoSpace);
    file.flush().await.unwrap_err();
    drop(file);
    let file = fs.open_file(inode).await.unwrap();
    file.write(0, "new!".into()).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.state().content("/f").unwrap(), b"new! longer");
    drop(file);
    fs.close().await.unwrap();
    assert_eq!(cluster.state().content("/f").unwrap(), b"new! longer");
}

#[tokio::test]
async fn bytes_of_a_dropped_file_are_tried_again() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let file = create(&fs, "/f").await;
    let inode = file.inode();
    file.write(0, "kept".into()).await.unwrap();
    refuse_commit(&cluster, ErrorCode::NoSpace);
    drop(file);
    while fs.opened_file(inode).is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let state = cluster.state();
    assert!(state.faults.refusals["commit"].is_empty());
    assert_eq!(state.content("/f").unwrap(), b"kept");
}

#[tokio::test]
async fn every_open_file_is_told_once_that_bytes_were_given_up() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let one = create(&fs, "/f").await;
    let other = fs.open_file(one.inode()).await.unwrap();
    let same = one.clone();
    one.write(0, "precious".into()).await.unwrap();
    refuse_commit(&cluster, ErrorCode::PermissionDenied);
    let denied = ErrorCode::PermissionDenied;
    assert_eq!(other.flush().await.unwrap_err().code(), denied);
    assert_eq!(other.flush().await, Ok(None), "told once");
    assert_eq!(other.sync().await, Ok(None));
    let late = one.open_again();
    assert_eq!(late.flush().await, Ok(None), "it came later");
    assert_eq!(one.sync().await.unwrap_err().code(), denied);
    assert_eq!(same.sync().await, Ok(None), "a clone is the same open file");
    // A later success hides nothing.
    one.write(0, "more".into()).await.unwrap();
    refuse_commit(&cluster, ErrorCode::PermissionDenied);
    one.try_commit().await;
    let heir = one.open_again();
    one.write(0, "most".into()).await.unwrap();
    assert_eq!(other.flush().await.unwrap_err().code(), denied);
    assert_eq!(cluster.state().content("/f").unwrap(), b"most");
    assert_eq!(one.flush().await.unwrap_err().code(), denied);
    assert_eq!(late.flush().await.unwrap_err().code(), denied);
    let why = "nobody had been told when it was opened";
    assert_eq!(heir.flush().await.expect_err(why).code(), denied);
    for file in [&one, &other, &late, &heir] {
        assert_eq!(file.flush().await, Ok(None));
    }
}

/// Flushes until that works; how often the outcome of a commit was unknown.
async fn flush_at_last(file: &OpenFile) -> usize {
    let mut unknown = 0;
    while let Err(error) = file.flush().await {
        assert_eq!(error.code(), ErrorCode::OutcomeUnknown);
        unknown += 1;
    }
    unknown
}

#[tokio::test]
async fn a_commit_whose_session_ended_is_not_repeated_if_it_happened() {
    // In one go, and through a stream.
    for length in [1000, 20 << 20] {
        let cluster = FakeCluster::start(1, 3).await;
        cluster.state().chunk_size = 64 << 20;
        let fs = cluster.connect().await;
        let file = create(&fs, "/f").await;
        for interrupted in [Interrupted::Before, Interrupted::After] {
            let content = pattern(length, interrupted as u8);
            cluster.state().faults.interrupted = Some(("commit", interrupted));
            for at in (0..length).step_by(1 << 20) {
                let piece = content.slice(at..length.min(at + (1 << 20)));
                file.write(at as u64, piece).await.unwrap();
            }
            // The first attempt may have been one in the background.
            assert!(flush_at_last(&file).await <= 1);
            let state = cluster.state();
            assert!(state.faults.interrupted.is_none());
            assert!(state.content("/f").unwrap() == content);
            if length == 1000 {
                let commits = 1 + usize::from(matches!(interrupted, Interrupted::After));
                assert_eq!(state.count("commit"), commits);
            }
        }
    }
}

#[tokio::test]
async fn a_commit_of_which_nobody_can_tell_whether_it_happened_is_told_and_not_repeated() {
    for length in [1000, 5 << 20] {
        let cluster = FakeCluster::start(1, 3).await;
        cluster.state().chunk_size = 64 << 20;
        let fs = cluster.connect().await;
        let file = create(&fs, "/f").await;
        let other = file.open_again();
        cluster.state().faults.interrupted = Some(("commit", Interrupted::LongAfter));
        file.write(0, pattern(length, 1)).await.unwrap();
        let error = file.flush().await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::OutcomeUnknown);
        flush_at_last(&file).await;
        assert_eq!(cluster.state().content("/f").unwrap(), b"");
        // Who writes again is not held up.
        file.write(0, "again".into()).await.unwrap();
        file.flush().await.unwrap();
        assert_eq!(cluster.state().content("/f").unwrap(), b"again");
        let told = other.flush().await.unwrap_err();
        assert_eq!(told.code(), ErrorCode::OutcomeUnknown);
        assert_eq!(other.flush().await, Ok(None));
        assert_eq!(file.flush().await, Ok(None));
    }
}

#[tokio::test]
async fn a_commit_that_nobody_answers_for_long_is_asked_for_again_under_its_number() {
    let cluster = FakeCluster::start(1, 3).await;
    let mut config = cluster.config();
    config.timeouts.patience = std::time::Duration::from_millis(300);
    let fs = FileSystem::connect(config).await.unwrap();
    let file = create(&fs, "/f").await;
    // Both shared streams have their chunks.
    for _ in 0..2 {
        file.write(0, "first".into()).await.unwrap();
        file.flush().await.unwrap();
    }
    file.write(0, "other".into()).await.unwrap();
    cluster.state().faults.lost_answers = u32::MAX;
    let error = file.flush().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::OutcomeUnknown);
    let error = file.truncate(0).await.unwrap_err();
    assert!(error.code().is_retryable(), "nothing overtakes it: {error}");
    cluster.state().faults.lost_answers = 0;
    file.write(1, "*".into()).await.unwrap();
    file.flush().await.unwrap();
    let state = cluster.state();
    assert_eq!(state.content("/f").unwrap(), b"o*her");
    assert_eq!(state.count("commit"), 4);
    assert_eq!(state.count("truncate"), 0);
    assert_eq!(state.sessions.len(), 1);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_with_the_token_is_not_made_again_over_what_others_wrote() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let file = create(&fs, "/f").await;
    // Both shared streams have their chunks.
    for _ in 0..2 {
        file.write(0, "first".into()).await.unwrap();
        file.flush().await.unwrap();
    }
    let others = cluster.connect().await;
    let theirs = others.open_file(file.inode()).await.unwrap();
    {
        let faults = &mut cluster.state().faults;
        (faults.lost_answers, faults.unproved) = (1, 1);
    }
    file.write(0, "ours".into()).await.unwrap();
    let error = file.flush().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::OutcomeUnknown);
    assert_eq!(cluster.state().content("/f").unwrap(), b"ourst");
    theirs.write(0, "their".into()).await.unwrap();
    theirs.flush().await.unwrap();
    file.flush().await.unwrap();
    let state = cluster.state();
    assert_eq!(state.content("/f").unwrap(), b"their");
    assert_eq!(state.count("commit"), 4);
}

/// Sees to commits in a session that ends after the first.
struct Unsure {
    shared: Arc<Shared>,
    interrupted: Interrupted,
    is_over: AtomicBool,
}

impl std::fmt::Debug for Unsure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unsure")
    }
}

impl Custodian for Unsure {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Option<InCustody>> {
        Box::pin(async move {
            if self.is_over.swap(true, Ordering::SeqCst) {
                return None;
            }
            let mut state = self.shared.state();
            let inode = commit.location.inode;
            let version_before = state.inodes[&inode].version;
            match self.interrupted {
                Interrupted::Before => {}
                Interrupted::After => state.commit(commit),
                Interrupted::LongAfter => {
                    state.commit(commit);
                    state.empty(inode);
                }
            }
            Some(InCustody::Unknown { version_before })
        })
    }

    fn release(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn a_commit_in_custody_is_not_repeated_if_it_happened_or_if_nobody_can_tell() {
    for (interrupted, content, commits) in [
        (Interrupted::Before, &b"ours"[..], 1),
        (Interrupted::After, b"ours", 0),
        (Interrupted::LongAfter, b"", 0),
    ] {
        let cluster = FakeCluster::start(1, 3).await;
        let fs = cluster.connect().await;
        let file = create(&fs, "/f").await;
        let other = file.open_again();
        file.entrust(Arc::new(Unsure {
            shared: cluster.shared.clone(),
            interrupted,
            is_over: AtomicBool::new(false),
        }));
        file.write(0, "ours".into()).await.unwrap();
        let error = file.flush().await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::OutcomeUnknown);
        flush_at_last(&file).await;
        assert_eq!(cluster.state().content("/f").unwrap(), content);
        assert_eq!(cluster.state().count("commit"), commits);
        // Bytes that were given up are told to all.
        assert_eq!(other.flush().await.is_err(), content.is_empty());
        file.write(0, "more".into()).await.unwrap();
        file.flush().await.unwrap();
        assert_eq!(cluster.state().content("/f").unwrap(), b"more");
    }
}
