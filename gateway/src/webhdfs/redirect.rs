//! Sends a client to the gateway that carries its transfer. Any gateway can carry one: what says that a request is the second step is
//! the parameter `namenoderpcaddress`, as HDFS's own redirects have it.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cairn_protocol::ids::DatanodeId;
use cairn_protocol::user_token::UserToken;
use percent_encoding::{CONTROLS, utf8_percent_encode};
use serde_json::json;

use super::call::json_answer;
use super::tokens::brief;
use super::{Answer, Call, Exception, Refusal};
use crate::datanodes::Wish;

const SECOND_STEP: &str = "namenoderpcaddress";

/// Marks an answer that only says where to go.
#[derive(Clone, Copy)]
pub(crate) struct Redirected;

/// True if the client was sent here to transfer, or wants no further step.
pub(super) fn is_second_step(call: &Call) -> bool {
    call.params.has(SECOND_STEP)
}

/// To a datanode that holds the data, if `holders` names any; else to one that takes writes.
pub(super) async fn to_gateway(call: &Call, holders: &[DatanodeId]) -> Answer {
    let excluded = call.params.text("excludedatanodes").unwrap_or_default();
    let excluded: Vec<String> = excluded
        .split(',')
        .map(|one| one.trim().to_owned())
        .collect();
    let wish = Wish {
        holders,
        excluded: &excluded,
        client: call.from.ip(),
    };
    let connected = call.shared.fs().await.map_err(|error| call.fail(error))?;
    let chosen = call.shared.datanodes().choose(connected, &wish).await;
    let chosen = chosen.map_err(|error| call.fail(error))?;
    let authority = match chosen {
        Some(address) => address,
        // No datanode serves HTTP: this process does it itself.
        None => own_authority(call),
    };
    let path = ascii(call.uri.path());
    let query = ascii(call.uri.query().unwrap_or_default());
    let scheme = call.shared.scheme();
    // As HDFS does: clients do not send their `Authorization` to another address.
    let token = match UserToken::try_from(call.who.caller.token.clone()) {
        Err(_) => String::new(),
        Ok(_) if call.params.has("delegation") => String::new(),
        // URLs are written down in many places: a key to everything does not belong there.
        Ok(_) if call.who.by_proxy => format!("&delegation={}", brief(call).await?),
        Ok(token) => format!("&delegation={token}"),
    };
    let location = format!("{scheme}://{authority}{path}?{query}&{SECOND_STEP}=cairn{token}");
    let mut response = if call.params.flag("noredirect")?.unwrap_or(false) {
        json_answer(json!({ "Location": location }))
    } else {
        redirect(&location)?
    };
    response.extensions_mut().insert(Redirected);
    Ok(response)
}

/// A path or parameters exactly as they came, but that bytes beyond ASCII are escaped: Java sends them bare, and reads those of a header
/// as Latin-1.
pub(super) fn ascii(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, CONTROLS).into()
}

fn redirect(location: &str) -> Result<Response, Refusal> {
    let location = HeaderValue::from_str(location).map_err(|_| {
        let message = "the request's path or parameters have bytes that no header can carry";
        Refusal::new(Exception::IllegalArgument, message)
    })?;
    let kind = HeaderValue::from_static("application/octet-stream");
    let headers = [(header::LOCATION, location), (header::CONTENT_TYPE, kind)];
    Ok((StatusCode::TEMPORARY_REDIRECT, headers, Body::empty()).into_response())
}

/// How the client reached us.
fn own_authority(call: &Call) -> String {
    let host = call.headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    host.map_or_else(|| call.shared.bound().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::ascii;

    #[test]
    fn what_is_escaped_stays_so_and_the_rest_of_ascii_too() {
        assert_eq!(ascii("/a%20%C3%BC+b=c&d"), "/a%20%C3%BC+b=c&d");
        assert_eq!(ascii("/\u{fc}%41"), "/%C3%BC%41");
    }
}
