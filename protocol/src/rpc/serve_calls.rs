//! One call connection, from its first request to its end, in one task: requests that are ready at once are answered
//! without a task or a wake-up of their own, and what is answered together leaves in one write.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::hello::Peer;
use super::message::{Reply, Request, RpcError};
use super::server::{ServerOptions, Service};
use super::standing::Standing;
use super::stream::{FrameReceiver, FrameSender, FramedStream, close_with_error};
use crate::frame::{Flags, Frame, FrameError};
use crate::trace::{RpcSpan, TraceContext};
use crate::{ErrorCode, Failure, trace};

/// Requests that are started before replies are written and other tasks get their turn.
const TURN_REQUESTS_MAX: usize = 128;

/// While this many bytes of replies wait for the other end, running requests wait too.
const REPLY_BYTES_MAX: usize = 8 << 20;

/// Places of answered requests that a connection keeps for the next ones: as many as run at once where much is going on.
const PLACES_KEPT: usize = 64;

/// Pause between looks whether the last requests of a connection that is due to be closed are answered.
const LINGER_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the other end is done, misbehaves or is idle for too long, or `shutdown` is cancelled.
pub(super) async fn serve_calls<S: Service>(
    service: &Arc<S>,
    peer: &Peer,
    stream: FramedStream,
    options: &ServerOptions,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let (sender, receiver) = stream.split();
    let start = |frame: Frame| answer(service, peer, frame);
    let mut calls = Calls {
        sender,
        receiver,
        options,
        start,
        running: FuturesUnordered::new(),
        places: Vec::new(),
        running_bytes: 0,
        last_id: 0,
        idle: Box::pin(sleep(first_look(peer, options))),
        standing: &peer.standing,
        began_at: Instant::now(),
        active_at: Instant::now(),
    };
    let ended = calls.run(shutdown).await;
    let Calls {
        sender,
        receiver,
        mut running,
        ..
    } = calls;
    // What was started is finished even if nobody hears of it: a request is not cancelled halfway because its caller left.
    let finish = async { while running.next().await.is_some() {} };
    let part = async {
        if let Err(failure) = &ended
            && failure.code != ErrorCode::ConnectionLost
        {
            close_with_error(sender, receiver, &failure.clone().into()).await;
        }
    };
    tokio::join!(part, finish);
    ended
}

/// A request that has been answered.
struct Answered {
    method: u16,
    request_id: u64,
    /// What the request counted against the limit.
    bytes: usize,
    result: Result<Reply, RpcError>,
}

impl Answered {
    fn reply_bytes(&self) -> usize {
        self.result
            .as_ref()
            .map_or(0, |reply| reply.header.len() + reply.payload.len())
    }
}

async fn answer<S: Service>(service: &Arc<S>, peer: &Peer, frame: Frame) -> Answered {
    let Frame {
        method,
        request_id,
        header,
        payload,
        ..
    } = frame;
    let bytes = header.len() + payload.len();
    let request = Request {
        method,
        header,
        payload,
    };
    let span = RpcSpan::begin(peer, method, &request.header);
    let context = span.context();
    let result = if service.is_heavy(method) {
        answer_in_task(service.clone(), peer.clone(), request, context).await
    } else {
        trace::within(context, service.call(peer, request)).await
    };
    span.end(&result);
    Answered {
        method,
        request_id,
        bytes,
        result,
    }
}

async fn answer_in_task<S: Service>(
    service: Arc<S>,
    peer: Peer,
    request: Request,
    context: Option<TraceContext>,
) -> Result<Reply, RpcError> {
    // Holds one task, which ends with this future if the connection breaks.
    let mut task = JoinSet::new();
    let call = async move { service.call(&peer, request).await };
    task.spawn(trace::within(context, call));
    match task.join_next().await {
        Some(Ok(result)) => result,
        _ => Err(RpcError::new(
            ErrorCode::Internal,
            "the request's task panicked",
        )),
    }
}

/// A request that runs. A place in memory for all that one may need takes kilobytes, and memory of that size is slow to get: it
/// comes back with the answer, for the next request.
struct Call<Running>(Option<Pin<Box<Running>>>);

impl<Running: Future<Output = Answered>> Future for Call<Running> {
    type Output = (Answered, Pin<Box<Running>>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut running = self.0.take().expect("a future is not polled after its end");
        match running.as_mut().poll(context) {
            Poll::Ready(answered) => Poll::Ready((answered, running)),
            Poll::Pending => {
                self.0 = Some(running);
                Poll::Pending
            }
        }
    }
}

struct Calls<'a, Start, Running> {
    sender: FrameSender,
    receiver: FrameReceiver,
    options: &'a ServerOptions,
    start: Start,
    running: FuturesUnordered<Call<Running>>,
    /// Of requests that have been answered.
    places: Vec<Pin<Box<Running>>>,
    /// Bytes of the requests that run.
    running_bytes: usize,
    /// Ids grow, so that a recorded request that is played again is noticed.
    last_id: u64,
    /// Looked at again only when it fires: resetting it with every request would cost more than the request.
    idle: Pin<Box<Sleep>>,
    active_at: Instant,
    standing: &'a Standing,
    began_at: Instant,
}

