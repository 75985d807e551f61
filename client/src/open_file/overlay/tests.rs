//! The overlay against a plain vector, in random histories.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, prop_oneof, proptest};

use super::{Overlay, Taken, UNIT_PIECES_MAX};
use crate::write::packet::PACKET_BYTES;

const PACKET: u64 = PACKET_BYTES as u64;

#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: u64,
        length: usize,
    },
    /// Where the last one ended.
    WriteOn {
        length: usize,
    },
    Read {
        offset: u64,
        length: u64,
    },
    Truncate {
        size: u64,
    },
    Punch {
        offset: u64,
        length: u64,
    },
    Take {
        all: bool,
    },
    /// The oldest units are committed.
    Commit {
        count: usize,
    },
    Fail,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Small offsets overlap often; those around the end of a packet find what goes wrong there.
    let offset = || prop_oneof![0..200_u64, PACKET - 100..PACKET + 100, 0..3 * PACKET];
    let length = || {
        prop_oneof![
            1..50_usize,
            1..200_usize,
            Just(PACKET_BYTES),
            1..PACKET_BYTES
        ]
    };
    let step = prop_oneof![
        4 => (offset(), length()).prop_map(|(offset, length)| Step::Write { offset, length }),
        6 => length().prop_map(|length| Step::WriteOn { length }),
        4 => (offset(), length()).prop_map(|(offset, length)| Step::Read { offset, length: length as u64 }),
        1 => offset().prop_map(|size| Step::Truncate { size }),
        1 => (offset(), length()).prop_map(|(offset, length)| Step::Punch { offset, length: length as u64 }),
        2 => proptest::bool::ANY.prop_map(|all| Step::Take { all }),
        2 => (1..4_usize).prop_map(|count| Step::Commit { count }),
        1 => Just(Step::Fail),
    ];
    vec(step, 1..60)
}

/// A file as the cluster would have it, below an overlay; and what both together must read as.
#[derive(Default)]
struct Model {
    committed: Vec<u8>,
    expected: Vec<u8>,
    overlay: Overlay,
    units: VecDeque<Taken>,
    next_unit: u64,
    written_to: u64,
    fill: u8,
}

fn put(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if file.len() < end {
        file.resize(end, 0);
    }
    file[start..end].copy_from_slice(bytes);
}

fn punch(file: &mut [u8], range: &Range<u64>) {
    let end = file.len().min(range.end as usize);
    if let Some(hole) = file.get_mut(range.start as usize..end) {
        hole.fill(0);
    }
}

impl Model {
    fn run(&mut self, step: Step) {
        match step {
            Step::Write { offset, length } => self.write(offset, length),
            Step::WriteOn { length } => self.write(self.written_to, length),
            Step::Read { offset, length } => self.compare(offset..offset + length),
            Step::Truncate { size } => {
                self.settle();
                self.committed.resize(size as usize, 0);
                self.expected.resize(size as usize, 0);
                self.overlay.cut(size..u64::MAX);
            }
            Step::Punch { offset, length } => {
                // As the open file does it: all is committed before.
                self.take(true);
                self.settle();
                punch(&mut self.committed, &(offset..offset + length));
                punch(&mut self.expected, &(offset..offset + length));
            }
            Step::Take { all } => self.take(all),
            Step::Commit { count } => (0..count).for_each(|_| self.commit()),
            Step::Fail => {
                self.units.clear();
                self.overlay.take_back(0);
            }
        }
        self.check();
    }

    fn write(&mut self, offset: u64, length: usize) {
        let offset = offset.min(4 * PACKET);
        self.fill = self.fill.wrapping_add(1).max(1);
        let bytes: Vec<u8> = (0..length).map(|i| self.fill ^ (i % 251) as u8).collect();
        put(&mut self.expected, offset, &bytes);
        self.overlay.write(offset, Bytes::from(bytes));
        self.written_to = offset + length as u64;
    }

    fn take(&mut self, all: bool) {
        for taken in self.overlay.take(all, self.next_unit) {
            assert_eq!(taken.unit, self.next_unit);
            self.next_unit += 1;
            assert!(taken.length <= PACKET_BYTES && taken.runs.len() <= UNIT_PIECES_MAX);
            let lengths = taken.runs.iter().map(|run| run.length);
            assert_eq!(lengths.sum::<usize>(), taken.length);
            self.units.push_back(taken);
        }
        if all {
            assert_eq!(self.overlay.gathered_bytes(), 0);
            assert_eq!(self.overlay.gathered_count(), 0);
        }
    }

