//! Record append: one record at the end of a file, at an offset that the cluster chooses, exactly once and in one piece however many
//! others append.

use axum::Json;
use axum::body::Body;
use axum::http::StatusCode;
use cairn_client::RECORD_BYTES_MAX;
use serde::Serialize;
use utoipa::ToSchema;

use super::asker::{Asker, whole_body};
use super::problem::{Answer, Problems};

/// Where a record is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Appended {
    /// Its first byte in the file.
    offset: u64,
    length: u64,
}

/// Appends the body as one record.
///
/// A record is there as a whole or not at all. After 500 with the code `OutcomeUnknown` it may be either.
#[utoipa::path(post, path = "/files/append", tag = "files",
    params(
        ("path" = String, Query, description = "Absolute path of a file that exists", example = "/log"),
        ("user.name" = Option<String>, Query, description = "Who asks")
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The record, at most 16 MiB"),
    responses((status = 200, description = "Where it is", body = Appended), Problems))]
pub(super) async fn append(asker: Asker, body: Body) -> Answer<(StatusCode, Json<Appended>)> {
    let path = asker.path("path")?;
    asker.notes.paths(&path, None);
    let record = whole_body(body, RECORD_BYTES_MAX, &asker.shared).await?;
    let length = record.len() as u64;
    // A change under way is not dropped with the request: it would still happen.
    let offset = asker.fs.record_append(path, record).await?;
    asker.shared.metrics().received.inc_by(length);
    Ok((StatusCode::OK, Json(Appended { offset, length })))
}
