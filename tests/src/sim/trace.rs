//! What happened, in order, and its hash: two runs of a seed must agree.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use cairn_protocol::checksum::crc32c;

/// Events kept for a report of a failure.
const KEPT_MAX: usize = 400;

/// Cheap to clone; clones write into one trace.
#[derive(Clone, Default)]
pub(crate) struct Trace(Rc<RefCell<Record>>);

#[derive(Default)]
struct Record {
    now_ms: u128,
    hash: u64,
    count: u64,
    kept: VecDeque<String>,
    violations: Vec<String>,
}

impl Trace {
    /// Something that happened.
    pub(crate) fn event(&self, text: impl Into<String>) {
        let mut record = self.0.borrow_mut();
        let text = format!("{:>7} {}", record.now_ms, text.into());
        record.mix(text.as_bytes());
        record.count += 1;
        tracing::info!(target: "sim", "{text}");
        record.kept.push_back(text);
        if record.kept.len() > KEPT_MAX {
            record.kept.pop_front();
        }
    }

    /// Virtual time since the simulation began; the driver moves it with each step.
    pub(crate) fn set_now_ms(&self, now_ms: u128) {
        self.0.borrow_mut().now_ms = now_ms;
    }

    /// Virtual time since the simulation began, as of the present step.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.0.borrow().now_ms).unwrap_or(u64::MAX)
    }

    /// A state that is not worth a line.
    pub(crate) fn sample(&self, state: &str) {
        self.0.borrow_mut().mix(state.as_bytes());
    }

    /// An invariant does not hold.
    pub(crate) fn violation(&self, text: impl Into<String>) {
        let text = text.into();
        self.event(format!("VIOLATION {text}"));
        self.0.borrow_mut().violations.push(text);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.0.borrow().violations.clone()
    }

    pub(crate) fn has_violations(&self) -> bool {
        !self.0.borrow().violations.is_empty()
    }

    pub(crate) fn hash(&self) -> u64 {
        self.0.borrow().hash
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.borrow().count
    }

    /// The last events.
    pub(crate) fn kept(&self) -> Vec<String> {
        self.0.borrow().kept.iter().cloned().collect()
    }
}

impl Record {
    fn mix(&mut self, bytes: &[u8]) {
        let crc = u64::from(crc32c(bytes));
        self.hash = (self.hash.rotate_left(23) ^ crc).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
