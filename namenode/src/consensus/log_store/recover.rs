//! Reads a log from its directory: replays every record, cuts a torn tail, refuses damage.
//!
//! All segments but the last were complete and durable before the next one got its header, which names their end: they
//! must replay to exactly there. In the last one, the first thing that is not a record is the end, unless a record
//! behind it says that this place had been synced: then it is damage.

use std::collections::VecDeque;
use std::path::Path;

use cairn_daemon::disk::DiskFile;

use super::directory::{Directory, Segment};
use super::error::LogError;
use super::format::{
    BadHeader, Found, Kind, SEGMENT_HEADER_BYTES, SEGMENT_START, SegmentHeader, VERSION, record_at,
    record_bytes, was_synced,
};
use super::memory::{Location, Placed};
use super::record::{State, decode_log_id};

/// A log as the disk holds it.
pub(super) struct Recovered {
    pub state: State,
    pub entries: Vec<Placed>,
    /// Oldest first; the last one goes on at `end`.
    pub segments: VecDeque<Segment>,
    pub end: u64,
    pub chain: u32,
}

/// Reads the segments of these generations (ascending). `must_exist` as in the options.
pub(super) fn recover(
    directory: &Directory,
    generations: &[u64],
    must_exist: bool,
) -> Result<Recovered, LogError> {
    if generations.is_empty() && must_exist {
        return Err(LogError::Lost {
            path: directory.path().to_path_buf(),
        });
    }
    let mut segments = open_segments(directory, generations)?;
    let mut replay = Replay::default();
    let (mut end, mut chain) = (SEGMENT_START, 0);
    for position in 0..segments.len() {
        let next = segments.get(position + 1).map(|next| next.header);
        (end, chain) = replay.segment(&mut segments[position], next)?;
    }
    if let Some(last) = segments.back() {
        // A killed process may have left records that only the page cache holds: nothing may be built on them yet.
        last.file
            .sync_data()
            .map_err(LogError::io("sync", &last.path))?;
    }
    let state = replay.finish(segments.front(), must_exist)?;
    Ok(Recovered {
        state,
        entries: replay.entries.into(),
        segments,
        end,
        chain,
    })
}

fn open_segments(
    directory: &Directory,
    generations: &[u64],
) -> Result<VecDeque<Segment>, LogError> {
    let mut segments: VecDeque<Segment> = VecDeque::new();
    for &generation in generations {
        let (path, file) = directory.open_segment(generation)?;
        if let Some(before) = segments.back()
            && before.header.seed.generation + 1 != generation
        {
            return Err(LogError::damaged(
                &path,
                0,
                "the segment before it is missing",
            ));
        }
        let bytes = read_at(&*file, &path, 0, SEGMENT_HEADER_BYTES)?;
        let header = SegmentHeader::decode(&bytes).map_err(|bad| match bad {
            BadHeader::Damaged => {
                LogError::damaged(&path, 0, "the segment header does not match its checksum")
            }
            BadHeader::Version(version) => LogError::TooNew {
                path: path.clone(),
                version,
                known: VERSION,
            },
        })?;
        if header.seed.generation != generation {
            return Err(LogError::damaged(
                &path,
                16,
                "the segment header is that of another generation",
            ));
        }
        let len = file.len().map_err(LogError::io("measure", &path))?;
        if len != header.capacity {
            let reason = format!("the file has {len} bytes instead of {}", header.capacity);
            return Err(LogError::damaged(&path, len.min(header.capacity), reason));
        }
        segments.push_back(Segment {
            header,
            path,
            file,
            last_index: None,
        });
    }
    Ok(segments)
}

/// Reads exactly `len` bytes.
pub(super) fn read_at(
    file: &dyn DiskFile,
    path: &Path,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, LogError> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        let at = offset + filled as u64;
        match file
            .read_at(&mut bytes[filled..], at)
            .map_err(LogError::io("read", path))?
        {
            0 => return Err(LogError::damaged(path, at, "the file ends too early")),
            read => filled += read,
        }
    }
    Ok(bytes)
}

#[derive(Default)]
struct Replay {
    /// `None` until the first state record.
    state: Option<State>,
    entries: VecDeque<Placed>,
}

