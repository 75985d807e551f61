//! `dfs touch`: times, and empty files.

use std::ffi::OsString;

use anyhow::Context;
use cairn_client::{AttributeChange, Error};
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::IfExists;
use clap::Args;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::{expand, no_slash};
use crate::session::{Session, Usage};

/// Set times to now, and make files that do not exist.
#[derive(Debug, Args)]
pub(crate) struct Touch {
    /// Make no files.
    #[arg(short = 'c', long)]
    no_create: bool,
    /// Only the time of the last read.
    #[arg(short = 'a')]
    access: bool,
    /// Only the time of the last change.
    #[arg(short = 'm')]
    modification: bool,
    /// This time instead of now: 2026-01-31, 2026-01-31 12:00 (in this machine's zone), 2026-01-31T12:00:00Z or @SECONDS.
    #[arg(short = 'd', long, value_name = "TIME")]
    date: Option<String>,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Touch {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let time = match self.date.as_deref().map(parse_time).transpose() {
            Ok(time) => time,
            Err(error) => return Usage::error(format!("{error:#}")),
        };
        for path in expand(session, &self.paths).await {
            let possible = no_slash(session, &path).await;
            if session.check(possible).is_some() {
                let touched = self.touch(session, &path, time).await;
                session.check(touched);
            }
        }
        Ok(())
    }

    async fn touch(&self, session: &Session, path: &[u8], time: Option<u64>) -> Result<(), Error> {
        let both = self.access == self.modification;
        let (access, modification) = (both || self.access, both || self.modification);
        let change = AttributeChange {
            follow: true,
            atime_ns: time.filter(|_| access),
            mtime_ns: time.filter(|_| modification),
            atime_now: access && time.is_none(),
            mtime_now: modification && time.is_none(),
            ..AttributeChange::default()
        };
        match session.fs.set_attributes(path, change.clone()).await {
            Err(error) if error.code() == ErrorCode::NotFound && self.no_create => Ok(()),
            Err(error) if error.code() == ErrorCode::NotFound => {
                session
                    .fs
                    .create(path, 0o666 & !session.umask, IfExists::Open)
                    .await?;
                match time {
                    Some(_) => session.fs.set_attributes(path, change).await.map(|_| ()),
                    None => Ok(()),
                }
            }
            changed => changed.map(|_| ()),
        }
    }
}

/// Nanoseconds since 1970.
fn parse_time(text: &str) -> anyhow::Result<u64> {
    let timestamp = || -> Option<Timestamp> {
        if let Some(seconds) = text.strip_prefix('@') {
            return Timestamp::from_second(seconds.parse().ok()?).ok();
        }
        if let Ok(timestamp) = text.parse::<Timestamp>() {
            return Some(timestamp);
        }
        if let Ok(zoned) = text.parse::<Zoned>() {
            return Some(zoned.timestamp());
        }
        let local = text
            .parse::<DateTime>()
            .ok()?
            .to_zoned(TimeZone::system())
            .ok()?;
        Some(local.timestamp())
    };
    let nanoseconds =
        timestamp().and_then(|timestamp| u64::try_from(timestamp.as_nanosecond()).ok());
    nanoseconds.with_context(|| {
        format!("`{text}` is not a time since 1970 such as 2026-01-31, 2026-01-31T12:00:00Z or @1767225600")
    })
}

#[cfg(test)]
mod tests {
    use super::parse_time;

    #[test]
    fn times_are_understood() {
        assert_eq!(parse_time("@1").unwrap(), 1_000_000_000);
        assert_eq!(
            parse_time("2026-01-01T00:00:00Z").unwrap(),
            1_767_225_600_000_000_000
        );
        assert_eq!(
            parse_time("2026-01-01T01:00:00.5+01:00").unwrap(),
            1_767_225_600_500_000_000
        );
        for local in ["2026-01-31", "2026-01-31 12:00", "2026-01-31 12:00:01"] {
            assert!(parse_time(local).is_ok(), "{local}");
        }
        for bad in ["", "yesterday", "@x", "@-1", "1960-01-01T00:00:00Z"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
