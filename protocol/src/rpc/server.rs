//! The listening side: accepts connections within limits, shakes hands, and hands each to its service.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::hello::{ConnectionKind, Hello, Peer};
use super::message::{Reply, Request, RpcError};
use super::serve_calls::serve_calls;
use super::standing::{Place, Places, Standing};
use super::stream::{self, FramedStream};
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::net::{Proof, Stream, TcpListener, TcpStream, Tls, accept};
use crate::{ErrorCode, Failure};

/// Connections beyond the limit are told so, this many at a time; beyond that they are just dropped.
const REFUSALS_MAX: usize = 64;

/// How long to wait when the process has no file descriptor left for the next connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a process does with the connections that it accepts.
///
/// `call` runs inside its connection's task, and is polled at once when the request has arrived: a call that is ready then
/// costs no task and no wake-up. So it must not block, and must not compute for long between two awaits (100 µs is long) unless
/// `is_heavy` says so.
pub trait Service: Send + Sync + 'static {
    /// Fails if one that introduces itself so, with no other proof, is not worth a connection. Who has not been found
    /// [proved](super::Standing::prove) by a request soon after is sent away all the same.
    fn admit(&self, _theirs: &Hello, _proof: Proof) -> Result<(), Failure> {
        Ok(())
    }

    /// Judges who connects, and introduces this process. Clusters and versions are compared afterwards, by the caller.
    fn hello(&self, theirs: &Hello) -> Result<Hello, Failure>;

    /// Answers one request. Requests of one connection run concurrently. What was started runs to its end even if the
    /// connection breaks; only the process's own shutdown drops the future, after `drain_timeout`.
    fn call(
        &self,
        peer: &Peer,
        request: Request,
    ) -> impl Future<Output = Result<Reply, RpcError>> + Send;

    /// Serves one stream. At shutdown it has `drain_timeout` to end: a service that can end it sooner watches a token of
    /// its own.
    fn stream(&self, peer: &Peer, stream: FramedStream) -> impl Future<Output = ()> + Send;

    /// True for methods that may compute for long: each such request becomes a task, so that its connection goes on.
    fn is_heavy(&self, _method: u16) -> bool {
        false
    }
}

/// Limits of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Most connections at once.
    pub connections_max: usize,
    /// Most requests of one connection that run at once; more wait in its socket.
    pub in_flight_max: usize,
    /// Most bytes of requests of one connection that run at once.
    pub in_flight_bytes_max: usize,
    /// A call connection with nothing to do for this long is closed.
    pub idle_timeout: Duration,
    /// A connection that takes none of our replies for this long is closed.
    pub write_timeout: Duration,
    /// How long running requests and streams get at shutdown.
    pub drain_timeout: Duration,
    /// Under TLS, this many of the connections, but no more than half, are for those alone that have a certificate.
    pub certified_reserve: usize,
    /// Under TLS, most connections of one address that have proved nothing yet: so many in the handshake, and so many after it.
    pub unproved_per_address_max: usize,
    /// Under TLS, how long a call connection may prove nothing.
    pub unproved_timeout: Duration,
    /// Speak TLS and nothing else; in the clear without.
    pub tls: Option<Tls>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            in_flight_max: 1024,
            in_flight_bytes_max: 64 << 20,
            idle_timeout: Duration::from_secs(600),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(5),
            certified_reserve: 1024,
            unproved_per_address_max: 256,
            unproved_timeout: Duration::from_secs(30),
            tls: None,
        }
    }
}

