//! One request: who asks for what, and the pieces that answers are made of.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use cairn_client::{Error, FileSystem, Place};
use cairn_daemon::config::{ByteSize, GatewaySettings};
use cairn_daemon::users::Users;
use futures::StreamExt;
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::{Exception, Operation, Refusal};
use crate::connections::body_patience;
use crate::params::Params;
use crate::server::Shared;
use crate::who::Who;

/// What an operation comes to.
pub(crate) type Answer = Result<Response, Refusal>;

/// A request for an operation, understood and with a user that is believed.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    pub(crate) operation: Operation,
    /// The file system in the name of who asks.
    pub(crate) fs: FileSystem,
    pub(crate) who: Who,
    pub(crate) users: Arc<Users>,
    /// Decoded, from the root of the file system.
    pub(crate) path: Vec<u8>,
    pub(crate) params: Params,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    /// The client's machine.
    pub(crate) from: std::net::SocketAddr,
}

impl Call {
    pub(crate) fn place(&self) -> Place {
        Place::Path(self.path.clone())
    }

    /// The path as people see it.
    pub(crate) fn path_text(&self) -> String {
        self.place().subject().to_string()
    }

    /// A failure of the file system.
    pub(crate) fn fail(&self, error: Error) -> Refusal {
        Refusal::of(&error, &self.who.name)
    }

    /// An absolute path in a parameter.
    pub(crate) fn path_in(&self, name: &str) -> Result<Place, Refusal> {
        let path = self.params.required(name)?;
        if path.first() != Some(&b'/') {
            let text = String::from_utf8_lossy(path);
            return Err(Refusal::parameter(
                name,
                format!("\"{text}\" is not an absolute path"),
            ));
        }
        Ok(Place::from(path))
    }
}

/// A value as JSON.
pub(crate) fn json_answer(value: impl Serialize) -> Response {
    Json(value).into_response()
}

pub(crate) fn boolean(value: bool) -> Response {
    json_answer(json!({ "boolean": value }))
}

/// 200 without a word.
pub(crate) fn empty() -> Response {
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    (StatusCode::OK, kind, Body::empty()).into_response()
}

/// The body of a request. What is left of it when the answer is known is read and dropped, within limits: a client that sends it
/// all first then still hears the answer, and the connection goes on.
pub(crate) struct Upload {
    stream: BodyDataStream,
    /// Without a byte; and for the rest that nobody wants.
    patience: Duration,
    patience_for_rest: Duration,
    /// As the client says.
    length: Option<u64>,
    received: u64,
    size_max: ByteSize,
    /// The client waits for a word before it sends.
    expects: bool,
    begun: bool,
    ended: bool,
}

/// More of an unwanted body is not read: the connection is closed instead.
const DRAINED_BYTES_MAX: usize = 64 << 20;

impl Upload {
    pub(crate) fn new(body: Body, headers: &HeaderMap, settings: &GatewaySettings) -> Self {
        let (begun, ended) = (false, false);
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self {
            stream: body.into_data_stream(),
            patience: body_patience(settings.idle_timeout),
            patience_for_rest: settings.idle_timeout,
            length,
            received: 0,
            size_max: settings.upload_size_max,
            expects: headers.contains_key(header::EXPECT),
            begun,
            ended,
        }
    }

    /// Refuses a body that says that it is too long.
    pub(crate) fn check_length(&self) -> Result<(), Refusal> {
        match self.length {
            Some(length) if length > self.size_max.bytes() => {
                Err(Refusal::too_large(self.size_max))
            }
            _ => Ok(()),
        }
    }

    /// The next bytes; `None` after the last. Fails if the client is gone, breaks the format, or is silent for too long.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        self.begun = true;
        let broken = |why: String| {
            Refusal::new(
                Exception::Io,
                format!("the request's body broke off: {why}"),
            )
        };
        match timeout(self.patience, self.stream.next()).await {
            Ok(Some(Ok(bytes))) => {
                self.received = self.received.saturating_add(bytes.len() as u64);
                if self.received > self.size_max.bytes() {
                    return Err(Refusal::too_large(self.size_max));
                }
                Ok(Some(bytes))
            }
            Ok(Some(Err(error))) => {
                self.ended = true;
                Err(broken(error.to_string()))
            }
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Err(_) => {
                self.ended = true;
                Err(broken(format!("nothing came for {:?}", self.patience)))
            }
        }
    }

    /// True if the rest has to be read before the connection can go on.
    pub(crate) fn is_left(&self) -> bool {
        // Whoever waits for `100 Continue` has sent nothing, and will not.
        !self.ended && (self.begun || !self.expects)
    }

    /// Reads what is left, at most so much.
    pub(crate) async fn drain(mut self) {
        let mut drained = 0;
        self.patience = self.patience_for_rest;
        while let Ok(Some(bytes)) = self.next().await {
            drained += bytes.len();
            if drained > DRAINED_BYTES_MAX {
                return;
            }
        }
    }
}
