//! WebHDFS: `/webhdfs/v1/<path>?op=…`, as clients written for Hadoop speak it.
//!
//! | file | operations |
//! |---|---|
//! | `stat` | status of files and directories, listings, sums |
//! | `names` | making, moving and removing names; home and trash |
//! | `attributes` | owner, permission, times, replication, access |
//! | `xattrs` | extended attributes |
//! | `acl` | access control lists |
//! | `redirect` | which gateway a transfer goes to |
//! | `download`, `upload` | OPEN; CREATE and APPEND |
//! | `content` | CONCAT, TRUNCATE |
//! | `checksum` | GETFILECHECKSUM |
//! | `locations` | where a file's bytes are |
//! | `cluster` | defaults, space, storage policies |
//! | `tokens` | delegation tokens |
//! | `absent` | what Cairn has not: snapshots, erasure coding, quotas |
//!
//! Nothing is held while a body is read or written. Answers are those of Hadoop 3.

mod absent;
mod acl;
mod attributes;
mod call;
mod checksum;
mod cluster;
mod content;
mod download;
mod locations;
mod names;
mod operation;
mod redirect;
mod refusal;
mod stat;
mod tokens;
mod upload;
mod xattrs;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use cairn_daemon::config::GatewayFollower;
use percent_encoding::percent_decode_str;

use crate::connections::ClientAddress;
use crate::error::GatewayError;
use crate::params::Params;
use crate::record::Notes;
use crate::server::Shared;
use crate::who::{self, Who};

pub(crate) use call::{Answer, Call, Upload};
pub(crate) use operation::Operation;
pub(crate) use redirect::Redirected;
pub(crate) use refusal::{Exception, Refusal};
pub(crate) use tokens::BriefTokens;

/// Where it begins.
pub(crate) const PREFIX: &str = "/webhdfs/v1";

/// Answers every request below [`PREFIX`].
pub(crate) async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let from = request.extensions().get::<ClientAddress>();
    // Tests of the router alone have no connection.
    let from = from.map_or(SocketAddr::from(([0; 4], 0)), |client| client.0);
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(body, &parts.headers, shared.settings());
    let java = is_java(&parts.headers);
    let question = Question::parse(parts, from);
    let mut response = match question {
        Ok(question) => answer(&shared, question, &mut upload).await,
        Err(refusal) => Err(refusal),
    }
    .unwrap_or_else(IntoResponse::into_response);
    if java {
        simplify(&mut response);
    }
    if upload.is_left() {
        let drained = async move {
            upload.drain().await;
            Ok::<(), GatewayError>(())
        };
        shared.tasks().request("http drain", drained);
    }
    response
}

/// A request as far as it can be understood without knowing who asks.
struct Question {
    operation: Operation,
    params: Params,
    path: Vec<u8>,
    parts: axum::http::request::Parts,
    from: SocketAddr,
}

impl Question {
    fn parse(parts: axum::http::request::Parts, from: SocketAddr) -> Result<Self, Refusal> {
        let params = Params::parse(parts.uri.query().unwrap_or_default())?;
        let operation = Operation::parse(&parts.method, params.text("op").as_deref())?;
        let rest = parts.uri.path().strip_prefix(PREFIX).unwrap_or_default();
        let mut path: Vec<u8> = percent_decode_str(rest).collect();
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(Self {
            operation,
            params,
            path,
            parts,
            from,
        })
    }
}

/// Who asks, and then what they ask for.
async fn answer(shared: &Arc<Shared>, question: Question, upload: &mut Upload) -> Answer {
    let users = shared.names().users().await;
    let headers = &question.parts.headers;
    let who = who::authenticate(shared, headers, &question.params, &users).await?;
    Notes::of(&question.parts.extensions).user(&who.name);
    admit(shared, &question, &who)?;
    let connected = shared.fs().await;
    let connected = connected.map_err(|error| Refusal::of(&error, &who.name))?;
    let call = Call {
        fs: connected.on_behalf_of(who.caller.clone()),
        shared: Arc::clone(shared),
        operation: question.operation,
        who,
        users,
        path: question.path,
        params: question.params,
        method: question.parts.method,
        uri: question.parts.uri,
        headers: question.parts.headers,
        from: question.from,
    };
    carry_out(&call, upload).await
}

