//! What the file commands share: the connected file system, standard output, who asks, and whether anything failed.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::Path;
use std::process::ExitCode;

use cairn_client::{Error, FileSystem};
use cairn_protocol::ErrorCode;

use crate::output::escape;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All done.
    Done,
    /// Something failed, and standard error says what. For `dfs test`: no.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// Ctrl-C.
    Interrupted,
}

impl Ending {
    /// The number that the shell sees.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Interrupted => 130,
        }
    }
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        ending.number().into()
    }
}

/// Arguments that the grammar accepts and that still make no sense together.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl Usage {
    /// As an error that ends the command.
    pub(crate) fn error<T>(message: impl Into<String>) -> anyhow::Result<T> {
        Err(anyhow::Error::new(Self(message.into())))
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; see --help", self.0)
    }
}

impl std::error::Error for Usage {}

/// What a file command works with.
pub(crate) struct Session {
    /// The cluster.
    pub(crate) fs: FileSystem,
    /// Standard output.
    pub(crate) out: BufWriter<Stdout>,
    /// Where relative paths begin: `/user/<name>`.
    pub(crate) home: Vec<u8>,
    /// User and group as the cluster believes them.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bits that new files and directories do not get.
    pub(crate) umask: u32,
    failed: bool,
}

impl Session {
    pub(crate) fn new(fs: FileSystem, home: Vec<u8>, uid: u32, gid: u32, umask: u32) -> Self {
        let out = BufWriter::with_capacity(64 << 10, io::stdout());
        Self {
            fs,
            out,
            home,
            uid,
            gid,
            umask,
            failed: false,
        }
    }

    /// Says what failed; the command goes on with what is left and ends with status 1.
    pub(crate) fn report(&mut self, error: impl fmt::Display) {
        // What was printed before belongs before it. A closed standard output shows at the next write.
        let _ = self.out.flush();
        eprintln!("dfs: {error}");
        self.failed = true;
    }

    /// [`Session::report`] if there is something to report.
    pub(crate) fn check<T, E: fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.report(error)).ok()
    }

    /// The command ends with status 1 without a further message.
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }

    /// How it went so far.
    pub(crate) fn ending(&self) -> Ending {
        if self.failed {
            Ending::Failed
        } else {
            Ending::Done
        }
    }
}

/// An error about a path that was handled by its inode: names the path.
pub(crate) fn about(path: &[u8], error: &Error) -> String {
    match error {
        Error::Refused { failure, .. } if failure.message.is_empty() => {
            format!("{}: {}", escape(path), failure.code.text())
        }
        Error::Refused { failure, .. } => {
            format!(
                "{}: {} ({})",
                escape(path),
                failure.code.text(),
                failure.message
            )
        }
        Error::OutcomeUnknown { failure, .. } => {
            format!(
                "{}: {}: {failure}",
                escape(path),
                ErrorCode::OutcomeUnknown.text()
            )
        }
        Error::Unreachable { .. } | Error::DataLost { .. } => {
            let text = error.to_string();
            let rest = text
                .split_once(": ")
                .map_or(text.as_str(), |(_, rest)| rest);
            format!("{}: {rest}", escape(path))
        }
    }
}

/// A failure of this machine's own files, worded like the cluster's.
pub(crate) fn local_error(path: &Path, error: &io::Error) -> String {
    use std::os::unix::ffi::OsStrExt;
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    format!("{}: {text}", escape(path.as_os_str().as_bytes()))
}

/// Whether people watch: progress and colours only then.
pub(crate) fn watched() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use cairn_client::{Error, Subject};
    use cairn_protocol::ids::InodeId;
    use cairn_protocol::{ErrorCode, Failure};

    use super::{Ending, Usage, about, local_error};

    #[test]
    fn endings_have_the_numbers_that_scripts_expect() {
        let numbers = [
            Ending::Done,
            Ending::Failed,
            Ending::Usage,
            Ending::Interrupted,
        ];
        assert_eq!(numbers.map(Ending::number), [0, 1, 2, 130]);
        assert!(Usage::error::<()>("x").unwrap_err().is::<Usage>());
    }

    #[test]
    fn errors_name_the_path_and_not_the_inode() {
        let subject = Subject::Inode(InodeId(7));
        let failure = Failure::from(ErrorCode::PermissionDenied);
        let error = Error::Refused {
            subject: subject.clone(),
            failure,
        };
        assert_eq!(about(b"/a/\xff", &error), "/a/\\xff: Permission denied");
        let failure = Failure::new(ErrorCode::NoReplica, "gone");
        let error = Error::DataLost {
            subject,
            offset: 0,
            length: 5,
            failure,
        };
        assert!(about(b"/a", &error).starts_with("/a: Input/output error: bytes 0 to 5"));
    }

    #[test]
    fn local_errors_read_like_remote_ones() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(
            local_error(Path::new("x/y"), &error),
            "x/y: No such file or directory"
        );
    }
}
