//! Changes of a file's content that move no bytes through HTTP.

use cairn_client::Place;
use cairn_protocol::messages::common::InodeKind;

use super::call::{boolean, empty};
use super::{Answer, Call, Exception, Refusal};

/// Sources of one CONCAT, as the cluster limits them.
const SOURCES_MAX: usize = 1024;

pub(super) async fn concat(call: &Call) -> Answer {
    let sources = call.params.required("sources")?;
    let sources: Vec<Place> = sources
        .split(|&byte| byte == b',')
        .filter(|source| !source.is_empty())
        .map(Place::from)
        .collect();
    if sources.is_empty() || sources.len() > SOURCES_MAX {
        return Err(Refusal::parameter(
            "sources",
            format!("{} paths, 1 to {SOURCES_MAX} are possible", sources.len()),
        ));
    }
    let joined = call.fs.concat(call.place(), sources).await;
    joined.map_err(|error| call.fail(error))?;
    Ok(empty())
}

pub(super) async fn truncate(call: &Call) -> Answer {
    let Some(size) = call.params.number("newlength")? else {
        return Err(Refusal::parameter("newlength", "it is missing"));
    };
    let attributes = call.fs.stat(call.place()).await;
    let attributes = attributes.map_err(|error| call.fail(error))?;
    if attributes.kind == InodeKind::File as i32 && size > attributes.size {
        let message = format!(
            "Cannot truncate to a larger file size. Current size: {}, truncate size: {size}.",
            attributes.size
        );
        return Err(Refusal::new(Exception::HadoopIllegalArgument, message));
    }
    let cut = call.fs.truncate(call.place(), size).await;
    cut.map_err(|error| call.fail(error))?;
    Ok(boolean(true))
}
