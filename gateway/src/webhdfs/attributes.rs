//! Owner, permission, times, replication, and what one may do.

use cairn_client::AttributeChange;
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::InodeKind;

use super::call::{boolean, empty};
use super::{Answer, Call, Exception, Refusal};

/// Symbolic links are followed, as in HDFS.
fn change() -> AttributeChange {
    AttributeChange {
        follow: true,
        ..AttributeChange::default()
    }
}

async fn apply(call: &Call, change: AttributeChange) -> Answer {
    let changed = call.fs.set_attributes(call.place(), change).await;
    changed.map_err(|error| call.fail(error))?;
    Ok(empty())
}

pub(super) async fn set_owner(call: &Call) -> Answer {
    let unknown = |name: &str, error: &dyn std::fmt::Display| Refusal::parameter(name, error);
    let owner = call.params.text("owner");
    let group = call.params.text("group");
    if owner.is_none() && group.is_none() {
        let message = "Both owner and group are empty.";
        return Err(Refusal::new(Exception::IllegalArgument, message));
    }
    let uid = owner.map(|owner| call.users.uid(&owner)).transpose();
    let gid = group.map(|group| call.users.gid(&group)).transpose();
    let change = AttributeChange {
        uid: uid.map_err(|error| unknown("owner", &error))?,
        gid: gid.map_err(|error| unknown("group", &error))?,
        ..change()
    };
    apply(call, change).await
}

pub(super) async fn set_permission(call: &Call) -> Answer {
    let mode = call.params.permission("permission")?.unwrap_or(0o755);
    let change = AttributeChange {
        mode: Some(mode),
        ..change()
    };
    apply(call, change).await
}

pub(super) async fn set_times(call: &Call) -> Answer {
    let nanoseconds = |name: &str| -> Result<Option<u64>, Refusal> {
        let Some(milliseconds) = call.params.number_unless_minus_one(name)? else {
            return Ok(None);
        };
        match milliseconds.checked_mul(1_000_000) {
            Some(nanoseconds) => Ok(Some(nanoseconds)),
            None => Err(Refusal::parameter(
                name,
                format!("{milliseconds} ms is too late"),
            )),
        }
    };
    let change = AttributeChange {
        mtime_ns: nanoseconds("modificationtime")?,
        atime_ns: nanoseconds("accesstime")?,
        ..change()
    };
    if change.mtime_ns.is_none() && change.atime_ns.is_none() {
        let found = call.fs.stat(call.place()).await;
        found.map_err(|error| call.fail(error))?;
        return Ok(empty());
    }
    apply(call, change).await
}

/// False for what is no file: a directory's number, which new files take over, is not HDFS's to set.
pub(super) async fn set_replication(call: &Call) -> Answer {
    let replication = match call.params.number("replication")? {
        Some(number) => u32::try_from(number).unwrap_or(u32::MAX),
        None => call.fs.settings().replication,
    };
    let limit = replication_limit(replication, &call.path_text());
    if let Some(refusal) = limit {
        return Err(refusal);
    }
    match call.fs.stat(call.place()).await {
        Ok(attributes) if attributes.kind == InodeKind::File as i32 => {}
        Ok(_) => return Ok(boolean(false)),
        Err(error) if error.code() == ErrorCode::NotFound => return Ok(boolean(false)),
        Err(error) => return Err(call.fail(error)),
    }
    let change = AttributeChange {
        replication: Some(replication),
        ..change()
    };
    apply(call, change).await?;
    Ok(boolean(true))
}

/// Replicas that a file may have.
const REPLICATION_MAX: u32 = 16;

/// Why a file cannot have so many replicas, in Hadoop's words.
pub(super) fn replication_limit(replication: u32, path: &str) -> Option<Refusal> {
    let bound = match replication {
        0 => "is less than the required minimum of 1".to_owned(),
        number if number > REPLICATION_MAX => format!("exceeds maximum of {REPLICATION_MAX}"),
        _ => return None,
    };
    let message = format!("Requested replication factor of {replication} {bound} for {path}");
    Some(Refusal::new(Exception::Io, message))
}

pub(super) async fn check_access(call: &Call) -> Answer {
    let action = call.params.text("fsaction");
    let action = action.as_deref().unwrap_or("---");
    let bits = |letter: char, bit: u32| if action.contains(letter) { bit } else { 0 };
    let known = ["r", "w", "x"];
    let wanted: Vec<char> = action.chars().collect();
    let shape = wanted.len() == 3
        && wanted
            .iter()
            .zip(known)
            .all(|(&found, letter)| found == '-' || letter.starts_with(found));
    if !shape {
        return Err(Refusal::parameter(
            "fsaction",
            format!("\"{action}\" is not like \"r-x\""),
        ));
    }
    let mask = bits('r', 4) | bits('w', 2) | bits('x', 1);
    // Also without any bit it must exist.
    let found = call.fs.stat(call.place()).await;
    found.map_err(|error| call.fail(error))?;
    if mask != 0 {
        let allowed = call.fs.access(call.place(), mask).await;
        allowed.map_err(|error| call.fail(error))?;
    }
    Ok(empty())
}
