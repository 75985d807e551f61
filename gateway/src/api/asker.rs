//! Who asks and for what: what every operation of the API begins with.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use bytes::{Bytes, BytesMut};
use cairn_client::FileSystem;
use cairn_daemon::users::Users;
use cairn_protocol::ErrorCode;
use futures::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::problem::{Answer, Problem};
use crate::params::Params;
use crate::record::Notes;
use crate::server::Shared;
use crate::webhdfs::Refusal;
use crate::who::{self, Who};

/// Of a request in JSON.
const JSON_BYTES_MAX: usize = 4 << 20;

/// A request with a user that is believed.
pub(crate) struct Asker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) who: Who,
    pub(crate) users: Arc<Users>,
    /// The file system in the name of who asks.
    pub(crate) fs: FileSystem,
    pub(crate) params: Params,
    pub(crate) headers: HeaderMap,
    /// For the audit log.
    pub(crate) notes: Notes,
}

impl FromRequestParts<Arc<Shared>> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Answer<Self> {
        let params = Params::parse(parts.uri.query().unwrap_or_default())?;
        let users = shared.names().users().await;
        let who = who::authenticate(shared, &parts.headers, &params, &users).await?;
        let notes = Notes::of(&parts.extensions);
        notes.user(&who.name);
        if shared.rates().admit(who.caller.uid).is_err() {
            let limit = shared.settings().requests_per_second_max;
            return Err(Refusal::too_often(&who.name, limit).into());
        }
        let fs = shared.fs().await?.on_behalf_of(who.caller.clone());
        Ok(Self {
            shared: Arc::clone(shared),
            who,
            users,
            fs,
            params,
            headers: parts.headers.clone(),
            notes,
        })
    }
}

/// Who looks at what needs no name, if they say who they are and that is believed.
pub(crate) struct Onlooker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) who: Option<Who>,
}

impl FromRequestParts<Arc<Shared>> for Onlooker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Answer<Self> {
        let params = Params::parse(parts.uri.query().unwrap_or_default())?;
        let users = shared.names().users().await;
        let who = who::authenticate(shared, &parts.headers, &params, &users)
            .await
            .ok();
        if let Some(who) = &who {
            Notes::of(&parts.extensions).user(&who.name);
        }
        let shared = Arc::clone(shared);
        Ok(Self { shared, who })
    }
}

impl Asker {
    /// The absolute path in a parameter.
    pub(crate) fn path(&self, name: &str) -> Answer<Vec<u8>> {
        let path = self.params.required(name)?;
        if path.first() != Some(&b'/') {
            let text = String::from_utf8_lossy(path);
            return Err(Problem::invalid(format!(
                "{name}: `{text}` is not an absolute path"
            )));
        }
        Ok(path.to_vec())
    }
}

/// A body of JSON.
pub(crate) struct Told<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for Told<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Answer<Self> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        if !kind.is_some_and(is_json) {
            return Err(Problem::media_type());
        }
        let bytes = whole_body(request.into_body(), JSON_BYTES_MAX, shared).await?;
        let told = serde_json::from_slice(&bytes);
        told.map(Self)
            .map_err(|error| Problem::invalid(format!("the body: {error}")))
    }
}

fn is_json(kind: &HeaderValue) -> bool {
    let kind = kind.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

/// All of a body of at most `limit` bytes.
pub(crate) async fn whole_body(body: Body, limit: usize, shared: &Shared) -> Answer<Bytes> {
    let idle = shared.settings().idle_timeout;
    let mut stream = body.into_data_stream();
    let mut all = BytesMut::new();
    loop {
        match timeout(idle, stream.next()).await {
            Ok(None) => return Ok(all.freeze()),
            Ok(Some(Ok(bytes))) if all.len() + bytes.len() > limit => {
                let error = format!("the body has more than {limit} bytes");
                return Err(Problem::new(ErrorCode::TooLarge, error));
            }
            Ok(Some(Ok(bytes))) => all.extend_from_slice(&bytes),
            Ok(Some(Err(error))) => {
                return Err(Problem::invalid(format!("the body broke off: {error}")));
            }
            Err(_) => {
                let error = format!("the body broke off: nothing came for {idle:?}");
                return Err(Problem::invalid(error));
            }
        }
    }
}
