//! The commands, one file each, and what several of them need.

pub(crate) mod admin;
pub(crate) mod append;
pub(crate) mod cat;
pub(crate) mod checksum;
pub(crate) mod chmod;
pub(crate) mod chown;
pub(crate) mod completions;
pub(crate) mod concat;
pub(crate) mod count;
pub(crate) mod cp;
pub(crate) mod datanode;
pub(crate) mod df;
pub(crate) mod du;
pub(crate) mod find;
pub(crate) mod fsck;
pub(crate) mod get;
pub(crate) mod getfacl;
pub(crate) mod getfattr;
pub(crate) mod getmerge;
pub(crate) mod head;
pub(crate) mod ln;
pub(crate) mod locks;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod mkdir;
pub(crate) mod mount;
pub(crate) mod mv;
pub(crate) mod namenode;
pub(crate) mod put;
pub(crate) mod readlink;
pub(crate) mod rm;
pub(crate) mod rmdir;
pub(crate) mod setfacl;
pub(crate) mod setfattr;
pub(crate) mod setrep;
pub(crate) mod stat;
pub(crate) mod status;
pub(crate) mod tail;
pub(crate) mod test;
pub(crate) mod token;
pub(crate) mod touch;
pub(crate) mod tree;
pub(crate) mod truncate;
pub(crate) mod up;
pub(crate) mod watch;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use cairn_daemon::blocking;
use cairn_protocol::ErrorCode;
use tokio::signal::ctrl_c;
use tokio::time::timeout;

use crate::arguments::{Arguments, Command, Global};
use crate::cluster;
use crate::glob;
use crate::output::{escape, is_directory};
use crate::paths::{ends_in_dots, join};
use crate::session::{self, Ending, Session, Usage};
use crate::waiting;
use crate::walk::{Crew, Found, MANY, Step, Walk};

/// For giving open chunks back and ending the session. What is not given back the cluster takes when the session expires.
const CLOSING: Duration = Duration::from_secs(3);

/// Does what was typed.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<Ending> {
    let Arguments {
        global, command, ..
    } = arguments;
    let global = global.or_variables()?;
    match command {
        Command::Admin(admin) => admin.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
        Command::Mount(mount) => mount.run(&global).await,
        Command::Up(up) => up.run(&global).await,
        Command::Namenode(namenode) => namenode.run(&global).await,
        Command::Datanode(datanode) => datanode.run(&global).await,
        command => {
            let purpose = format!("dfs {}", name(&command));
            let is_test = matches!(command, Command::Test(_));
            let work = async |session: &mut Session| run_in(command, session).await;
            match with_session(&global, &purpose, work).await {
                // 1 would say that it is not so.
                Err(error) if is_test => {
                    session::complain(session::told(&error));
                    Ok(Ending::Usage)
                }
                result => result,
            }
        }
    }
}

/// Connects, works, and closes; Ctrl-C ends the work, which leaves nothing half-done under a final name.
pub(crate) async fn with_session(
    global: &Global,
    purpose: &str,
    work: impl AsyncFnOnce(&mut Session) -> anyhow::Result<Ending>,
) -> anyhow::Result<Ending> {
    let Some(session) = unless_interrupted(cluster::session(global, purpose)).await else {
        return Ok(Ending::Interrupted);
    };
    let mut session = session?;
    let fs = session.fs.clone();
    let worked = waiting::said(&fs, global.timeout, work(&mut session));
    let result = match unless_interrupted(worked).await {
        Some(result) => result,
        None => Ok(Ending::Interrupted),
    };
    let flushed = session.out.flush();
    let result = with_hint(&mut session, result).await;
    if let Ok(Err(error)) = timeout(CLOSING, session.fs.close()).await {
        tracing::debug!(%error, "session not closed");
    }
    let ending = result?;
    flushed?;
    Ok(ending)
}

/// Says beside a failure what it may come from: a home that nobody has made.
async fn with_hint(
    session: &mut Session,
    result: anyhow::Result<Ending>,
) -> anyhow::Result<Ending> {
    let failed = match &result {
        Ok(Ending::Failed) => session.has_failed(),
        Ok(_) => false,
        Err(error) => !error.is::<Usage>() && !session::is_broken_pipe(error),
    };
    if !failed {
        return result;
    }
    let Ok(Some(hint)) = timeout(CLOSING, session.homeless()).await else {
        return result;
    };
    // First what failed.
    let ending = result.unwrap_or_else(|error| {
        session::complain(session::told(&error));
        Ending::Failed
    });
    session::complain(hint);
    Ok(ending)
}

