//! Builds the gateway and wires its parts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use cairn_client::{ClusterConfig, Error, FileSystem, Subject};
use cairn_daemon::config::GatewaySettings;
use cairn_daemon::telemetry::{METRICS_CONTENT_TYPE, Metrics as Registry};
use cairn_daemon::{Clock, Tasks};
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::admin::StatusReply;
use cairn_protocol::net::{self, TcpListener};
use cairn_protocol::trace;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout};

use crate::api::changes::FEEDS_MAX;
use crate::api::locks::Leases;
use crate::audit::AuditLog;
use crate::cluster_metrics::ClusterMetrics;
use crate::datanodes::Datanodes;
use crate::error::GatewayError;
use crate::lookout::Lookout;
use crate::metrics::Metrics;
use crate::origin::Hosts;
use crate::params::Params;
use crate::rates::Rates;
use crate::record::Known;
use crate::slow::{Asked, SLOW, SlowRequests};
use crate::traced::traced;
use crate::webhdfs::BriefTokens;
use crate::who::{self, Names, Tokens};
use crate::{api, connections, console, jmx, origin, record, webhdfs};

/// A cluster that takes longer to answer is not ready.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// Who asks for the status waits no longer than this for the cluster.
const STATUS_WITHIN: Duration = Duration::from_secs(5);

/// Then members are asked what they know by themselves.
const LOCAL_WITHIN: Duration = Duration::from_secs(2);

/// For open chunks to be given back at the end.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// All lines of a request's head together; its number of lines is limited, too.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Read ahead for each download: many run at once.
const READ_AHEAD_BYTES: usize = 2 << 20;

/// Uploaded and not yet part of a file, over all uploads.
const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;

/// In flight in one upload's pipeline.
const WRITE_WINDOW_BYTES: usize = 4 << 20;

/// Tells whether the namenode of this process leads now.
pub type Leads = Arc<dyn Fn() -> bool + Send + Sync>;

/// What the gateway needs.
#[derive(Clone)]
pub struct GatewayOptions {
    /// The cluster, and as whom to ask it: the superuser, who then asks in the name of others.
    pub cluster: ClusterConfig,
    /// The counters of the daemon that the gateway is part of; it adds its own.
    pub metrics: Registry,
    /// From the daemon's file.
    pub settings: GatewaySettings,
    /// Of a namenode; `None` in a datanode.
    pub leads: Option<Leads>,
}

/// A socket that listens, before there is a gateway: its port may have to be told to others first.
#[derive(Debug)]
pub struct HttpListener {
    listener: TcpListener,
    bound: SocketAddr,
}

impl HttpListener {
    /// Listens on `host:port`; port 0 takes a free one.
    pub async fn on(address: &str) -> Result<Self, GatewayError> {
        let failed = |source| GatewayError::Listen {
            address: address.to_owned(),
            source,
        };
        let listener = net::listen(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, bound })
    }

    /// Where it listens.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }
}

/// A running gateway. It stops with the [`Tasks`] that it was started in.
#[derive(Debug)]
pub struct Gateway {
    bound: SocketAddr,
}

/// What requests share.
pub(crate) struct Shared {
    options: GatewayOptions,
    bound: SocketAddr,
    tasks: Tasks,
    clock: Clock,
    metrics: Arc<Metrics>,
    hosts: Hosts,
    names: Names,
    rates: Rates,
    audit: AuditLog,
    tokens: Tokens,
    brief_tokens: BriefTokens,
    datanodes: Datanodes,
    lookout: Lookout,
    cluster_metrics: ClusterMetrics,
    slow: SlowRequests,
    leases: Leases,
    /// One permit for each feed.
    feeds: Arc<Semaphore>,
    /// Was given out last.
    number: AtomicU64,
    /// Connected with the first request that needs it: the cluster may come up after us.
    fs: OnceCell<FileSystem>,
}

impl Shared {
    fn new(mut options: GatewayOptions, bound: SocketAddr, tasks: &Tasks) -> Self {
        options.cluster.read_ahead_bytes = READ_AHEAD_BYTES;
        options.cluster.in_flight_bytes_max = IN_FLIGHT_BYTES_MAX;
        options.cluster.write_window_bytes = WRITE_WINDOW_BYTES;
        let clock = Clock::system();
        Self {
            cluster_metrics: ClusterMetrics::new(&options.metrics),
            metrics: Arc::new(Metrics::new(options.metrics.clone())),
            hosts: Hosts::of(&options),
            rates: Rates::new(options.settings.requests_per_second_max),
            audit: AuditLog::start(&options.settings.audit_log, tasks),
            options,
            bound,
            tasks: tasks.clone(),
            // Numbers of an earlier life of this process do not come again.
            number: AtomicU64::new(clock.now_ns()),
            clock,
            lookout: Lookout::default(),
            slow: SlowRequests::default(),
            leases: Leases::default(),
            feeds: Arc::new(Semaphore::new(FEEDS_MAX)),
            names: Names::default(),
            tokens: Tokens::default(),
            brief_tokens: BriefTokens::default(),
            datanodes: Datanodes::default(),
            fs: OnceCell::new(),
        }
    }

