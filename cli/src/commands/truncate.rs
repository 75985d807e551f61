//! `dfs truncate`: cuts or extends files.

use std::ffi::OsString;

use anyhow::Context;
use cairn_daemon::config::ByteSize;
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::IfExists;
use clap::Args;

use super::expand;
use crate::session::{Session, Usage};

/// Cut files to a size, or extend them with zeros.
#[derive(Debug, Args)]
pub(crate) struct Truncate {
    /// The size, such as 0, 4096 or 10MiB; with + or - in front, by how much.
    #[arg(short = 's', long, allow_hyphen_values = true)]
    size: String,
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
}

impl Size {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let bytes = |text: &str| {
            let size = text.parse::<ByteSize>().map(ByteSize::bytes);
            size.with_context(|| format!("--size {text}"))
        };
        match text.as_bytes().first() {
            Some(b'+') => bytes(&text[1..]).map(Self::More),
            Some(b'-') => bytes(&text[1..]).map(Self::Less),
            _ => bytes(text).map(Self::Exactly),
        }
    }

    fn apply(self, size: u64) -> u64 {
        match self {
            Self::Exactly(bytes) => bytes,
            Self::More(bytes) => size.saturating_add(bytes),
            Self::Less(bytes) => size.saturating_sub(bytes),
        }
    }
}

impl Truncate {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let size = match Size::parse(&self.size) {
            Ok(size) => size,
            Err(error) => return Usage::error(format!("{error:#}")),
        };
        for path in expand(session, &self.paths).await {
            let truncated = self.truncate(session, &path, size).await;
            session.check(truncated);
        }
        Ok(())
    }

    async fn truncate(
        &self,
        session: &Session,
        path: &[u8],
        size: Size,
    ) -> cairn_client::Result<()> {
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
        let new = size.apply(found.size);
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
        assert_eq!(Size::parse("+1MB").unwrap().apply(5), 1_000_005);
        assert_eq!(Size::parse("-10").unwrap().apply(5), 0);
        assert!(Size::parse("10K").is_err() && Size::parse("").is_err());
    }
}
