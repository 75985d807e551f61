//! The keys of tokens, as they are minted with: from replicated state, for the service and the controllers.

use std::time::Duration;

use cairn_protocol::token::{KeyRing, TokenKey};
use cairn_protocol::{ErrorCode, Failure};

use crate::store::records::{ClusterRecord, TokenKeyRecord};

/// Datanodes learn a new key with a heartbeat; until all that are alive must have it, the previous one mints.
const NEW_KEY_RESTS: Duration = Duration::from_secs(60);

/// The keys at a time of the cluster. Fails before the cluster is founded.
pub(crate) fn key_ring(cluster: &ClusterRecord, now_ms: u64) -> Result<KeyRing, Failure> {
    let unfounded = || Failure::new(ErrorCode::Unavailable, "the cluster is not founded yet");
    let id = <[u8; 16]>::try_from(cluster.cluster_id.as_slice()).map_err(|_| unfounded())?;
    let newest = cluster.keys.first().ok_or_else(unfounded)?;
    let known_since_ms = newest.made_ns / 1_000_000;
    let is_known = now_ms >= known_since_ms.saturating_add(NEW_KEY_RESTS.as_millis() as u64);
    let current = token_key(newest)?;
    match cluster.keys.get(1).map(token_key).transpose()? {
        Some(previous) if !is_known => Ok(KeyRing {
            cluster: id,
            current: previous,
            previous: Some(current),
        }),
        previous => Ok(KeyRing {
            cluster: id,
            current,
            previous,
        }),
    }
}

fn token_key(record: &TokenKeyRecord) -> Result<TokenKey, Failure> {
    let secret = <[u8; 32]>::try_from(record.secret.as_slice())
        .map_err(|_| Failure::new(ErrorCode::Internal, "a token key has not 32 bytes"))?;
    Ok(TokenKey {
        id: record.id,
        secret,
    })
}

#[cfg(test)]
mod tests {
    use super::key_ring;
    use crate::store::records::{ClusterRecord, TokenKeyRecord};

    #[test]
    fn a_new_key_mints_only_when_every_datanode_must_have_heard_of_it() {
        let key = |id: u32, made_ns| TokenKeyRecord {
            id,
            secret: vec![id as u8; 32],
            made_ns,
        };
        let cluster = ClusterRecord {
            cluster_id: vec![7; 16],
            keys: vec![key(2, 100_000_000_000), key(1, 0)],
            ..ClusterRecord::default()
        };
        let ids = |now_ms| {
            let keys = key_ring(&cluster, now_ms).unwrap();
            (keys.current.id, keys.previous.map(|key| key.id))
        };
        assert_eq!(ids(100_000), (1, Some(2)));
        assert_eq!(ids(159_999), (1, Some(2)));
        assert_eq!(ids(160_000), (2, Some(1)));
        assert!(key_ring(&ClusterRecord::default(), 0).is_err());
    }
}
