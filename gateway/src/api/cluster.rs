//! How the cluster is. Names no files, so that it needs no user; `/metrics` tells as much.

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::asker::Onlooker;
use super::problem::{Answer, Problems};
use crate::lookout::recent_status;
use crate::overview::{self, Overview};
use crate::status::{self, Datanode, Namenode, Status};

/// A document that is out of date at once.
fn fresh(document: impl Serialize) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(document)).into_response()
}

/// The whole cluster at a glance: the same as `dfs status --json`.
#[utoipa::path(get, path = "/status", tag = "cluster",
    responses((status = 200, description = "As the leader sees it now", body = Status), Problems))]
pub(super) async fn status(onlooker: Onlooker) -> Answer<Response> {
    let status = recent_status(&onlooker.shared).await?;
    Ok(fresh(Status::from(&*status)))
}

/// The namenodes.
#[utoipa::path(get, path = "/namenodes", tag = "cluster",
    responses((status = 200, description = "As the leader sees them now", body = Vec<Namenode>), Problems))]
pub(super) async fn namenodes(onlooker: Onlooker) -> Answer<Response> {
    let status = recent_status(&onlooker.shared).await?;
    Ok(fresh(status::namenodes(&status)))
}

/// The datanodes.
#[utoipa::path(get, path = "/datanodes", tag = "cluster",
    responses((status = 200, description = "As the leader sees them now", body = Vec<Datanode>), Problems))]
pub(super) async fn datanodes(onlooker: Onlooker) -> Answer<Response> {
    let status = recent_status(&onlooker.shared).await?;
    Ok(fresh(status::datanodes(&status)))
}

/// All that the console shows: status, what is at risk since when and until when, space and its trend, work, slow requests.
///
/// It is an answer, too, that the cluster does not answer: `safety` then says so, and `status` is what was known before.
#[utoipa::path(get, path = "/overview", tag = "cluster",
    params(("user.name" = Option<String>, Query, description = "Who asks: slow requests are shown to who sent them, and to the superuser")),
    responses((status = 200, description = "As seen from this gateway", body = Overview), Problems))]
pub(super) async fn overview(onlooker: Onlooker) -> Answer<Response> {
    let document = overview::of(&onlooker.shared, onlooker.who.as_ref()).await;
    Ok(fresh(document))
}
