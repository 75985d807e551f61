//! Whose page asks. A browser sends a request of any page anywhere, and with `auth = "simple"` a request needs nothing that a
//! stranger's page does not have: so what changes something comes from our own page, or from no page at all.

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Refuses changes that another site's page asks for; and forbids browsers to guess what an answer is.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let changes = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    let mut response = if changes && is_foreign(request.headers()) {
        let body = json!({
            "error": "a page of another site may not change anything here",
            "code": "PermissionDenied",
        });
        (StatusCode::FORBIDDEN, Json(body)).into_response()
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
    use axum::http::{HeaderMap, HeaderName, HeaderValue};

    use super::is_foreign;

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
