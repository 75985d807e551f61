//! The log's format: field numbers of commands, by golden bytes. A difference here is a decision, and needs a
//! new version.

use cairn_protocol::messages::common::{Caller, Location};
use cairn_protocol::messages::operation::{Mkdir, OperationKind};
use prost::Message;

use crate::namespace::command::{
    AddReplica, AdvanceSynced, AllocateCompactionChunk, Batch, BeginCopy, ChangeUserToken,
    ClientCommand, Command, CommandKind, DeclareLost, DropChunk, ExpireSession, ForgetDatanode,
    FoundCluster, IssueUserToken, OpenSession, Outcome, Placement, RecallDelegation,
    RegisterDatanode, RemoveReplica, Repoint, RotateKeys, SealOpenChunk, SetDatanodeState,
    SetSettings, Sweep,
};
use crate::store::records::{InodeRecord, SessionRecord};

fn hex(message: &impl Message) -> String {
    message
        .encode_to_vec()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn a_batch_with_a_clients_command_has_these_bytes() {
    let mkdir = Mkdir {
        location: Location::path("/a"),
        mode: 0o755,
        parents: true,
    };
    let client = ClientCommand {
        session: 1,
        sequence: 2,
        lowest_unanswered: 3,
        caller: Caller {
            uid: 4,
            gid: 5,
            groups: vec![6],
            umask: 0,
            token: Vec::new(),
            session: 0,
        },
        operation: OperationKind::Mkdir(mkdir).into(),
        placement: Some(Placement {
            datanodes: vec![7],
            reuse_chunk: 8,
        }),
    };
    let batch = Batch {
        stamp_ns: 9,
        commands: vec![CommandKind::Client(client).into()],
        no_growth: true,
    };
    let expected = concat!(
        "0809", "1227", "0a25", "0801", "1002", "1803", "2207", "0804", "1005", "1a0106", "2a0d",
        "0a0b", "0a04", "12022f61", "10ed03", "1801", "3205", "0a0107", "1008", "1801"
    );
    assert_eq!(hex(&batch), expected);
    assert_eq!(Batch::decode(batch.encode_to_vec().as_slice()), Ok(batch));
}

#[test]
fn each_kind_of_command_has_its_number() {
    let kinds = [
        CommandKind::Client(ClientCommand::default()),
        CommandKind::OpenSession(OpenSession::default()),
        CommandKind::ExpireSession(ExpireSession::default()),
        CommandKind::FoundCluster(FoundCluster::default()),
        CommandKind::RegisterDatanode(RegisterDatanode::default()),
        CommandKind::SetDatanodeState(SetDatanodeState::default()),
        CommandKind::ForgetDatanode(ForgetDatanode::default()),
        CommandKind::SealOpenChunk(SealOpenChunk::default()),
        CommandKind::BeginCopy(BeginCopy::default()),
        CommandKind::AddReplica(AddReplica::default()),
        CommandKind::RemoveReplica(RemoveReplica::default()),
        CommandKind::AdvanceSynced(AdvanceSynced::default()),
        CommandKind::DropChunk(DropChunk::default()),
        CommandKind::Sweep(Sweep::default()),
        CommandKind::RotateKeys(RotateKeys::default()),
        CommandKind::SetSettings(SetSettings::default()),
        CommandKind::Repoint(Repoint::default()),
        CommandKind::AllocateCompactionChunk(AllocateCompactionChunk::default()),
        CommandKind::DeclareLost(DeclareLost::default()),
        CommandKind::IssueUserToken(IssueUserToken::default()),
        CommandKind::ChangeUserToken(ChangeUserToken::default()),
        CommandKind::RecallDelegation(RecallDelegation::default()),
    ];
    for (index, kind) in kinds.into_iter().enumerate() {
        let bytes = Command::from(kind).encode_to_vec();
        let (tag, _) = prost::encoding::decode_key(&mut bytes.as_slice()).unwrap();
        assert_eq!(tag as usize, index + 1);
    }
}

#[test]
fn commands_of_the_leader_have_these_bytes() {
    let secret = vec![0xAA, 0xBB];
    let cases = [
        (
            hex(&OpenSession {
                client_name: "c".into(),
                nonce: vec![1],
                ..OpenSession::default()
            }),
            "0a0163120101",
        ),
        (hex(&ExpireSession { session: 1 }), "0801"),
        (
            hex(&SetDatanodeState {
                datanode: 1,
                state: 2,
            }),
            "08011002",
        ),
        (hex(&ForgetDatanode { datanode: 1 }), "0801"),
        (hex(&SealOpenChunk { chunk: 1, epoch: 2 }), "08011002"),
        (
            hex(&BeginCopy {
                chunk: 1,
                datanode: 2,
            }),
            "08011002",
        ),
        (
            hex(&AddReplica {
                chunk: 1,
                datanode: 2,
                incarnation: 3,
                epoch: 4,
                length: 5,
                ..AddReplica::default()
            }),
            "08011002180320042805",
        ),
        (
            hex(&RemoveReplica {
                chunk: 1,
                datanode: 2,
                incarnation: 3,
                decided_on: vec![4, 5],
            }),
            "08011002180322020405",
        ),
        (
            hex(&DeclareLost {
                chunk: 1,
                epoch: 2,
                held_length: 3,
                decided_on: vec![4, 5],
            }),
            "08011002180322020405",
        ),
        (
            hex(&AdvanceSynced {
                chunk: 1,
                synced_length: 2,
                confirmed_incarnations: vec![3, 4],
            }),
            "080110021a020304",
        ),
        (hex(&DropChunk { chunk: 1 }), "0801"),
        (hex(&Sweep { limit: 1 }), "0801"),
        (
            hex(&RotateKeys {
                secret,
                current_id: 1,
            }),
            "0a02aabb1001",
        ),
        (
            hex(&Repoint {
                source_chunk: 1,
                source_offset: 2,
                length: 3,
                target_chunk: 4,
                target_offset: 5,
                limit: 6,
            }),
            "080110021803200428053006",
        ),
        (hex(&RecallDelegation { directory: 1 }), "0801"),
        (
            hex(&AllocateCompactionChunk {
                replication: 1,
                datanodes: vec![2],
            }),
            "0801120102",
        ),
        (
            hex(&Outcome {
                code: 1,
                message: "m".into(),
                value: None,
                id: 2,
                more: true,
                touched_chunks: vec![3],
            }),
            "080112016d20022801320103",
        ),
    ];
    for (index, (found, expected)) in cases.iter().enumerate() {
        assert_eq!(found, expected, "case {index}");
    }
}

#[test]
fn what_records_say_of_delegations_has_these_bytes() {
    let directory = InodeRecord {
        delegated_to: 5,
        ..InodeRecord::default()
    };
    let bytes = hex(&directory);
    assert!(bytes.ends_with("c00105"), "{bytes}");
    let session = SessionRecord {
        reserved_next: 6,
        reserved_end: 7,
        ..SessionRecord::default()
    };
    let bytes = hex(&session);
    assert!(bytes.ends_with("58066007"), "{bytes}");
}
