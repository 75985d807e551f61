//! Slow things: token keys change from time to time, and a datanode whose last replica has left is decommissioned.

use std::sync::Arc;

use cairn_protocol::ids::DatanodeId;
use cairn_protocol::messages::admin::DatanodeAdminState;
use rand::Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::soft::Soft;
use super::{Controllers, until_stopped};
use crate::namespace::command::{CommandKind, RotateKeys, SetDatanodeState};
use crate::store::{Read, StoreError};

/// Looks of the other loops for one of this.
const INTERVALS: u32 = 4;

/// Looks until `stop`.
pub(super) async fn run(
    controllers: Arc<Controllers>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    until_stopped(stop, async {
        loop {
            tokio::time::sleep(controllers.options.interval * INTERVALS).await;
            decommission(&controllers).await;
            rotate_keys(&controllers).await?;
        }
    })
    .await
}

async fn decommission(controllers: &Controllers) {
    let done = match controllers.soft() {
        Some(soft) => soft.decommissioned(),
        None => return,
    };
    for id in done {
        let command = CommandKind::SetDatanodeState(SetDatanodeState {
            datanode: id.0,
            state: DatanodeAdminState::Decommissioned.into(),
        });
        match controllers.group.propose(command).await {
            Ok(proposed) if proposed.outcome.code == 0 => {
                tracing::info!(datanode = %id, "datanode is decommissioned");
            }
            // The next look sees whether it is still to be done.
            Ok(_) | Err(_) => {}
        }
    }
}

impl Soft {
    /// Datanodes that are being decommissioned and that nothing depends on any more.
    fn decommissioned(&self) -> Vec<DatanodeId> {
        let empty = self.datanodes.iter().filter(|(_, known)| {
            known.admin_state() == DatanodeAdminState::Decommissioning
                && known.record.replica_count == 0
        });
        empty.map(|(id, _)| id).collect()
    }
}

async fn rotate_keys(controllers: &Controllers) -> Result<(), StoreError> {
    let now = Instant::now();
    let store = controllers.store();
    let cluster = store.snapshot().cluster_record()?;
    let Some(current) = cluster.keys.first() else {
        return Ok(());
    };
    let (term, secret) = {
        let Some(mut soft) = controllers.soft() else {
            return Ok(());
        };
        let age = soft
            .keys_since
            .map(|since| now.saturating_duration_since(since));
        if age.is_none_or(|age| age < controllers.options.rotate_keys_after) {
            soft.keys_since.get_or_insert(now);
            return Ok(());
        }
        (soft.term, new_secret(&mut soft.rng))
    };
    let Some(secret) = secret else {
        tracing::error!("the system has no random bytes for a token key");
        return Ok(());
    };
    let command = CommandKind::RotateKeys(RotateKeys {
        secret: secret.to_vec(),
        current_id: current.id,
    });
    let answer = controllers.group.propose(command).await;
    if matches!(&answer, Ok(proposed) if proposed.outcome.code == 0)
        && let Some(mut soft) = controllers.soft_of(term)
    {
        tracing::info!(previous = current.id, "token keys changed");
        soft.keys_since = Some(now);
    }
    Ok(())
}

impl Controllers {
    /// Random bytes that nobody can guess; `None` if the system has none, or this is not the leader.
    pub fn new_secret(&self) -> Option<[u8; 32]> {
        let mut soft = self.soft()?;
        new_secret(&mut soft.rng)
    }
}

/// A secret must not follow from a seed, except in the simulator, where everything does.
#[cfg(not(cairn_sim))]
fn new_secret(_: &mut impl Rng) -> Option<[u8; 32]> {
    use rand::TryRngCore;
    let mut secret = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut secret).ok()?;
    Some(secret)
}

/// A secret must not follow from a seed, except in the simulator, where everything does.
#[cfg(cairn_sim)]
fn new_secret(rng: &mut impl Rng) -> Option<[u8; 32]> {
    Some(rng.random())
}
