//! Transactions: several changes in one step, all of them or none, if what they rest on is still so.

use axum::Json;
use axum::http::StatusCode;
use cairn_protocol::messages::common::InodeKind;
use cairn_protocol::messages::operation as wire;
use cairn_protocol::messages::operation::{OperationKind, OutcomeKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asker::{Asker, Told};
use super::names::location;
use super::problem::{Answer, Problem, Problems};

/// Changes that happen together.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Transaction {
    /// What must be so; at most 1024.
    #[serde(default)]
    #[schema(max_items = 1024)]
    preconditions: Vec<Precondition>,
    /// What is done, in order; each sees those before it. At most 1024.
    #[schema(max_items = 1024)]
    operations: Vec<Operation>,
}

/// What must be so at a path. What is not said is not checked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Precondition {
    #[schema(example = "/a")]
    path: String,
    /// Whether it is there.
    exists: Option<bool>,
    /// As a listing told it.
    version: Option<u64>,
    inode: Option<u64>,
    size: Option<u64>,
}

/// One change. Modes are octal, as `"755"`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Operation {
    /// Makes a directory.
    Mkdir {
        #[schema(example = "/d")]
        path: String,
        /// 755 unless said.
        mode: Option<String>,
        /// Also what is missing above it; one that exists is fine then.
        #[serde(default)]
        parents: bool,
    },
    /// Makes an empty file.
    Create {
        #[schema(example = "/f")]
        path: String,
        /// 644 unless said.
        mode: Option<String>,
    },
    /// Makes a symbolic link.
    Symlink {
        #[schema(example = "/l")]
        path: String,
        #[schema(example = "/f")]
        target: String,
    },
    /// Gives a file another name.
    Link {
        #[schema(example = "/f")]
        source: String,
        #[schema(example = "/g")]
        path: String,
    },
    /// Moves a name.
    Rename {
        #[schema(example = "/f")]
        source: String,
        #[schema(example = "/g")]
        target: String,
        /// Whether what has the new name may go.
        #[serde(default)]
        overwrite: bool,
    },
    /// Removes a name of anything but a directory.
    Unlink {
        #[schema(example = "/f")]
        path: String,
    },
    /// Removes an empty directory.
    Rmdir {
        #[schema(example = "/d")]
        path: String,
    },
    /// Removes a name and all below it.
    RemoveTree {
        #[schema(example = "/d")]
        path: String,
    },
    /// Changes attributes; what is not said stays.
    SetAttributes {
        #[schema(example = "/f")]
        path: String,
        mode: Option<String>,
        uid: Option<u32>,
        gid: Option<u32>,
        modified_ms: Option<u64>,
        replication: Option<u32>,
    },
    /// Cuts or extends a file.
    Truncate {
        #[schema(example = "/f")]
        path: String,
        size: u64,
    },
    /// Shares a range of a file with another.
    CloneRange {
        #[schema(example = "/f")]
        source: String,
        #[serde(default)]
        source_offset: u64,
        length: u64,
        #[schema(example = "/g")]
        target: String,
        #[serde(default)]
        target_offset: u64,
    },
}

/// What came of the operations, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    outcomes: Vec<Outcome>,
}

/// An inode as an operation left it; of removals the one that lost its name.
#[derive(Debug, Default, Serialize, ToSchema)]
struct Outcome {
    inode: u64,
    version: u64,
    size: u64,
}

/// Carries out several changes in one step: all of them, or none.
///
/// 412 if a precondition does not hold. After 500 with the code `OutcomeUnknown` it may have happened or not.
#[utoipa::path(post, path = "/transactions", tag = "files",
    params(("user.name" = Option<String>, Query, description = "Who asks")),
    request_body = Transaction,
    responses((status = 200, description = "All of it happened", body = Done), Problems))]
pub(super) async fn transact(
    asker: Asker,
    Told(wish): Told<Transaction>,
) -> Answer<(StatusCode, Json<Done>)> {
    let summary = format!("{} operations", wish.operations.len());
    asker.notes.paths(b"/", Some(&summary));
    let done = carry_out(&asker, wish).await?;
    Ok((StatusCode::OK, Json(done)))
}

async fn carry_out(asker: &Asker, wish: Transaction) -> Answer<Done> {
    let preconditions = wish.preconditions.into_iter().map(Precondition::message);
    let preconditions = preconditions.collect::<Answer<Vec<_>>>()?;
    let operations = wish.operations.into_iter().map(Operation::message);
    let operations = operations.collect::<Answer<Vec<_>>>()?;
    if operations.is_empty() {
        return Err(Problem::invalid("a transaction without operations"));
    }
    let outcomes = asker.fs.transaction(preconditions, operations).await?;
    let outcomes = outcomes.iter().map(|outcome| match outcome {
        OutcomeKind::Inode(outcome) => Outcome {
            inode: outcome.attributes.inode,
            version: outcome.attributes.version,
            size: outcome.attributes.size,
        },
        OutcomeKind::Chunk(_)
        | OutcomeKind::Done(_)
        | OutcomeKind::Transaction(_)
        | OutcomeKind::Lock(_)
        | OutcomeKind::Inodes(_) => Outcome::default(),
    });
    Ok(Done {
        outcomes: outcomes.collect(),
    })
}

