//! Gets entries back from disk. Blocks.

use std::ops::Range;

use bytes::Bytes;
use cairn_protocol::checksum::crc32c;

use super::error::LogError;
use super::format::{RECORD_HEADER_BYTES, RecordHeader, record_bytes};
use super::memory::{Fetch, Location, Source};
use super::record::decode_entry;
use super::recover::read_at;
use crate::consensus::types::{Entry, LogId};

/// Neighbouring records are read together up to this size.
const RUN_BYTES_MAX: u64 = 1 << 20;

/// Carries out a plan.
pub(super) fn load(plan: Vec<Fetch>) -> Result<Vec<Entry>, LogError> {
    let mut entries = Vec::with_capacity(plan.len());
    let mut run = Run::default();
    for fetch in plan {
        match fetch {
            Fetch::Cached(entry) => {
                run.read_into(&mut entries)?;
                entries.push(entry);
            }
            Fetch::Stored(log_id, location, source) => {
                if !run.continues_with(&location) {
                    run.read_into(&mut entries)?;
                }
                run.push(log_id, location, source);
            }
        }
    }
    run.read_into(&mut entries)?;
    Ok(entries)
}

/// Records that stand one after the other in one segment.
#[derive(Default)]
struct Run {
    source: Option<Source>,
    generation: u64,
    bytes: Range<u64>,
    records: Vec<(LogId, Location)>,
}

impl Run {
    fn continues_with(&self, location: &Location) -> bool {
        self.generation == location.generation
            && self.bytes.end == location.offset
            && self.bytes.end - self.bytes.start < RUN_BYTES_MAX
    }

    fn push(&mut self, log_id: LogId, location: Location, source: Source) {
        if self.records.is_empty() {
            self.generation = location.generation;
            self.bytes.start = location.offset;
            self.source = Some(source);
        }
        self.bytes.end = location.offset + record_bytes(location.payload_bytes.into());
        self.records.push((log_id, location));
    }

    /// Reads, checks and decodes all records, and forgets them.
    fn read_into(&mut self, entries: &mut Vec<Entry>) -> Result<(), LogError> {
        let run = std::mem::take(self);
        let Some(source) = run.source else {
            return Ok(());
        };
        let len = (run.bytes.end - run.bytes.start) as usize;
        let bytes = Bytes::from(read_at(&*source.file, &source.path, run.bytes.start, len)?);
        for (log_id, location) in run.records {
            let record = bytes.slice((location.offset - run.bytes.start) as usize..);
            let entry = decode(record, &location, &source)
                .map_err(|reason| LogError::damaged(&source.path, location.offset, reason))?;
            if entry.log_id != log_id {
                let reason = format!("entry {} stands where {log_id} was written", entry.log_id);
                return Err(LogError::damaged(&source.path, location.offset, reason));
            }
            entries.push(entry);
        }
        Ok(())
    }
}

fn decode(record: Bytes, location: &Location, source: &Source) -> Result<Entry, &'static str> {
    let header = RecordHeader::decode(&record, source.seed, location.offset)
        .filter(|header| header.payload_len == location.payload_bytes)
        .ok_or("the record header does not match its checksum")?;
    let payload =
        record.slice(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + location.payload_bytes as usize);
    if crc32c(&payload) != header.payload_crc {
        return Err("the record's payload does not match its checksum");
    }
    decode_entry(payload)
}
