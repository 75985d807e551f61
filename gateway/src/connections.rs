//! Accepts connections and serves HTTP/1.1 on them, within limits: connections in all and from one address, size and number of
//! headers, and time without progress.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use cairn_daemon::Tasks;
use cairn_daemon::config::GatewaySettings;
use cairn_protocol::limits::HANDSHAKE_TIMEOUT;
use cairn_protocol::net::{self, Stream, TcpListener, TcpStream, Tls};
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::GatewayError;
use crate::metrics::Metrics;

/// Header lines of a request; more are answered with 431.
const HEADERS_MAX: usize = 100;

/// For a head of a request, and for what is read of a body at once.
const BUFFER_BYTES: usize = 512 << 10;

/// After accept failed: too many open files, for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A body may rest for so long at least: who uploads may compute between two writes, and who downloads between two reads.
const BODY_PATIENCE_MIN: Duration = Duration::from_secs(600);

/// For the answer to a connection too many.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long a body may rest where a connection between two requests may for `idle`.
pub(crate) fn body_patience(idle: Duration) -> Duration {
    idle.max(BODY_PATIENCE_MIN)
}

/// Serves until `stop` is cancelled; then connections end after the request that they are at.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    settings: GatewaySettings,
    metrics: Arc<Metrics>,
    tls: Option<Tls>,
    tasks: Tasks,
) -> Result<(), GatewayError> {
    let stop = tasks.shutdown_token();
    let places = Arc::new(Places::new(&settings, metrics));
    let idle = settings.idle_timeout;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            accepted = net::accept(&listener) => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "HTTP connection not accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match Places::take(&places, from.ip()) {
            Ok(place) => {
                let router = router.clone();
                let stop = stop.clone();
                let tls = tls.clone();
                tasks.request("http connection", async move {
                    if let Some(stream) = secure(stream, from, tls).await {
                        connection(stream, from, router, idle, stop).await;
                    }
                    drop(place);
                    Ok::<(), GatewayError>(())
                });
            }
            Err(why) => tasks.request("http farewell", async move {
                // It may be gone already.
                let _ = timeout(FAREWELL, farewell(stream, "503 Service Unavailable", why)).await;
                Ok::<(), GatewayError>(())
            }),
        }
    }
}

/// The TLS handshake, if there has to be one. Whoever speaks in the clear then is told so in the clear.
async fn secure(mut stream: TcpStream, from: SocketAddr, tls: Option<Tls>) -> Option<Stream> {
    let Some(tls) = tls else {
        return Some(Stream::Plain(stream));
    };
    let handshake = async {
        if Tls::is_spoken(&mut stream).await? {
            return tls.accept_http(stream).await.map(Some);
        }
        let why = "this port speaks HTTPS only\n".to_owned();
        farewell(stream, "400 Bad Request", why).await?;
        Ok(None)
    };
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%from, %error, "TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// One connection, to its end. How it ends is the client's business.
async fn connection(
    stream: Stream,
    from: SocketAddr,
    router: Router,
    idle: Duration,
    stop: CancellationToken,
) {
    let service = From {
        inner: TowerToHyperService::new(router),
        from,
    };
    let mut serving = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(idle)
            .max_headers(HEADERS_MAX)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(
                TokioIo::new(Watched::new(stream, body_patience(idle))),
                service
            )
    );
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        ended = serving.as_mut() => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%from, %error, "HTTP connection ended");
    }
}

async fn farewell(mut stream: TcpStream, status: &str, why: String) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{why}",
        why.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.shutdown().await
}

/// Tells requests where they come from.
struct From {
    inner: TowerToHyperService<Router>,
    from: SocketAddr,
}

/// Where a request comes from, among its extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) SocketAddr);

impl Service<Request<Incoming>> for From {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future =
        futures::future::BoxFuture<'static, Result<axum::response::Response, Self::Error>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(ClientAddress(self.from));
        self.inner.call(request).boxed()
    }
}

