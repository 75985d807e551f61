//! What the file commands share: the connected file system, standard output, who asks, and whether anything failed.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::Path;
use std::process::ExitCode;

use cairn_client::{Error, FileSystem};
use cairn_protocol::ErrorCode;

use crate::output::escape;
use crate::paths::{self, NoPath};

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

/// Standard output, whose errors say that it is meant.
pub(crate) struct Out(BufWriter<Stdout>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(of_stdout)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).map_err(of_stdout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(of_stdout)
    }
}

fn of_stdout(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: {error}"))
}

/// What a file command works with.
pub(crate) struct Session {
    /// The cluster.
    pub(crate) fs: FileSystem,
    /// Standard output.
    pub(crate) out: Out,
    /// Where relative paths begin: `/user/<name>`.
    pub(crate) home: Vec<u8>,
    /// User and group as the cluster believes them.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bits that new files and directories do not get.
    pub(crate) umask: u32,
    failed: bool,
    /// Whether a path was typed that begins at home.
    homely: Cell<bool>,
}

impl Session {
    pub(crate) fn new(fs: FileSystem, home: Vec<u8>, uid: u32, gid: u32, umask: u32) -> Self {
        let out = Out(BufWriter::with_capacity(64 << 10, io::stdout()));
        Self {
            fs,
            out,
            home,
            uid,
            gid,
            umask,
            failed: false,
            homely: Cell::new(false),
        }
    }

    /// The path that `typed` means.
    pub(crate) fn path(&self, typed: &OsStr) -> Result<Vec<u8>, NoPath> {
        let path = paths::absolute(&self.home, typed)?;
        if !typed.as_encoded_bytes().starts_with(b"/") {
            self.homely.set(true);
        }
        Ok(path)
    }

    /// What to say to somebody whose command failed and whose paths begin in a directory that nobody has made yet.
    pub(crate) async fn homeless(&self) -> Option<String> {
        if !self.homely.get() {
            return None;
        }
        let missing = self.fs.stat(&self.home).await.err()?;
        if missing.code() != ErrorCode::NotFound {
            return None;
        }
        let home = escape(&self.home);
        let make = match self.uid {
            0 => format!("make it with `dfs mkdir -p {home}`"),
            uid => format!(
                "the superuser makes it with `dfs mkdir -p {home} && dfs chown {uid}:{} {home}`",
                self.gid
            ),
        };
        Some(format!(
            "{home}, your home directory and where relative paths begin, does not exist: {make}"
        ))
    }

