//! `dfs test`: questions about a path, answered by the exit status.

use std::ffi::OsString;

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::InodeKind;
use clap::Args;

use super::slash_fits;
use crate::output::kind;
use crate::session::{Ending, Session};

/// Ask something about a path: exit status 0 if it is so, 1 if not, 2 if that could not be found out.
#[derive(Debug, Args)]
pub(crate) struct Test {
    #[command(flatten)]
    question: Question,
    /// The path; symbolic links are followed.
    path: OsString,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Question {
    /// It exists.
    #[arg(short = 'e')]
    exists: bool,
    /// It is a directory.
    #[arg(short = 'd')]
    directory: bool,
    /// It is a regular file.
    #[arg(short = 'f')]
    file: bool,
    /// It is not empty.
    #[arg(short = 's')]
    not_empty: bool,
    /// It is a file without a byte.
    #[arg(short = 'z')]
    empty: bool,
    /// You may read it.
    #[arg(short = 'r')]
    readable: bool,
    /// You may write it.
    #[arg(short = 'w')]
    writable: bool,
    /// You may execute it, or search it if it is a directory.
    #[arg(short = 'x')]
    executable: bool,
}

impl Test {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Ending> {
        let path = session.path(&self.path)?;
        if slash_fits(session, &path, true).await.is_err() {
            return Ok(Ending::Failed);
        }
        let question = &self.question;
        let mask = match () {
            () if question.readable => 4,
            () if question.writable => 2,
            () if question.executable => 1,
            () => 0,
        };
        let answer = if mask > 0 {
            session.fs.access(&path, mask).await.map(|()| true)
        } else {
            session.fs.stat(&path).await.map(|attributes| {
                let kind = kind(&attributes);
                match () {
                    () if question.directory => kind == InodeKind::Directory,
                    () if question.file => kind == InodeKind::File,
                    () if question.not_empty => attributes.size > 0,
                    () if question.empty => kind == InodeKind::File && attributes.size == 0,
                    () => question.exists,
                }
            })
        };
        match answer {
            Ok(true) => Ok(Ending::Done),
            Ok(false) => Ok(Ending::Failed),
            Err(error) if is_no(error.code()) => Ok(Ending::Failed),
            Err(error) => {
                session.report(error);
                Ok(Ending::Usage)
            }
        }
    }
}

/// Failures that answer the question.
fn is_no(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotFound
            | ErrorCode::NotADirectory
            | ErrorCode::PermissionDenied
            | ErrorCode::NameTooLong
            | ErrorCode::TooManyLinks
    )
}
