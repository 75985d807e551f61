//! Every message, by who speaks to whom. Derived by hand (no protoc); field numbers are locked by a golden test.
//! Times are nanoseconds since 1970 in UTC, lengths and offsets are bytes, names and paths are bytes without NUL.

pub mod admin;
pub mod common;
pub mod datanode;
pub mod feed;
pub mod lock;
pub mod operation;
pub mod query;
pub mod session;
pub mod transfer;
pub mod user_token;
