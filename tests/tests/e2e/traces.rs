//! Traces go to a collector: those of an HTTP request and of what it asks of namenodes and datanodes are one, nothing secret is in
//! them, and nobody waits for a collector that does not take them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use prost::Message;
use tempfile::tempdir;
use tokio::net::TcpSocket;

use super::program::{Cluster, Finished, content, eventually, finish, free_ports};

/// What every secret in the requests below contains.
const SECRET: &str = "zaphod";

/// Who asks: a number needs no user of this machine.
const USER: &str = "2718281";

/// A span as it was received.
#[derive(Clone, Debug)]
struct Seen {
    service: String,
    name: String,
    trace: String,
    span: Vec<u8>,
    parent: Vec<u8>,
    attributes: Vec<KeyValue>,
}

impl Seen {
    fn attribute(&self, key: &str) -> String {
        text_of(&self.attributes, key)
    }
}

fn text_of(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|attribute| attribute.value.clone()?.value);
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// An OTLP collector on a socket of its own.
struct Collector {
    address: String,
    /// Bodies as they came.
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let bodies = Arc::default();
        let kept: Arc<Mutex<Vec<Vec<u8>>>> = Arc::clone(&bodies);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // One that is cut off is sent by nobody who lives.
                if let Some(body) = take_request(stream) {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.push(body);
                }
            }
        });
        Self { address, bodies }
    }

    fn bodies(&self) -> Vec<Vec<u8>> {
        let bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.clone()
    }

    fn spans(&self) -> Vec<Seen> {
        let requests = self.bodies().into_iter().map(|body| {
            ExportTraceServiceRequest::decode(body.as_slice()).expect("an export request")
        });
        requests
            .flat_map(|request| request.resource_spans)
            .flat_map(|of_resource| {
                let attributes = of_resource.resource.unwrap_or_default().attributes;
                let service = text_of(&attributes, "service.name");
                let spans = of_resource.scope_spans.into_iter();
                let spans = spans.flat_map(|of_scope| of_scope.spans);
                spans.map(move |span| Seen {
                    service: service.clone(),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    span: span.span_id,
                    parent: span.parent_span_id,
                    attributes: span.attributes,
                })
            })
            .collect()
    }

    /// Waits for a span of a trace.
    fn span(&self, trace: &str, service: &str, name: &str) -> Seen {
        let mut found = None;
        eventually(&format!("{name} of {service} is in trace {trace}"), || {
            let mut spans = self.spans().into_iter();
            found = spans
                .find(|span| span.trace == trace && span.service == service && span.name == name);
            found.is_some()
        });
        found.expect("it was found")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The body of a request, which is answered with an empty success.
fn take_request(mut stream: TcpStream) -> Option<Vec<u8>> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    assert_eq!(line.trim(), "POST /v1/traces HTTP/1.1");
    let mut length = 0;
    let mut kind = String::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        match line.trim().to_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().expect("a number"),
            Some(("content-type", value)) => kind = value.to_owned(),
            Some(_) => {}
            None => break,
        }
    }
    assert_eq!(kind, "application/x-protobuf");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer =
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(answer.as_bytes()).ok()?;
    Some(body)
}

/// One namenode and one datanode, each with HTTP, that send traces to `collector`.
fn up(work: &tempfile::TempDir, collector: &str, more: &[&str]) -> (Cluster, String) {
    let http = free_ports().to_string();
    let otlp = format!("http://{collector}");
    let mut arguments = vec!["--datanodes", "1", "--http", &http, "--otlp", &otlp];
    arguments.extend(more);
    let cluster = Cluster::up(work, &arguments);
    let url = format!("http://127.0.0.1:{http}");
    let ready = format!("{url}/readyz");
    eventually("the gateway is ready", || {
        curl(&["-f", &ready]).status == Some(0)
    });
    (cluster, url)
}

fn curl(arguments: &[&str]) -> Finished {
    finish(Command::new("curl").arg("-s").args(arguments), b"")
}

