//! Which work belongs to one request, across processes. Off unless the process installs a [`Recorder`]; then every request carries
//! the context that it was made in, and whoever serves it makes a span of it.
//!
//! ```text
//! the context, as the last field of a request's header, which is a prost message:
//! 0   FA 7F     field 2047, length-delimited: no message has a field of that number
//! 2   19        25 bytes follow
//! 3   trace     16 bytes
//! 19  span      8 bytes, of whoever asks
//! 27  flags     u8   bit 0: the trace is recorded; others 0
//! ```
//! A process that knows nothing of it skips the field, as any that it does not know. While it is off, no byte is sent, none is looked
//! at, and a request costs the look at one pointer. What bytes claim to be a context is believed: at worst a span hangs at the wrong place.
//!
//! Spans hold what was asked, by which address, and how it ended: never paths of the namespace's inside, messages of errors, tokens
//! or keys.

use std::future::Future;
use std::sync::OnceLock;

use futures::future::Either;
use tokio::task::futures::TaskLocalFuture;

use crate::method::Method;
use crate::rpc::{Peer, RpcError};

/// Bytes of a context in a header.
pub(crate) const FIELD_BYTES: usize = 28;

const FIELD_START: [u8; 3] = [0xFA, 0x7F, 25];
const RECORDED: u8 = 1;

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: [u8; 16],
    /// The span that is going on.
    pub span: [u8; 8],
    /// Whether the trace is recorded: decided where it began.
    pub recorded: bool,
}

/// A value in a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// One of few.
    Name(&'static str),
    /// Any text.
    Text(String),
    /// A number.
    Number(i64),
}

/// Where spans go.
pub trait Recorder: Send + Sync {
    /// Something begins that this process serves; without a parent it begins a trace.
    fn begin(&self, name: String, parent: Option<TraceContext>) -> Box<dyn OpenSpan>;
}

/// A span that goes on; it ends when it is dropped.
pub trait OpenSpan: Send {
    /// What requests that are made meanwhile carry.
    fn context(&self) -> TraceContext;

    /// Adds what is known.
    fn note(&mut self, key: &'static str, value: Value);

    /// It failed: our fault or the world's.
    fn failed(&mut self, how: &'static str);
}

static RECORDER: OnceLock<Box<dyn Recorder>> = OnceLock::new();

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// From now on this process records spans. False if it does so already.
pub fn install(recorder: Box<dyn Recorder>) -> bool {
    RECORDER.set(recorder).is_ok()
}

/// Whether this process records spans.
pub fn is_on() -> bool {
    RECORDER.get().is_some()
}

/// The context that the caller runs in.
pub fn current() -> Option<TraceContext> {
    RECORDER.get()?;
    CURRENT.try_with(|context| *context).ok()
}

/// Begins a span; `None` while it is off. `name` is not asked for then.
pub fn begin(
    name: impl FnOnce() -> String,
    parent: Option<TraceContext>,
) -> Option<Box<dyn OpenSpan>> {
    Some(RECORDER.get()?.begin(name(), parent))
}

/// A future that may run in a context.
pub type Within<F> = Either<TaskLocalFuture<TraceContext, F>, F>;

/// Runs `future` in a context, if there is one.
pub fn within<F: Future>(context: Option<TraceContext>, future: F) -> Within<F> {
    match context {
        Some(context) => Either::Left(CURRENT.scope(context, future)),
        None => Either::Right(future),
    }
}

/// Runs what does not wait in a context, if there is one.
pub fn within_now<T>(context: Option<TraceContext>, work: impl FnOnce() -> T) -> T {
    match context {
        Some(context) => CURRENT.sync_scope(context, work),
        None => work(),
    }
}

/// A span of one request between our processes.
pub struct RpcSpan(Option<Box<dyn OpenSpan>>);

impl RpcSpan {
    /// `peer` asks for `method` with this header.
    pub fn begin(peer: &Peer, method: u16, header: &[u8]) -> Self {
        let Some(recorder) = RECORDER.get() else {
            return Self(None);
        };
        let name = Method::from_number(method).map_or("unknown", Method::name);
        let mut span = recorder.begin(name.to_owned(), TraceContext::in_header(header));
        span.note("rpc.system", Value::Name("cairn"));
        span.note("rpc.method", Value::Name(name));
        let address = peer.address.rsplit_once(':');
        let (host, port) = address.unwrap_or((&peer.address, ""));
        span.note("network.peer.address", Value::Text(host.to_owned()));
        span.note(
            "network.peer.port",
            Value::Number(port.parse().unwrap_or(0)),
        );
        // What it says of itself is no secret, and of bounded length.
        span.note("cairn.peer.role", Value::Text(peer.hello.role.clone()));
        let node = i64::try_from(peer.hello.node).unwrap_or(i64::MAX);
        span.note("cairn.peer.node", Value::Number(node));
        Self(Some(span))
    }

    /// What the work for it runs in.
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|span| span.context())
    }

