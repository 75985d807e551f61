//! `dfs fsck`: checks the whole namespace and all chunks.

use std::ffi::OsString;
use std::io::Write;

use cairn_protocol::messages::admin::FsckProblem;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::output::{JsonArray, counted, escape, json_name};
use crate::session::{Ending, Session};

/// Check that everything that is stored is consistent and has its replicas.
///
/// It changes nothing: repair goes on by itself. Only the superuser may ask. Exit status 1 if data is lost or the state is
/// broken; replicas that are being restored are told, and fine.
#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Tell only about this path and what is below it, by file; everything is checked all the same.
    path: Option<OsString>,
}

/// Records checked by one request.
const PAGE: u32 = 10_000;

#[derive(Default)]
struct Totals {
    inodes: u64,
    chunks: u64,
    extents: u64,
    problems: u64,
    severe: u64,
}

impl Fsck {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Ending> {
        let below = self
            .path
            .as_ref()
            .map(|typed| session.path(typed))
            .transpose()?;
        if let Some(path) = &below {
            session.fs.stat_link(path).await?;
        }
        let (mut totals, mut cursor, mut array) =
            (Totals::default(), Vec::new(), JsonArray::default());
        if self.json {
            write!(session.out, "{{\"problems\": ")?;
        }
        loop {
            let page = match below {
                Some(_) => session.fs.fsck_page_by_file(cursor, PAGE).await?,
                None => session.fs.fsck_page(cursor, PAGE).await?,
            };
            totals.inodes += page.inodes;
            totals.chunks += page.chunks;
            totals.extents += page.extents;
            for problem in page
                .problems
                .iter()
                .filter(|problem| concerns(problem, below.as_deref()))
            {
                totals.problems += 1;
                totals.severe += u64::from(problem.severe);
                if self.json {
                    array.element(&mut session.out, &as_json(problem))?;
                } else {
                    writeln!(session.out, "{}", line(problem))?;
                }
            }
            session.out.flush()?;
            cursor = page.cursor;
            if cursor.is_empty() {
                break;
            }
        }
        if self.json {
            array.end(&mut session.out)?;
            let rest = json!({
                "inodes": totals.inodes, "chunks": totals.chunks, "extents": totals.extents,
                "severe": totals.severe, "healthy": totals.problems == 0,
            });
            let rest = rest.to_string();
            // The object was begun above.
            writeln!(session.out, ", {}", rest.trim_start_matches('{'))?;
        } else {
            writeln!(session.out, "{}", totals.line())?;
        }
        Ok(if totals.severe > 0 {
            Ending::Failed
        } else {
            Ending::Done
        })
    }
}

impl Totals {
    fn line(&self) -> String {
        let checked = format!(
            "{} inodes, {} extents and {} chunks checked",
            self.inodes, self.extents, self.chunks
        );
        match (self.problems, self.severe) {
            (0, _) => format!("{checked}: healthy"),
            (problems, 0) => {
                let problems = counted(problems, "problem", "problems");
                format!(
                    "{checked}: {problems}, none severe: repaired without you as far as there are datanodes for it"
                )
            }
            (problems, severe) => {
                let problems = counted(problems, "problem", "problems");
                format!("{checked}: {problems}, {severe} of them severe")
            }
        }
    }
}

/// Whether a problem is told when only a part of the tree was asked about.
fn concerns(problem: &FsckProblem, below: Option<&[u8]>) -> bool {
    let Some(below) = below else { return true };
    let below = cairn_client::normalise(below).unwrap_or_default();
    below == b"/"
        || problem
            .path
            .strip_prefix(below.as_slice())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn line(problem: &FsckProblem) -> String {
    let severity = if problem.severe { "SEVERE " } else { "" };
    let path = if problem.path.is_empty() {
        String::new()
    } else {
        format!("{}: ", escape(&problem.path))
    };
    format!("{severity}{}: {path}{}", problem.kind, problem.message)
}

fn as_json(problem: &FsckProblem) -> Value {
    let mut object = Map::new();
    object.insert("kind".to_owned(), json!(problem.kind));
    object.insert("severe".to_owned(), json!(problem.severe));
    object.insert("message".to_owned(), json!(problem.message));
    if !problem.path.is_empty() {
        json_name(&mut object, "path", &problem.path);
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::admin::FsckProblem;

    use super::{Totals, concerns, line};

    #[test]
    fn the_last_line_is_the_verdict() {
        let mut totals = Totals {
            inodes: 5,
            chunks: 2,
            extents: 3,
            ..Totals::default()
        };
        assert_eq!(
            totals.line(),
            "5 inodes, 3 extents and 2 chunks checked: healthy"
        );
        totals.problems = 2;
        assert!(totals.line().contains("2 problems, none severe"));
        totals.severe = 1;
        assert!(totals.line().ends_with("2 problems, 1 of them severe"));
    }

    #[test]
    fn a_part_of_the_tree_can_be_asked_about() {
        let problem = FsckProblem {
            kind: "lost".to_owned(),
            message: "chunk 5".to_owned(),
            path: b"/a/b".to_vec(),
            severe: true,
        };
        assert_eq!(line(&problem), "SEVERE lost: /a/b: chunk 5");
        for (below, told) in [
            ("/", true),
            ("/a", true),
            ("/a/b/", true),
            ("/a/bc", false),
            ("/b", false),
        ] {
            assert_eq!(concerns(&problem, Some(below.as_bytes())), told, "{below}");
        }
        assert!(concerns(&problem, None));
    }
}
