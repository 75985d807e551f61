//! A span for each request, from its head to the end of its answer's body, if this process records spans at all. It continues the trace
//! that the client names in `traceparent`, and what is asked of namenodes and datanodes meanwhile continues it.
//!
//! A span holds the path alone, never the query or a header: tokens, delegations and names of users are in those.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use cairn_protocol::trace::{self, OpenSpan, TraceContext, Value};
use hyper::body::{Frame, SizeHint};

use crate::connections::ClientAddress;
use crate::params::Params;
use crate::webhdfs::{self, Operation};

/// Of a path, so much is told.
const PATH_CHARS_MAX: usize = 256;

/// Answers in a span.
pub(crate) async fn traced(request: Request, next: Next) -> Response {
    let parent = parent(request.headers());
    let Some(mut span) = trace::begin(|| name(&request), parent) else {
        return next.run(request).await;
    };
    describe(&mut *span, &request);
    let context = Some(span.context());
    let response = trace::within(context, next.run(request)).await;
    let status = response.status();
    let number = Value::Number(i64::from(status.as_u16()));
    span.note("http.response.status_code", number);
    if status.is_server_error() {
        span.failed(status.canonical_reason().unwrap_or("server error"));
    }
    response.map(|body| {
        Body::new(TracedBody {
            body,
            span,
            context,
        })
    })
}

fn parent(headers: &HeaderMap) -> Option<TraceContext> {
    let line = headers.get("traceparent")?.to_str().ok()?;
    TraceContext::from_traceparent(line)
}

/// One of few: what is asked for, without the file.
fn name(request: &Request) -> String {
    let method = request.method();
    if request.uri().path().starts_with(webhdfs::PREFIX) {
        return format!("WebHDFS {}", operation(request));
    }
    let route = request.extensions().get::<MatchedPath>();
    format!("{method} {}", route.map_or("unknown", MatchedPath::as_str))
}

fn operation(request: &Request) -> &'static str {
    let params = Params::parse(request.uri().query().unwrap_or_default()).unwrap_or_default();
    let operation = Operation::parse(request.method(), params.text("op").as_deref());
    operation.map_or("unknown", Operation::name)
}

fn describe(span: &mut dyn OpenSpan, request: &Request) {
    let method = request.method().as_str().chars().take(16).collect();
    span.note("http.request.method", Value::Text(method));
    let path = request.uri().path().chars().take(PATH_CHARS_MAX).collect();
    span.note("url.path", Value::Text(path));
    if let Some(client) = request.extensions().get::<ClientAddress>() {
        let address = client.0.ip().to_string();
        span.note("client.address", Value::Text(address));
    }
}

/// A body whose span ends with it.
struct TracedBody {
    body: Body,
    /// Held for its end.
    #[expect(dead_code, reason = "its drop is what ends the span")]
    span: Box<dyn OpenSpan>,
    context: Option<TraceContext>,
}

impl HttpBody for TracedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let within = self.context;
        trace::within_now(within, || Pin::new(&mut self.body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
