//! `dfs checksum`: checksums of whole files.

use std::ffi::OsString;
use std::io::Write;

use clap::Args;
use serde_json::{Map, Value, json};

use super::expand;
use crate::output::{JsonArray, escape, json_name};
use crate::session::Session;

/// Print the CRC32C of files, their length in bytes, and their paths. The cluster knows them: no data is read.
#[derive(Debug, Args)]
pub(crate) struct Checksum {
    /// One JSON array of objects.
    #[arg(long)]
    json: bool,
    /// Files.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Checksum {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let mut array = JsonArray::default();
        for path in expand(session, &self.paths).await {
            let found = session.fs.checksum(&path).await;
            let Some(found) = session.check(found) else {
                continue;
            };
            let crc = format!("{:08x}", found.crc32c);
            if !self.json {
                writeln!(session.out, "{crc}  {}  {}", found.length, escape(&path))?;
                continue;
            }
            let mut object = Map::new();
            json_name(&mut object, "path", &path);
            object.insert("crc32c".to_owned(), json!(crc));
            object.insert("length".to_owned(), json!(found.length));
            array.element(&mut session.out, &Value::Object(object))?;
        }
        if self.json {
            array.end(&mut session.out)?;
        }
        Ok(())
    }
}
