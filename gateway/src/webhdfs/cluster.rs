//! The cluster as clients of HDFS ask about it: defaults, space, and the one storage policy that there is.

use serde_json::{Value, json};

use super::call::{empty, json_answer};
use super::{Answer, Call, Exception, Refusal};

/// `CRC32C`, among Hadoop's types of checksums.
const CRC32C: u32 = 2;

/// What every file has: all replicas on disks.
const POLICY: &str = "HOT";

pub(super) fn server_defaults(call: &Call) -> Answer {
    let settings = call.fs.settings();
    Ok(json_answer(json!({ "FsServerDefaults": {
        "blockSize": settings.chunk_size,
        "bytesPerChecksum": 512,
        "checksumType": CRC32C,
        "defaultStoragePolicyId": 7,
        "encryptDataTransfer": false,
        "fileBufferSize": 4096,
        "keyProviderUri": "",
        "replication": settings.replication,
        "snapshotTrashRootEnabled": false,
        "trashInterval": 0,
        "writePacketSize": 65536,
    }})))
}

pub(super) async fn space(call: &Call) -> Answer {
    let space = call.fs.statfs().await;
    let space = space.map_err(|error| call.fail(error))?;
    Ok(json_answer(json!({ "FsStatus": {
        "capacity": space.capacity_bytes,
        "used": space.used_bytes,
        "remaining": space.available_bytes,
    }})))
}

fn policy() -> Value {
    json!({
        "copyOnCreateFile": false,
        "creationFallbacks": [],
        "id": 7,
        "name": POLICY,
        "replicationFallbacks": ["ARCHIVE"],
        "storageTypes": ["DISK"],
    })
}

pub(super) fn storage_policies() -> Answer {
    Ok(json_answer(
        json!({ "BlockStoragePolicies": { "BlockStoragePolicy": [policy()] } }),
    ))
}

async fn exists(call: &Call) -> Result<(), Refusal> {
    let found = call.fs.stat(call.place()).await;
    found.map(|_| ()).map_err(|error| call.fail(error))
}

pub(super) async fn storage_policy(call: &Call) -> Answer {
    exists(call).await?;
    Ok(json_answer(json!({ "BlockStoragePolicy": policy() })))
}

/// The policy that everything has may be set; others do not exist.
pub(super) async fn set_storage_policy(call: &Call) -> Answer {
    let name = call.params.required("storagepolicy")?;
    exists(call).await?;
    if !name.eq_ignore_ascii_case(POLICY.as_bytes()) {
        let name = String::from_utf8_lossy(name);
        let message = format!("Cannot find a block policy with the name {name}");
        return Err(Refusal::new(Exception::HadoopIllegalArgument, message));
    }
    Ok(empty())
}

pub(super) async fn unset_storage_policy(call: &Call) -> Answer {
    exists(call).await?;
    Ok(empty())
}
