//! Requests and replies over connections between our processes.
//!
//! Two kinds of connection, chosen by the first frame ([`Hello`]). A *call* connection is multiplexed: many requests are
//! in flight, replies come in any order, and frames that are ready together leave in one write ([`Connection`],
//! [`Peers`]). A *stream* connection belongs to one pipeline or bulk read, whose frames are its own affair
//! ([`FramedStream`]). [`serve`] answers both.
//!
//! A call fails with `TimedOut` or `ConnectionLost` without anybody knowing whether it was carried out: only reads, and
//! mutations that their session remembers, may be sent again.

mod connection;
mod hello;
mod message;
mod peers;
mod serve_calls;
mod server;
#[cfg(test)]
#[cfg(cairn_sim)]
mod sim_tests;
mod standing;
mod stream;
#[cfg(test)]
#[cfg(not(cairn_sim))]
mod tests;

pub use connection::{Connection, ConnectionOptions};
pub use hello::{ConnectionKind, Hello, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Peer};
pub use message::{ErrorReply, Reply, Request, RpcError};
pub use peers::Peers;
pub use server::{ServerOptions, Service, serve};
pub use standing::Standing;
pub use stream::{FrameReceiver, FrameSender, FramedStream};