    /// As the superuser.
    pub(crate) async fn fs(&self) -> Result<&FileSystem, Error> {
        self.fs
            .get_or_try_init(|| FileSystem::connect(self.options.cluster.clone()))
            .await
    }

    /// If there has been a connection already.
    pub(crate) fn known_fs(&self) -> Option<&FileSystem> {
        self.fs.get()
    }

    pub(crate) fn lookout(&self) -> &Lookout {
        &self.lookout
    }

    pub(crate) fn cluster_metrics(&self) -> &ClusterMetrics {
        &self.cluster_metrics
    }

    pub(crate) fn slow(&self) -> &SlowRequests {
        &self.slow
    }

    pub(crate) fn leases(&self) -> &Leases {
        &self.leases
    }

    pub(crate) fn feeds(&self) -> &Arc<Semaphore> {
        &self.feeds
    }

    /// A number that this gateway gives nobody else.
    pub(crate) fn fresh_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// How links to gateways begin.
    pub(crate) fn scheme(&self) -> &'static str {
        match self.options.cluster.tls {
            Some(_) => "https",
            None => "http",
        }
    }

    pub(crate) fn settings(&self) -> &GatewaySettings {
        &self.options.settings
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// By what names it may be asked.
    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    pub(crate) fn rates(&self) -> &Rates {
        &self.rates
    }

    pub(crate) fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// Whether the namenode of this process leads; `None` in a datanode.
    pub(crate) fn leads(&self) -> Option<bool> {
        self.options.leads.as_ref().map(|leads| leads())
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(crate) fn brief_tokens(&self) -> &BriefTokens {
        &self.brief_tokens
    }

    /// Nobody is believed without a token.
    pub(crate) fn wants_tokens(&self) -> bool {
        self.options.cluster.tls.is_some()
    }

    pub(crate) fn datanodes(&self) -> &Datanodes {
        &self.datanodes
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Where it listens.
    pub(crate) fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// The date, in milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ns() / 1_000_000
    }
}

impl Gateway {
    /// Serves in `tasks`.
    pub fn start(listening: HttpListener, options: GatewayOptions, tasks: &Tasks) -> Self {
        let HttpListener { listener, bound } = listening;
        let shared = Arc::new(Shared::new(options, bound, tasks));
        let serving = connections::serve(
            listener,
            router(Arc::clone(&shared)),
            shared.settings().clone(),
            Arc::clone(&shared.metrics),
            shared.options.cluster.tls.clone(),
            tasks.clone(),
        );
        let looking = Arc::clone(&shared);
        tasks.component("http lookout", |stop| Lookout::keep(looking, stop));
        let keeping = Arc::clone(&shared);
        tasks.component("http leases", |stop| Leases::keep(keeping, stop));
        tasks.component("http", |stop| async move {
            serving.await?;
            // Requests end before this is cancelled, and those that we stand on end after us.
            stop.cancelled().await;
            if let Some(fs) = shared.fs.get() {
                // Without it the cluster cleans up when the session expires.
                let _ = timeout(CLOSE_WITHIN, fs.clone().close()).await;
            }
            Ok::<(), GatewayError>(())
        });
        tracing::info!(%bound, "HTTP listens");
        Self { bound }
    }

    /// Where it listens.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let webhdfs = any(webhdfs::serve);
    let router = Router::new()
        .merge(console::router())
        .merge(api::router())
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/jmx", get(jmx::serve))
        .route(webhdfs::PREFIX, webhdfs.clone())
        .route("/webhdfs/v1/", webhdfs.clone())
        .route("/webhdfs/v1/{*path}", webhdfs)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            origin::guard,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            record::recorded,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            observed,
        ))
        .layer(middleware::from_fn(bounded_head));
    // Where nothing is recorded, there is no layer.
    let router = match trace::is_on() {
        true => router.layer(middleware::from_fn(traced)),
        false => router,
    };
    router.with_state(shared)
}

/// Notes requests that take long.
async fn observed(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = next.run(request).await;
    let took = began.elapsed();
    if took >= SLOW {
        let known = response.extensions().get::<Known>();
        let asked = asked(&shared, &method, &uri, known);
        let status = response.status().as_u16();
        shared.slow.note(asked, status, shared.now_ms(), took);
    }
    response
}

