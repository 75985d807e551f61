//! The console: a page, its style and its script, from this binary. Everything it shows comes from `/api/v1` and WebHDFS.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Nothing from elsewhere, nothing inline, in nobody's frame. `blob:` is for previews of images.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct Asset {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

const ASSETS: [Asset; 9] = [
    Asset {
        path: "/",
        kind: HTML,
        text: include_str!("../assets/index.html"),
    },
    Asset {
        path: "/console/style.css",
        kind: CSS,
        text: include_str!("../assets/style.css"),
    },
    Asset {
        path: "/console/main.js",
        kind: JAVASCRIPT,
        text: include_str!("../assets/main.js"),
    },
    Asset {
        path: "/console/elements.js",
        kind: JAVASCRIPT,
        text: include_str!("../assets/elements.js"),
    },
    Asset {
        path: "/console/server.js",
        kind: JAVASCRIPT,
        text: include_str!("../assets/server.js"),
    },
    Asset {
        path: "/console/overview.js",
        kind: JAVASCRIPT,
        text: include_str!("../assets/overview.js"),
    },
    Asset {
        path: "/console/files.js",
        kind: JAVASCRIPT,
        text: include_str!("../assets/files.js"),
    },
    Asset {
        path: "/api/v1/",
        kind: HTML,
        text: include_str!("../assets/api.html"),
    },
    Asset {
        path: "/console/api.js",
        kind: JAVASCRIPT,
        text: include_str!("../assets/api.js"),
    },
];

/// The pages and what they load.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let icon = || async { serve("image/svg+xml", include_str!("../assets/icon.svg")) };
    let router = Router::new().route("/console/icon.svg", get(icon));
    ASSETS.iter().fold(router, |router, asset| {
        router.route(asset.path, get(|| async { serve(asset.kind, asset.text) }))
    })
}

fn serve(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Another version of the program has another page.
        (header::CACHE_CONTROL, "no-cache"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let mut response = text.into_response();
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::ASSETS;

    /// What the policy forbids would not work: nothing may need it.
    #[test]
    fn pages_load_only_what_is_here() {
        for asset in ASSETS {
            let text = asset.text;
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "style=\"",
                "onclick=",
                "//cdn",
            ] {
                assert!(!text.contains(forbidden), "{forbidden} in {}", asset.path);
            }
            for loaded in text.split("src=\"").skip(1) {
                assert!(
                    loaded.starts_with("/console/"),
                    "{}: {loaded:.40}",
                    asset.path
                );
            }
            for imported in text.split(" from \"./").skip(1) {
                let name = imported.split('"').next().unwrap();
                let path = format!("/console/{name}");
                assert!(ASSETS.iter().any(|asset| asset.path == path), "{path}");
            }
        }
    }
}