async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        // Without a handler for the signal it ends the process anyway.
        Ok(()) = ctrl_c() => None,
        result = work => Some(result),
    }
}

/// File commands and questions to the cluster.
async fn run_in(command: Command, session: &mut Session) -> anyhow::Result<Ending> {
    match command {
        Command::Append(append) => append.run(session).await?,
        Command::Cat(cat) => cat.run(session).await?,
        Command::Checksum(checksum) => checksum.run(session).await?,
        Command::Chgrp(chgrp) => chgrp.run(session).await?,
        Command::Chmod(chmod) => chmod.run(session).await?,
        Command::Chown(chown) => chown.run(session).await?,
        Command::Concat(concat) => concat.run(session).await?,
        Command::Count(count) => count.run(session).await?,
        Command::Cp(cp) => cp.run(session).await?,
        Command::Df(df) => df.run(session).await?,
        Command::Du(du) => du.run(session).await?,
        Command::Find(find) => find.run(session).await?,
        Command::Get(get) => get.run(session).await?,
        Command::Getfacl(getfacl) => getfacl.run(session).await?,
        Command::Getfattr(getfattr) => getfattr.run(session).await?,
        Command::Getmerge(getmerge) => getmerge.run(session).await?,
        Command::Head(head) => head.run(session).await?,
        Command::Ln(ln) => ln.run(session).await?,
        Command::Locks(locks) => locks.run(session).await?,
        Command::Ls(ls) => ls.run(session).await?,
        Command::Mkdir(mkdir) => mkdir.run(session).await?,
        Command::Mv(mv) => mv.run(session).await?,
        Command::Put(put) => put.run(session).await?,
        Command::Readlink(readlink) => readlink.run(session).await?,
        Command::Rm(rm) => rm.run(session).await?,
        Command::Rmdir(rmdir) => rmdir.run(session).await?,
        Command::Setfacl(setfacl) => setfacl.run(session).await?,
        Command::Setfattr(setfattr) => setfattr.run(session).await?,
        Command::Setrep(setrep) => setrep.run(session).await?,
        Command::Stat(stat) => stat.run(session).await?,
        Command::Tail(tail) => tail.run(session).await?,
        Command::Test(test) => return test.run(session).await,
        Command::Token(token) => token.run(session).await?,
        Command::Touch(touch) => touch.run(session).await?,
        Command::Tree(tree) => tree.run(session).await?,
        Command::Truncate(truncate) => truncate.run(session).await?,
        Command::Watch(watch) => watch.run(session).await?,
        Command::Status(status) => status.run(session).await?,
        Command::Fsck(fsck) => return fsck.run(session).await,
        Command::Admin(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Mount(_)
        | Command::Up(_)
        | Command::Namenode(_)
        | Command::Datanode(_) => {
            unreachable!("run() has its own ways for commands that need no session")
        }
    }
    Ok(session.ending())
}

/// For the cluster's list of sessions: the variant's name is the command's.
fn name(command: &Command) -> String {
    let text = format!("{command:?}");
    text.split(['(', ' '])
        .next()
        .unwrap_or_default()
        .to_lowercase()
}

/// What typed paths stand for, patterns expanded. What stands for nothing is reported.
pub(crate) async fn expand(session: &mut Session, typed: &[OsString]) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    for typed in typed {
        let path = session.path(typed);
        let Some(path) = session.check(path) else {
            continue;
        };
        let expanded = glob::expand(&session.fs, &path).await;
        let expanded = session.check(expanded.map_err(|error| format!("{error:#}")));
        for path in expanded.unwrap_or_default() {
            let possible = slash_fits(session, &path, true).await;
            if session.check(possible).is_some() {
                paths.push(path);
            }
        }
    }
    paths
}

/// Fails if a slash at its end says that something is a directory which is none. What does not exist is told elsewhere.
async fn slash_fits(session: &Session, path: &[u8], follow: bool) -> Result<(), String> {
    if !path.ends_with(b"/") || path.iter().all(|&byte| byte == b'/') {
        return Ok(());
    }
    let found = if follow {
        session.fs.stat(path).await
    } else {
        session.fs.stat_link(path).await
    };
    match found {
        Ok(found) if !is_directory(&found) => Err(not_a_directory(path)),
        _ => Ok(()),
    }
}

