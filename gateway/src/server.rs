//! Builds the gateway and wires its parts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use cairn_client::{ClusterConfig, Error, FileSystem};
use cairn_daemon::Tasks;
use cairn_daemon::telemetry::METRICS_CONTENT_TYPE;
use cairn_protocol::ids::InodeId;
use cairn_protocol::net;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::error::{Answer, GatewayError};
use crate::{page, status};

/// A cluster that takes longer to answer is not ready.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// What the gateway needs.
#[derive(Clone)]
pub struct GatewayOptions {
    /// Where to listen, `host:port`; port 0 takes a free one.
    pub listen: String,
    /// The cluster, and as whom to ask it.
    pub cluster: ClusterConfig,
    /// Metrics of this process as text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// A running gateway. It stops with the [`Tasks`] that it was started in.
#[derive(Debug)]
pub struct Gateway {
    bound: SocketAddr,
}

/// What requests share.
struct Shared {
    options: GatewayOptions,
    /// Connected with the first request that needs it: the cluster may come up after us.
    fs: OnceCell<FileSystem>,
}

impl Shared {
    async fn fs(&self) -> Result<&FileSystem, Error> {
        self.fs
            .get_or_try_init(|| FileSystem::connect(self.options.cluster.clone()))
            .await
    }
}

impl Gateway {
    /// Listens, and serves in `tasks`.
    pub async fn start(options: GatewayOptions, tasks: &Tasks) -> Result<Self, GatewayError> {
        let address = options.listen.clone();
        let failed = |source| GatewayError::Listen {
            address: address.clone(),
            source,
        };
        let listener = net::listen(&address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            options,
            fs: OnceCell::new(),
        });
        let shutdown = tasks.shutdown_token();
        tasks.component("http", |_stop| async move {
            let serving = axum::serve(listener, router(shared));
            serving
                .with_graceful_shutdown(shutdown.cancelled_owned())
                .await
                .map_err(GatewayError::Serve)
        });
        tracing::info!(%bound, "HTTP listens");
        Ok(Self { bound })
    }

    /// Where it listens.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(status_page))
        .route("/api/v1/status", get(status_json))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(shared)
}

async fn status_page(State(shared): State<Arc<Shared>>) -> Response {
    let status = match shared.fs().await {
        Ok(fs) => fs.status().await,
        Err(error) => Err(error),
    };
    let code = if status.is_ok() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (code, headers, Html(page::render(status.as_ref()))).into_response()
}

async fn status_json(State(shared): State<Arc<Shared>>) -> Result<Response, Answer> {
    let status = shared
        .fs()
        .await
        .map_err(Answer)?
        .status()
        .await
        .map_err(Answer)?;
    Ok((
        [(header::CACHE_CONTROL, "no-store")],
        Json(status::as_json(&status)),
    )
        .into_response())
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    (
        [(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)],
        (shared.options.metrics)(),
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
    use std::sync::Arc;
    use std::time::Duration;

    use cairn_client::{ClusterConfig, Timeouts};
    use cairn_daemon::Tasks;
    use cairn_protocol::messages::common::Caller;
    use cairn_protocol::net;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{Gateway, GatewayOptions};

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
        };
        let mut cluster = ClusterConfig::new(vec!["127.0.0.1:1".to_owned()], caller);
        cluster.timeouts = Timeouts {
            patience: Duration::from_millis(200),
            ..Timeouts::default()
        };
        let options = GatewayOptions {
            listen: "127.0.0.1:0".to_owned(),
            cluster,
            metrics: Arc::new(|| "dfs_test 1\n# EOF\n".to_owned()),
        };
        let gateway = Gateway::start(options.clone(), &tasks).await.unwrap();
        assert!(get(&gateway, "/healthz").await.starts_with("HTTP/1.1 200"));
        let metrics = get(&gateway, "/metrics").await;
        assert!(
            metrics.contains("openmetrics-text") && metrics.contains("dfs_test 1"),
            "{metrics}"
        );
        assert!(get(&gateway, "/readyz").await.starts_with("HTTP/1.1 503"));
        let page = get(&gateway, "/").await;
        assert!(
            page.starts_with("HTTP/1.1 503") && page.contains("does not answer"),
            "{page}"
        );
        assert!(get(&gateway, "/api/v1/status").await.contains("\"error\""));
        assert!(get(&gateway, "/nothing").await.starts_with("HTTP/1.1 404"));

        let taken = GatewayOptions {
            listen: gateway.bound().to_string(),
            ..options
        };
        let error = Gateway::start(taken, &tasks).await.unwrap_err().to_string();
        assert!(error.contains(&gateway.bound().to_string()), "{error}");
        tasks.shutdown();
        tasks
            .run_until_shutdown(Duration::from_secs(10))
            .await
            .unwrap();
    }
}
