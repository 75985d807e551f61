//! CREATE and APPEND: a request's body into a file. Nothing is held while the body comes; a file gets its name when all of it is
//! there, so a broken upload leaves nothing.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cairn_client::{Place, WriteOptions, Writer, normalise};
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::InodeKind;
use cairn_protocol::messages::operation::IfExists;

use super::attributes::replication_limit;
use super::call::empty;
use super::redirect::{ascii, is_second_step, to_gateway};
use super::{Answer, Call, Exception, Refusal, Upload};

/// Of files, unless the client says another.
const FILE_MODE: u32 = 0o644;

/// Bits of access(2): to make a name in a directory.
const WRITE_AND_SEARCH: u32 = 3;

pub(super) async fn create(call: &Call, body: &mut Upload) -> Answer {
    let options = write_options(call)?;
    body.check_length()?;
    check_target(call, &options).await?;
    if !is_second_step(call) {
        return to_gateway(call, &[]).await;
    }
    let writer = call.fs.create_writer(call.place(), options);
    let writer = writer.map_err(|error| call.fail(error))?;
    receive(call, body, writer).await?;
    Ok(created(call))
}

pub(super) async fn append(call: &Call, body: &mut Upload) -> Answer {
    body.check_length()?;
    if !is_second_step(call) {
        // Opened only to hear what would be wrong with it.
        let writer = call.fs.open_append(call.place()).await;
        writer.map_err(|error| call.fail(error))?;
        return to_gateway(call, &[]).await;
    }
    let writer = call.fs.open_append(call.place()).await;
    let writer = writer.map_err(|error| call.fail(error))?;
    receive(call, body, writer).await?;
    Ok(empty())
}

/// All of the body into the writer. On any failure the writer is dropped, and with it what has no name yet.
async fn receive(call: &Call, body: &mut Upload, mut writer: Writer) -> Result<(), Refusal> {
    let received = &call.shared.metrics().received;
    while let Some(bytes) = body.next().await? {
        received.inc_by(bytes.len() as u64);
        let written = writer.write_bytes(bytes).await;
        written.map_err(|error| call.fail(error))?;
    }
    let closed = writer.close().await;
    closed
        .map(|_| ())
        .map_err(|error| named_too_late(call, error))
}

/// Somebody else took the name while we wrote.
fn named_too_late(call: &Call, error: cairn_client::Error) -> Refusal {
    match error.code() {
        ErrorCode::AlreadyExists => already_exists(call),
        ErrorCode::IsADirectory => exists_as_directory(call),
        _ => call.fail(error),
    }
}

fn already_exists(call: &Call) -> Refusal {
    let message = format!(
        "{} for client {} already exists",
        call.path_text(),
        call.from.ip()
    );
    Refusal::new(Exception::FileAlreadyExists, message)
}

fn exists_as_directory(call: &Call) -> Refusal {
    let message = format!("{} already exists as a directory", call.path_text());
    Refusal::new(Exception::FileAlreadyExists, message)
}

fn write_options(call: &Call) -> Result<WriteOptions, Refusal> {
    let params = &call.params;
    let mut overwrite = params.flag("overwrite")?.unwrap_or(false);
    let mut sync = false;
    for flag in params.text("createflag").unwrap_or_default().split(',') {
        match flag.trim().to_uppercase().as_str() {
            "OVERWRITE" => overwrite = true,
            "SYNC_BLOCK" => sync = true,
            // Wishes about places that Cairn chooses by itself.
            ""
            | "CREATE"
            | "NEW_BLOCK"
            | "NO_LOCAL_WRITE"
            | "NO_LOCAL_RACK"
            | "SHOULD_REPLICATE"
            | "IGNORE_CLIENT_LOCALITY" => {}
            other => {
                return Err(Refusal::unsupported(format!(
                    "createflag {other} is not supported"
                )));
            }
        }
    }
    let replication = match params.number("replication")? {
        None => 0,
        Some(number) => {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            match replication_limit(number, &call.path_text()) {
                Some(refusal) => return Err(refusal),
                None => number,
            }
        }
    };
    // Chunks have the size that the cluster has chosen; still a number must be one.
    params.number("blocksize")?;
    params.number("buffersize")?;
    params.permission("unmaskedpermission")?;
    Ok(WriteOptions {
        mode: params.permission("permission")?.unwrap_or(FILE_MODE),
        replication,
        if_exists: if overwrite {
            IfExists::Replace
        } else {
            IfExists::Fail
        },
        parents: params.flag("createparent")?.unwrap_or(true),
        sync,
        ..WriteOptions::default()
    })
}

/// What can be known before the bytes come. The last word is had when the file gets its name.
async fn check_target(call: &Call, options: &WriteOptions) -> Result<(), Refusal> {
    match call.fs.stat(call.place()).await {
        Ok(found) if found.kind == InodeKind::Directory as i32 => {
            return Err(exists_as_directory(call));
        }
        Ok(_) if options.if_exists == IfExists::Fail => return Err(already_exists(call)),
        Ok(_) => {}
        Err(error) if error.code() == ErrorCode::NotFound => {}
        Err(error) => return Err(call.fail(error)),
    }
    let normal = normalise(&call.path);
    let normal = normal.map_err(|failure| Refusal::parameter("path", failure))?;
    let slash = normal.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    let parent = Place::from(&normal[..slash.max(1)]);
    match call.fs.access(parent, WRITE_AND_SEARCH).await {
        Ok(()) => Ok(()),
        Err(error) if error.code() == ErrorCode::NotFound && options.parents => Ok(()),
        Err(error) => Err(call.fail(error)),
    }
}

fn created(call: &Call) -> Response {
    let host = call.headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let host = host.map_or_else(|| call.shared.bound().to_string(), str::to_owned);
    let rest = call.uri.path().strip_prefix(super::PREFIX);
    let location = format!("webhdfs://{host}{}", ascii(rest.unwrap_or("/")));
    let mut response = (StatusCode::CREATED, Body::empty()).into_response();
    // A path of bytes that no header can carry: the client knows it anyhow.
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