impl Replay {
    /// Replays one segment up to its end; gives that end and the chain value there.
    fn segment(
        &mut self,
        segment: &mut Segment,
        next: Option<SegmentHeader>,
    ) -> Result<(u64, u32), LogError> {
        let path = segment.path.clone();
        let bytes = read_at(&*segment.file, &path, 0, segment.header.capacity as usize)?;
        let known_end = next.map(|next| next.previous_end);
        let mut offset = SEGMENT_START;
        let mut chain = segment.header.chain();
        while known_end != Some(offset) {
            let (header, payload) = match record_at(&bytes, segment.seed(), offset, chain) {
                Found::Record(header, payload) => (header, payload),
                Found::Nothing(reason) if known_end.is_some() => {
                    return Err(LogError::damaged(&path, offset, reason));
                }
                Found::Nothing(reason) => match was_synced(&bytes, segment.seed(), offset) {
                    Some(witness) => {
                        let reason = format!(
                            "{reason}, and the record at {witness} was written after this was synced"
                        );
                        return Err(LogError::damaged(&path, offset, reason));
                    }
                    None => break,
                },
            };
            let location = Location {
                generation: segment.seed().generation,
                offset,
                payload_bytes: header.payload_len,
            };
            self.record(header.kind, payload, location, segment)
                .map_err(|reason| LogError::damaged(&path, offset, reason))?;
            chain = header.crc;
            offset += record_bytes(header.payload_len.into());
        }
        if next.is_some_and(|next| next.previous_chain != chain) {
            return Err(LogError::damaged(
                &path,
                offset,
                "the next segment continues another record",
            ));
        }
        Ok((offset, chain))
    }

    fn record(
        &mut self,
        kind: Kind,
        payload: &[u8],
        location: Location,
        segment: &mut Segment,
    ) -> Result<(), &'static str> {
        match kind {
            Kind::State => self.state_record(State::decode(payload)?),
            Kind::Entry => {
                let log_id = decode_log_id(payload)?;
                let state = self.state.as_mut().ok_or("an entry before any state")?;
                if state.next_index.is_some_and(|next| next != log_id.index) {
                    return Err("an entry whose index does not follow the last one");
                }
                state.next_index = Some(
                    log_id
                        .index
                        .checked_add(1)
                        .ok_or("an entry with the last index")?,
                );
                segment.last_index = segment.last_index.max(Some(log_id.index));
                self.entries.push_back(Placed { log_id, location });
                Ok(())
            }
        }
    }

    fn state_record(&mut self, new: State) -> Result<(), &'static str> {
        let purged_end = new.purged.map(|purged| purged.index.saturating_add(1));
        let old_next = self
            .state
            .as_ref()
            .map_or(new.next_index, |old| old.next_index);
        if new.next_index > old_next && new.next_index != purged_end {
            return Err("a state that skips entries");
        }
        while self
            .entries
            .back()
            .is_some_and(|last| new.next_index.is_none_or(|n| last.log_id.index >= n))
        {
            self.entries.pop_back();
        }
        while self
            .entries
            .front()
            .is_some_and(|first| Some(first.log_id.index) < purged_end)
        {
            self.entries.pop_front();
        }
        self.state = Some(new);
        Ok(())
    }

    /// Checks that nothing is missing between what was purged and the entries.
    fn finish(&mut self, first: Option<&Segment>, must_exist: bool) -> Result<State, LogError> {
        let Some(first) = first else {
            return Ok(State::default());
        };
        let is_oldest = first.seed().generation == 1;
        let damaged = |reason| Err(LogError::damaged(&first.path, SEGMENT_START, reason));
        let Some(state) = self.state.take() else {
            // The log was being made for the first time.
            return match is_oldest && !must_exist {
                true => Ok(State::default()),
                false => damaged("the log's oldest segment holds no state"),
            };
        };
        let first_index = self
            .entries
            .front()
            .map(|first| first.log_id.index)
            .or(state.next_index);
        match state.purged {
            Some(purged)
                if first_index.is_some_and(|first| first > purged.index.saturating_add(1)) =>
            {
                damaged("entries are missing between the purged ones and the first one here")
            }
            None if !is_oldest => {
                damaged("the segments before it are missing, and nothing was purged")
            }
            _ => Ok(state),
        }
    }
}
