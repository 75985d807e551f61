//! `dfs tail`: the end of a file, and what is added to it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Duration;

use cairn_client::{Error, Reader};
use cairn_protocol::ErrorCode;
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::time::sleep;

use super::{cat, expand};
use crate::output::escape;
use crate::quantity::{self, Amount};
use crate::session::{Session, complain};

/// Print the last lines of files, and with -f what is added to one.
///
/// When a file that is followed has been cut, or written anew, that is said on standard error, and it is printed from its beginning.
#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// Go on with what is added, until Ctrl-C.
    #[arg(short = 'f', long)]
    follow: bool,
    /// The same, and when the name comes to mean another file, or does not exist yet or for a while, go on with what it means then.
    #[arg(short = 'F')]
    follow_name: bool,
    /// So many lines; +N prints from line N on.
    #[arg(short = 'n', long, value_name = "[+]N", default_value = "10", allow_hyphen_values = true, value_parser = Amount::parse)]
    lines: Amount,
    /// So many bytes instead, such as 100 or 2K; +N prints from byte N on.
    #[arg(short = 'c', long, value_name = "[+]N", conflicts_with = "lines", allow_hyphen_values = true, value_parser = Amount::parse)]
    bytes: Option<Amount>,
    /// With -f, time between looks at the file.
    #[arg(long, default_value = "500ms", value_name = "TIME", value_parser = quantity::time)]
    interval: Duration,
    /// Files; with -f, one.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

/// Bytes looked at together while lines are counted.
const STEP: u64 = 256 << 10;

/// So much of what was printed last is looked at again when the file has changed: what was only added to begins as it did.
const REMEMBERED: usize = 1 << 10;

/// How often the place to begin at is looked for in a file that changes meanwhile.
const BEGINNINGS: u32 = 3;

