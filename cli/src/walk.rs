//! Walks over a tree in the cluster, and many operations at once within a limit.

use std::future::Future;

use cairn_client::{Directory, Error, FileSystem, Subject};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::Attributes;
use cairn_protocol::messages::query::ListingEntry;
use cairn_protocol::{ErrorCode, Failure};
use tokio::task::JoinSet;

use crate::output::is_directory;
use crate::paths::join;

/// Operations on small things in flight at once.
pub(crate) const MANY: usize = 64;

/// What a walk comes by.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Something, before what is below it.
    Enter(Found),
    /// A directory, after all that is below it.
    Leave(Found),
}

/// Something on the way.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) path: Vec<u8>,
    pub(crate) attributes: Attributes,
    /// 0 where the walk began.
    pub(crate) depth: usize,
}

/// Everything at and below a path, directories before what they hold, in order of names. Memory is bounded by the depth.
///
/// Symbolic links are not followed, nor those that take a directory's place while we walk: directories are listed as the inodes
/// that they were found as. Else whoever may write in a tree could lead `chown -R` out of it.
pub(crate) struct Walk {
    fs: FileSystem,
    start: Option<Found>,
    /// Directories on the way, without a cursor if they could not be read.
    stack: Vec<(Found, Option<Directory>)>,
    depth_max: usize,
}

impl Walk {
    /// Starts at something whose attributes are known.
    pub(crate) fn from(fs: &FileSystem, path: &[u8], attributes: Attributes) -> Self {
        let start = Found {
            path: path.to_vec(),
            attributes,
            depth: 0,
        };
        Self {
            fs: fs.clone(),
            start: Some(start),
            stack: Vec::new(),
            depth_max: usize::MAX,
        }
    }

    /// Goes no deeper than this; 0 is the start alone.
    pub(crate) fn depth_max(mut self, depth_max: usize) -> Self {
        self.depth_max = depth_max;
        self
    }

    /// Goes not into a directory that was just come by; then it is not left, either.
    pub(crate) fn prune(&mut self, found: &Found) {
        let on_top = self.stack.last();
        if on_top.is_some_and(|(top, _)| top.path == found.path && top.depth == found.depth) {
            self.stack.pop();
        }
    }

    /// The directory that holds what was just come by or left: not for a directory that is still to be walked through.
    pub(crate) fn holder(&self) -> Option<InodeId> {
        let on_top = self.stack.last();
        on_top.map(|(found, _)| InodeId(found.attributes.inode))
    }

    /// The next step; `None` at the end. An error is about one directory, which the
    /// walk leaves with the next call.
    pub(crate) async fn next(&mut self) -> Result<Option<Step>, Error> {
        if let Some(start) = self.start.take() {
            return self.enter(start).map(Some);
        }
        let Some((found, cursor)) = self.stack.last_mut() else {
            return Ok(None);
        };
        let entry = match cursor {
            None => None,
            Some(directory) => match directory.next().await {
                Ok(entry) => entry,
                // Removed since it was listed: as if it had been empty.
                Err(error) if error.code() == ErrorCode::NotFound => None,
                Err(error) => {
                    *cursor = None;
                    return Err(about_path(&found.path, error));
                }
            },
        };
        let Some(entry) = entry else {
            return Ok(self.stack.pop().map(|(found, _)| Step::Leave(found)));
        };
        let (path, depth) = (join(&found.path, &entry.name), found.depth + 1);
        let attributes = match searched(entry, &found.path) {
            Ok((_, attributes)) => attributes,
            Err(error) => {
                *cursor = None;
                return Err(error);
            }
        };
        self.enter(Found {
            path,
            attributes,
            depth,
        })
        .map(Some)
    }

    fn enter(&mut self, found: Found) -> Result<Step, Error> {
        if is_directory(&found.attributes) && found.depth < self.depth_max {
            let inode = InodeId(found.attributes.inode);
            let directory = self.fs.list(inode, true)?;
            self.stack.push((found.clone(), Some(directory)));
        }
        Ok(Step::Enter(found))
    }
}

/// An entry's name and attributes. They miss where a directory may be read but not searched: then its names are all that may be
/// known of what it holds, and to take it for empty would be a lie.
pub(crate) fn searched(
    entry: ListingEntry,
    directory: &[u8],
) -> Result<(Vec<u8>, Attributes), Error> {
    match entry.attributes {
        Some(attributes) => Ok((entry.name, attributes)),
        None => Err(Error::Refused {
            subject: Subject::Path(directory.to_vec()),
            failure: Failure::from(ErrorCode::PermissionDenied),
        }),
    }
}

/// The same error about a path, where the cluster was asked about an inode.
fn about_path(path: &[u8], error: Error) -> Error {
    let subject = Subject::Path(path.to_vec());
    // An answer's message only names the inode, which means nothing to people.
    match error {
        Error::Refused { failure, .. } => Error::Refused {
            subject,
            failure: Failure::from(failure.code),
        },
        Error::Unreachable {
            patience, failure, ..
        } => Error::Unreachable {
            subject,
            patience,
            failure,
        },
        other @ (Error::OutcomeUnknown { .. } | Error::DataLost { .. }) => other,
    }
}

/// Runs operations at once, a limited number of them. Dropping it ends them.
pub(crate) struct Crew<T> {
    tasks: JoinSet<T>,
    limit: usize,
}

impl<T: Send + 'static> Crew<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            tasks: JoinSet::new(),
            limit: limit.max(1),
        }
    }

    /// Starts one more. If all hands are busy, waits for one and gives its result.
    pub(crate) async fn start(
        &mut self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let finished = if self.tasks.len() >= self.limit {
            self.next().await
        } else {
            None
        };
        self.tasks.spawn(work);
        finished
    }

    /// The next result; `None` when all are done. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<T> {
        match self.tasks.join_next().await? {
            Ok(result) => Some(result),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Nobody aborts single tasks; the runtime does when all of this goes.
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Crew;

    #[tokio::test]
    async fn a_crew_keeps_its_limit_and_returns_every_result() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut crew = Crew::new(3);
        let mut results = Vec::new();
        for number in 0..20 {
            let (running, most) = (running.clone(), most.clone());
            let work = async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                number
            };
            results.extend(crew.start(work).await);
        }
        while let Some(result) = crew.next().await {
            results.push(result);
        }
        results.sort_unstable();
        assert_eq!(results, (0..20).collect::<Vec<_>>());
        assert!(most.load(Ordering::SeqCst) <= 3);
    }
}
