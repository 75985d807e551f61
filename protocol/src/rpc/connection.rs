//! The calling side of a multiplexed connection.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, timeout_at};

use super::hello::{ConnectionKind, Hello, Peer};
use super::message::{Reply, RpcError};
use super::stream::{FrameReceiver, FrameSender, FramedStream};
use crate::frame::{Flags, Frame, FrameError, FrameQueue};
use crate::net::{Role, Tls};
use crate::{ErrorCode, Failure, trace};

/// Bytes that may wait for a process that does not read; calls beyond are refused. Requests whose callers have given up
/// count, so that a stuck peer cannot fill our memory.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Limits of a client connection.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// How long connecting and introducing may take.
    pub connect_timeout: Duration,
    /// Most calls in flight; more wait, within their own timeouts.
    pub in_flight_max: usize,
    /// A connection on which a call timed out and nothing at all was heard for this long is given up, so that the next call
    /// dials again instead of waiting for a host that has vanished.
    pub silence_max: Duration,
    /// Speak TLS; in the clear without.
    pub tls: Option<Tls>,
    /// Under TLS: what the other end's certificate has to state.
    pub expects: Option<Role>,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            in_flight_max: 1024,
            silence_max: Duration::from_secs(5),
            tls: None,
            expects: None,
        }
    }
}

/// Calls to one process over one connection. Clones share the connection, which closes with the last of them.
#[derive(Clone, Debug)]
pub struct Connection {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    peer: Peer,
    silence_max: Duration,
    /// The one task that reads and writes. Ends when the connection breaks, or with the last `Connection`.
    _task: JoinSet<()>,
}

/// What callers and the connection's task share.
#[derive(Debug)]
struct Shared {
    /// Held for the encoding of one frame, or an exchange of queues; never across an await.
    state: Mutex<State>,
    /// Callers tell the task that frames wait, or that the connection is over.
    wake: Notify,
    /// One permit per call in flight; closed with the connection.
    in_flight: Semaphore,
    opened_at: Instant,
    /// Milliseconds after `opened_at` when something last arrived.
    heard_at_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Encoded requests that the task has not taken yet.
    queue: FrameQueue,
    pending: BTreeMap<u64, oneshot::Sender<Result<Reply, RpcError>>>,
    last_id: u64,
    /// Why the connection is over, once it is.
    closed: Option<RpcError>,
}

impl Connection {
    /// Connects to `host:port` and introduces this process as `hello`.
    pub async fn connect(
        address: &str,
        hello: Hello,
        options: ConnectionOptions,
    ) -> Result<Self, Failure> {
        let stream = FramedStream::open(address, hello, ConnectionKind::Calls, &options).await?;
        let peer = stream.peer().clone();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Notify::new(),
            in_flight: Semaphore::new(options.in_flight_max),
            opened_at: Instant::now(),
            heard_at_ms: AtomicU64::new(0),
        });
        let mut task = JoinSet::new();
        task.spawn(drive(shared.clone(), stream));
        let inner = Inner {
            shared,
            peer,
            silence_max: options.silence_max,
            _task: task,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Who answers.
    pub fn peer(&self) -> &Peer {
        &self.inner.peer
    }

    /// True once no call can succeed any more.
    pub fn is_closed(&self) -> bool {
        self.inner.shared.in_flight.is_closed()
    }

    /// Sends a request and waits for its reply.
    ///
    /// Cancel-safe in that the connection goes on: if the future is dropped, the request may still be carried out, and its
    /// reply is dropped when it comes.
    pub async fn call(
        &self,
        method: u16,
        header: &impl Message,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Reply, RpcError> {
        let deadline = Instant::now() + timeout;
        let shared = &*self.inner.shared;
        let permit = match shared.in_flight.try_acquire() {
            Ok(permit) => Some(permit),
            Err(_) => match timeout_at(deadline, shared.in_flight.acquire()).await {
                Ok(permit) => permit.ok(),
                Err(_) => return Err(self.timed_out(timeout, "waiting for a turn")),
            },
        };
        let (id, reply) = shared.submit(method, header, payload)?;
        let mut pending = PendingCall {
            shared,
            id,
            answered: false,
        };
        let result = timeout_at(deadline, reply).await;
        pending.answered = result.is_ok();
        drop(permit);
        match result {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(shared.closed_error()),
            Err(_) => Err(self.timed_out(timeout, "no reply")),
        }
    }

    /// Like [`Connection::call`], for a reply message of type `M`.
    pub async fn call_typed<M: Message + Default>(
        &self,
        method: u16,
        header: &impl Message,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<(M, Bytes), RpcError> {
        let reply = self.call(method, header, payload, timeout).await?;
        Ok((reply.decode()?, reply.payload))
    }

    fn timed_out(&self, timeout: Duration, what: &str) -> RpcError {
        let shared = &self.inner.shared;
        let address = &self.inner.peer.address;
        if shared.silence() >= self.inner.silence_max {
            let message = format!("{address} has been silent for {:?}", shared.silence());
            shared.close(RpcError::new(ErrorCode::ConnectionLost, message));
        }
        RpcError::new(
            ErrorCode::TimedOut,
            format!("{address}: {what} within {timeout:?}"),
        )
    }
}

/// Forgets a call whose future is dropped or that timed out.
struct PendingCall<'a> {
    shared: &'a Shared,
    id: u64,
    answered: bool,
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.lock().pending.remove(&self.id);
        }
    }
}