fn not_a_directory(path: &[u8]) -> String {
    format!("{}: {}", escape(path), ErrorCode::NotADirectory.text())
}

/// What a typed path stands for where something is removed or moved away. What was typed and what its braces make of it may not
/// end in `.` or `..`, nor be the home directory because an alternative is empty: `rm -r {,x}` means neither.
pub(crate) async fn expand_guarded(
    session: &mut Session,
    typed: &OsStr,
    verb: &str,
) -> anyhow::Result<Vec<Vec<u8>>> {
    if refuse_dots(session, typed, verb) {
        return Ok(Vec::new());
    }
    let Some(path) = session.check(session.path(typed)) else {
        return Ok(Vec::new());
    };
    let mut paths = glob::expand(&session.fs, &path).await?;
    let is_home = |path: &[u8]| {
        let normal = cairn_client::normalise(path);
        normal.is_ok_and(|normal| Ok(normal) == cairn_client::normalise(&session.home))
    };
    let relative = !typed.as_bytes().starts_with(b"/");
    // A home that was typed as such, by its own name, has nothing to do with braces.
    let refused = |path: &[u8]| ends_in_dots(path) || (relative && is_home(path));
    if let Some(bad) = paths.iter().find(|path| refused(path)) {
        let text = format!(
            "{}: refusing to {verb} {}, which an alternative in braces comes to",
            escape(typed.as_bytes()),
            escape(bad)
        );
        session.report(text);
        paths.clear();
    }
    let mut fitting = Vec::with_capacity(paths.len());
    for path in paths {
        // The link itself is meant, and that is no directory.
        let possible = slash_fits(session, &path, false).await;
        if session.check(possible).is_some() {
            fitting.push(path);
        }
    }
    Ok(fitting)
}

/// Asks on standard error whether to do this to a path; anything but yes is no.
pub(crate) async fn confirmed(session: &mut Session, verb: &str, path: &[u8]) -> io::Result<bool> {
    session.out.flush()?;
    let question = format!("dfs: {verb} {}? ", escape(path));
    let _ = io::stderr().write_all(question.as_bytes());
    let answer = blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    Ok(answer.await?.trim_start().starts_with(['y', 'Y']))
}

/// Whether a name that is about to be given may be: it is free, or whoever is asked agrees that what has it is replaced.
pub(crate) async fn may_replace(session: &mut Session, path: &[u8]) -> io::Result<bool> {
    match session.fs.stat_link(path).await {
        Ok(_) => confirmed(session, "replace", path).await,
        // What else is wrong shows when it is done.
        Err(_) => Ok(true),
    }
}

/// Reports what ends in `.` or `..`: people who remove or move that rarely mean the directory that it is.
fn refuse_dots(session: &mut Session, typed: &OsStr, verb: &str) -> bool {
    let dots = ends_in_dots(typed.as_bytes());
    if dots {
        let typed = escape(typed.as_bytes());
        session.report(format!("{typed}: refusing to {verb} '.' or '..'"));
    }
    dots
}

/// A path that is to become a file: with a slash at its end it would mean a directory, and the name without the slash
/// something that nobody asked for.
pub(crate) async fn file_path(session: &Session, typed: &OsStr) -> Result<Vec<u8>, String> {
    let path = session.path(typed).map_err(|error| error.to_string())?;
    no_slash(session, &path).await.map(|()| path)
}

/// Refuses a path with a slash at its end unless a directory is there.
pub(crate) async fn no_slash(session: &Session, path: &[u8]) -> Result<(), String> {
    if !path.ends_with(b"/") {
        return Ok(());
    }
    match session.fs.stat(path).await {
        Ok(attributes) if is_directory(&attributes) => Ok(()),
        Ok(_) => Err(not_a_directory(path)),
        Err(error) => Err(error.to_string()),
    }
}

/// Where `put`, `cp` and `mv` put things.
#[derive(Debug)]
pub(crate) struct Destination {
    path: Vec<u8>,
    directory: bool,
    names: Names,
}

/// The names that one command gives. A name is given once: the second source of a name would take the place of the first, and
/// nobody means that who types `mv a/x b/x d`.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeSet<Vec<u8>>);

