//! `dfs setfattr`: sets and removes extended attributes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, bail};
use cairn_protocol::messages::operation::XattrMode;
use clap::Args;

use super::expand;
use super::getfattr::about_xattr;
use crate::session::{Session, Usage};

/// Set or remove an extended attribute, such as user.origin.
#[derive(Debug, Args)]
pub(crate) struct Setfattr {
    /// Set this one.
    #[arg(
        short = 'n',
        long,
        value_name = "NAME",
        required_unless_present = "remove"
    )]
    name: Option<OsString>,
    /// To this: text, hexadecimal after 0x, or text in double quotes with \ before \ and ".
    #[arg(short = 'v', long, value_name = "VALUE", conflicts_with = "remove")]
    value: Option<OsString>,
    /// Remove this one.
    #[arg(short = 'x', long, value_name = "NAME", conflicts_with = "name")]
    remove: Option<OsString>,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Setfattr {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let value = match self.value.as_deref().map(parse_value).transpose() {
            Ok(value) => value.unwrap_or_default(),
            Err(error) => return Usage::error(format!("{error:#}")),
        };
        for path in expand(session, &self.paths).await {
            let name = self.name.as_ref().or(self.remove.as_ref());
            let name = name
                .map(|name| name.as_bytes().to_vec())
                .unwrap_or_default();
            let done = match (&self.name, &self.remove) {
                (Some(_), _) => {
                    let set = XattrMode::Set;
                    let value = value.clone();
                    session
                        .fs
                        .set_xattr(&path, name.as_slice(), value, set, true)
                        .await
                }
                (None, Some(_)) => session.fs.remove_xattr(&path, name.as_slice(), true).await,
                (None, None) => return Usage::error("setfattr needs -n or -x"),
            };
            session.check(done.map_err(|error| about_xattr(&path, &name, &error)));
        }
        Ok(())
    }
}

fn parse_value(typed: &OsStr) -> anyhow::Result<Vec<u8>> {
    let bytes = typed.as_bytes();
    if let Some(digits) = bytes
        .strip_prefix(b"0x")
        .or_else(|| bytes.strip_prefix(b"0X"))
    {
        let pair = |pair: &[u8]| {
            let text = std::str::from_utf8(pair).ok().filter(|_| pair.len() == 2)?;
            text.bytes()
                .all(|byte| byte.is_ascii_hexdigit())
                .then(|| u8::from_str_radix(text, 16).ok())?
        };
        let value: Option<Vec<u8>> = digits.chunks(2).map(pair).collect();
        return value.context("--value: after 0x an even number of hexadecimal digits");
    }
    let Some(quoted) = bytes.strip_prefix(b"\"") else {
        return Ok(bytes.to_vec());
    };
    let Some(quoted) = quoted.strip_suffix(b"\"") else {
        bail!("--value: the closing quote is missing")
    };
    let mut value = Vec::with_capacity(quoted.len());
    let mut rest = quoted.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'\\' => value.push(*rest.next().context("--value: nothing after the last \\")?),
            byte => value.push(byte),
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::parse_value;

    #[test]
    fn values_are_text_or_hexadecimal() {
        let value = |text: &str| parse_value(OsStr::new(text));
        assert_eq!(value("a b").unwrap(), b"a b");
        assert_eq!(value("0x00fF").unwrap(), b"\x00\xff");
        assert_eq!(value("\"a\\\"b\"").unwrap(), b"a\"b");
        for bad in ["0x0", "0xgg", "0x+1", "\"a"] {
            assert!(value(bad).is_err(), "{bad}");
        }
    }
}