/// Serves connections until `shutdown` is cancelled; then accepts no more, lets running requests finish and returns.
/// Dropping the future ends every connection at once.
pub async fn serve<S: Service>(
    listener: TcpListener,
    service: Arc<S>,
    options: ServerOptions,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let guests = Arc::new(Guests::new(&options));
    let options = Arc::new(options);
    // Each task is one connection. They end with their connection, at shutdown, or with this future.
    let mut connections = JoinSet::new();
    let mut refusals = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => report(ended),
            Some(ended) = refusals.join_next() => report(ended),
            accepted = accept(&listener) => match accepted {
                Ok((stream, address)) if connections.len() < options.connections_max => {
                    let Some(arrival) = guests.arrive(address, &options) else {
                        debug!(%address, "connection refused, too many of its address have proved nothing");
                        continue;
                    };
                    let one = connection(stream, arrival, guests.clone(), service.clone(), options.clone(), shutdown.clone());
                    connections.spawn(one);
                }
                Ok((stream, address)) => {
                    warn!(%address, limit = options.connections_max, "connection refused, too many are open");
                    // Whoever waits for a TLS handshake would not understand.
                    if options.tls.is_none() && refusals.len() < REFUSALS_MAX {
                        let message = format!("this process serves at most {} connections", options.connections_max);
                        let error = RpcError::new(ErrorCode::Overloaded, message);
                        refusals.spawn(async move { stream::refuse(stream, &error).await });
                    }
                }
                Err(error) => {
                    warn!(%error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let drain = async {
        while let Some(ended) = connections.join_next().await {
            report(ended)
        }
    };
    if timeout(options.drain_timeout, drain).await.is_err() {
        debug!(left = connections.len(), "connections cut off at shutdown");
    }
    connections.shutdown().await;
    Ok(())
}

/// A panic of a request or stream ends its connection alone.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "connection task panicked");
    }
}

/// Those who come under TLS without a certificate, and those of whom that is not known yet.
struct Guests {
    arriving: Places,
    unproved: Places,
    seats: Arc<Semaphore>,
}

/// One who comes, and his place until it is known who he is.
struct Arrival {
    address: SocketAddr,
    place: Option<Place>,
}

impl Guests {
    fn new(options: &ServerOptions) -> Self {
        let seats = options
            .connections_max
            .saturating_sub(options.certified_reserve)
            .max(options.connections_max / 2);
        Self {
            arriving: Places::default(),
            unproved: Places::default(),
            seats: Arc::new(Semaphore::new(seats.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// `None` if too many of this address are in the handshake.
    fn arrive(&self, address: SocketAddr, options: &ServerOptions) -> Option<Arrival> {
        let place = match options.tls {
            None => None,
            Some(_) => {
                let max = options.unproved_per_address_max;
                Some(self.arriving.take(address.ip(), max)?)
            }
        };
        Some(Arrival { address, place })
    }

    /// A seat for as long as the connection lasts, and the place that it has until it proves something.
    fn seat(
        &self,
        address: SocketAddr,
        options: &ServerOptions,
    ) -> Result<(OwnedSemaphorePermit, Standing), Failure> {
        let overloaded = |message: &str| Failure::new(ErrorCode::Overloaded, message);
        let seat = self.seats.clone().try_acquire_owned();
        let seat = seat.map_err(|_| overloaded("too many connections without a certificate"))?;
        let max = options.unproved_per_address_max;
        let place = self.unproved.take(address.ip(), max);
        let place = place.ok_or_else(|| {
            overloaded("too many connections of your address that have shown no token yet")
        })?;
        Ok((seat, Standing::unproved(place)))
    }
}

/// The TLS handshake, if there has to be one. Whoever speaks in the clear then is told so in the clear.
async fn secure(mut stream: TcpStream, tls: Option<&Tls>) -> Result<(Stream, Proof), Failure> {
    let Some(tls) = tls else {
        return Ok((Stream::Plain(stream), Proof::Clear));
    };
    let timed_out = || Failure::new(ErrorCode::TimedOut, "no TLS handshake");
    let lost = |error: io::Error| Failure::new(ErrorCode::ConnectionLost, error.to_string());
    let spoken = timeout(HANDSHAKE_TIMEOUT, Tls::is_spoken(&mut stream));
    if !spoken.await.map_err(|_| timed_out())?.map_err(lost)? {
        let message = "this cluster speaks TLS only: say which CA it has with --ca FILE or CAIRN_CA=FILE, or with auth = \"tokens\" and \
                       ca in [security] of the settings";
        let failure = Failure::new(ErrorCode::Unauthenticated, message);
        stream::refuse(stream, &failure.clone().into()).await;
        return Err(failure);
    }
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Err(_) => Err(timed_out()),
        Ok(Ok(secured)) => Ok(secured),
        Ok(Err(error)) => Err(Failure::new(
            ErrorCode::Unauthenticated,
            format!("TLS handshake: {error}"),
        )),
    }
}

/// A connection that came to nothing. Those that did not prove who they are go to the audit log.
fn refused(address: &str, failure: &Failure) {
    if failure.code == ErrorCode::Unauthenticated {
        tracing::info!(target: "audit", from = address, operation = "connect", outcome = %failure, "refused");
    }
    debug!(peer = address, error = %failure, "handshake failed");
}

async fn connection<S: Service>(
    stream: TcpStream,
    arrival: Arrival,
    guests: Arc<Guests>,
    service: Arc<S>,
    options: Arc<ServerOptions>,
    shutdown: CancellationToken,
) {
    let address = arrival.address.to_string();
    let accepting = async {
        let (stream, proof) = secure(stream, options.tls.as_ref()).await?;
        drop(arrival.place);
        let (seat, standing, full) = match proof {
            Proof::Anonymous => match guests.seat(arrival.address, &options) {
                Ok((seat, standing)) => (Some(seat), standing, None),
                Err(full) => (None, Standing::default(), Some(full)),
            },
            Proof::Clear | Proof::Certified(_) => (None, Standing::default(), None),
        };
        let answer = |theirs: &Hello| {
            full.map_or(Ok(()), Err)?;
            service.admit(theirs, proof)?;
            service.hello(theirs)
        };
        let secured = (stream, proof);
        let accepted = FramedStream::accept(secured, address.clone(), standing, answer).await?;
        Ok((accepted, seat))
    };
    let accepted = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        accepted = accepting => accepted,
    };
    let ((stream, kind), _seat) = match accepted {
        Ok(accepted) => accepted,
        Err(failure) => return refused(&address, &failure),
    };
    let peer = stream.peer().clone();
    match kind {
        ConnectionKind::Stream => service.stream(&peer, stream).await,
        ConnectionKind::Calls => {
            if let Err(failure) = serve_calls(&service, &peer, stream, &options, &shutdown).await {
                debug!(peer = address, error = %failure, "connection ended");
            }
        }
    }
}
