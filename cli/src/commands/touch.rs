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
    #[arg(short = 'd', long, value_name = "TIME", group = "time")]
    date: Option<String>,
    /// The same as touch(1) has it, in this machine's zone: `[[CC]YY]MMDDhhmm[.ss]`; `CCYYMMDD:hhmmss` as in HDFS.
    #[arg(short = 't', value_name = "STAMP", group = "time")]
    stamp: Option<String>,
    /// The times of this file of the cluster.
    #[arg(short = 'r', long, value_name = "PATH", group = "time")]
    reference: Option<OsString>,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Touch {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let date = self.date.as_deref().map(parse_time);
        let stamp = self.stamp.as_deref().map(parse_stamp);
        let mut time = match date.or(stamp).transpose() {
            Ok(time) => time.map(Times::both),
            Err(error) => return Usage::error(format!("{error:#}")),
        };
        if let Some(reference) = &self.reference {
            let path = session.path(reference)?;
            no_slash(session, &path).await.map_err(anyhow::Error::msg)?;
            let found = session.fs.stat(&path).await?;
            time = Some(Times {
                atime_ns: found.atime_ns,
                mtime_ns: found.mtime_ns,
            });
        }
        for path in expand(session, &self.paths).await {
            let possible = no_slash(session, &path).await;
            if session.check(possible).is_some() {
                let touched = self.touch(session, &path, time).await;
                session.check(touched);
            }
        }
        Ok(())
    }

    async fn touch(
        &self,
        session: &Session,
        path: &[u8],
        time: Option<Times>,
    ) -> Result<(), Error> {
        let both = self.access == self.modification;
        let (access, modification) = (both || self.access, both || self.modification);
        let change = AttributeChange {
            follow: true,
            atime_ns: time.map(|time| time.atime_ns).filter(|_| access),
            mtime_ns: time.map(|time| time.mtime_ns).filter(|_| modification),
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

#[derive(Clone, Copy, Debug)]
struct Times {
    atime_ns: u64,
    mtime_ns: u64,
}

impl Times {
    fn both(ns: u64) -> Self {
        Self {
            atime_ns: ns,
            mtime_ns: ns,
        }
    }
}

/// `[[CC]YY]MMDDhhmm[.ss]`, where a year of two digits is between 1969 and 2068, or `CCYYMMDD:hhmmss`, as HDFS has it.
fn parse_stamp(text: &str) -> anyhow::Result<u64> {
    let of_hdfs = text
        .split_once(':')
        .filter(|(day, time)| day.len() == 8 && time.len() == 6);
    if let Some((day, time)) = of_hdfs
        && let Some((minute, seconds)) = time.split_at_checked(4)
    {
        return parse_stamp(&format!("{day}{minute}.{seconds}"));
    }
    let (digits, seconds) = text.split_once('.').unwrap_or((text, "00"));
    let all = digits.bytes().chain(seconds.bytes());
    let fits = matches!(digits.len(), 8 | 10 | 12) && seconds.len() == 2;
    let parsed = || -> Option<u64> {
        let (year, rest) = digits.split_at(digits.len() - 8);
        let year = match year.len() {
            0 => i64::from(Zoned::now().year()),
            2 => {
                let year: i64 = year.parse().ok()?;
                year + if year < 69 { 2000 } else { 1900 }
            }
            _ => year.parse().ok()?,
        };
        let (month, day, hour, minute) = (&rest[..2], &rest[2..4], &rest[4..6], &rest[6..]);
        let plain = format!("{year:04}-{month}-{day} {hour}:{minute}:{seconds}");
        parse_time(&plain).ok()
    };
    let is_stamp = fits && all.clone().all(|byte| byte.is_ascii_digit());
    let parsed = is_stamp.then(parsed).flatten();
    parsed.with_context(|| format!("`{text}` is not a time since 1970 as [[CC]YY]MMDDhhmm[.ss]"))
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
    use super::{parse_stamp, parse_time};

    #[test]
    fn stamps_are_those_of_touch() {
        for (stamp, plain) in [
            ("202601311200", "2026-01-31 12:00"),
            ("2601311200.59", "2026-01-31 12:00:59"),
            ("9901311200", "1999-01-31 12:00"),
            ("20260131:120059", "2026-01-31 12:00:59"),
        ] {
            assert_eq!(
                parse_stamp(stamp).unwrap(),
                parse_time(plain).unwrap(),
                "{stamp}"
            );
        }
        assert!(parse_stamp("01311200").is_ok());
        for bad in [
            "",
            "1",
            "202613311200",
            "20260131120",
            "2026013112.5",
            "+1311200",
            "01311200.5",
        ] {
            assert!(parse_stamp(bad).is_err(), "{bad}");
        }
    }

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
