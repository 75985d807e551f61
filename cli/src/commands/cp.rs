//! `dfs cp`: copies inside the cluster. No data moves: copies share the extents of their sources until either changes.
//! So there is no progress in bytes to show: a large file takes as long as a small one.

use std::ffi::OsString;
use std::io::Write;
use std::sync::Arc;

use cairn_client::{AttributeChange, FileSystem, Subject};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind, Location};
use cairn_protocol::messages::operation::{
    Create, IfExists, OperationKind, OutcomeKind, RenameMode,
};
use cairn_protocol::{ErrorCode, Failure};
use clap::Args;

use super::{Destination, expand, is_tree, may_replace};
use crate::output::{escape, is_directory, kind};
use crate::paths::{base_name, parent, temporary_beside};
use crate::session::{Session, Usage, about};
use crate::transfer::upload::preserved_mode;
use crate::transfer::{lent_mode, mode_to_fill};
use crate::walk::{Crew, Found, MANY, Step, Walk};

/// Copy files inside the cluster, and with -r directories with all they hold.
///
/// No data moves: a copy shares the bytes of its source, takes no space, and costs as much for a large file as for a small
/// one. When either is changed, the other stays as it is. A copy appears under its name when it is complete.
#[derive(Debug, Args)]
#[command(override_usage = "dfs cp [OPTIONS] SOURCE... TARGET")]
pub(crate) struct Cp {
    /// Directories, too.
    #[arg(short = 'r', short_alias = 'R', long)]
    recursive: bool,
    /// Keep mode, times and owner, as far as you may.
    #[arg(short = 'p', long)]
    preserve: bool,
    /// Directories, too, and keep mode, times and owner: -r -p.
    #[arg(short = 'a', long)]
    archive: bool,
    /// Links as links, as -r has it.
    #[arg(short = 'd', hide = true)]
    links: bool,
    /// Tell what is copied.
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Fail instead of replacing a file that exists.
    #[arg(short = 'n', long, overrides_with_all = ["interactive", "force"])]
    no_clobber: bool,
    /// Ask before a file that exists is replaced.
    #[arg(short = 'i', long, overrides_with_all = ["no_clobber", "force"])]
    interactive: bool,
    /// Replace files that exist, which is the default.
    #[arg(short = 'f', long, overrides_with_all = ["no_clobber", "interactive"])]
    force: bool,
    /// What to copy, and last where it goes: a directory that exists, or a new name.
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "TARGET"])]
    paths: Vec<OsString>,
}

/// What copies share.
struct Copying {
    fs: FileSystem,
    preserve: bool,
    /// Before anything is replaced.
    ask: bool,
    replace: bool,
    umask: u32,
    uid: u32,
}

impl Cp {
    pub(crate) async fn run(mut self, session: &mut Session) -> anyhow::Result<()> {
        let Some(target) = self.paths.pop() else {
            return Usage::error("cp needs sources and a target");
        };
        self.recursive |= self.archive;
        self.preserve |= self.archive;
        let sources = expand(session, &self.paths).await;
        if sources.is_empty() {
            return Ok(());
        }
        let mut destination = Destination::find(session, &target, sources.len(), async || {
            self.recursive && is_tree(session, &sources[0]).await
        })
        .await?;
        let copying = Arc::new(Copying {
            fs: session.fs.clone(),
            preserve: self.preserve,
            ask: self.interactive,
            replace: !self.no_clobber,
            umask: session.umask,
            uid: session.uid,
        });
        let mut crew = Crew::new(MANY);
        let mut directories = Vec::new();
        for source in sources {
            let target = destination.give(&base_name(&source), &source);
            let Some(target) = session.check(target) else {
                continue;
            };
            // With -r links are copied as links, else what they point to.
            let found = if self.recursive || self.links {
                session.fs.stat_link(&source).await
            } else {
                session.fs.stat(&source).await
            };
            let Some(attributes) = session.check(found) else {
                continue;
            };
            if is_directory(&attributes) && !self.recursive {
                session.report(format!(
                    "{}: Is a directory (cp -r copies it with all it holds)",
                    escape(&source)
                ));
                continue;
            }
            if is_below(&target, &source) {
                let text = format!(
                    "{}: cannot be copied into itself, {}",
                    escape(&source),
                    escape(&target)
                );
                session.report(text);
                continue;
            }
            if self.verbose {
                writeln!(session.out, "{} -> {}", escape(&source), escape(&target))?;
            }
            copying
                .tree(
                    session,
                    &source,
                    &target,
                    attributes,
                    &mut crew,
                    &mut directories,
                )
                .await;
        }
        while let Some(result) = crew.next().await {
            session.check(result);
        }
        for directory in directories.into_iter().rev() {
            session.check(copying.finish(&directory).await);
        }
        Ok(())
    }
}