    /// Whether anything was reported.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Says what failed; the command goes on with what is left and ends with status 1.
    pub(crate) fn report(&mut self, error: impl fmt::Display) {
        // What was printed before belongs before it. A closed standard output shows at the next write.
        let _ = self.out.flush();
        complain(error);
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

/// Says something on standard error. Nobody may be reading that any more; the work matters more.
pub(crate) fn complain(text: impl fmt::Display) {
    // One write, so that lines of several processes do not mix.
    let line = format!("dfs: {}\n", without_number(&text.to_string()));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Whether it is that whoever read our output, such as `head`, has had enough.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// An error and its causes, without those that only say again what stands before them.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = without_number(&cause.to_string());
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Without the number that the standard library adds to the kernel's errors.
pub(crate) fn without_number(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(start) = text.find(" (os error ") {
        let Some(length) = text[start..].find(')') else {
            break;
        };
        text.replace_range(start..=start + length, "");
    }
    text
}

/// An error about a path that was handled by its inode: names the path.
pub(crate) fn about(path: &[u8], error: &Error) -> String {
    match error {
        Error::Refused { failure, .. } if adds_nothing(path, &failure.message) => {
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
        Error::OutcomeUnknown { .. } | Error::Unreachable { .. } | Error::DataLost { .. } => {
            let text = error.to_string();
            let rest = text.strip_prefix(&format!("{}: ", error.subject()));
            format!("{}: {}", escape(path), rest.unwrap_or(&text))
        }
    }
}

/// [`about`] whichever of several paths the cluster names as the one that is to blame; the first if it names none.
pub(crate) fn about_any(paths: &[&[u8]], error: &Error) -> String {
    let named = paths.iter().find(|path| match error {
        Error::Refused { failure, .. } => {
            !failure.message.is_empty() && adds_nothing(path, &failure.message)
        }
        _ => false,
    });
    let blamed = named.or(paths.first()).copied().unwrap_or_default();
    match error {
        Error::Refused { failure, .. }
            if failure.code == ErrorCode::InvalidArgument
                && cairn_client::normalise(blamed).is_ok_and(|normal| normal == b"/") =>
        {
            "/: the root is always there: it cannot be moved, removed or replaced".to_owned()
        }
        _ => about(blamed, error),
    }
}

/// An error about a member of the cluster, such as `datanode 7`, of the kind that `dfs KIND list` lists.
pub(crate) fn about_member(kind: &str, id: u64, error: &Error) -> String {
    let member = format!("{kind} {id}");
    let text = match error {
        Error::Refused { failure, .. } => match failure.code {
            ErrorCode::NotFound if failure.message == member => {
                format!("there is none with this number; see `dfs {kind} list`")
            }
            // What these would add is of files.
            ErrorCode::NotFound | ErrorCode::NotEmpty | ErrorCode::InvalidArgument
                if !failure.message.is_empty() =>
            {
                failure.message.clone()
            }
            _ => failure.to_string(),
        },
        other => {
            let text = other.to_string();
            let rest = text.strip_prefix("cluster: ");
            rest.unwrap_or(&text).to_owned()
        }
    };
    match text.strip_prefix(&member) {
        Some(rest) => format!("{member}{rest}"),
        None => format!("{member}: {text}"),
    }
}

/// Whether an answer only names the path again.
fn adds_nothing(path: &[u8], message: &str) -> bool {
    let normal = cairn_client::normalise(path).unwrap_or_default();
    message.is_empty() || message == escape(path) || message == escape(&normal)
}

/// A failure of this machine's own files, worded like the cluster's.
pub(crate) fn local_error(path: &Path, error: &io::Error) -> String {
    use std::os::unix::ffi::OsStrExt;
    let text = without_number(&error.to_string());
    match path.as_os_str().as_bytes() {
        b"" => format!("'': {text}"),
        path => format!("{}: {text}", escape(path)),
    }
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

    use super::{Ending, Usage, about, about_any, about_member, local_error, told};

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
        for (message, told) in [
            ("/a/b", "/a/b/: No such file or directory"),
            ("/c", "/a/b/: No such file or directory (/c)"),
        ] {
            let failure = Failure::new(ErrorCode::NotFound, message);
            let error = Error::Refused {
                subject: subject.clone(),
                failure,
            };
            assert_eq!(about(b"/a/b/", &error), told);
        }
        let failure = Failure::new(ErrorCode::NoReplica, "gone");
        let error = Error::DataLost {
            subject,
            offset: 0,
            length: 5,
            failure,
        };
        assert!(about(b"/a", &error).starts_with("/a: Input/output error: bytes 0 to 5"));
        let error = Error::OutcomeUnknown {
            subject: Subject::Path(b"/x: y".to_vec()),
            failure: Failure::from(ErrorCode::SessionExpired),
        };
        assert_eq!(
            about(b"/a", &error),
            "/a: Outcome unknown: Session expired; look whether it happened before you try again"
        );
    }

    #[test]
    fn of_several_paths_the_one_to_blame_is_named() {
        let refused = |code, message: &str| Error::Refused {
            subject: Subject::Path(b"/a".to_vec()),
            failure: Failure::new(code, message),
        };
        let paths: [&[u8]; 2] = [b"/a", b"/b/"];
        let told = |code, message| about_any(&paths, &refused(code, message));
        assert_eq!(
            told(ErrorCode::NotFound, "/b"),
            "/b/: No such file or directory"
        );
        assert_eq!(told(ErrorCode::IsADirectory, ""), "/a: Is a directory");
        assert_eq!(
            told(ErrorCode::InvalidArgument, "why"),
            "/a: Invalid argument (why)"
        );
        let root = about_any(&[b"/", b"/x"], &refused(ErrorCode::InvalidArgument, ""));
        assert!(root.starts_with("/: the root"), "{root}");
    }

    #[test]
    fn members_are_named_and_are_no_files() {
        let refused = |code, message: &str| Error::Refused {
            subject: Subject::Cluster,
            failure: Failure::new(code, message),
        };
        for (code, message, told) in [
            (
                ErrorCode::NotFound,
                "datanode 7",
                "datanode 7: there is none with this number; see `dfs datanode list`",
            ),
            (
                ErrorCode::NotEmpty,
                "datanode 7 holds 1 replica",
                "datanode 7 holds 1 replica",
            ),
            (ErrorCode::InvalidArgument, "why", "datanode 7: why"),
            (
                ErrorCode::PermissionDenied,
                "",
                "datanode 7: Permission denied",
            ),
        ] {
            assert_eq!(about_member("datanode", 7, &refused(code, message)), told);
        }
        let silent = Error::Unreachable {
            subject: Subject::Cluster,
            patience: std::time::Duration::from_secs(5),
            failure: Failure::from(ErrorCode::Unavailable),
        };
        let told = about_member("datanode", 7, &silent);
        assert!(
            told.starts_with("datanode 7: no answer within 5s"),
            "{told}"
        );
    }

    #[test]
    fn local_errors_read_like_remote_ones() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(
            local_error(Path::new("x/y"), &error),
            "x/y: No such file or directory"
        );
        assert!(local_error(Path::new(""), &error).starts_with("'': No such"));
    }

    #[test]
    fn a_chain_of_causes_says_nothing_twice() {
        let cause = io::Error::from_raw_os_error(98);
        let error = anyhow::anyhow!("listen on a:1: {cause}");
        let error = anyhow::Error::new(cause).context(error.to_string());
        let error = error.context("start namenode-1");
        assert_eq!(
            told(&error),
            "start namenode-1: listen on a:1: Address already in use"
        );
        assert_eq!(told(&anyhow::anyhow!("plain")), "plain");
    }
}