#[test]
fn a_request_and_what_it_asks_of_others_are_one_trace_without_secrets() {
    let collector = Collector::start();
    let work = tempdir().expect("a directory");
    let (cluster, url) = up(&work, &collector.address, &["--processes"]);
    let file = work.path().join("file");
    fs::write(&file, content(1, 6 << 20)).expect("write a file");

    // The client began the trace; the datanode's gateway gets the same line when it is redirected there.
    let trace = "0102030405060708090a0b0c0d0e0f10";
    let line = format!("traceparent: 00-{trace}-abababababababab-01");
    let create = format!("{url}/webhdfs/v1/file?op=CREATE&user.name={USER}");
    let body = file.display().to_string();
    let created = curl(&["-f", "-L", "-T", &body, "-H", &line, &create]);
    assert_eq!(created.status, Some(0), "{}", created.err);
    let request = collector.span(trace, "cairn-namenode", "WebHDFS CREATE");
    assert_eq!(hex(&request.parent), "abababababababab");
    assert_eq!(request.attribute("http.response.status_code"), "307");
    assert_eq!(request.attribute("url.path"), "/webhdfs/v1/file");
    let upload = collector.span(trace, "cairn-datanode", "WebHDFS CREATE");
    assert_eq!(upload.attribute("http.response.status_code"), "201");
    let mutation = collector.span(trace, "cairn-namenode", "Mutate");
    assert_eq!(mutation.parent, upload.span);
    assert_eq!(mutation.attribute("cairn.outcome"), "ok");
    assert_eq!(mutation.attribute("network.peer.address"), "127.0.0.1");
    let stream = collector.span(trace, "cairn-datanode", "OpenWrite");
    assert_eq!(stream.parent, upload.span);

    let trace = "f102030405060708090a0b0c0d0e0f10";
    let line = format!("traceparent: 00-{trace}-abababababababab-01");
    let open = format!("{url}/webhdfs/v1/file?op=OPEN&user.name={USER}");
    let opened = curl(&["-f", "-L", "-H", &line, &open]);
    assert_eq!(opened.out, content(1, 6 << 20));
    let download = collector.span(trace, "cairn-datanode", "WebHDFS OPEN");
    let read = collector.span(trace, "cairn-datanode", "ReadReplica");
    assert_eq!(read.parent, download.span);

    // Whatever comes of it: a token that is none, and one without a trace of its own.
    let delegated = format!("{url}/webhdfs/v1/?op=GETFILESTATUS&delegation={SECRET}");
    let bearer = format!("Authorization: Bearer {SECRET}");
    curl(&["-H", &bearer, &delegated]);
    let mut request = None;
    eventually("a trace begins here", || {
        let mut spans = collector.spans().into_iter();
        request = spans.find(|span| span.name == "WebHDFS GETFILESTATUS");
        request.is_some()
    });
    assert!(request.expect("it was found").parent.is_empty());
    let mut spans = collector.spans().into_iter();
    assert!(
        spans.any(|span| span.name == "Heartbeat" && span.parent.is_empty()),
        "what nobody asked for begins a trace, too"
    );
    let metrics = curl(&[&format!("{url}/metrics")]).text();
    let sent = metrics.lines().find_map(|line| {
        let sent = line.strip_prefix("dfs_namenode_traces_sent_spans_total ")?;
        sent.parse::<u64>().ok()
    });
    assert!(sent.is_some_and(|sent| sent > 0), "{metrics}");
    assert_eq!(cluster.stop(), Some(0));
    for body in collector.bodies() {
        let text = String::from_utf8_lossy(&body);
        assert!(!text.contains(SECRET) && !text.contains(USER), "{text}");
    }
}

#[test]
fn a_collector_that_is_away_or_silent_is_named_once_and_nobody_waits_for_it() {
    // Bound and not listening: connections are refused, and nobody else gets the port.
    let away = TcpSocket::new_v4().expect("a socket");
    away.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = away.local_addr().expect("an address").to_string();
    // It takes connections, and nothing from them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().map(|address| (silent, address));
    let (_silent, silent_address) = silent.expect("an address");
    // Failing again takes the silent one long, and is as quiet.
    for (address, failures) in [(address, 2), (silent_address.to_string(), 1)] {
        let work = tempdir().expect("a directory");
        let (cluster, url) = up(&work, &address, &[]);
        let stat = format!("{url}/webhdfs/v1/?op=GETFILESTATUS&user.name=root");
        let (mut before, mut growths) = (0, 0);
        eventually("spans are dropped, and requests answered", || {
            assert_eq!(curl(&["-f", &stat]).status, Some(0));
            let dropped = dropped(&url);
            growths += usize::from(dropped > before);
            before = dropped;
            growths >= failures
        });
        assert_eq!(cluster.stop(), Some(0));
        let log = fs::read_to_string(work.path().join("up.err")).expect("its log");
        assert_eq!(log.matches("traces are dropped").count(), 1, "{log}");
        assert!(!log.contains("cut short"), "{log}");
    }
}

/// Spans that were given up so far.
fn dropped(url: &str) -> u64 {
    let metrics = curl(&[&format!("{url}/metrics")]).text();
    let mut lines = metrics.lines();
    let found =
        lines.find_map(|line| line.strip_prefix("dfs_namenode_traces_dropped_spans_total "));
    found.expect("it is counted").parse().expect("a number")
}
