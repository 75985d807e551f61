//! `dfs rmdir`: removes empty directories.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};

use clap::Args;

use super::expand_guarded;
use crate::output::escape;
use crate::paths::parent;
use crate::session::{Session, about_any};

/// Remove empty directories.
#[derive(Debug, Args)]
pub(crate) struct Rmdir {
    /// Those above, too, as far as they are typed and become empty: -p a/b is a/b and a.
    #[arg(short = 'p', long)]
    parents: bool,
    /// Tell what was removed.
    #[arg(short = 'v', long)]
    verbose: bool,
    /// What to remove.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Rmdir {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        for typed in &self.paths {
            let paths = expand_guarded(session, typed, "remove").await;
            let paths = session.check(paths.map_err(|error| format!("{error:#}")));
            for path in paths.unwrap_or_default() {
                let levels = if self.parents { levels(typed) } else { 1 };
                self.remove(session, path, levels).await?;
            }
        }
        Ok(())
    }
    async fn remove(
        &self,
        session: &mut Session,
        mut path: Vec<u8>,
        levels: usize,
    ) -> io::Result<()> {
        for _ in 0..levels {
            let removed = session.fs.rmdir(&path).await;
            let removed = removed.map_err(|error| about_any(&[&path], &error));
            if session.check(removed).is_none() {
                return Ok(());
            }
            if self.verbose {
                writeln!(session.out, "removed {}", escape(&path))?;
            }
            path = parent(&path);
        }
        Ok(())
    }
}

/// How many directories a typed path names.
fn levels(typed: &OsStr) -> usize {
    let components = typed.as_encoded_bytes().split(|&byte| byte == b'/');
    components
        .filter(|component| !matches!(*component, b"" | b"."))
        .count()
}

#[cfg(test)]
mod tests {
    use super::levels;

    #[test]
    fn what_is_above_counts_as_far_as_it_is_typed() {
        for (typed, count) in [("a", 1), ("a/b", 2), ("/a//b/", 2), ("./a", 1)] {
            assert_eq!(levels(typed.as_ref()), count, "{typed}");
        }
    }
}
