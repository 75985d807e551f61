//! `/api/v1`: what WebHDFS cannot say. JSON in and out, and change feeds as server-sent events.
//!
//! | file | what |
//! |---|---|
//! | `cluster` | status, namenodes, datanodes, overview |
//! | `files` | listings; what a file is made of |
//! | `changes` | feeds |
//! | `records`, `clone`, `transactions`, `locks` | what changes something |
//! | `asker`, `problem` | how every request begins, and how those end that fail |
//!
//! Routes are added together with their description, so that `/api/v1/openapi.json` knows every one of them. Whatever is not a
//! success is a [`problem::Problem`].

mod asker;
pub(crate) mod changes;
mod clone;
mod cluster;
mod files;
pub(crate) mod locks;
mod names;
mod problem;
mod records;
mod transactions;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::Shared;
pub(crate) use problem::Problem;

/// Where it begins.
pub(crate) const PREFIX: &str = "/api/v1";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Cairn",
        description = "What WebHDFS (/webhdfs/v1) cannot say: status, change feeds, record append, clones, locks, transactions.\n\n\
            Who asks: with `auth = \"simple\"` the parameter `user.name`. Paths in parameters are percent-encoded bytes; paths in \
            JSON are text. Every failure is a `Problem`."
    ),
    components(schemas(problem::Problem)),
    tags(
        (name = "cluster", description = "How the cluster is"),
        (name = "files", description = "Files and what they are made of"),
        (name = "changes", description = "What changes, as server-sent events"),
        (name = "locks", description = "Advisory locks over the whole cluster")
    )
)]
struct Document;

/// The routes, and what they are.
fn described() -> OpenApiRouter<Arc<Shared>> {
    let v1 = OpenApiRouter::new()
        .routes(routes!(cluster::status))
        .routes(routes!(cluster::namenodes))
        .routes(routes!(cluster::datanodes))
        .routes(routes!(cluster::overview))
        .routes(routes!(changes::changes))
        .routes(routes!(changes::events))
        .routes(routes!(files::list))
        .routes(routes!(files::details))
        .routes(routes!(records::append))
        .routes(routes!(clone::clone))
        .routes(routes!(transactions::transact))
        .routes(routes!(locks::list, locks::lock))
        .routes(routes!(locks::renew, locks::unlock));
    OpenApiRouter::with_openapi(Document::openapi()).nest(PREFIX, v1)
}

/// Everything below [`PREFIX`].
pub(crate) fn router() -> Router<Arc<Shared>> {
    let (router, document) = described().split_for_parts();
    let text: Arc<str> = document
        .to_json()
        .expect("a description of types is JSON")
        .into();
    let document = move || async move {
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (kind, text.to_string()).into_response()
    };
    router
        .route("/api/v1/openapi.json", get(document))
        .route("/api/{*rest}", axum::routing::any(nothing))
        .method_not_allowed_fallback(|| async { Problem::no_method() })
}

/// What the audit log calls a request that changes something.
pub(crate) fn change(method: &Method, path: &str) -> Option<&'static str> {
    let rest = path.strip_prefix(PREFIX)?;
    match (method, rest) {
        (&Method::POST, "/files/append") => Some("RECORDAPPEND"),
        (&Method::POST, "/files/clone") => Some("CLONE"),
        (&Method::POST, "/transactions") => Some("TRANSACTION"),
        (&Method::POST, "/locks") => Some("LOCK"),
        (&Method::DELETE, rest) if rest.starts_with("/locks/") => Some("UNLOCK"),
        _ => None,
    }
}

async fn nothing() -> Response {
    let problem =
        Problem::not_found("there is nothing here; /api/v1/openapi.json says what there is");
    problem.into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::http::Method;
    use serde_json::Value;

    use super::{change, described};

    /// Statuses of the operations that succeed.
    fn successes(operation: &Value) -> Vec<&str> {
        let responses = operation["responses"].as_object().unwrap();
        let statuses = responses.keys().map(String::as_str);
        statuses.filter(|status| status.starts_with('2')).collect()
    }

    #[test]
    fn what_changes_something_has_a_name_in_the_audit_log() {
        let document = serde_json::to_value(described().into_openapi()).unwrap();
        let mut names = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for method in operations.as_object().unwrap().keys() {
                let method = method.to_uppercase().parse::<Method>().unwrap();
                let name = change(&method, path);
                // A lease is renewed in this gateway alone.
                let changes = ![Method::GET, Method::PUT].contains(&method);
                assert_eq!(name.is_some(), changes, "{method} {path}");
                names.extend(name);
            }
        }
        assert_eq!(names.len(), 5, "{names:?}");
    }

    #[test]
    fn every_operation_says_what_it_answers() {
        let document = serde_json::to_value(described().into_openapi()).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert!(paths.len() >= 11, "{paths:?}");
        for (path, operations) in paths {
            assert!(path.starts_with("/api/v1/"), "{path}");
            for (method, operation) in operations.as_object().unwrap() {
                assert_eq!(successes(operation).len(), 1, "{method} {path}");
                for status in ["400", "401", "403", "404", "429", "500", "503"] {
                    let problem = &operation["responses"][status];
                    assert!(problem.is_object(), "{method} {path} {status}");
                }
                assert!(operation["summary"].is_string(), "{method} {path}");
            }
        }
        // Nothing is referred to that is not there.
        let text = document.to_string();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
    }
}