/// How many connections there may be, and are.
struct Places {
    settings: GatewaySettings,
    metrics: Arc<Metrics>,
    /// Held for a look-up.
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: u32,
    by_address: BTreeMap<IpAddr, u32>,
}

/// A connection's place; free again when it is dropped.
struct PlaceTaken {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    fn new(settings: &GatewaySettings, metrics: Arc<Metrics>) -> Self {
        Self {
            settings: settings.clone(),
            metrics,
            taken: Mutex::new(Taken::default()),
        }
    }

    fn take(places: &Arc<Self>, address: IpAddr) -> Result<PlaceTaken, String> {
        let mut taken = places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (max, max_here) = (
            places.settings.connections_max,
            places.settings.connections_per_address_max,
        );
        let here = taken.by_address.get(&address).copied().unwrap_or(0);
        let why = if taken.all >= max {
            Some(format!(
                "{max} connections are open, and no more are allowed (gateway.connections_max)\n"
            ))
        } else if here >= max_here {
            Some(format!(
                "{max_here} connections from {address} are open, and no more are allowed (gateway.connections_per_address_max)\n"
            ))
        } else {
            None
        };
        if let Some(why) = why {
            places.metrics.refused.inc();
            return Err(why);
        }
        taken.all += 1;
        taken.by_address.insert(address, here + 1);
        places.metrics.connections.inc();
        drop(taken);
        Ok(PlaceTaken {
            places: Arc::clone(places),
            address,
        })
    }
}

impl Drop for PlaceTaken {
    fn drop(&mut self) {
        let mut taken = self
            .places
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        match taken.by_address.get_mut(&self.address) {
            Some(here) if *here > 1 => *here -= 1,
            _ => {
                taken.by_address.remove(&self.address);
            }
        }
        self.places.metrics.connections.dec();
    }
}

/// A stream whose writes fail when the other side takes nothing for too long. Reads wait: who reads knows how long is too long.
struct Watched<S> {
    inner: S,
    idle: Duration,
    stalled: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<S> Watched<S> {
    fn new(inner: S, idle: Duration) -> Self {
        let (stalled, waiting) = (Box::pin(sleep(idle)), false);
        Self {
            inner,
            idle,
            stalled,
            waiting,
        }
    }

    fn watch<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        if !self.waiting {
            self.waiting = true;
            self.stalled.as_mut().reset(Instant::now() + self.idle);
        }
        match self.stalled.poll_unpin(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watch(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, pieces);
        self.watch(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch(closed, cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use cairn_daemon::config::GatewaySettings;
    use cairn_daemon::telemetry::Metrics as Registry;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::{Places, Watched};
    use crate::metrics::Metrics;

    #[test]
    fn places_are_limited_and_come_back() {
        let settings = GatewaySettings {
            connections_max: 3,
            connections_per_address_max: 2,
            ..GatewaySettings::default()
        };
        let metrics = Arc::new(Metrics::new(Registry::new("test")));
        let places = Arc::new(Places::new(&settings, metrics));
        let take = |address: &str| Places::take(&places, address.parse().unwrap());
        let first = take("10.0.0.1").unwrap_or_else(|why| panic!("{why}"));
        let _second = take("10.0.0.1").unwrap_or_else(|why| panic!("{why}"));
        let why = take("10.0.0.1").map(|_| ()).unwrap_err();
        assert!(why.contains("connections_per_address_max"), "{why}");
        let _third = take("::1").unwrap_or_else(|why| panic!("{why}"));
        let why = take("10.0.0.3").map(|_| ()).unwrap_err();
        assert!(why.contains("gateway.connections_max"), "{why}");
        drop(first);
        assert!(take("10.0.0.1").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_reading_is_given_up() {
        let (ours, mut theirs) = duplex(4);
        let mut watched = Watched::new(ours, Duration::from_secs(5));
        watched.write_all(b"1234").await.unwrap();
        let mut buffer = [0; 4];
        theirs.read_exact(&mut buffer).await.unwrap();
        let error = watched.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }
}
