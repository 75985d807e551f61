//! `dfs tail`: the end of a file, and what is added to it.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use cairn_client::{Error, Reader};
use cairn_daemon::config::{ByteSize, duration};
use clap::Args;
use tokio::time::sleep;

use super::{cat, expand};
use crate::output::escape;
use crate::session::Session;

/// Print the last lines of files, and with -f what is added to one.
#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// Go on with what is added, until Ctrl-C.
    #[arg(short = 'f', long)]
    follow: bool,
    /// So many lines.
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: u64,
    /// So many bytes instead, such as 100 or 1KiB.
    #[arg(short = 'c', long, conflicts_with = "lines")]
    bytes: Option<ByteSize>,
    /// With -f, time between looks at the file.
    #[arg(long, default_value = "500ms", value_name = "TIME", value_parser = duration::parse)]
    interval: Duration,
    /// Files; with -f, one.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

/// Bytes looked at together while lines are counted.
const STEP: u64 = 256 << 10;

impl Tail {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let paths = expand(session, &self.paths).await;
        if self.follow && paths.len() > 1 {
            return crate::session::Usage::error("tail -f takes one file");
        }
        for (index, path) in paths.iter().enumerate() {
            let opened = session.fs.open(path).await;
            let Some(reader) = session.check(opened) else {
                continue;
            };
            if paths.len() > 1 {
                let gap = if index > 0 { "\n" } else { "" };
                writeln!(session.out, "{gap}==> {} <==", escape(path))?;
            }
            let start = match self.bytes {
                Some(bytes) => Ok(reader.attributes().size.saturating_sub(bytes.bytes())),
                None => start_of_lines(&reader, self.lines).await,
            };
            let Some(start) = session.check(start) else {
                continue;
            };
            self.copy(session, &reader, start).await?;
        }
        Ok(())
    }

    async fn copy(&self, session: &mut Session, reader: &Reader, start: u64) -> anyhow::Result<()> {
        let mut stream = reader.stream(start);
        loop {
            match stream.next().await {
                Ok(Some(piece)) => cat::write(session, &piece)?,
                Ok(None) if !self.follow => return Ok(()),
                Ok(None) => {
                    session.out.flush()?;
                    sleep(self.interval).await;
                    let size = reader.refresh().await?.size;
                    if size < stream.offset() {
                        session.report("the file has become shorter; from its new end");
                        stream = reader.stream(size);
                    }
                }
                Err(error) if self.follow => return Err(error.into()),
                Err(error) => {
                    session.report(error);
                    return Ok(());
                }
            }
        }
    }
}

/// Where the last so many lines begin; looks at no more of the file than it must.
async fn start_of_lines(reader: &Reader, lines: u64) -> Result<u64, Error> {
    let size = reader.attributes().size;
    if lines == 0 {
        return Ok(size);
    }
    let mut counter = LineCounter {
        lines,
        at_end: true,
    };
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let bytes = reader.read_at(start, (end - start) as usize).await?;
        if let Some(index) = counter.look_back(&bytes) {
            return Ok(start + index as u64);
        }
        end = start;
    }
    Ok(0)
}

/// Counts lines from the end, in pieces of the file from its last to its first.
struct LineCounter {
    lines: u64,
    /// Whether the next byte is the file's last: a new line there ends the last line and begins none.
    at_end: bool,
}

impl LineCounter {
    /// Where in this piece the first of the lines begins, if it does.
    fn look_back(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, &byte) in bytes.iter().enumerate().rev() {
            let last = std::mem::take(&mut self.at_end);
            if byte != b'\n' || last {
                continue;
            }
            self.lines -= 1;
            if self.lines == 0 {
                return Some(index + 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::LineCounter;

    /// The last lines of a file that is looked at in pieces of `step` bytes.
    fn last(text: &str, lines: u64, step: usize) -> &str {
        let mut counter = LineCounter {
            lines,
            at_end: true,
        };
        let mut end = text.len();
        while end > 0 {
            let start = end.saturating_sub(step);
            if let Some(index) = counter.look_back(&text.as_bytes()[start..end]) {
                return &text[start + index..];
            }
            end = start;
        }
        text
    }

    #[test]
    fn the_last_lines_are_found_whatever_the_pieces() {
        for step in 1..8 {
            assert_eq!(last("a\nb\nc\n", 2, step), "b\nc\n");
            assert_eq!(last("a\nb\nc", 2, step), "b\nc");
            assert_eq!(last("a\nb\n\n", 1, step), "\n");
            assert_eq!(last("a\nb\n", 5, step), "a\nb\n");
            assert_eq!(last("", 5, step), "");
        }
    }
}
