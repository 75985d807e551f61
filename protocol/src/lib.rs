//! What crosses the wire: ids, messages, error codes, frames, packets, tokens. Depends on nothing of ours.

pub mod buffer;
pub mod checksum;
pub mod error;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod messages;
pub mod method;
pub mod net;
pub mod rpc;
pub mod token;
pub mod trace;
pub mod user_token;

pub use error::{ErrorCode, Failure};
pub use method::Method;