impl Tail {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let paths = expand(session, &self.paths).await;
        let follow = self.follow || self.follow_name;
        if follow && paths.len() > 1 {
            return crate::session::Usage::error("tail -f takes one file");
        }
        for (index, path) in paths.iter().enumerate() {
            let opened = session.fs.open(path).await;
            let is_missing = |error: &Error| error.code() == ErrorCode::NotFound;
            if self.follow_name && opened.as_ref().is_err_and(is_missing) {
                return self.wait_for(session, path).await;
            }
            let Some(reader) = session.check(opened) else {
                continue;
            };
            if paths.len() > 1 {
                print_name(session, path, index)?;
            }
            if follow {
                let followed = self.begin(path, reader).await;
                let Some(followed) = session.check(followed) else {
                    continue;
                };
                return self.follow(session, followed).await;
            }
            let start = self.start(&reader).await;
            let Some(start) = session.check(start) else {
                continue;
            };
            copy(session, &reader, start, u64::MAX).await?;
        }
        Ok(())
    }

    /// Follows a name that is not there yet.
    async fn wait_for(&self, session: &mut Session, path: &[u8]) -> anyhow::Result<()> {
        let text = ErrorCode::NotFound.text();
        complain(format_args!("{}: {text}; waiting for it", escape(path)));
        loop {
            self.pause(session).await?;
            match session.fs.open(path).await {
                Ok(reader) => {
                    complain(format_args!("{}: has appeared", escape(path)));
                    let followed = Followed::from_beginning(path, reader);
                    return self.follow(session, followed).await;
                }
                Err(error) if error.code() == ErrorCode::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Until the next look; ends the command when nobody reads any more.
    async fn pause(&self, session: &mut Session) -> anyhow::Result<()> {
        session.out.flush()?;
        sleep(self.interval).await;
        if stdout_is_gone() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        Ok(())
    }

    /// Where in the file to begin.
    async fn start(&self, reader: &Reader) -> Result<u64, Error> {
        let size = reader.attributes().size;
        match (self.bytes, self.lines) {
            (Some(Amount::Plus(bytes)), _) => Ok(bytes.saturating_sub(1).min(size)),
            (Some(Amount::Plain(bytes) | Amount::Minus(bytes)), _) => {
                Ok(size.saturating_sub(bytes))
            }
            (None, Amount::Plus(lines)) => end_of_lines(reader, lines.saturating_sub(1)).await,
            (None, Amount::Plain(lines) | Amount::Minus(lines)) => {
                start_of_lines(reader, lines).await
            }
        }
    }

    /// Nothing of the file is printed yet. What is before the place where that begins counts as printed: it tells a file that is cut
    /// from now on.
    async fn begin<'a>(&self, path: &'a [u8], reader: Reader) -> Result<Followed<'a>, Error> {
        let mut attempts = 1;
        loop {
            let version = reader.attributes().version;
            let offset = self.start(&reader).await?;
            let length = offset.min(REMEMBERED as u64);
            let last = reader.read_at(offset - length, length as usize).await?;
            // What was looked at must be one and the same file, unless it never stays the same.
            if attempts == BEGINNINGS || reader.attributes().version == version {
                return Ok(Followed {
                    path,
                    reader,
                    version,
                    offset,
                    last: last.to_vec(),
                });
            }
            attempts += 1;
        }
    }

    /// Prints the file from where it is, and then what is added, for as long as somebody reads it.
    async fn follow(
        &self,
        session: &mut Session,
        mut followed: Followed<'_>,
    ) -> anyhow::Result<()> {
        let path = followed.path;
        loop {
            self.print_added(session, &mut followed).await?;
            self.pause(session).await?;
            let newer = if self.follow_name {
                self.newer(session, path, &followed.reader).await?
            } else {
                None
            };
            if let Some(newer) = newer {
                // What came to the old file since the last look belongs before the new one.
                while !self.print_added(session, &mut followed).await? {}
                session.out.flush()?;
                complain(format_args!("{}: another file now", escape(path)));
                followed = Followed::from_beginning(path, newer);
            }
        }
    }

    /// Prints what was added since the last time. False if the file changed meanwhile, and there may be more.
    async fn print_added(
        &self,
        session: &mut Session,
        followed: &mut Followed<'_>,
    ) -> anyhow::Result<bool> {
        match followed.print_added(session).await {
            // Of a name that is followed, the file may go: another one comes.
            Err(error)
                if self.follow_name
                    && error
                        .downcast_ref()
                        .is_some_and(|error: &Error| error.code() == ErrorCode::NotFound) =>
            {
                Ok(true)
            }
            printed => printed,
        }
    }

    /// The file that the name means now, if that is another one.
    async fn newer(
        &self,
        session: &Session,
        path: &[u8],
        reader: &Reader,
    ) -> Result<Option<Reader>, Error> {
        let found = match session.fs.stat(path).await {
            Ok(now) if now.inode == reader.attributes().inode => return Ok(None),
            Ok(_) => session.fs.open(path).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(newer) => Ok(Some(newer)),
            // It may come back, as a log does when it is rotated.
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A file, and how much of it was printed.
struct Followed<'a> {
    path: &'a [u8],
    reader: Reader,
    /// Of the file when it was last looked at whether it was cut.
    version: u64,
    /// Where what was printed ends.
    offset: u64,
    /// The bytes before that.
    last: Vec<u8>,
}

impl<'a> Followed<'a> {
    fn from_beginning(path: &'a [u8], reader: Reader) -> Self {
        Self {
            path,
            version: reader.attributes().version,
            reader,
            offset: 0,
            last: Vec::new(),
        }
    }

    async fn print_added(&mut self, session: &mut Session) -> anyhow::Result<bool> {
        let now = self.reader.refresh().await?;
        if now.version != self.version && self.was_cut(now.size).await? {
            session.out.flush()?;
            complain(format_args!("{}: file truncated", escape(self.path)));
            self.offset = 0;
            self.last.clear();
        }
        self.version = now.version;
        let mut stream = self.reader.stream(self.offset);
        // At its end the stream would look for more, and that might be of a file that was cut meanwhile.
        while self.offset < now.size {
            let piece = stream.next().await?;
            let is_same = self.reader.attributes().version == now.version;
            let Some(piece) = piece.filter(|_| is_same) else {
                // Whether what is there now follows what was printed is for the next look to judge.
                return Ok(false);
            };
            cat::write(session, &piece)?;
            self.offset += piece.len() as u64;
            remember(&mut self.last, &piece);
        }
        Ok(true)
    }

    /// Whether what was printed is not the beginning of the file any more. One that was cut may be as long again by now.
    async fn was_cut(&self, size: u64) -> Result<bool, Error> {
        if size < self.offset {
            return Ok(true);
        }
        let start = self.offset - self.last.len() as u64;
        let now = self.reader.read_at(start, self.last.len()).await?;
        Ok(now != self.last)
    }
}

/// Keeps the last bytes of what was printed.
fn remember(last: &mut Vec<u8>, piece: &[u8]) {
    let news = &piece[piece.len().saturating_sub(REMEMBERED)..];
    let kept = last.len().min(REMEMBERED - news.len());
    last.drain(..last.len() - kept);
    last.extend_from_slice(news);
}

/// The line before each of several files.
pub(super) fn print_name(session: &mut Session, path: &[u8], index: usize) -> io::Result<()> {
    let gap = if index > 0 { "\n" } else { "" };
    writeln!(session.out, "{gap}==> {} <==", escape(path))
}

/// Prints bytes `start` to `end`, or to the end of the file. What cannot be read is reported.
pub(super) async fn copy(
    session: &mut Session,
    reader: &Reader,
    start: u64,
    end: u64,
) -> io::Result<()> {
    let mut stream = reader.stream(start);
    let mut left = end.saturating_sub(start);
    while left > 0 {
        match stream.next().await {
            Ok(Some(piece)) => {
                let wanted =
                    usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
                cat::write(session, &piece[..wanted])?;
                left -= wanted as u64;
            }
            Ok(None) => break,
            Err(error) => {
                session.report(error);
                break;
            }
        }
    }
    Ok(())
}

/// Whether nobody reads standard output any more. A write would tell, but there may be nothing to write for days.
fn stdout_is_gone() -> bool {
    let out = io::stdout();
    // Errors and hang-ups are told unasked.
    let mut polled = [PollFd::new(&out, PollFlags::empty())];
    let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().intersects(gone)
}

/// Where the line after the first so many begins.
pub(super) async fn end_of_lines(reader: &Reader, lines: u64) -> Result<u64, Error> {
    let (mut stream, mut left, mut offset) = (reader.stream(0), lines, 0);
    while left > 0 {
        let Some(piece) = stream.next().await? else {
            return Ok(offset);
        };
        for (index, &byte) in piece.iter().enumerate() {
            if byte == b'\n' {
                left -= 1;
                if left == 0 {
                    return Ok(offset + index as u64 + 1);
                }
            }
        }
        offset += piece.len() as u64;
    }
    Ok(0)
}

/// Where the last so many lines begin; looks at no more of the file than it must.
pub(super) async fn start_of_lines(reader: &Reader, lines: u64) -> Result<u64, Error> {
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
    use super::{LineCounter, REMEMBERED, remember};

    #[test]
    fn the_last_bytes_are_remembered_whatever_the_pieces() {
        let all: Vec<u8> = (0..3 * REMEMBERED).map(|number| number as u8).collect();
        for step in [1, 7, REMEMBERED - 1, REMEMBERED, REMEMBERED + 1, all.len()] {
            let (mut last, mut printed) = (Vec::new(), 0);
            for piece in all.chunks(step) {
                remember(&mut last, piece);
                printed += piece.len();
                assert_eq!(last, all[printed.saturating_sub(REMEMBERED)..printed]);
            }
        }
    }

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
