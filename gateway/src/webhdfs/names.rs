//! Making, moving and removing names; and the directories that clients think everybody has.

use cairn_client::{Error, Place};
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::InodeKind;
use cairn_protocol::messages::operation::RenameMode;
use serde_json::json;

use super::call::{boolean, empty, json_answer};
use super::{Answer, Call, Exception, Refusal};

/// Of directories, unless the client says another.
const DIRECTORY_MODE: u32 = 0o755;

pub(super) async fn mkdirs(call: &Call) -> Answer {
    let mode = call.params.permission("permission")?;
    let made = call
        .fs
        .mkdir_all(call.place(), mode.unwrap_or(DIRECTORY_MODE))
        .await;
    match made {
        Ok(_) => Ok(boolean(true)),
        Err(error)
            if matches!(
                error.code(),
                ErrorCode::AlreadyExists | ErrorCode::NotADirectory
            ) =>
        {
            let file = call.fs.stat(call.place()).await.is_ok();
            let (exception, what) = if file {
                (Exception::FileAlreadyExists, "Path is not a directory")
            } else {
                (
                    Exception::ParentNotDirectory,
                    "Parent path is not a directory",
                )
            };
            Err(Refusal::new(
                exception,
                format!("{what}: {}", call.path_text()),
            ))
        }
        Err(error) => Err(call.fail(error)),
    }
}

/// Without options as the first rename of Hadoop: into a directory that exists, and false instead of most errors. With options
/// as `rename(2)`: the exact name, and exceptions.
pub(super) async fn rename(call: &Call) -> Answer {
    let target = call.path_in("destination")?;
    match call.params.text("renameoptions") {
        None => rename_into(call, target).await,
        Some(options) => {
            let mut mode = RenameMode::NoReplace;
            for option in options.split(',') {
                match option.trim().to_uppercase().as_str() {
                    "OVERWRITE" => mode = RenameMode::Replace,
                    // Java's trash says so when it moves something there: nothing more to do.
                    "NONE" | "TO_TRASH" | "" => {}
                    other => {
                        return Err(Refusal::parameter(
                            "renameoptions",
                            format!("no option {other}"),
                        ));
                    }
                }
            }
            let renamed = call.fs.rename(call.place(), target, mode).await;
            renamed.map_err(|error| call.fail(error))?;
            Ok(empty())
        }
    }
}

async fn rename_into(call: &Call, target: Place) -> Answer {
    let target = match call.fs.stat_link(&target).await {
        Ok(attributes) if attributes.kind == InodeKind::Directory as i32 => {
            let Some(name) = last_name(&call.path) else {
                // The root has no name to move.
                return Ok(boolean(false));
            };
            Place::entry(attributes.inode.into(), name)
        }
        // The rename itself will say.
        _ => target,
    };
    match call
        .fs
        .rename(call.place(), target, RenameMode::NoReplace)
        .await
    {
        Ok(_) => Ok(boolean(true)),
        Err(error) if is_a_plain_no(&error) => Ok(boolean(false)),
        Err(error) => Err(call.fail(error)),
    }
}

/// What Hadoop's first rename answers with false.
fn is_a_plain_no(error: &Error) -> bool {
    matches!(
        error.code(),
        ErrorCode::NotFound
            | ErrorCode::AlreadyExists
            | ErrorCode::NotADirectory
            | ErrorCode::IsADirectory
            | ErrorCode::NotEmpty
            | ErrorCode::InvalidArgument
    )
}

/// The last component of a path; `None` for the root.
fn last_name(path: &[u8]) -> Option<Vec<u8>> {
    let normal = cairn_client::normalise(path).ok()?;
    let name = normal.rsplit(|&byte| byte == b'/').next()?;
    (!name.is_empty()).then(|| name.to_vec())
}

pub(super) async fn delete(call: &Call) -> Answer {
    let recursive = call.params.flag("recursive")?.unwrap_or(false);
    if last_name(&call.path).is_none() {
        return Ok(boolean(false));
    }
    let place = call.place();
    let kind = match call.fs.stat_link(&place).await {
        Ok(attributes) => attributes.kind,
        Err(error) if is_absent(&error) => return Ok(boolean(false)),
        Err(error) => return Err(call.fail(error)),
    };
    let directory = kind == InodeKind::Directory as i32;
    let removed = match (directory, recursive) {
        (false, _) => call.fs.unlink(&place).await,
        (true, true) => call.fs.remove_tree(&place).await,
        (true, false) => call.fs.rmdir(&place).await,
    };
    match removed {
        Ok(_) => Ok(boolean(true)),
        Err(error) if is_absent(&error) => Ok(boolean(false)),
        Err(error) if error.code() == ErrorCode::NotEmpty => {
            let message = format!("{} is non empty: Directory is not empty", call.path_text());
            Err(Refusal::new(Exception::NotEmpty, message))
        }
        Err(error) => Err(call.fail(error)),
    }
}

fn is_absent(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::NotFound | ErrorCode::NotADirectory)
}

pub(super) async fn create_symlink(call: &Call) -> Answer {
    let target = call.params.required("destination")?.to_vec();
    if call.params.flag("createparent")?.unwrap_or(false) {
        let normal = cairn_client::normalise(&call.path);
        let normal = normal.map_err(|failure| Refusal::parameter("path", failure))?;
        let slash = normal.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        if slash > 0 {
            let made = call.fs.mkdir_all(&normal[..slash], DIRECTORY_MODE).await;
            made.map_err(|error| call.fail(error))?;
        }
    }
    let made = call.fs.symlink(target, call.place()).await;
    made.map_err(|error| call.fail(error))?;
    Ok(empty())
}

pub(super) async fn link_target(call: &Call) -> Answer {
    let attributes = call.fs.stat_link(call.place()).await;
    let attributes = attributes.map_err(|error| call.fail(error))?;
    if attributes.kind != InodeKind::Symlink as i32 {
        let message = format!("Path {} is not a symbolic link", call.path_text());
        return Err(Refusal::new(Exception::Io, message));
    }
    let target = String::from_utf8_lossy(&attributes.symlink_target).into_owned();
    Ok(json_answer(json!({ "Path": target })))
}

pub(super) fn home_directory(call: &Call) -> Answer {
    Ok(json_answer(
        json!({ "Path": format!("/user/{}", call.who.name) }),
    ))
}

pub(super) fn trash_root(call: &Call) -> Answer {
    Ok(json_answer(
        json!({ "Path": format!("/user/{}/.Trash", call.who.name) }),
    ))
}

/// Nothing is ever moved to the trash by the cluster.
pub(super) fn trash_roots() -> Answer {
    Ok(json_answer(json!({ "Paths": [] })))
}