fn asked(shared: &Shared, method: &Method, uri: &Uri, known: Option<&Known>) -> Asked {
    let params = Params::parse(uri.query().unwrap_or_default()).unwrap_or_default();
    let path = uri.path();
    let file = path.strip_prefix(webhdfs::PREFIX);
    let operation = match (file, params.text("op")) {
        (Some(_), Some(operation)) => operation.to_uppercase(),
        _ => format!("{method} {path}"),
    };
    let named = params.text("path").map(|path| path.into_owned());
    let user = match known {
        Some(Known(user)) => user.clone(),
        // What a request says of itself proves nothing there.
        None if shared.wants_tokens() => String::new(),
        None => who::claimed(shared.settings(), &params),
    };
    Asked {
        operation,
        path: named.unwrap_or_else(|| file.unwrap_or_default().to_owned()),
        user,
    }
}

/// Refuses requests whose head is too large.
async fn bounded_head(request: Request, next: Next) -> Response {
    let lines = request.headers().iter();
    let bytes: usize = lines
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let target = request.uri().path_and_query();
    let target = target.map_or(0, |target| target.as_str().len());
    if bytes + target > HEAD_BYTES_MAX {
        let text = format!("the request's head has more than {HEAD_BYTES_MAX} bytes\n");
        return (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text).into_response();
    }
    next.run(request).await
}

/// As the leader sees it now, or what members know by themselves while there is none.
pub(crate) async fn cluster_status(shared: &Shared) -> Result<StatusReply, Error> {
    let asked = timeout(STATUS_WITHIN, async { shared.fs().await?.status().await });
    let asked = asked.await;
    if !matches!(asked, Ok(Ok(_)))
        && let Some(fs) = shared.known_fs()
        && let Some(status) = fs.local_status(LOCAL_WITHIN).await
    {
        return Ok(status);
    }
    asked.unwrap_or_else(|_| {
        Err(Error::Unreachable {
            subject: Subject::Cluster,
            patience: STATUS_WITHIN,
            failure: ErrorCode::TimedOut.into(),
        })
    })
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    (
        [(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)],
        shared.metrics.render(),
    )
        .into_response()
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let asked = timeout(READY_WITHIN, async {
        shared.fs().await?.stat(InodeId::ROOT).await
    });
    match asked.await {
        Ok(Ok(_)) => "ready\n".into_response(),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        Err(_) => {
            let text = format!("no answer within {READY_WITHIN:?}\n");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cairn_client::{ClusterConfig, Timeouts};
    use cairn_daemon::Tasks;
    use cairn_daemon::config::GatewaySettings;
    use cairn_daemon::telemetry::Metrics as Registry;
    use cairn_protocol::messages::common::Caller;
    use cairn_protocol::net;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{Gateway, GatewayOptions, HttpListener};

    async fn get(gateway: &Gateway, path: &str) -> String {
        let mut stream = net::connect(&gateway.bound().to_string()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn without_a_cluster_it_lives_and_says_what_is_wrong() {
        let tasks = Tasks::new();
        let caller = Caller {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            umask: 0,
            token: Vec::new(),
            session: 0,
        };
        let mut cluster = ClusterConfig::new(vec!["127.0.0.1:1".to_owned()], caller);
        cluster.timeouts = Timeouts {
            patience: Duration::from_millis(200),
            ..Timeouts::default()
        };
        let options = GatewayOptions {
            cluster,
            metrics: Registry::new("test"),
            settings: GatewaySettings::default(),
            leads: None,
        };
        let listener = HttpListener::on("127.0.0.1:0").await.unwrap();
        let gateway = Gateway::start(listener, options, &tasks);
        assert!(get(&gateway, "/healthz").await.starts_with("HTTP/1.1 200"));
        let metrics = get(&gateway, "/metrics").await;
        assert!(
            metrics.contains("openmetrics-text") && metrics.contains("dfs_test_http_connections 1"),
            "{metrics}"
        );
        assert!(get(&gateway, "/readyz").await.starts_with("HTTP/1.1 503"));
        let page = get(&gateway, "/").await;
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        assert!(page.contains("script-src 'self'"), "{page}");
        assert!(get(&gateway, "/api/v1/status").await.contains("\"error\""));
        let overview = get(&gateway, "/api/v1/overview").await;
        assert!(overview.starts_with("HTTP/1.1 200"), "{overview}");
        assert!(
            overview.contains("The cluster does not answer"),
            "{overview}"
        );
        assert!(get(&gateway, "/nothing").await.starts_with("HTTP/1.1 404"));
        let nothing = get(&gateway, "/api/v1/nothing").await;
        assert!(nothing.starts_with("HTTP/1.1 404") && nothing.contains("\"error\""));

        let files = get(&gateway, "/webhdfs/v1/?op=LISTSTATUS&user.name=root").await;
        assert!(files.starts_with("HTTP/1.1 401"), "{files}");
        assert!(files.contains("SecurityException"), "{files}");

        let taken = gateway.bound().to_string();
        let error = HttpListener::on(&taken).await.unwrap_err().to_string();
        assert!(error.contains(&taken), "{error}");
        tasks.shutdown();
        tasks
            .run_until_shutdown(Duration::from_secs(10))
            .await
            .unwrap();
    }
}