impl Precondition {
    fn message(self) -> Answer<wire::Precondition> {
        Ok(wire::Precondition {
            location: location(&self.path)?,
            exists: self.exists,
            version: self.version,
            inode: self.inode,
            size: self.size,
        })
    }
}

impl Operation {
    fn message(self) -> Answer<OperationKind> {
        Ok(match self {
            Self::Mkdir {
                path,
                mode,
                parents,
            } => OperationKind::Mkdir(wire::Mkdir {
                location: location(&path)?,
                mode: octal(mode.as_deref())?.unwrap_or(0o755),
                parents,
            }),
            Self::Create { path, mode } => OperationKind::Create(wire::Create {
                location: location(&path)?,
                kind: InodeKind::File as i32,
                mode: octal(mode.as_deref())?.unwrap_or(0o644),
                ..wire::Create::default()
            }),
            Self::Symlink { path, target } => symlink(&path, target)?,
            Self::Link { source, path } => OperationKind::Link(wire::Link {
                source: location(&source)?,
                location: location(&path)?,
                if_exists: wire::IfExists::Fail as i32,
            }),
            Self::Rename {
                source,
                target,
                overwrite,
            } => rename(&source, &target, overwrite)?,
            Self::Unlink { path } => OperationKind::Unlink(wire::Unlink {
                location: location(&path)?,
            }),
            Self::Rmdir { path } => OperationKind::Rmdir(wire::Rmdir {
                location: location(&path)?,
            }),
            Self::RemoveTree { path } => OperationKind::RemoveTree(wire::RemoveTree {
                location: location(&path)?,
            }),
            Self::SetAttributes {
                path,
                mode,
                uid,
                gid,
                modified_ms,
                replication,
            } => OperationKind::SetAttributes(wire::SetAttributes {
                location: location(&path)?,
                follow: true,
                mode: octal(mode.as_deref())?,
                uid,
                gid,
                mtime_ns: modified_ms.map(|ms| ms.saturating_mul(1_000_000)),
                replication,
                ..wire::SetAttributes::default()
            }),
            Self::Truncate { path, size } => OperationKind::Truncate(wire::Truncate {
                location: location(&path)?,
                size,
            }),
            Self::CloneRange {
                source,
                source_offset,
                length,
                target,
                target_offset,
            } => OperationKind::CloneRange(wire::CloneRange {
                source: location(&source)?,
                source_offset,
                length,
                target: location(&target)?,
                target_offset,
            }),
        })
    }
}

fn symlink(path: &str, target: String) -> Answer<OperationKind> {
    if target.is_empty() || target.len() > 4095 || target.contains('\0') {
        let text = "the target of a symbolic link has 1 to 4095 bytes and no NUL";
        return Err(Problem::invalid(text));
    }
    Ok(OperationKind::Symlink(wire::Symlink {
        location: location(path)?,
        target: target.into_bytes(),
    }))
}

fn rename(source: &str, target: &str, overwrite: bool) -> Answer<OperationKind> {
    let mode = if overwrite {
        wire::RenameMode::Replace
    } else {
        wire::RenameMode::NoReplace
    };
    Ok(OperationKind::Rename(wire::Rename {
        source: location(source)?,
        target: location(target)?,
        mode: mode as i32,
    }))
}

fn octal(text: Option<&str>) -> Answer<Option<u32>> {
    let Some(text) = text else { return Ok(None) };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match u32::from_str_radix(text, 8) {
        Ok(mode) if digits && mode <= 0o7777 => Ok(Some(mode)),
        _ => {
            let text = format!("mode: `{text}` is not an octal number from 0 to 7777");
            Err(Problem::invalid(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::operation::OperationKind;

    use super::{Transaction, octal};

    #[test]
    fn operations_are_read_as_they_are_documented() {
        let text = r#"{"operations":[{"op":"mkdir","path":"/a/./b"},{"op":"rename","source":"/a","target":"/c"}]}"#;
        let told: Transaction = serde_json::from_str(text).unwrap();
        let kinds: Vec<_> = told
            .operations
            .into_iter()
            .map(|operation| operation.message().unwrap())
            .collect();
        let OperationKind::Mkdir(mkdir) = &kinds[0] else {
            panic!("{kinds:?}")
        };
        assert_eq!(
            (mkdir.location.path.as_slice(), mkdir.mode),
            (b"/a/b".as_slice(), 0o755)
        );
        for wrong in [
            r#"{"operations":[{"op":"fly","path":"/a"}]}"#,
            r#"{"operations":[{"op":"rmdir","path":"/a","more":1}]}"#,
            r#"{"operations":[],"more":1}"#,
        ] {
            assert!(
                serde_json::from_str::<Transaction>(wrong).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(octal(Some("0755")).unwrap(), Some(0o755));
        for wrong in ["", "8", "+7", "17777", "rwx"] {
            assert!(octal(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
