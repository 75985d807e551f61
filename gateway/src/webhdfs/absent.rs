//! What Cairn has not: snapshots, erasure coding, quotas. Questions about it are answered truly; whatever would change it
//! is refused with the exception that Hadoop has for that, and never with a wrong success.

use serde_json::json;

use super::call::json_answer;
use super::{Answer, Call, Exception, Operation, Refusal};

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
    let found = call.fs.stat(call.place()).await;
    found.map_err(|error| call.fail(error))?;
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