type ReplyReceiver = oneshot::Receiver<Result<Reply, RpcError>>;

impl Shared {
    /// Every change of the state is complete when the lock is released, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request. Ids are given under the same lock, so they grow on the wire.
    fn submit(
        &self,
        method: u16,
        header: &impl Message,
        payload: Bytes,
    ) -> Result<(u64, ReplyReceiver), RpcError> {
        let (sender, receiver) = oneshot::channel();
        let context = trace::current();
        let id = {
            let mut state = self.lock();
            if let Some(error) = &state.closed {
                return Err(error.clone());
            }
            if state.queue.len() > QUEUE_BYTES_MAX {
                return Err(RpcError::new(
                    ErrorCode::Overloaded,
                    "requests are not taken in time",
                ));
            }
            let id = state.last_id + 1;
            state
                .queue
                .push_traced(method, Flags::NONE, id, header, payload, context)
                .map_err(Failure::from)?;
            state.last_id = id;
            state.pending.insert(id, sender);
            id
        };
        self.wake.notify_one();
        Ok((id, receiver))
    }

    /// Ends the connection: every call in flight fails, and every later one.
    fn close(&self, error: RpcError) {
        let pending = {
            let mut state = self.lock();
            if state.closed.is_some() {
                return;
            }
            state.closed = Some(error.clone());
            std::mem::take(&mut state.pending)
        };
        self.in_flight.close();
        for (_, call) in pending {
            // A caller that has gone does not miss the answer.
            let _ = call.send(Err(error.clone()));
        }
        self.wake.notify_one();
    }

    fn closed_error(&self) -> RpcError {
        self.lock()
            .closed
            .clone()
            .unwrap_or_else(|| ErrorCode::ConnectionLost.into())
    }

    fn hear(&self) {
        self.heard_at_ms.store(
            self.opened_at.elapsed().as_millis() as u64,
            Ordering::Relaxed,
        );
    }

    fn silence(&self) -> Duration {
        let heard_at = Duration::from_millis(self.heard_at_ms.load(Ordering::Relaxed));
        self.opened_at.elapsed().saturating_sub(heard_at)
    }
}

/// Closes the shared state however the task ends, a panic or an abort included: no caller waits for a dead task.
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(ErrorCode::ConnectionLost.into());
    }
}

async fn drive(shared: Arc<Shared>, stream: FramedStream) {
    let address = stream.peer().address.clone();
    let (sender, receiver) = stream.split();
    let closing = CloseOnDrop(shared.clone());
    let reason = tokio::select! {
        biased;
        reason = read_replies(&shared, receiver) => reason,
        reason = write_requests(&shared, sender) => reason,
    };
    // Whatever the reason, to a call in flight it means that its outcome is not known.
    closing.0.close(RpcError::new(
        ErrorCode::ConnectionLost,
        format!("{address}: {reason}"),
    ));
}

/// Hands replies to their callers, all that were read together at once. Returns why the connection is over.
async fn read_replies(shared: &Shared, mut receiver: FrameReceiver) -> String {
    let mut frames = Vec::new();
    let mut replies = Vec::new();
    loop {
        match receiver.reader.fill().await {
            Ok(true) => shared.hear(),
            Ok(false) => return "closed by the other end".to_owned(),
            Err(error) => return Failure::from(error).message,
        }
        let outcome = take_buffered(&mut receiver, &mut frames);
        {
            let mut state = shared.lock();
            replies.extend(frames.drain(..).filter_map(|frame| {
                // A call that timed out or was dropped is no longer there.
                let call = state.pending.remove(&frame.request_id)?;
                Some((call, frame))
            }));
        }
        for (call, frame) in replies.drain(..) {
            // The caller may have gone in this very moment.
            let _ = call.send(frame.into_reply());
        }
        if let Err(error) = outcome {
            return error;
        }
    }
}

/// Moves what has been read to `frames`. Fails if the other end broke the protocol, or tells us that it hangs up and why.
fn take_buffered(receiver: &mut FrameReceiver, frames: &mut Vec<Frame>) -> Result<(), String> {
    while let Some(frame) = receiver
        .recv_buffered()
        .map_err(|failure| failure.message)?
    {
        if !frame.flags.contains(Flags::REPLY) {
            return Err("a reply without the reply flag".to_owned());
        }
        if frame.request_id == 0 {
            return Err(match frame.into_reply() {
                Ok(_) => "a reply to no request".to_owned(),
                Err(error) => error.to_string(),
            });
        }
        frames.push(frame);
    }
    Ok(())
}

/// Writes queued requests. Returns why the connection is over.
async fn write_requests(shared: &Shared, mut sender: FrameSender) -> String {
    loop {
        shared.wake.notified().await;
        loop {
            let others_in_flight = {
                let state = shared.lock();
                if let Some(error) = &state.closed {
                    return error.to_string();
                }
                if state.queue.is_empty() {
                    break;
                }
                state.pending.len() > 1
            };
            if others_in_flight {
                // Callers that are ready as well add theirs meanwhile, and all leave in one write.
                yield_now().await;
            }
            std::mem::swap(&mut shared.lock().queue, sender.writer.queue());
            if let Err(error) = sender.writer.flush().await {
                return Failure::from(FrameError::Io(error)).message;
            }
        }
    }
}
