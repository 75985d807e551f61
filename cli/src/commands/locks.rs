//! `dfs locks`: who holds locks on files.

use std::ffi::OsString;

use cairn_protocol::messages::lock::{LockHolder, LockMode, LockSpace};
use clap::Args;
use serde_json::{Map, Value, json};

use super::expand;
use crate::output::{Align, JsonArray, Table, escape, json_name};
use crate::session::Session;

/// Tell who holds locks on files: what kind, which bytes, the process and its client.
#[derive(Debug, Args)]
pub(crate) struct Locks {
    /// One JSON array of objects.
    #[arg(long)]
    json: bool,
    /// Files.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Locks {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let mut array = JsonArray::default();
        let left = Align::Left;
        let mut table = Table::new(&[left, left, left, Align::Right, left, left]);
        table.row(["KIND", "MODE", "BYTES", "PROCESS", "CLIENT", "PATH"].map(str::to_owned));
        for path in expand(session, &self.paths).await {
            let found = session.fs.list_locks(&path).await;
            for lock in session.check(found).unwrap_or_default() {
                if self.json {
                    array.element(&mut session.out, &object(&path, &lock))?;
                } else {
                    table.row([
                        kind(&lock).to_owned(),
                        mode(&lock).to_owned(),
                        bytes(&lock),
                        lock.pid.to_string(),
                        escape(lock.client_name.as_bytes()),
                        escape(&path),
                    ]);
                }
            }
        }
        if self.json {
            array.end(&mut session.out)?;
        } else {
            table.print(&mut session.out, "  ")?;
        }
        Ok(())
    }
}

fn kind(lock: &LockHolder) -> &'static str {
    match lock.space() {
        LockSpace::Posix => "fcntl",
        LockSpace::Flock => "flock",
    }
}

fn mode(lock: &LockHolder) -> &'static str {
    match lock.mode() {
        LockMode::Write => "write",
        LockMode::Read | LockMode::Unlocked => "read",
    }
}

/// `all`, or the first byte and the last.
fn bytes(lock: &LockHolder) -> String {
    match (lock.start, lock.end) {
        (0, u64::MAX) => "all".to_owned(),
        (start, u64::MAX) => format!("{start}-"),
        (start, end) => format!("{start}-{end}"),
    }
}

fn object(path: &[u8], lock: &LockHolder) -> Value {
    let mut object = Map::new();
    json_name(&mut object, "path", path);
    object.insert("kind".to_owned(), json!(kind(lock)));
    object.insert("mode".to_owned(), json!(mode(lock)));
    object.insert("first_byte".to_owned(), json!(lock.start));
    let last = (lock.end < u64::MAX).then_some(lock.end);
    object.insert("last_byte".to_owned(), json!(last));
    object.insert("process".to_owned(), json!(lock.pid));
    object.insert("session".to_owned(), json!(lock.session));
    object.insert("client".to_owned(), json!(lock.client_name));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::lock::LockHolder;

    use super::bytes;

    #[test]
    fn ranges_are_short_where_they_can_be() {
        let shown = |start, end| {
            bytes(&LockHolder {
                start,
                end,
                ..LockHolder::default()
            })
        };
        assert_eq!(shown(0, u64::MAX), "all");
        assert_eq!(shown(5, u64::MAX), "5-");
        assert_eq!(shown(0, 0), "0-0");
    }
}