/// A directory that is being filled.
struct Directory {
    target: Vec<u8>,
    /// Of its source.
    attributes: Attributes,
    inode: InodeId,
    /// Its mode in the end, if it was made with another one.
    mode: Option<u32>,
}

/// Whether `path` is `top` or something in it.
fn is_below(path: &[u8], top: &[u8]) -> bool {
    let (Ok(path), Ok(top)) = (cairn_client::normalise(path), cairn_client::normalise(top)) else {
        return false;
    };
    top == b"/"
        || path
            .strip_prefix(top.as_slice())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

type Copied = Result<(), String>;

impl Copying {
    async fn tree(
        self: &Arc<Self>,
        session: &mut Session,
        source: &[u8],
        target: &[u8],
        attributes: Attributes,
        crew: &mut Crew<Copied>,
        directories: &mut Vec<Directory>,
    ) {
        let mut walk = Walk::from(&self.fs, source, attributes);
        let mut skipping: Option<usize> = None;
        loop {
            let found = match walk.next().await {
                Ok(Some(Step::Enter(found))) => found,
                Ok(Some(Step::Leave(found))) => {
                    skipping = skipping.filter(|&depth| depth != found.depth);
                    continue;
                }
                Ok(None) => return,
                Err(error) => {
                    session.report(error);
                    continue;
                }
            };
            if skipping.is_some() {
                continue;
            }
            let to = [target, &found.path[source.len().min(found.path.len())..]].concat();
            if is_directory(&found.attributes) {
                // One after the other: what is in a directory needs it.
                let depth = found.depth;
                let made = self.directory(to, found.attributes).await;
                match session.check(made) {
                    Some(made) => directories.push(made),
                    None => skipping = Some(depth),
                }
                continue;
            }
            if self.ask {
                let may = may_replace(session, &to).await;
                if !session.check(may).unwrap_or(false) {
                    continue;
                }
            }
            if let Some(result) = crew.start(self.clone().one(found, to)).await {
                session.check(result);
            }
        }
    }

    async fn directory(
        &self,
        target: Vec<u8>,
        attributes: Attributes,
    ) -> Result<Directory, String> {
        let mode = mode_to_fill(attributes.mode, self.umask);
        let (made, mode) = match self.fs.mkdir(&target, mode).await {
            Ok(made) => {
                let lent = lent_mode(attributes.mode);
                let mode = (lent != 0).then_some(made.mode & !lent);
                (made, mode)
            }
            Err(error) if error.code() == ErrorCode::AlreadyExists => {
                match self.fs.stat(&target).await {
                    Ok(existing) if is_directory(&existing) => (existing, None),
                    _ => return Err(error.to_string()),
                }
            }
            Err(error) => return Err(error.to_string()),
        };
        Ok(Directory {
            target,
            attributes,
            inode: InodeId(made.inode),
            mode,
        })
    }

    /// When nothing in it changes any more.
    async fn finish(&self, directory: &Directory) -> Copied {
        let Directory {
            target,
            attributes,
            inode,
            mode,
        } = directory;
        if self.preserve {
            return self.keep_inode(target, *inode, attributes).await;
        }
        if mode.is_none() {
            return Ok(());
        }
        let change = AttributeChange {
            mode: *mode,
            ..AttributeChange::default()
        };
        let changed = self.fs.set_attributes(*inode, change).await;
        changed.map(|_| ()).map_err(|error| about(target, &error))
    }

    async fn one(self: Arc<Self>, found: Found, target: Vec<u8>) -> Copied {
        match kind(&found.attributes) {
            InodeKind::File => self.file(&found, &target).await,
            InodeKind::Symlink => self.symlink(&found, &target).await,
            _ => Err(format!(
                "{}: neither a file nor a directory, left out",
                escape(&found.path)
            )),
        }
    }

    async fn symlink(&self, found: &Found, target: &[u8]) -> Copied {
        let fail = |error: cairn_client::Error| about(target, &error);
        let text = &found.attributes.symlink_target;
        match self.fs.symlink(text.clone(), target).await {
            Err(error) if error.code() == ErrorCode::AlreadyExists && self.replace => {}
            made => return self.keep_link(found, target, &made.map_err(fail)?).await,
        }
        let temporary = temporary_beside(target);
        let made = self.fs.symlink(text.clone(), &temporary).await;
        // The temporary name is nobody's concern.
        let made = made.map_err(|error| format!("{}: {}", escape(target), error.code().text()))?;
        let mode = RenameMode::Replace;
        let named = match self.keep_link(found, target, &made).await {
            Ok(()) => {
                let renamed = self.fs.rename(&temporary, target, mode).await;
                renamed.map(|_| ()).map_err(fail)
            }
            failed => failed,
        };
        if named.is_err() {
            let _ = self.fs.unlink(&temporary).await;
        }
        named
    }

    /// Until it is complete the copy has no name and belongs to our session, with which it goes however this ends.
    async fn file(&self, found: &Found, target: &[u8]) -> Copied {
        let attributes = &found.attributes;
        let mode = attributes.mode & 0o777 & !self.umask;
        let made = self.unnamed(&parent(target), mode).await;
        // How it is made is nobody's concern.
        let inode = made.map_err(|error| format!("{}: {}", escape(target), error.code().text()))?;
        let if_exists = if self.replace {
            IfExists::Replace
        } else {
            IfExists::Fail
        };
        let copied = match self.fill(found, inode).await {
            Ok(()) => {
                let linked = self.fs.link_with(inode, target, if_exists).await;
                linked.map(|_| ()).map_err(|error| about(target, &error))
            }
            failed => failed,
        };
        if let Err(error) = self.fs.release(inode).await {
            tracing::debug!(%inode, %error, "not released; it goes with the session");
        }
        copied
    }

    /// A file that only our session knows, with the policy of this directory.
    async fn unnamed(&self, directory: &[u8], mode: u32) -> cairn_client::Result<InodeId> {
        let create = Create {
            location: Location::path(directory),
            kind: InodeKind::File as i32,
            mode,
            orphan: true,
            ..Create::default()
        };
        let create = OperationKind::Create(create);
        let made = self.fs.transaction(Vec::new(), vec![create]).await?;
        match made.as_slice() {
            [OutcomeKind::Inode(made)] => Ok(InodeId(made.attributes.inode)),
            _ => Err(cairn_client::Error::Refused {
                subject: Subject::Path(directory.to_vec()),
                failure: Failure::new(ErrorCode::Malformed, "an answer to another question"),
            }),
        }
    }

    async fn fill(&self, found: &Found, inode: InodeId) -> Copied {
        let attributes = &found.attributes;
        let fail = |error: cairn_client::Error| about(&found.path, &error);
        let mut done = 0;
        while done < attributes.size {
            let left = attributes.size - done;
            let source = InodeId(attributes.inode);
            let shared = self
                .fs
                .clone_range(source, done, left, inode, done)
                .await
                .map_err(fail)?;
            if shared == 0 {
                break;
            }
            done += shared;
        }
        if done < attributes.size {
            // A hole at the end, which no range brings along; or the source has become shorter.
            let source = InodeId(attributes.inode);
            let now = self.fs.stat(source).await.map_err(fail)?;
            let size = now.size.min(attributes.size).max(done);
            self.fs.truncate(inode, size).await.map_err(fail)?;
        }
        if self.preserve {
            self.keep_inode(&found.path, inode, attributes).await
        } else {
            Ok(())
        }
    }

    /// Links have no mode.
    async fn keep_link(&self, found: &Found, target: &[u8], made: &Attributes) -> Copied {
        if !self.preserve {
            return Ok(());
        }
        let attributes = &found.attributes;
        let owner = (self.uid == 0).then_some(attributes);
        let change = AttributeChange {
            uid: owner.map(|owner| owner.uid),
            gid: owner.map(|owner| owner.gid),
            atime_ns: Some(attributes.atime_ns),
            mtime_ns: Some(attributes.mtime_ns),
            ..AttributeChange::default()
        };
        let kept = self.fs.set_attributes(InodeId(made.inode), change).await;
        kept.map(|_| ()).map_err(|error| about(target, &error))
    }

    async fn keep_inode(&self, path: &[u8], inode: InodeId, attributes: &Attributes) -> Copied {
        let fail = |error: cairn_client::Error| about(path, &error);
        if self.uid == 0 {
            let (uid, gid) = (Some(attributes.uid), Some(attributes.gid));
            let change = AttributeChange {
                uid,
                gid,
                ..AttributeChange::default()
            };
            self.fs.set_attributes(inode, change).await.map_err(fail)?;
        }
        let owner = (attributes.uid, attributes.gid);
        let mode = preserved_mode(&self.fs, inode, attributes.mode, owner);
        let change = AttributeChange {
            mode: Some(mode.await.map_err(fail)?),
            atime_ns: Some(attributes.atime_ns),
            mtime_ns: Some(attributes.mtime_ns),
            ..AttributeChange::default()
        };
        self.fs
            .set_attributes(inode, change)
            .await
            .map(|_| ())
            .map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::is_below;

    #[test]
    fn a_tree_is_not_copied_into_itself() {
        for (path, top, below) in [
            ("/a/b", "/a", true),
            ("/a", "/a/", true),
            ("/ab", "/a", false),
            ("/x", "/", true),
            ("/b/a", "/a", false),
        ] {
            assert_eq!(
                is_below(path.as_bytes(), top.as_bytes()),
                below,
                "{path} {top}"
            );
        }
    }
}
