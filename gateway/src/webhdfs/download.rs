//! OPEN: a file's bytes, or a range of them, as a stream. Memory is bounded, and a client that reads slowly holds nothing but its
//! own read-ahead.

use std::ops::Range;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cairn_client::{Error, ReadStream, Reader};
use cairn_protocol::ids::DatanodeId;

use super::redirect::{is_second_step, to_gateway};
use super::{Answer, Call, Exception, Refusal};
use crate::server::Shared;

pub(super) async fn open(call: &Call) -> Answer {
    let offset = call.params.number("offset")?.unwrap_or(0);
    let length = call.params.number_unless_minus_one("length")?;
    if !is_second_step(call) {
        let holders = holders(call, offset).await?;
        return to_gateway(call, &holders).await;
    }
    let reader = call.fs.open(call.place()).await;
    let reader = reader.map_err(|error| call.fail(error))?;
    let size = reader.attributes().size;
    check_offset(call, offset, size)?;
    let asked_in_query = call.params.has("offset") || call.params.has("length");
    if !asked_in_query && let Some(asked) = call.headers.get(header::RANGE) {
        let asked = asked.to_str().unwrap_or_default();
        return Ok(match byte_range(asked, size) {
            Wanted::All => respond(call, &reader, 0..size, size, StatusCode::OK),
            Wanted::Part(range) => respond(call, &reader, range, size, StatusCode::PARTIAL_CONTENT),
            Wanted::Nothing => {
                let whole = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
                (StatusCode::RANGE_NOT_SATISFIABLE, whole, Body::empty()).into_response()
            }
        });
    }
    let end = offset.saturating_add(length.unwrap_or(u64::MAX)).min(size);
    let range = offset.min(size)..end;
    Ok(respond(call, &reader, range, size, StatusCode::OK))
}

/// Who has the bytes at `offset`. Fails as the transfer itself would.
pub(super) async fn holders(call: &Call, offset: u64) -> Result<Vec<DatanodeId>, Refusal> {
    let located = call.fs.extents(call.place(), offset, 1).await;
    let located = located.map_err(|error| call.fail(error))?;
    check_offset(call, offset, located.attributes.size)?;
    let chunk = located.extents.first();
    let chunk = chunk.and_then(|first| located.chunks.get(first.chunk_index as usize));
    let datanodes = chunk.map(|chunk| chunk.datanodes.as_slice());
    let datanodes = datanodes.unwrap_or_default().iter();
    Ok(datanodes.copied().map(DatanodeId).collect())
}

fn check_offset(call: &Call, offset: u64, size: u64) -> Result<(), Refusal> {
    if offset > 0 && offset >= size {
        let message = format!(
            "Offset={offset} out of the range [0, {size}); OPEN, path={}",
            call.path_text()
        );
        return Err(Refusal::new(Exception::Io, message));
    }
    Ok(())
}

fn respond(
    call: &Call,
    reader: &Reader,
    range: Range<u64>,
    size: u64,
    status: StatusCode,
) -> Response {
    let length = range.end.saturating_sub(range.start);
    let mut headers = HeaderMap::new();
    let kind = header::HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(
        header::ACCEPT_RANGES,
        header::HeaderValue::from_static("bytes"),
    );
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!(
            "bytes {}-{}/{size}",
            range.start,
            range.end.saturating_sub(1)
        );
        if let Ok(text) = text.try_into() {
            headers.insert(header::CONTENT_RANGE, text);
        }
    }
    let body = if call.method == Method::HEAD || length == 0 {
        Body::empty()
    } else {
        let download = Download {
            stream: reader.stream(range.start),
            left: length,
            shared: Arc::clone(&call.shared),
        };
        Body::from_stream(futures::stream::try_unfold(download, Download::next))
    };
    (status, headers, body).into_response()
}

/// A transfer under way.
struct Download {
    stream: ReadStream,
    left: u64,
    shared: Arc<Shared>,
}

/// Why a transfer broke off. The client sees that the connection ended early.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Read(#[from] Error),
    #[error("the file became shorter")]
    Shorter,
}

impl Download {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Broken> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut bytes = match self.stream.next().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(Broken::Shorter),
            Err(error) => {
                tracing::warn!(%error, "download broke off");
                return Err(error.into());
            }
        };
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        bytes.truncate(wanted);
        self.left -= bytes.len() as u64;
        self.shared.metrics().sent.inc_by(bytes.len() as u64);
        Ok(Some((bytes, self)))
    }
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// No range that we know, or several: the whole file is an answer to that.
    All,
    Part(Range<u64>),
    /// Nothing that the file has.
    Nothing,
}

fn byte_range(asked: &str, size: u64) -> Wanted {
    let Some((first, last)) = asked
        .strip_prefix("bytes=")
        .filter(|ranges| !ranges.contains(','))
        .and_then(|range| range.split_once('-'))
    else {
        return Wanted::All;
    };
    let range = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..size.min(last.saturating_add(1)),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..size,
        (Err(_), Ok(count)) if first.trim().is_empty() => size.saturating_sub(count)..size,
        _ => return Wanted::All,
    };
    if range.start >= range.end {
        Wanted::Nothing
    } else {
        Wanted::Part(range)
    }
}

#[cfg(test)]
mod tests {
    use super::{Wanted, byte_range};

    #[test]
    fn ranges_are_those_of_http() {
        let part = |start, end| Wanted::Part(start..end);
        for (asked, wanted) in [
            ("bytes=0-9", part(0, 10)),
            ("bytes=5-", part(5, 100)),
            ("bytes=-7", part(93, 100)),
            ("bytes=-700", part(0, 100)),
            ("bytes=90-200", part(90, 100)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=9-5", Wanted::All),
            ("bytes=1-2,5-6", Wanted::All),
            ("bytes=x", Wanted::All),
            ("bytes=-", Wanted::All),
            ("lines=1-2", Wanted::All),
        ] {
            assert_eq!(byte_range(asked, 100), wanted, "{asked}");
        }
        assert_eq!(byte_range("bytes=0-", 0), Wanted::Nothing);
    }
}