async fn carry_out(call: &Call, body: &mut Upload) -> Answer {
    match call.operation {
        Operation::Open => download::open(call).await,
        Operation::Create => upload::create(call, body).await,
        Operation::Append => upload::append(call, body).await,
        Operation::GetFileChecksum => checksum::file_checksum(call).await,
        Operation::GetFileStatus => stat::file_status(call).await,
        Operation::GetFileLinkStatus => stat::link_status(call).await,
        Operation::ListStatus => stat::list(call).await,
        Operation::ListStatusBatch => stat::list_batch(call).await,
        Operation::GetContentSummary => stat::content_summary(call).await,
        Operation::GetQuotaUsage => stat::quota_usage(call).await,
        Operation::Mkdirs => names::mkdirs(call).await,
        Operation::Rename => names::rename(call).await,
        Operation::Delete => names::delete(call).await,
        Operation::CreateSymlink => names::create_symlink(call).await,
        Operation::GetLinkTarget => names::link_target(call).await,
        Operation::GetHomeDirectory => names::home_directory(call),
        Operation::GetTrashRoot => names::trash_root(call),
        Operation::GetTrashRoots => names::trash_roots(),
        Operation::SetOwner => attributes::set_owner(call).await,
        Operation::SetPermission => attributes::set_permission(call).await,
        Operation::SetTimes => attributes::set_times(call).await,
        Operation::SetReplication => attributes::set_replication(call).await,
        Operation::CheckAccess => attributes::check_access(call).await,
        Operation::GetXattrs => xattrs::get(call).await,
        Operation::ListXattrs => xattrs::list(call).await,
        Operation::SetXattr => xattrs::set(call).await,
        Operation::RemoveXattr => xattrs::remove(call).await,
        Operation::Concat => content::concat(call).await,
        Operation::Truncate => content::truncate(call).await,
        Operation::GetFileBlockLocations => locations::block_locations(call).await,
        Operation::GetBlockLocations => locations::located_blocks(call).await,
        Operation::GetServerDefaults => cluster::server_defaults(call),
        Operation::GetStatus => cluster::space(call).await,
        Operation::GetAllStoragePolicy => cluster::storage_policies(),
        Operation::GetStoragePolicy => cluster::storage_policy(call).await,
        Operation::SetStoragePolicy => cluster::set_storage_policy(call).await,
        Operation::UnsetStoragePolicy => cluster::unset_storage_policy(call).await,
        Operation::GetAclStatus => acl::status(call).await,
        Operation::SetAcl => acl::set(call).await,
        Operation::ModifyAclEntries => acl::modify(call).await,
        Operation::RemoveAclEntries => acl::remove_entries(call).await,
        Operation::RemoveDefaultAcl => acl::remove_default(call).await,
        Operation::RemoveAcl => acl::remove(call).await,
        Operation::GetSnapshottableDirectoryList => absent::snapshottable_directories(),
        Operation::GetErasureCodingPolicies => absent::erasure_coding_policies(),
        Operation::GetErasureCodingCodecs => absent::erasure_coding_codecs(),
        Operation::GetDelegationToken => tokens::get(call).await,
        Operation::RenewDelegationToken => tokens::renew(call).await,
        Operation::CancelDelegationToken => tokens::cancel(call).await,
        Operation::GetErasureCodingPolicy
        | Operation::SetErasureCodingPolicy
        | Operation::UnsetErasureCodingPolicy
        | Operation::EnableErasureCodingPolicy
        | Operation::DisableErasureCodingPolicy
        | Operation::SatisfyStoragePolicy
        | Operation::AllowSnapshot
        | Operation::DisallowSnapshot
        | Operation::CreateSnapshot
        | Operation::RenameSnapshot
        | Operation::DeleteSnapshot
        | Operation::GetSnapshotDiff
        | Operation::GetSnapshotDiffListing
        | Operation::GetSnapshotList
        | Operation::SetQuota
        | Operation::SetQuotaByStorageType => absent::refuse(call).await,
    }
}

/// Not too often, and not of a namenode that only follows where that matters.
fn admit(shared: &Shared, question: &Question, who: &Who) -> Result<(), Refusal> {
    let settings = shared.settings();
    if shared.rates().admit(who.caller.uid).is_err() {
        return Err(Refusal::too_often(
            &who.name,
            settings.requests_per_second_max,
        ));
    }
    if settings.follower == GatewayFollower::Standby && shared.leads() == Some(false) {
        return Err(Refusal::standby(question.operation.name()));
    }
    Ok(())
}

fn is_java(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes);
    agent.is_some_and(|agent| agent.starts_with(b"Java/"))
}

/// The client of Hadoop 3.5.0 fails on any content type that it parses, which it does for JSON; without one it reads JSON.
fn simplify(response: &mut Response) {
    let json = HeaderValue::from_static("application/json");
    if response.headers().get(header::CONTENT_TYPE) == Some(&json) {
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
}
