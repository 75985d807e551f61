//! `dfs truncate`: cuts or extends files.

use std::ffi::OsString;

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::IfExists;
use clap::Args;

use super::{expand, no_slash};
use crate::quantity;
use crate::session::Session;

/// Cut files to a size, or extend them with zeros.
#[derive(Debug, Args)]
pub(crate) struct Truncate {
    /// The size, such as 0, 4096, 10K or 10MiB; +SIZE and -SIZE change it by that much, <SIZE is at most, >SIZE at least
    /// that, /SIZE rounds down and %SIZE up to a multiple.
    #[arg(short = 's', long, allow_hyphen_values = true, value_parser = Size::parse)]
    size: Size,
    /// Make no files.
    #[arg(short = 'c', long)]
    no_create: bool,
    /// Files; those that do not exist are made.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Exactly(u64),
    More(u64),
    Less(u64),
    AtMost(u64),
    AtLeast(u64),
    Down(u64),
    Up(u64),
}

impl Size {
    fn parse(text: &str) -> Result<Self, String> {
        let how: fn(u64) -> Self = match text.as_bytes().first() {
            Some(b'+') => Self::More,
            Some(b'-') => Self::Less,
            Some(b'<') => Self::AtMost,
            Some(b'>') => Self::AtLeast,
            Some(b'/') => Self::Down,
            Some(b'%') => Self::Up,
            _ => return quantity::size(text).map(Self::Exactly),
        };
        let bytes = quantity::size(&text[1..])?;
        match how(bytes) {
            Self::Down(0) | Self::Up(0) => Err("there are no multiples of 0".to_owned()),
            size => Ok(size),
        }
    }

    fn apply(self, size: u64) -> u64 {
        match self {
            Self::Exactly(bytes) => bytes,
            Self::More(bytes) => size.saturating_add(bytes),
            Self::Less(bytes) => size.saturating_sub(bytes),
            Self::AtMost(bytes) => size.min(bytes),
            Self::AtLeast(bytes) => size.max(bytes),
            Self::Down(bytes) => size - size % bytes,
            Self::Up(bytes) => size.div_ceil(bytes).saturating_mul(bytes),
        }
    }
}

impl Truncate {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        for path in expand(session, &self.paths).await {
            let possible = no_slash(session, &path).await;
            if session.check(possible).is_some() {
                let truncated = self.truncate(session, &path).await;
                session.check(truncated);
            }
        }
        Ok(())
    }

    async fn truncate(&self, session: &Session, path: &[u8]) -> cairn_client::Result<()> {
        let found = match session.fs.stat(path).await {
            Err(error) if error.code() == ErrorCode::NotFound && self.no_create => return Ok(()),
            Err(error) if error.code() == ErrorCode::NotFound => {
                session
                    .fs
                    .create(path, 0o666 & !session.umask, IfExists::Open)
                    .await?
                    .0
            }
            found => found?,
        };
        let new = self.size.apply(found.size);
        if new == found.size {
            return Ok(());
        }
        session.fs.truncate(path, new).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes_are_absolute_or_relative() {
        assert_eq!(Size::parse("4 KiB").unwrap(), Size::Exactly(4096));
        assert_eq!(Size::parse("10T").unwrap(), Size::Exactly(10 << 40));
        assert_eq!(Size::parse("+1MB").unwrap().apply(5), 1_000_005);
        assert_eq!(Size::parse("-1k").unwrap().apply(5), 0);
        for (text, from, to) in [
            ("<5", 9, 5),
            (">5", 9, 9),
            ("/4", 9, 8),
            ("%4", 9, 12),
            ("%4", 8, 8),
        ] {
            assert_eq!(Size::parse(text).unwrap().apply(from), to, "{text}");
        }
        for bad in ["10X", "", "+", "/0", "%0", "--1"] {
            assert!(Size::parse(bad).is_err(), "{bad}");
        }
    }
}
