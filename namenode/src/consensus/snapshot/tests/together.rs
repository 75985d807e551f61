//! The library installs a snapshot, builds one and asks for the current one whenever it likes, also at once.

use tokio::join;

use super::*;
use crate::consensus::snapshot::{PIECE_BYTES, current};

const ROUNDS: u64 = 12;

#[tokio::test]
async fn a_snapshot_is_built_and_asked_for_while_another_one_is_installed() {
    let directory = tempfile::tempdir().unwrap();
    let member = directory.path().join("member");
    let state = Arc::new(open(Arc::new(RealDisk), &member));
    fill(&state, log_id(1, 5));
    for round in 0..ROUNDS {
        let reached = log_id(2, 20 + round);
        let leader = directory.path().join(round.to_string());
        let sent = snapshot_of(&leader, reached).await;
        let pieces = pieces_of(&sent, vote(2), PIECE_BYTES);
        let installed = receive_and_install(&state, &pieces);
        let built = async {
            for _ in 0..6 {
                build(&state).await.unwrap();
            }
        };
        let asked = async {
            for _ in 0..20 {
                current(&state).await.unwrap();
            }
        };
        let (installed, (), ()) = join!(installed, built, asked);
        installed.unwrap();
        assert_eq!(content(&state), reached.index);
        let left = RealDisk.list(&member.join("snapshots")).unwrap();
        let left: Vec<String> = left.into_iter().map(|entry| entry.name).collect();
        assert_eq!(left, [reached.index.to_string()]);
    }
}
