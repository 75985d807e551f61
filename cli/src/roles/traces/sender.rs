//! The queue of spans that ended, and the task that posts them. A batch that cannot be posted is dropped, not kept: traces are for
//! looking at, and the next ones are as good.

use std::time::Duration;

use anyhow::{Context, bail};
use cairn_daemon::config::Collector;
use cairn_protocol::net;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Counts;

/// Spans that wait, at about 2 KiB each; more are dropped.
pub(super) const QUEUE_SPANS: usize = 4096;

/// Spans in one request to the collector.
const BATCH_SPANS: usize = 512;

/// A span waits so long for company.
const BATCH_WITHIN: Duration = Duration::from_secs(1);

/// The collector has to take a batch within this.
const POST_WITHIN: Duration = Duration::from_secs(5);

/// After a failure the collector is left alone for this long, then twice as long, …
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is left at the end is posted within this, or never.
const LAST_WITHIN: Duration = Duration::from_secs(1);

/// Where spans that end go. Never waits.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    counts: Counts,
}

impl Queue {
    pub(super) fn put(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.counts.dropped.inc();
        }
    }
}

/// The task that posts them.
pub(super) struct Sender {
    collector: Collector,
    resource: ResourceAttributesWithSchema,
    counts: Counts,
    queue: mpsc::Receiver<SpanData>,
    /// Taken out, not yet posted.
    batch: Vec<SpanData>,
    /// Of the last failure, while the collector does not take them.
    pause: Option<Duration>,
}

impl Sender {
    pub(super) fn new(collector: Collector, resource: &Resource, counts: Counts) -> (Self, Queue) {
        let (spans, queue) = mpsc::channel(QUEUE_SPANS);
        let sender = Self {
            collector,
            resource: resource.into(),
            counts: counts.clone(),
            queue,
            batch: Vec::new(),
            pause: None,
        };
        (sender, Queue { spans, counts })
    }

    /// Posts until it is told to stop, and then once more what is left.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.post_forever() => {}
        }
        let last = async {
            while self.pause.is_none() && self.gather_now() {
                self.post_batch().await;
            }
        };
        // A collector that takes none now will not be waited for.
        let _ = timeout(LAST_WITHIN, last).await;
        Ok(())
    }

    /// Dropped where it stands when the process ends.
    async fn post_forever(&mut self) {
        while self.gather().await {
            self.post_batch().await;
            if let Some(pause) = self.pause {
                sleep(pause).await;
            }
        }
        // Nobody ends spans any more.
        std::future::pending().await
    }

    /// Waits for a batch. False if none will come.
    async fn gather(&mut self) -> bool {
        if self.queue.recv_many(&mut self.batch, BATCH_SPANS).await == 0 {
            return false;
        }
        let more = async {
            while self.batch.len() < BATCH_SPANS {
                let room = BATCH_SPANS - self.batch.len();
                if self.queue.recv_many(&mut self.batch, room).await == 0 {
                    return;
                }
            }
        };
        // Spans that are in the batch when time is up are what it holds.
        let _ = timeout(BATCH_WITHIN, more).await;
        true
    }

    /// Takes what is there. False if nothing is.
    fn gather_now(&mut self) -> bool {
        while self.batch.len() < BATCH_SPANS {
            match self.queue.try_recv() {
                Ok(span) => self.batch.push(span),
                Err(_) => break,
            }
        }
        !self.batch.is_empty()
    }

    async fn post_batch(&mut self) {
        let spans = std::mem::take(&mut self.batch);
        let count = spans.len() as u64;
        let mut posting = Posting {
            counts: &self.counts,
            count,
        };
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(spans, &self.resource),
        };
        let posted = timeout(POST_WITHIN, post(&self.collector, request.encode_to_vec()));
        let posted = posted
            .await
            .with_context(|| format!("no answer within {POST_WITHIN:?}"))
            .flatten();
        if posted.is_ok() {
            self.counts.sent.inc_by(count);
            posting.count = 0;
        }
        drop(posting);
        self.learn(posted);
    }

    /// Says once that the collector is away, and once that it is back.
    fn learn(&mut self, posted: anyhow::Result<()>) {
        let collector = &self.collector.url;
        match (posted, self.pause) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                tracing::info!(collector, "the collector takes traces again");
                self.pause = None;
            }
            (Err(error), None) => {
                let error = format!("{error:#}");
                tracing::warn!(
                    collector,
                    error,
                    "traces are dropped until they can be sent"
                );
                self.pause = Some(PAUSE_MIN);
            }
            (Err(_), Some(pause)) => self.pause = Some((2 * pause).min(PAUSE_MAX)),
        }
    }

    /// All that wait.
    #[cfg(test)]
    pub(super) fn take_now(&mut self) -> Vec<SpanData> {
        std::iter::from_fn(|| self.queue.try_recv().ok()).collect()
    }
}

/// Counts as dropped what was not posted, also if the end of the process cuts it off.
struct Posting<'a> {
    counts: &'a Counts,
    count: u64,
}

impl Drop for Posting<'_> {
    fn drop(&mut self) {
        self.counts.dropped.inc_by(self.count);
    }
}

/// One connection for each: there is about one a second.
async fn post(collector: &Collector, body: Vec<u8>) -> anyhow::Result<()> {
    let address = &collector.address;
    let connecting = net::connect(address).await;
    let stream = connecting.with_context(|| format!("connect to {address}"))?;
    let path = collector.url.strip_prefix("http://");
    let path = path.and_then(|rest| rest.strip_prefix(address.as_str()));
    let request = Request::post(path.unwrap_or("/"))
        .header(header::HOST, address)
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The connection ends with the sender, which ends with the answer: its body does not matter.
    let exchange = async move {
        sender
            .send_request(request)
            .await
            .map(|answer| answer.status())
    };
    let (status, _ended) = tokio::join!(exchange, connection);
    let status = status.context("post")?;
    if !status.is_success() {
        bail!("it answered {status}");
    }
    Ok(())
}
