//! Spans by way of the OpenTelemetry SDK: it samples, makes numbers and reads the clock. Those that end go to the sender's queue.

use std::time::Duration;

use cairn_protocol::trace::{OpenSpan, Recorder, TraceContext, Value};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags,
    TraceId, TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor,
};

use super::sender::Queue;

/// What the process records spans with.
pub(super) struct SpanRecorder(SdkTracer);

impl SpanRecorder {
    /// Begins a recorded trace once in `one_in` times.
    pub(super) fn new(queue: Queue, one_in: u32, resource: Resource) -> Self {
        let ratio = 1.0 / f64::from(one_in);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
                ratio,
            ))))
            .with_resource(resource)
            .build();
        Self(provider.tracer("cairn"))
    }
}

impl Recorder for SpanRecorder {
    fn begin(&self, name: String, parent: Option<TraceContext>) -> Box<dyn OpenSpan> {
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
        let context = parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(remote(parent))
        });
        Box::new(Open(self.0.build_with_context(builder, &context)))
    }
}

fn remote(parent: TraceContext) -> SpanContext {
    let flags = match parent.recorded {
        true => TraceFlags::SAMPLED,
        false => TraceFlags::NOT_SAMPLED,
    };
    let trace = TraceId::from_bytes(parent.trace);
    let span = SpanId::from_bytes(parent.span);
    SpanContext::new(trace, span, flags, true, TraceState::NONE)
}

/// Ends when it is dropped.
struct Open(Span);

impl OpenSpan for Open {
    fn context(&self) -> TraceContext {
        let context = self.0.span_context();
        TraceContext {
            trace: context.trace_id().to_bytes(),
            span: context.span_id().to_bytes(),
            recorded: context.is_sampled(),
        }
    }

    fn note(&mut self, key: &'static str, value: Value) {
        self.0.set_attribute(match value {
            Value::Name(name) => KeyValue::new(key, name),
            Value::Text(text) => KeyValue::new(key, text),
            Value::Number(number) => KeyValue::new(key, number),
        });
    }

    fn failed(&mut self, how: &'static str) {
        self.0.set_attribute(KeyValue::new("error.type", how));
        self.0.set_status(Status::error(how));
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.put(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    /// The sender ends by itself, within its time.
    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cairn_daemon::config::TracingSettings;
    use cairn_protocol::trace::{Recorder, TraceContext, Value};
    use opentelemetry_sdk::Resource;

    use super::SpanRecorder;
    use crate::roles::traces::Counts;
    use crate::roles::traces::sender::{QUEUE_SPANS, Sender};

    fn recorder(one_in: u32) -> (SpanRecorder, Sender, Counts) {
        let settings = TracingSettings {
            otlp: "http://127.0.0.1:1".to_owned(),
            one_in,
        };
        let collector = settings.collector().unwrap().unwrap();
        let resource = Resource::builder_empty().build();
        let counts = Counts::default();
        let (sender, queue) = Sender::new(collector, &resource, counts.clone());
        (SpanRecorder::new(queue, one_in, resource), sender, counts)
    }

    #[test]
    fn spans_continue_the_trace_that_they_are_given_and_are_recorded_if_it_is() {
        let (recorder, mut sender, _) = recorder(1_000_000);
        let parent = TraceContext {
            trace: [7; 16],
            span: [8; 8],
            recorded: true,
        };
        let mut span = recorder.begin("Query".to_owned(), Some(parent));
        let context = span.context();
        assert_eq!((context.trace, context.recorded), (parent.trace, true));
        assert_ne!(context.span, parent.span);
        span.note("key", Value::Name("value"));
        span.failed("TimedOut");
        drop(span);
        let unrecorded = TraceContext {
            recorded: false,
            ..parent
        };
        let span = recorder.begin("Query".to_owned(), Some(unrecorded));
        assert!(!span.context().recorded);
        drop(span);
        let ended = sender.take_now();
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].parent_span_id.to_bytes(), parent.span);
        assert_eq!(ended[0].span_context.span_id().to_bytes(), context.span);
        assert_eq!(ended[0].attributes.len(), 2);
    }

    #[test]
    fn what_the_queue_has_no_room_for_is_dropped_and_counted() {
        let (recorder, mut sender, counts) = recorder(1);
        for _ in 0..QUEUE_SPANS + 3 {
            drop(recorder.begin("Query".to_owned(), None));
        }
        assert_eq!((counts.dropped.get(), counts.sent.get()), (3, 0));
        assert_eq!(sender.take_now().len(), QUEUE_SPANS);
    }
}
