//! Whose page asks. A browser sends a request of any page anywhere, and with `auth = "simple"` a request needs nothing that a
//! stranger's page does not have: so what changes something comes from our own page, or from no page at all. And a stranger's page is
//! its own in the eyes of a browser if the stranger's name server says that the page's name is this machine's address: so whoever asks
//! must call this machine by a name that no stranger can have.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cairn_daemon::config::GatewayAuth;
use serde_json::json;

use crate::record::Outcome;
use crate::server::{GatewayOptions, Shared};
use crate::{api, webhdfs};

/// Refuses changes that another site's page asks for, and whoever calls this machine by a stranger's name; and forbids browsers to guess
/// what an answer is.
pub(crate) async fn guard(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let changes = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    let path = request.uri().path();
    let guarded = path.starts_with(webhdfs::PREFIX) || path.starts_with(api::PREFIX);
    let mut response = if guarded && !shared.hosts().allow(&request) {
        refuse(
            "this machine is not known by that name: call it by its address, or add the name to `hosts` in [gateway]",
        )
    } else if changes && is_foreign(request.headers()) {
        refuse("a page of another site may not change anything here")
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn refuse(why: &str) -> Response {
    let code = "PermissionDenied";
    let body = Json(json!({ "error": why, "code": code }));
    let mut response = (StatusCode::FORBIDDEN, body).into_response();
    response.extensions_mut().insert(Outcome(code.to_owned()));
    response
}

/// Ends of names that nobody can register.
const PRIVATE_ENDS: [&str; 5] = [".local", ".internal", ".localhost", ".test", ".home.arpa"];

/// The names by which this machine may be asked.
pub(crate) enum Hosts {
    /// Any: a request proves by more than its words who asks.
    Any,
    /// These, addresses, and what no stranger can have as a name.
    Known(BTreeSet<String>),
}

impl Hosts {
    pub(crate) fn of(options: &GatewayOptions) -> Self {
        let (settings, cluster) = (&options.settings, &options.cluster);
        if settings.auth != GatewayAuth::Simple || cluster.tls.is_some() {
            return Self::Any;
        }
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let own = [own.trim(), cluster.host.as_str()];
        let all = settings.hosts.iter().chain(&cluster.namenodes);
        let all = all.map(String::as_str).chain(own).map(name);
        Self::Known(all.map(|name| name.to_ascii_lowercase()).collect())
    }

    fn allow(&self, request: &Request) -> bool {
        let Self::Known(known) = self else {
            return true;
        };
        let header = request.headers().get(header::HOST);
        let asked = match (request.uri().host(), header) {
            (Some(host), _) => host,
            (None, Some(host)) => host.to_str().unwrap_or("?.?"),
            // No browser is so terse.
            (None, None) => return true,
        };
        is_safe(name(asked), known)
    }
}

/// A host without its port, and without the dot that ends it.
fn name(host: &str) -> &str {
    let bare = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    if let Some((address, _)) = bare {
        return address;
    }
    let name = match host.rsplit_once(':') {
        // An address of IPv6 is nothing else than one.
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

fn is_safe(name: &str, known: &BTreeSet<String>) -> bool {
    let name = name.to_ascii_lowercase();
    let is_address = name.parse::<Ipv4Addr>().is_ok() || name.parse::<Ipv6Addr>().is_ok();
    // A name without a dot is of the local network.
    is_address
        || !name.contains('.')
        || known.contains(&name)
        || PRIVATE_ENDS.iter().any(|end| name.ends_with(end))
}

/// Browsers say where a request comes from; programs do not.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(site) = text("sec-fetch-site")
        && !["same-origin", "none"].contains(&site)
    {
        return true;
    }
    let Some(origin) = text("origin") else {
        return false;
    };
    let host = origin.split_once("://").map(|(_, host)| host);
    host.is_none() || host != text("host")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::http::{HeaderMap, HeaderName, HeaderValue};

    use super::{is_foreign, is_safe, name};

    #[test]
    fn names_that_a_stranger_can_have_are_told_from_our_own() {
        let known = BTreeSet::from(["nn1.example.com".to_owned()]);
        for (safe, host) in [
            (true, "127.0.0.1:9870"),
            (true, "10.0.0.1"),
            (true, "[::1]:9870"),
            (true, "localhost:9870"),
            (true, "namenode-1:9870"),
            (true, "nn.default.svc.cluster.local:9870"),
            (true, "NN1.example.com:9870"),
            (true, "nn1.example.com."),
            (false, "evil.example"),
            (false, "evil.example:9870"),
            (false, "nn1.example.com.evil.example"),
            (false, "127.0.0.1.evil.example:80"),
            (false, "[127.0.0.1.evil.example]"),
            (false, "?.?"),
        ] {
            assert_eq!(is_safe(name(host), &known), safe, "{host}");
        }
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |&(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn pages_of_others_are_told_from_our_own_and_from_programs() {
        for (foreign, lines) in [
            (false, &[("host", "a:1")][..]),
            (false, &[("host", "a:1"), ("origin", "http://a:1")]),
            (false, &[("host", "a:1"), ("origin", "https://a:1")]),
            (true, &[("host", "a:1"), ("origin", "http://a:2")]),
            (true, &[("host", "a:1"), ("origin", "http://evil")]),
            (true, &[("host", "a:1"), ("origin", "null")]),
            (true, &[("host", "a:1"), ("sec-fetch-site", "cross-site")]),
            (true, &[("host", "a:1"), ("sec-fetch-site", "same-site")]),
            (false, &[("host", "a:1"), ("sec-fetch-site", "same-origin")]),
            (false, &[("host", "a:1"), ("sec-fetch-site", "none")]),
        ] {
            assert_eq!(is_foreign(&headers(lines)), foreign, "{lines:?}");
        }
    }
}
