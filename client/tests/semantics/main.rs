//! What the client promises, against namenodes and datanodes that fail on demand. They are fakes in this process, behind real
//! sockets and the real wire format.

mod fake;
mod lost_bytes;
mod open_files;
mod reading;
mod sessions;
mod syncing;
mod writing;