    /// It is over.
    pub fn end<T>(self, result: &Result<T, RpcError>) {
        let Some(mut span) = self.0 else {
            return;
        };
        match result {
            Ok(_) => span.note("cairn.outcome", Value::Name("ok")),
            Err(error) => {
                let code = error.code().name();
                span.note("cairn.outcome", Value::Name(code));
                span.failed(code);
            }
        }
    }
}

impl TraceContext {
    /// From a line `traceparent` of HTTP, as the W3C writes it; `None` if it is none.
    pub fn from_traceparent(line: &str) -> Option<Self> {
        let mut parts = line.trim().split('-');
        let (version, trace) = (parts.next()?, parts.next()?);
        let (span, flags) = (parts.next()?, parts.next()?);
        // Later versions may add parts, and this one has none.
        let known = match version {
            "ff" => false,
            "00" => parts.next().is_none(),
            _ => version.len() == 2,
        };
        let context = Self {
            trace: from_hex(trace)?,
            span: from_hex(span)?,
            recorded: from_hex::<1>(flags)?[0] & RECORDED != 0,
        };
        let valid = context.trace != [0; 16] && context.span != [0; 8];
        (known && valid).then_some(context)
    }

    /// As the last field of a header.
    pub(crate) fn to_field(self) -> [u8; FIELD_BYTES] {
        let mut field = [0; FIELD_BYTES];
        field[..3].copy_from_slice(&FIELD_START);
        field[3..19].copy_from_slice(&self.trace);
        field[19..27].copy_from_slice(&self.span);
        field[27] = u8::from(self.recorded);
        field
    }

    /// What a header ends with, if that is a context.
    fn in_header(header: &[u8]) -> Option<Self> {
        let (_, field) = header.split_last_chunk::<FIELD_BYTES>()?;
        let (start, context) = field.split_first_chunk::<3>()?;
        let (trace, rest) = context.split_first_chunk::<16>()?;
        let (span, flags) = rest.split_first_chunk::<8>()?;
        let valid = *start == FIELD_START && *trace != [0; 16] && *span != [0; 8];
        valid.then_some(Self {
            trace: *trace,
            span: *span,
            recorded: flags[0] & RECORDED != 0,
        })
    }
}

/// The context that the caller runs in, at the end of the first header of a stream.
pub fn carry(header: &mut Vec<u8>) {
    if let Some(context) = current() {
        header.extend_from_slice(&context.to_field());
    }
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let is_digit = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 2 * N || !digits.iter().all(is_digit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};
    use prost::Message;

    use super::{FIELD_BYTES, TraceContext};
    use crate::messages::common::Caller;

    fn context() -> TraceContext {
        TraceContext {
            trace: std::array::from_fn(|index| index as u8 + 1),
            span: [0xAB; 8],
            recorded: true,
        }
    }

    #[test]
    fn the_field_is_golden() {
        let mut golden = vec![0xFA, 0x7F, 25];
        golden.extend(1..=16);
        golden.extend([0xAB; 8]);
        golden.push(1);
        assert_eq!(context().to_field().as_slice(), golden);
    }

    #[test]
    fn a_message_with_a_context_reads_as_the_message() {
        let caller = Caller {
            uid: 7,
            groups: vec![1, 2],
            ..Caller::default()
        };
        let mut header = caller.encode_to_vec();
        assert_eq!(TraceContext::in_header(&header), None);
        header.extend(context().to_field());
        assert_eq!(Caller::decode(header.as_slice()), Ok(caller));
        assert_eq!(TraceContext::in_header(&header), Some(context()));
        let unrecorded = TraceContext {
            recorded: false,
            ..context()
        };
        let alone = unrecorded.to_field();
        assert_eq!(TraceContext::in_header(&alone), Some(unrecorded));
        assert_eq!(TraceContext::in_header(&alone[1..]), None);
        assert_eq!(alone.len(), FIELD_BYTES);
    }

    #[test]
    fn traceparent_is_read_as_the_w3c_writes_it() {
        let trace = "0102030405060708090a0b0c0d0e0f10";
        let line = format!("00-{trace}-abababababababab-01");
        assert_eq!(TraceContext::from_traceparent(&line), Some(context()));
        let later = format!("cc-{trace}-abababababababab-01-more");
        assert_eq!(TraceContext::from_traceparent(&later), Some(context()));
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{trace}-abababababababab"),
            format!("00-{trace}-abababababababab-01-more"),
            format!("ff-{trace}-abababababababab-01"),
            format!("00-{zeros}-abababababababab-01"),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{trace}-abababababababa-01"),
            format!("00-{trace}-ABABABABABABABAB-01"),
            format!("00-{trace}-+bababababababab-01"),
            format!("00-{trace}é-abababababababab-01"),
        ] {
            assert_eq!(TraceContext::from_traceparent(&bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_headers_and_lines_never_panic(
            header in prop::collection::vec(any::<u8>(), 0..100),
            line in any::<String>(),
        ) {
            let _ = TraceContext::in_header(&header);
            let _ = TraceContext::from_traceparent(&line);
        }
    }
}
