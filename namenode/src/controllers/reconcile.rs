//! What a datanode's word on one of its replicas means, measured against the committed record. Pure.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::DatanodeId;
use cairn_protocol::messages::datanode::ReplicaState;

use crate::store::records::{ChunkRecord, ChunkState, ClusterRecord};

/// What it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It confirmed the seal at its epoch and length.
    Verified,
    /// It cannot be what the committed state says.
    Failed(ErrorCode),
    /// Shorter than an open chunk's committed bytes when this was looked at; it may have grown since the datanode looked.
    Short,
    /// Nothing yet.
    Unsure,
    /// Not in the set: left over, or a copy that has not been added.
    Unlisted,
    /// Made under a state that this cluster never had (its namenodes were restored from an older copy, say): left alone.
    Foreign,
}

/// Judges what `datanode` says of a replica, or a datanode's answer to an instruction.
pub(super) fn judge(
    state: &ReplicaState,
    datanode: DatanodeId,
    record: Option<&ChunkRecord>,
    cluster: &ClusterRecord,
) -> Meaning {
    if state.chunk >= cluster.next_chunk || state.incarnation >= cluster.next_incarnation {
        return Meaning::Foreign;
    }
    let Some(record) = record else {
        return Meaning::Unlisted;
    };
    let listed = record
        .replicas
        .iter()
        .any(|replica| replica.datanode == datanode.0 && replica.incarnation == state.incarnation);
    if !listed {
        return Meaning::Unlisted;
    }
    if state.gone {
        return Meaning::Failed(ErrorCode::NoReplica);
    }
    if state.bad {
        return Meaning::Failed(ErrorCode::ChecksumMismatch);
    }
    match (record.state(), state.sealed) {
        (ChunkState::Sealed, true)
            if (state.epoch, state.length) == (record.epoch, record.held_length()) =>
        {
            Meaning::Verified
        }
        (ChunkState::Sealed, true) => Meaning::Failed(ErrorCode::WrongLength),
        // The seal itself will tell.
        (ChunkState::Sealed, false) => Meaning::Unsure,
        // Compaction's replicas are sealed before their chunk is, which happens at their length.
        (ChunkState::Open, true) if record.compaction && state.epoch == record.epoch => {
            Meaning::Unsure
        }
        (ChunkState::Open | ChunkState::Idle, true) => Meaning::Failed(ErrorCode::Sealed),
        (ChunkState::Open | ChunkState::Idle, false) if state.length < record.length => {
            Meaning::Short
        }
        (ChunkState::Open | ChunkState::Idle, false) => Meaning::Unsure,
    }
}

/// Whether a refused instruction is a verdict on the replica; anything else may pass.
pub(super) fn is_verdict(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NoReplica
            | ErrorCode::WrongLength
            | ErrorCode::ChecksumMismatch
            | ErrorCode::Sealed
            | ErrorCode::StaleEpoch
            | ErrorCode::DiskFailed
            // Another incarnation is there.
            | ErrorCode::PreconditionFailed
    )
}

#[cfg(test)]
mod tests {
    use cairn_protocol::ErrorCode;
    use cairn_protocol::ids::DatanodeId;
    use cairn_protocol::messages::datanode::ReplicaState;

    use super::{Meaning, judge};
    use crate::store::records::{ChunkRecord, ChunkState, ClusterRecord, ReplicaRecord};

    const HERE: DatanodeId = DatanodeId(1);

    fn record(state: ChunkState) -> ChunkRecord {
        ChunkRecord {
            state: state.into(),
            epoch: 2,
            length: 100,
            replicas: vec![ReplicaRecord {
                datanode: 1,
                incarnation: 5,
            }],
            ..ChunkRecord::default()
        }
    }

    fn said() -> ReplicaState {
        ReplicaState {
            chunk: 7,
            incarnation: 5,
            epoch: 2,
            length: 100,
            sealed: true,
            ..ReplicaState::default()
        }
    }

    fn meaning(state: &ReplicaState, chunk: ChunkState) -> Meaning {
        let cluster = ClusterRecord {
            next_chunk: 8,
            next_incarnation: 10,
            ..ClusterRecord::default()
        };
        judge(state, HERE, Some(&record(chunk)), &cluster)
    }

    #[test]
    fn only_the_exact_seal_verifies() {
        assert_eq!(meaning(&said(), ChunkState::Sealed), Meaning::Verified);
        let wrong = [
            ReplicaState { epoch: 1, ..said() },
            ReplicaState {
                length: 99,
                ..said()
            },
            ReplicaState {
                length: 101,
                ..said()
            },
        ];
        for state in wrong {
            let failed = Meaning::Failed(ErrorCode::WrongLength);
            assert_eq!(meaning(&state, ChunkState::Sealed), failed);
        }
        let open = ReplicaState {
            sealed: false,
            ..said()
        };
        assert_eq!(meaning(&open, ChunkState::Sealed), Meaning::Unsure);
    }

    #[test]
    fn bad_and_gone_replicas_have_failed_in_every_state() {
        for chunk in [ChunkState::Open, ChunkState::Idle, ChunkState::Sealed] {
            let bad = ReplicaState {
                bad: true,
                ..said()
            };
            let gone = ReplicaState {
                gone: true,
                ..said()
            };
            assert_eq!(
                meaning(&bad, chunk),
                Meaning::Failed(ErrorCode::ChecksumMismatch)
            );
            assert_eq!(meaning(&gone, chunk), Meaning::Failed(ErrorCode::NoReplica));
        }
    }

    #[test]
    fn a_short_replica_of_an_open_chunk_is_only_a_suspicion() {
        let short = ReplicaState {
            sealed: false,
            length: 99,
            ..said()
        };
        assert_eq!(meaning(&short, ChunkState::Open), Meaning::Short);
        let longer = ReplicaState {
            sealed: false,
            length: 200,
            ..said()
        };
        assert_eq!(meaning(&longer, ChunkState::Idle), Meaning::Unsure);
    }

    #[test]
    fn other_incarnations_are_unlisted_and_impossible_ones_are_left_alone() {
        let other = ReplicaState {
            incarnation: 6,
            ..said()
        };
        assert_eq!(meaning(&other, ChunkState::Sealed), Meaning::Unlisted);
        let future = ReplicaState {
            incarnation: 10,
            ..said()
        };
        assert_eq!(meaning(&future, ChunkState::Sealed), Meaning::Foreign);
        let future = ReplicaState { chunk: 8, ..said() };
        assert_eq!(meaning(&future, ChunkState::Sealed), Meaning::Foreign);
        let cluster = ClusterRecord {
            next_chunk: 8,
            next_incarnation: 10,
            ..Default::default()
        };
        assert_eq!(judge(&said(), HERE, None, &cluster), Meaning::Unlisted);
        assert_eq!(
            judge(
                &said(),
                DatanodeId(2),
                Some(&record(ChunkState::Sealed)),
                &cluster
            ),
            Meaning::Unlisted
        );
    }
}
