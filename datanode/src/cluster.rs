//! What this datanode knows of its cluster: who it is there, the keys of tokens, the cluster's time, the leader's term.
//! Learned at registration and from every answered heartbeat; nothing of it is believed from anyone else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use cairn_protocol::ids::DatanodeId;
use cairn_protocol::messages::common::ClusterSettings;
use cairn_protocol::messages::datanode::{ClusterDirections, TokenKeyMessage};
use cairn_protocol::rpc::Hello;
use cairn_protocol::token::{self, Grant, KeyRing, TokenKey};
use cairn_protocol::{ErrorCode, Failure};

/// What other datanodes and namenodes see as our role.
const ROLE: &str = "datanode";

/// Who this datanode is: fixed once it has registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub cluster: [u8; 16],
    pub datanode: DatanodeId,
}

/// Everything that a decision may depend on, as of one moment.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub identity: Identity,
    pub keys: KeyRing,
    pub settings: ClusterSettings,
    /// The cluster's time when `heard` was.
    time_ms: u64,
    heard: Instant,
}

impl Known {
    /// The cluster's time: the leader's last word plus what has passed here since. Our own date plays no part in it.
    pub(crate) fn now_ms(&self) -> u64 {
        let elapsed_ms = u64::try_from(self.heard.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.time_ms.saturating_add(elapsed_ms)
    }

    /// What a token grants, if it is genuine and has not expired.
    pub(crate) fn verify(&self, token: &[u8]) -> Result<Grant, Failure> {
        token::verify(&self.keys, token, self.now_ms())
    }

    /// How we introduce ourselves.
    pub(crate) fn hello(&self) -> Hello {
        Hello::new(ROLE, Some(self.identity.cluster), self.identity.datanode.0)
    }
}

/// Shared by everything in this datanode.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// Held for moments; never while another lock is taken.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Arc<Known>>,
    /// The highest term heard of from a leader.
    term: u64,
}

impl Cluster {
    /// What is known, or `Unavailable` before the first registration of this process.
    pub(crate) fn known(&self) -> Result<Arc<Known>, Failure> {
        self.lock().known.clone().ok_or_else(|| {
            Failure::new(
                ErrorCode::Unavailable,
                "this datanode has not registered with its cluster yet",
            )
        })
    }

    /// How we introduce ourselves now; `cluster` is what our volumes say.
    pub(crate) fn hello(&self, cluster: Option<[u8; 16]>) -> Hello {
        match self.known() {
            Ok(known) => known.hello(),
            Err(_) => Hello::new(ROLE, cluster, 0),
        }
    }

    /// Takes in what the leader said. Words of an older term than one already heard are ignored: false.
    pub(crate) fn learn(
        &self,
        identity: Identity,
        directions: &ClusterDirections,
    ) -> Result<bool, Failure> {
        let keys = key_ring(identity.cluster, &directions.keys)?;
        let mut state = self.lock();
        if directions.term < state.term {
            return Ok(false);
        }
        state.term = directions.term;
        // Also backwards: whoever mints the tokens says what time it is. If the leader's clock was set back, tokens that it
        // mints from then on would seem to have expired to a datanode that knew better.
        state.known = Some(Arc::new(Known {
            identity,
            keys,
            settings: directions.settings.clone(),
            time_ms: directions.time_ms,
            heard: Instant::now(),
        }));
        Ok(true)
    }

    /// Refuses a leader whose term is over; remembers the term otherwise.
    pub(crate) fn accept_term(&self, term: u64) -> Result<(), Failure> {
        let mut state = self.lock();
        if term < state.term {
            let text = format!("term {term} is over, {} has been heard of", state.term);
            return Err(Failure::new(ErrorCode::StaleTerm, text));
        }
        state.term = term;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code inside can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_ring(cluster: [u8; 16], keys: &[TokenKeyMessage]) -> Result<KeyRing, Failure> {
    let mut ring = keys.iter().map(|key| {
        let secret = <[u8; 32]>::try_from(key.secret.as_slice());
        secret
            .map(|secret| TokenKey { id: key.id, secret })
            .map_err(|_| Failure::new(ErrorCode::Malformed, "a token key has 32 bytes"))
    });
    let current = ring
        .next()
        .ok_or_else(|| Failure::new(ErrorCode::Malformed, "directions without a token key"))??;
    let previous = ring.next().transpose()?;
    Ok(KeyRing {
        cluster,
        current,
        previous,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Cluster, Identity};
    use cairn_protocol::ErrorCode;
    use cairn_protocol::ids::DatanodeId;
    use cairn_protocol::messages::datanode::{ClusterDirections, TokenKeyMessage};

    const IDENTITY: Identity = Identity {
        cluster: [1; 16],
        datanode: DatanodeId(3),
    };

    fn directions(term: u64, time_ms: u64) -> ClusterDirections {
        let keys = vec![TokenKeyMessage {
            id: 1,
            secret: vec![7; 32],
        }];
        ClusterDirections {
            term,
            time_ms,
            keys,
            ..Default::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn cluster_time_is_the_leaders_and_goes_on_between_heartbeats() {
        let cluster = Cluster::default();
        assert_eq!(cluster.known().unwrap_err().code, ErrorCode::Unavailable);
        assert!(cluster.learn(IDENTITY, &directions(1, 1000)).unwrap());
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(cluster.known().unwrap().now_ms(), 1250);
        assert!(cluster.learn(IDENTITY, &directions(2, 900)).unwrap());
        assert_eq!(cluster.known().unwrap().now_ms(), 900);
        assert!(cluster.learn(IDENTITY, &directions(2, 5000)).unwrap());
        assert_eq!(cluster.known().unwrap().now_ms(), 5000);
    }

    #[tokio::test]
    async fn words_of_a_deposed_leader_are_refused() {
        let cluster = Cluster::default();
        cluster.accept_term(5).unwrap();
        assert_eq!(
            cluster.accept_term(4).unwrap_err().code,
            ErrorCode::StaleTerm
        );
        assert!(!cluster.learn(IDENTITY, &directions(4, 1)).unwrap());
        assert!(cluster.known().is_err());
        cluster.accept_term(5).unwrap();
    }

    #[tokio::test]
    async fn keys_that_make_no_sense_are_refused() {
        let cluster = Cluster::default();
        let mut short = directions(1, 1);
        short.keys[0].secret.pop();
        assert_eq!(
            cluster.learn(IDENTITY, &short).unwrap_err().code,
            ErrorCode::Malformed
        );
        short.keys.clear();
        assert_eq!(
            cluster.learn(IDENTITY, &short).unwrap_err().code,
            ErrorCode::Malformed
        );
    }
}
