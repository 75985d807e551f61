//! What is kept of each request: a line in the audit log of what would change something, and the counters. It lies around everything
//! that answers, so that nothing ends without its line: neither what is refused before anybody looked at it, nor a request whose
//! client goes away before its answer, of which nobody was told what came of it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::Extensions;
use axum::middleware::Next;
use axum::response::Response;
use cairn_client::Place;
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use crate::audit::{Entry, milliseconds};
use crate::connections::ClientAddress;
use crate::params::Params;
use crate::server::Shared;
use crate::webhdfs::{Exception, Operation, Redirected};
use crate::{api, webhdfs, who};

/// Writes down what comes of a request.
pub(crate) async fn recorded(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let notes = Notes::default();
    let record = Record::of(shared, &request, notes.clone());
    request.extensions_mut().insert(notes);
    let mut response = next.run(request).await;
    record.finish(&mut response);
    response
}

/// Why a request failed, as the audit log says it: an extension of answers that are no [`Exception`].
#[derive(Clone)]
pub(crate) struct Outcome(pub(crate) String);

/// Who asked, when that is believed: an extension of answers.
#[derive(Clone)]
pub(crate) struct Known(pub(crate) String);

/// What is learnt of a request by those who answer it: an extension of requests.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Noted>>);

#[derive(Clone, Default)]
struct Noted {
    user: Option<String>,
    path: Option<String>,
    destination: Option<String>,
}

impl Notes {
    /// Tests of handlers alone have none: what they note is nobody's.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    fn with<T>(&self, change: impl FnOnce(&mut Noted) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who asks is believed.
    pub(crate) fn user(&self, name: &str) {
        self.with(|noted| noted.user = Some(name.to_owned()));
    }

    /// What a body says that it is about.
    pub(crate) fn paths(&self, path: &[u8], destination: Option<&str>) {
        let path = Place::from(path).subject().to_string();
        self.with(|noted| {
            noted.path = Some(path);
            noted.destination = destination.map(str::to_owned);
        });
    }
}

/// One request.
struct Record {
    shared: Arc<Shared>,
    began: Instant,
    /// `None`: it is not counted.
    operation: Option<&'static str>,
    changes: bool,
    user: String,
    path: String,
    destination: Option<String>,
    from: SocketAddr,
    notes: Notes,
    finished: bool,
}

impl Record {
    fn of(shared: Arc<Shared>, request: &Request, notes: Notes) -> Self {
        let (method, uri) = (request.method(), request.uri());
        let params = Params::parse(uri.query().unwrap_or_default()).unwrap_or_default();
        let text = |name: &str| params.text(name).map(Cow::into_owned);
        let (operation, path) = match uri.path().strip_prefix(webhdfs::PREFIX) {
            Some(rest) => {
                let operation = Operation::parse(method, params.text("op").as_deref()).ok();
                let rest = if rest.is_empty() { "/" } else { rest };
                let path = percent_decode_str(rest).decode_utf8_lossy().into_owned();
                let name = operation.map_or("unknown", Operation::name);
                let changes = operation.is_some_and(Operation::changes);
                (Some((name, changes)), path)
            }
            None => {
                let change = api::change(method, uri.path());
                let path = text("path").unwrap_or_default();
                (change.map(|name| (name, true)), path)
            }
        };
        let from = request.extensions().get::<ClientAddress>();
        Self {
            began: Instant::now(),
            operation: operation.map(|(name, _)| name),
            changes: operation.is_some_and(|(_, changes)| changes),
            user: who::claimed(shared.settings(), &params),
            path,
            destination: text("destination").or_else(|| text("sources")),
            // Tests of the router alone have no connection.
            from: from.map_or(SocketAddr::from(([0; 4], 0)), |client| client.0),
            notes,
            finished: false,
            shared,
        }
    }

    fn finish(mut self, response: &mut Response) {
        self.finished = true;
        if let Some(user) = self.notes.with(|noted| noted.user.clone()) {
            response.extensions_mut().insert(Known(user));
        }
        let status = response.status();
        let failed = response.extensions().get::<Exception>();
        let failed = failed.map(|exception| exception.name());
        let problem = response.extensions().get::<Outcome>();
        let outcome = match (failed, problem) {
            (Some(exception), _) => exception,
            (None, Some(Outcome(code))) => code,
            (None, None) if status.is_success() || status.is_redirection() => "ok",
            (None, None) => status.canonical_reason().unwrap_or("refused"),
        };
        let failed = failed.or_else(|| (outcome != "ok").then_some("Problem"));
        self.count(failed);
        // The gateway that the client is sent to writes the line.
        if response.extensions().get::<Redirected>().is_none() {
            self.audit(status.as_u16(), outcome);
        }
    }

    fn count(&self, failed: Option<&'static str>) {
        if let Some(operation) = self.operation {
            let seconds = self.began.elapsed().as_secs_f64();
            self.shared.metrics().request(operation, failed, seconds);
        }
    }

    fn audit(&self, status: u16, outcome: &str) {
        let Some(operation) = self.operation.filter(|_| self.changes) else {
            return;
        };
        let noted = self.notes.with(|noted| noted.clone());
        let destination = noted.destination.or_else(|| self.destination.clone());
        self.shared.audit().write(&Entry {
            time_ms: self.shared.now_ms(),
            user: noted.user.as_ref().unwrap_or(&self.user),
            from: self.from,
            operation,
            path: noted.path.as_ref().unwrap_or(&self.path),
            destination: destination.as_deref(),
            status,
            outcome,
            duration_ms: milliseconds(self.began.elapsed()),
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.finished {
            self.count(Some("client gone"));
            self.audit(0, "client gone");
        }
    }
}
