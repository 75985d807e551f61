//! What crosses the wire: ids, messages, error codes, frames, packets, tokens. Depends on nothing of ours.

pub mod error;
pub mod ids;

pub use error::{ErrorCode, Failure};