impl<Start, Running> Calls<'_, Start, Running>
where
    Start: Fn(Frame) -> Running,
    Running: Future<Output = Answered>,
{
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), Failure> {
        // False once the other end is done or we are: what runs is still answered.
        let mut reading = true;
        while reading || !self.running.is_empty() {
            let started = if reading {
                self.start_buffered().await?
            } else {
                0
            };
            self.collect();
            self.flush().await?;
            if started == TURN_REQUESTS_MAX {
                yield_now().await;
                continue;
            }
            let has_room = self.has_room();
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if reading => reading = false,
                Some(ended) = self.running.next() => {
                    let answered = self.take_place(ended);
                    self.queue_reply(answered)?;
                }
                filled = self.receiver.reader.fill(), if reading && has_room => {
                    reading = filled?;
                    self.active_at = Instant::now();
                }
                () = &mut self.idle, if reading => reading = !self.is_idle(),
                // The other end is done, and what was left to answer has just been collected.
                else => {}
            }
        }
        self.flush().await
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.options.in_flight_max
            && self.running_bytes < self.options.in_flight_bytes_max
    }

    /// Starts requests that have been read, as far as the limits allow; returns how many.
    async fn start_buffered(&mut self) -> Result<usize, Failure> {
        let mut started = 0;
        while started < TURN_REQUESTS_MAX && self.has_room() {
            let Some(frame) = self.receiver.recv_buffered()? else {
                break;
            };
            self.check(&frame)?;
            started += 1;
            self.running_bytes += frame.header.len() + frame.payload.len();
            let mut call = self.place(frame);
            match poll_fn(|context| Poll::Ready(call.poll_unpin(context))).await {
                Poll::Ready(ended) => {
                    let answered = self.take_place(ended);
                    self.queue_reply(answered)?;
                }
                Poll::Pending => self.running.push(call),
            }
        }
        Ok(started)
    }

    fn place(&mut self, frame: Frame) -> Call<Running> {
        let running = (self.start)(frame);
        Call(Some(match self.places.pop() {
            Some(mut place) => {
                place.set(running);
                place
            }
            None => Box::pin(running),
        }))
    }

    fn take_place(&mut self, (answered, place): (Answered, Pin<Box<Running>>)) -> Answered {
        keep(&mut self.places, place);
        answered
    }

    fn check(&mut self, frame: &Frame) -> Result<(), Failure> {
        if frame.flags != Flags::NONE {
            return Err(Failure::new(ErrorCode::Malformed, "a request with flags"));
        }
        if frame.request_id <= self.last_id {
            let message = format!(
                "request id {} after {}: ids must grow",
                frame.request_id, self.last_id
            );
            return Err(Failure::new(ErrorCode::Malformed, message));
        }
        self.last_id = frame.request_id;
        Ok(())
    }

    /// Takes every answer that is ready.
    fn collect(&mut self) {
        while let Some(Some(ended)) = self.running.next().now_or_never() {
            let answered = self.take_place(ended);
            // Only an error reply over the limits could fail, and its text is ours.
            if self.queue_reply(answered).is_err() {
                break;
            }
        }
    }

    fn queue_reply(&mut self, answered: Answered) -> Result<(), Failure> {
        let Answered {
            method,
            request_id,
            bytes,
            result,
        } = answered;
        self.running_bytes -= bytes;
        let queue = self.sender.writer.queue();
        let refused = match result {
            Ok(Reply { header, payload }) => {
                match queue.push(Frame {
                    method,
                    flags: Flags::REPLY,
                    request_id,
                    header,
                    payload,
                }) {
                    Ok(()) => return Ok(()),
                    Err(error) => Failure::from(error).into(),
                }
            }
            Err(error) => error,
        };
        Ok(queue.push(Frame::error(method, request_id, &refused))?)
    }

    /// Writes all that is queued, and all that becomes ready meanwhile.
    async fn flush(&mut self) -> Result<(), Failure> {
        while self.sender.writer.queued_bytes() > 0 {
            for answered in self.flush_once().await? {
                self.queue_reply(answered)?;
            }
        }
        Ok(())
    }

    /// Writes what is queued, while what runs goes on: a request may hold a lock that others wait for, and must not stop
    /// because this peer is slow. Returns what was answered meanwhile.
    async fn flush_once(&mut self) -> Result<Vec<Answered>, Failure> {
        let mut flush = pin!(flush_while_taken(
            &mut self.sender,
            self.options.write_timeout
        ));
        let mut answers = Vec::new();
        let mut answers_bytes = 0;
        loop {
            tokio::select! {
                biased;
                flushed = &mut flush => return flushed.map(|()| answers),
                Some((answered, place)) = self.running.next(), if answers_bytes < REPLY_BYTES_MAX => {
                    keep(&mut self.places, place);
                    answers_bytes += answered.reply_bytes();
                    answers.push(answered);
                }
            }
        }
    }

    /// True if nothing happened for the whole idle time, or it has proved nothing for too long; else the timer is set to when that would be.
    fn is_idle(&mut self) -> bool {
        let until = if self.standing.is_proved() {
            self.active_at + self.options.idle_timeout
        } else {
            self.began_at + self.options.unproved_timeout
        };
        if self.running.is_empty() && Instant::now() >= until {
            return true;
        }
        self.idle
            .as_mut()
            .reset(until.max(Instant::now() + LINGER_PAUSE));
        false
    }
}

fn keep<Place>(places: &mut Vec<Place>, place: Place) {
    if places.len() < PLACES_KEPT {
        places.push(place);
    }
}

fn first_look(peer: &Peer, options: &ServerOptions) -> Duration {
    if peer.standing.is_proved() {
        options.idle_timeout
    } else {
        options.unproved_timeout
    }
}

async fn flush_while_taken(
    sender: &mut FrameSender,
    write_timeout: Duration,
) -> Result<(), Failure> {
    // The usual case: the socket takes everything at once, and no timer is set.
    if let Some(flushed) = sender.writer.flush().now_or_never() {
        return Ok(flushed.map_err(FrameError::Io)?);
    }
    match timeout(write_timeout, sender.writer.flush()).await {
        Ok(flushed) => Ok(flushed.map_err(FrameError::Io)?),
        Err(_) => Err(Failure::new(
            ErrorCode::ConnectionLost,
            "replies were not taken in time",
        )),
    }
}
