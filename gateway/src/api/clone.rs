//! Clones: another file with the same content, of which no byte moves.

use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use cairn_client::{FileSystem, Place, normalise};
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind};
use cairn_protocol::messages::operation::{IfExists, RenameMode};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::asker::{Asker, Told};
use super::names::{below, shown};
use super::problem::{Answer, Problem, Problems};
use crate::error::GatewayError;

/// Which file, and what its clone is called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Clone {
    /// Absolute path of a file.
    #[schema(example = "/a")]
    source: String,
    /// Absolute path of the clone.
    #[schema(example = "/b")]
    target: String,
    /// Whether the clone may take the place of a file that is there.
    #[serde(default)]
    overwrite: bool,
}

/// The clone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cloned {
    inode: u64,
    size: u64,
}

/// Makes a clone of a file, which belongs to who asks. It has its name when it has all of its content.
#[utoipa::path(post, path = "/files/clone", tag = "files",
    params(("user.name" = Option<String>, Query, description = "Who asks: needs the right to read the source")),
    request_body = Clone,
    responses((status = 201, description = "It is there", body = Cloned), Problems))]
pub(super) async fn clone(
    asker: Asker,
    Told(wish): Told<Clone>,
) -> Answer<(StatusCode, Json<Cloned>)> {
    asker
        .notes
        .paths(wish.source.as_bytes(), Some(&wish.target));
    let shared = Arc::clone(&asker.shared);
    let (answer, answered) = oneshot::channel();
    // If the client goes away half-way, it is carried to its end all the same: what has only a hidden name would stay for ever.
    shared.tasks().request("http clone", async move {
        // Its client may be gone.
        let _ = answer.send(clone_file(&asker, &wish).await);
        Ok::<(), GatewayError>(())
    });
    let stopped = |_| Problem::new(ErrorCode::Unavailable, "this gateway stops");
    let cloned = answered.await.map_err(stopped)??;
    Ok((StatusCode::CREATED, Json(cloned)))
}

async fn clone_file(asker: &Asker, wish: &Clone) -> Answer<Cloned> {
    let fs = &asker.fs;
    let target = normalise(wish.target.as_bytes())?;
    let source = fs.stat(wish.source.as_str()).await?;
    if source.kind != InodeKind::File as i32 {
        let text = format!(
            "{}: only files can be cloned",
            shown(wish.source.as_bytes())
        );
        return Err(Problem::new(ErrorCode::InvalidArgument, text));
    }
    if !wish.overwrite && fs.stat_link(target.as_slice()).await.is_ok() {
        let code = ErrorCode::AlreadyExists;
        let text = format!("{}: {}", shown(&target), code.text());
        return Err(Problem::new(code, text));
    }
    let temporary = Place::from(beside(&target, asker.shared.fresh_number()));
    let filled = fill(fs, &source, &temporary).await;
    let mode = if wish.overwrite {
        RenameMode::Replace
    } else {
        RenameMode::NoReplace
    };
    let named = match filled {
        Ok(()) => fs.rename(temporary.clone(), target, mode).await,
        Err(error) => Err(error),
    };
    match named {
        Ok(attributes) => Ok(Cloned {
            inode: attributes.inode,
            size: attributes.size,
        }),
        Err(error) => {
            // It may not even have been made.
            let _ = fs.unlink(temporary).await;
            Err(error.into())
        }
    }
}

/// The source's content under a name that nobody looks for.
async fn fill(
    fs: &FileSystem,
    source: &Attributes,
    temporary: &Place,
) -> Result<(), cairn_client::Error> {
    let mode = source.mode & 0o777;
    let made = fs.create(temporary.clone(), mode, IfExists::Fail).await?;
    let (from, to) = (InodeId(source.inode), InodeId(made.0.inode));
    fs.clone_range(from, 0, source.size, to, 0).await?;
    // The end of a sparse file may be a hole, which no range brings along.
    fs.truncate(to, source.size).await.map(drop)
}

/// A hidden name in the same directory.
fn beside(target: &[u8], number: u64) -> Vec<u8> {
    let slash = target.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    let name = format!(".cairn-clone-{number:016x}");
    below(&target[..slash.max(1)], name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::beside;

    #[test]
    fn the_temporary_name_is_in_the_same_directory() {
        assert_eq!(beside(b"/a", 1), b"/.cairn-clone-0000000000000001");
        assert_eq!(beside(b"/a/b", 1), b"/a/.cairn-clone-0000000000000001");
    }
}
