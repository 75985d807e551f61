//! `dfs getfattr`: extended attributes.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use cairn_client::Error;
use cairn_protocol::ErrorCode;
use clap::Args;

use super::expand;
use crate::output::escape;
use crate::session::Session;

/// Print extended attributes: their names, and with -d or -n their values.
#[derive(Debug, Args)]
pub(crate) struct Getfattr {
    /// Values, too.
    #[arg(short = 'd', long)]
    dump: bool,
    /// Only this one, with its value.
    #[arg(short = 'n', long, value_name = "NAME")]
    name: Option<OsString>,
    /// The values alone, as they are.
    #[arg(long, requires = "name")]
    only_values: bool,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Getfattr {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        for path in expand(session, &self.paths).await {
            let names = match &self.name {
                Some(name) => vec![name.as_bytes().to_vec()],
                None => {
                    let names = session.fs.list_xattrs(&path, true).await;
                    session.check(names).unwrap_or_default()
                }
            };
            let mut header = (!self.only_values).then(|| format!("# file: {}\n", escape(&path)));
            for name in names {
                if !self.dump && self.name.is_none() {
                    session
                        .out
                        .write_all(header.take().unwrap_or_default().as_bytes())?;
                    writeln!(session.out, "{}", escape(&name))?;
                    continue;
                }
                let value = session.fs.get_xattr(&path, name.as_slice(), true).await;
                let value = value.map_err(|error| about_xattr(&path, &name, &error));
                let Some(value) = session.check(value) else {
                    continue;
                };
                session
                    .out
                    .write_all(header.take().unwrap_or_default().as_bytes())?;
                if self.only_values {
                    session.out.write_all(&value)?;
                } else {
                    writeln!(session.out, "{}={}", escape(&name), shown(&value))?;
                }
            }
        }
        Ok(())
    }
}

/// An error about an attribute: names it, and says what names there can be.
pub(super) fn about_xattr(path: &[u8], name: &[u8], error: &Error) -> String {
    let named = || format!("{}: {}", escape(path), escape(name));
    match error.code() {
        ErrorCode::NoAttribute => format!("{}: No such attribute", named()),
        ErrorCode::NotSupported => format!(
            "{}: the name of an attribute begins with user., trusted. or security.",
            named()
        ),
        _ => error.to_string(),
    }
}

/// A value as `dfs setfattr -v` takes it: in quotes if it is text, else in hexadecimal.
fn shown(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if !text.chars().any(char::is_control) => {
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
        }
        _ => value
            .iter()
            .fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn values_are_text_or_hexadecimal() {
        assert_eq!(
            [shown(b"a\"b"), shown(b"\x00\xff"), shown(b"")],
            ["\"a\\\"b\"", "0x00ff", "\"\""]
        );
    }
}
