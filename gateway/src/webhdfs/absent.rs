//! What Cairn has not: snapshots, erasure coding, ACLs, quotas. Questions about it are answered truly; whatever would change it
//! is refused with the exception that Hadoop has for that, and never with a wrong success.

use cairn_protocol::messages::common::Attributes;
use serde_json::json;

use super::call::json_answer;
use super::{Answer, Call, Exception, Operation, Refusal};

async fn attributes(call: &Call) -> Result<Attributes, Refusal> {
    let found = call.fs.stat(call.place()).await;
    found.map_err(|error| call.fail(error))
}

/// The permission bits are all that there is.
pub(super) async fn acl_status(call: &Call) -> Answer {
    let attributes = attributes(call).await?;
    Ok(json_answer(json!({ "AclStatus": {
        "entries": [],
        "group": call.users.group_name(attributes.gid),
        "owner": call.users.user_name(attributes.uid),
        "permission": format!("{:o}", attributes.mode & 0o777),
        "stickyBit": attributes.mode & 0o1000 != 0,
    }})))
}

pub(super) fn snapshottable_directories() -> Answer {
    Ok(json_answer(json!({ "SnapshottableDirectoryList": [] })))
}

pub(super) fn erasure_coding_policies() -> Answer {
    Ok(json_answer(
        json!({ "ErasureCodingPolicies": { "ErasureCodingPolicy": [] } }),
    ))
}

pub(super) fn erasure_coding_codecs() -> Answer {
    Ok(json_answer(json!({ "ErasureCodingCodecs": {} })))
}

/// What was asked for does not exist; neither may the path.
pub(super) async fn refuse(call: &Call) -> Answer {
    let (exception, message) = why(call);
    attributes(call).await?;
    Err(Refusal::new(exception, message))
}

fn why(call: &Call) -> (Exception, String) {
    let path = call.path_text();
    let name = call.operation.name();
    match call.operation {
        Operation::CreateSnapshot
        | Operation::RenameSnapshot
        | Operation::DeleteSnapshot
        | Operation::GetSnapshotDiff
        | Operation::GetSnapshotDiffListing
        | Operation::GetSnapshotList
        | Operation::DisallowSnapshot => {
            let message = format!("Directory is not a snapshottable directory: {path}");
            (Exception::Snapshot, message)
        }
        Operation::SetAcl
        | Operation::ModifyAclEntries
        | Operation::RemoveAclEntries
        | Operation::RemoveDefaultAcl
        | Operation::RemoveAcl => {
            let message =
                "The ACL operation has been rejected. Support for ACLs does not exist yet";
            (Exception::Acl, message.to_owned())
        }
        Operation::GetErasureCodingPolicy | Operation::UnsetErasureCodingPolicy => {
            let message = format!("No erasure coding policy is given on {path}");
            (Exception::NoErasureCodingPolicy, message)
        }
        Operation::SetErasureCodingPolicy
        | Operation::EnableErasureCodingPolicy
        | Operation::DisableErasureCodingPolicy => {
            let policy = call.params.text("ecpolicy").unwrap_or_default();
            let message =
                format!("Policy '{policy}' does not match any enabled erasure coding policies: []");
            (Exception::HadoopIllegalArgument, message)
        }
        _ => (
            Exception::Unsupported,
            format!("{name} is not supported yet"),
        ),
    }
}
