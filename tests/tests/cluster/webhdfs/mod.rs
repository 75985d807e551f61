//! WebHDFS against a cluster in this process: each operation, as clients written for Hadoop see it.

mod names;
mod redirects;
mod refusals;
mod transfers;

use cairn_daemon::config::{GatewayAuth, GatewaySettings};
use cairn_tests::harness::{ClusterOptions, MiniCluster};
use reqwest::{Client, Method, Response, StatusCode, redirect};
use serde_json::Value;

/// Options of a cluster that believes `user.name`.
fn options() -> ClusterOptions {
    ClusterOptions {
        http: Some(GatewaySettings {
            auth: GatewayAuth::Simple,
            ..GatewaySettings::default()
        }),
        ..ClusterOptions::default()
    }
}

/// Asks a gateway in the name of a user.
struct Web {
    client: Client,
    base: String,
    user: String,
}

impl Web {
    /// The first namenode's gateway, as the superuser.
    fn new(cluster: &MiniCluster) -> Self {
        Self::at(cluster.namenode_http(0).unwrap())
    }

    fn at(address: std::net::SocketAddr) -> Self {
        Self {
            client: Client::new(),
            base: format!("http://{address}/webhdfs/v1"),
            user: "root".to_owned(),
        }
    }

    fn user(mut self, user: &str) -> Self {
        self.user = user.to_owned();
        self
    }

    fn staying(mut self) -> Self {
        let here = redirect::Policy::none();
        self.client = Client::builder().redirect(here).build().unwrap();
        self
    }

    /// `rest` is `/path?op=…`, encoded.
    fn url(&self, rest: &str) -> String {
        format!("{}{rest}&user.name={}", self.base, self.user)
    }

    async fn send(&self, method: Method, rest: &str, body: impl Into<reqwest::Body>) -> Response {
        let request = self.client.request(method, self.url(rest)).body(body);
        request.send().await.unwrap()
    }

    async fn ok(&self, method: Method, rest: &str) -> Value {
        let response = self.send(method, rest, "").await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{rest}: {text}");
        if text.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&text).unwrap()
    }

    async fn get(&self, rest: &str) -> Value {
        self.ok(Method::GET, rest).await
    }

    async fn put(&self, rest: &str) -> Value {
        self.ok(Method::PUT, rest).await
    }

    async fn post(&self, rest: &str) -> Value {
        self.ok(Method::POST, rest).await
    }

    async fn delete(&self, rest: &str) -> Value {
        self.ok(Method::DELETE, rest).await
    }

    /// A request that must fail so; its message.
    async fn refused(&self, method: Method, rest: &str, status: u16, exception: &str) -> String {
        refusal(self.send(method, rest, "").await, status, exception).await
    }

    async fn create(&self, path: &str, content: impl Into<reqwest::Body>) {
        let rest = format!("{path}?op=CREATE&overwrite=true");
        let response = self.send(Method::PUT, &rest, content).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, StatusCode::CREATED, "{path}: {text}");
    }

    async fn read(&self, rest: &str) -> Vec<u8> {
        let response = self.send(Method::GET, rest, "").await;
        let status = response.status();
        let bytes = response.bytes().await.unwrap();
        assert!(status.is_success(), "{rest}: {}", bytes.escape_ascii());
        bytes.to_vec()
    }
}

/// The message of a `RemoteException`.
async fn refusal(response: Response, status: u16, exception: &str) -> String {
    let found = response.status();
    let text = response.text().await.unwrap();
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{found}: {text}"));
    let remote = &json["RemoteException"];
    assert_eq!(
        (found.as_u16(), remote["exception"].as_str().unwrap()),
        (status, exception),
        "{text}"
    );
    let class = remote["javaClassName"].as_str().unwrap();
    assert!(class.ends_with(exception), "{text}");
    remote["message"].as_str().unwrap().to_owned()
}