impl Names {
    /// Refuses a name that was given before.
    pub(crate) fn give(&mut self, base: &[u8], source: &[u8], target: &[u8]) -> Result<(), String> {
        if self.0.insert(base.to_vec()) {
            return Ok(());
        }
        Err(format!(
            "{}: left out, because an earlier source has just become {}",
            escape(source),
            escape(target)
        ))
    }
}

impl Destination {
    /// A directory takes any number of sources, anything else is the new name of one. A name that does not exist may end
    /// with a slash if `is_tree` says that the source is a directory.
    pub(crate) async fn find(
        session: &Session,
        typed: &OsStr,
        sources: usize,
        is_tree: impl AsyncFnOnce() -> bool,
    ) -> anyhow::Result<Self> {
        let path = session.path(typed)?;
        let needs_directory = sources > 1 || (path.ends_with(b"/") && !is_tree().await);
        match session.fs.stat(&path).await {
            Ok(attributes) if is_directory(&attributes) => Ok(Self {
                path,
                directory: true,
                names: Names::default(),
            }),
            Ok(_) if needs_directory => anyhow::bail!(not_a_directory(&path)),
            Err(error) if error.code() != ErrorCode::NotFound || needs_directory => {
                Err(error.into())
            }
            Ok(_) | Err(_) => Ok(Self {
                path,
                directory: false,
                names: Names::default(),
            }),
        }
    }

    /// The path that a source of this name gets, once. A source without a name, such as `/`, becomes the destination itself.
    pub(crate) fn give(&mut self, base: &[u8], source: &[u8]) -> Result<Vec<u8>, String> {
        let target = if self.directory && !base.is_empty() {
            join(&self.path, base)
        } else {
            self.path.clone()
        };
        self.names.give(base, source, &target).map(|()| target)
    }
}

/// Whether this is a directory, and not a link to one.
pub(crate) async fn is_tree(session: &Session, path: &[u8]) -> bool {
    let found = session.fs.stat_link(path).await;
    found.is_ok_and(|attributes| is_directory(&attributes))
}

/// Does the same to everything at a path, and with `recursive` below it, many at once. Failures are reported with paths.
pub(crate) async fn for_each<F>(
    session: &mut Session,
    paths: Vec<Vec<u8>>,
    recursive: bool,
    change: impl Fn(Found) -> F,
) where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let mut crew = Crew::new(MANY);
    for path in paths {
        let attributes = session.fs.stat(&path).await;
        let Some(attributes) = session.check(attributes) else {
            continue;
        };
        let depth_max = if recursive { usize::MAX } else { 0 };
        let mut walk = Walk::from(&session.fs, &path, attributes).depth_max(depth_max);
        loop {
            // Directories when their content is through, so that a change cannot lock us out of it.
            let found = match walk.next().await {
                Ok(Some(Step::Enter(found))) if recursive && is_directory(&found.attributes) => {
                    continue;
                }
                Ok(Some(Step::Leave(found) | Step::Enter(found))) => found,
                Ok(None) => break,
                Err(error) => {
                    session.report(error);
                    continue;
                }
            };
            if let Some(result) = crew.start(change(found)).await {
                session.check(result);
            }
        }
    }
    while let Some(result) = crew.next().await {
        session.check(result);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{Destination, Names, name};
    use crate::arguments::Arguments;

    #[test]
    fn the_session_is_named_after_the_command() {
        let arguments = Arguments::try_parse_from(["dfs", "ls", "/"]).unwrap();
        assert_eq!(name(&arguments.command), "ls");
    }

    #[test]
    fn a_directory_takes_sources_in_and_each_name_once() {
        let mut directory = Destination {
            path: b"/d".to_vec(),
            directory: true,
            names: Names::default(),
        };
        assert_eq!(directory.give(b"x", b"/a/x").unwrap(), b"/d/x");
        assert_eq!(directory.give(b"", b"/").unwrap(), b"/d");
        assert_eq!(
            directory.give(b"x", b"/b/x").unwrap_err(),
            "/b/x: left out, because an earlier source has just become /d/x"
        );
        assert!(directory.give(b"", b"/..").is_err());
        let mut name = Destination {
            path: b"/n".to_vec(),
            directory: false,
            names: Names::default(),
        };
        assert_eq!(name.give(b"x", b"/x").unwrap(), b"/n");
    }
}
