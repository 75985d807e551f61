//! What crosses the wire: ids, messages, error codes, frames, packets, tokens. Depends on nothing of ours.

pub mod error;
pub mod ids;
pub mod method;
pub mod messages;

pub use error::{ErrorCode, Failure};
pub use method::Method;