    fn commit(&mut self) {
        let Some(taken) = self.units.pop_front() else {
            return;
        };
        for run in &taken.runs {
            let bytes = run.parts.concat();
            assert_eq!(bytes.len(), run.length);
            put(&mut self.committed, run.offset_in_file, &bytes);
        }
        self.overlay.committed(taken.unit, &taken.ranges());
    }

    fn settle(&mut self) {
        while !self.units.is_empty() {
            self.commit();
        }
    }

    fn compare(&self, range: Range<u64>) {
        let cut = |file: &[u8]| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let start = file.len().min(range.start as usize);
            let end = file.len().min(range.end as usize);
            bytes[..end - start].copy_from_slice(&file[start..end]);
            bytes
        };
        let mut read = cut(&self.committed);
        for (offset, bytes) in self.overlay.slices(&range) {
            let at = (offset - range.start) as usize;
            read[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        assert!(read == cut(&self.expected), "{range:?} differs");
    }

    fn check(&self) {
        let size = self.overlay.end().max(self.committed.len() as u64);
        assert_eq!(size, self.expected.len() as u64);
        let gathered = self
            .overlay
            .ranges
            .values()
            .filter(|dirty| dirty.unit.is_none());
        let lengths: Vec<usize> = gathered.map(super::Dirty::len).collect();
        assert_eq!(lengths.iter().sum::<usize>(), self.overlay.gathered_bytes());
        assert_eq!(lengths.len(), self.overlay.gathered_count());
        let mut end = 0;
        for (start, dirty) in &self.overlay.ranges {
            assert!(*start >= end && dirty.len() > 0);
            end = start + dirty.len() as u64;
        }
    }
}

proptest! {
    #[test]
    fn reads_see_what_was_written_whatever_is_committed_or_fails(steps in steps()) {
        let mut model = Model::default();
        for step in steps {
            model.run(step);
        }
        model.compare(0..6 * PACKET);
        model.take(true);
        model.settle();
        assert!(model.overlay.is_empty());
        assert!(model.committed == model.expected);
    }
}

#[test]
fn writes_that_follow_each_other_fill_packets_and_the_rest_waits() {
    let mut overlay = Overlay::default();
    let total = 2 * PACKET_BYTES + 5000;
    for offset in (0..total).step_by(1000) {
        overlay.write(
            offset as u64,
            Bytes::from(vec![7; 1000.min(total - offset)]),
        );
    }
    assert!(overlay.gathered_count() <= 5, "joined as they come");
    let taken = overlay.take(false, 0);
    let lengths: Vec<usize> = taken.iter().map(|taken| taken.length).collect();
    assert_eq!(lengths, [PACKET_BYTES, PACKET_BYTES]);
    assert_eq!(overlay.gathered_bytes(), 5000);
}

#[test]
fn scattered_writes_share_a_unit() {
    let mut overlay = Overlay::default();
    for index in 0..3000 {
        overlay.write(index * 8192, Bytes::from(vec![1; 100]));
    }
    assert!(overlay.take(false, 0).is_empty());
    let taken = overlay.take(true, 0);
    let counts: Vec<usize> = taken.iter().map(|taken| taken.runs.len()).collect();
    assert_eq!(counts, [1024, 1024, 952]);
}

#[test]
fn gaps_and_bytes_are_found() {
    let mut overlay = Overlay::default();
    overlay.write(10, Bytes::from(vec![1; 10]));
    overlay.write(20, Bytes::from(vec![1; 5]));
    overlay.write(40, Bytes::from(vec![1; 5]));
    assert_eq!(overlay.next(0), Some(10));
    assert_eq!(overlay.next(12), Some(12));
    assert_eq!(overlay.next(25), Some(40));
    assert_eq!(overlay.next(45), None);
    assert_eq!(overlay.covered_to(5), 5);
    assert_eq!(overlay.covered_to(12), 25);
    assert_eq!(overlay.covered_to(40), 45);
    assert_eq!(overlay.end(), 45);
}
