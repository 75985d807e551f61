//! I/O errors that say which file they are about: an `EIO` without a path is useless to whoever has to replace a disk.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An I/O error with the operation and the path it happened on. Its kind is the source's kind.
#[derive(Debug)]
struct PathError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}",
            self.operation,
            self.path.display(),
            self.source
        )
    }
}

impl Error for PathError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The text above already shows the source; going on below it avoids saying it twice in error chains.
        self.source.source()
    }
}

/// For `map_err`: adds verb and path to an I/O error and keeps its kind.
pub fn context(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |source| {
        let path = path.to_path_buf();
        io::Error::new(
            source.kind(),
            PathError {
                operation,
                path,
                source,
            },
        )
    }
}

/// The system's error number, also if [`context`] was added.
pub fn raw_os_error(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| {
        let inner = error.get_ref()?.downcast_ref::<PathError>()?;
        raw_os_error(&inner.source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_kind_and_number_and_names_the_file() {
        let error = io::Error::from_raw_os_error(libc::ENOSPC);
        let error = context("write", Path::new("/data/x"))(error);
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(raw_os_error(&error), Some(libc::ENOSPC));
        assert!(
            error
                .to_string()
                .starts_with("write /data/x: No space left")
        );
    }
}
