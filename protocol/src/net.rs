//! The door to the network: real sockets, or turmoil's in the simulator. Nothing else opens one.
//!
//! Nagle's algorithm is off on every connection: frames that belong together are already gathered into one write.
//! A [`Stream`] is such a connection in the clear or under TLS; [`Tls`] is what a process shows and whom it trusts.

mod stream;
mod tls;

use std::io;
use std::net::SocketAddr;

#[cfg(not(cairn_sim))]
pub use tokio::net::{
    TcpListener, TcpStream,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};
#[cfg(cairn_sim)]
pub use turmoil::net::{
    TcpListener, TcpStream,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};

pub use stream::{ReadHalf, Stream, WriteHalf};
pub(crate) use tls::refused_certificate;
pub use tls::{Proof, Role, Roles, Tls, TlsError};

/// Connects to `host:port`. Waits as long as the kernel does: callers set a timeout.
pub async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Listens on `host:port`; port 0 takes a free one, see [`TcpListener::local_addr`].
pub async fn listen(address: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// The next connection. Cancel-safe.
pub async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, address) = listener.accept().await?;
    // A connection that is already gone again cannot be configured; its first read will say so.
    let _ = stream.set_nodelay(true);
    Ok((stream, address))
}
