//! WebHDFS: `/webhdfs/v1/<path>?op=…`, as clients written for Hadoop speak it.
//!
//! | file | operations |
//! |---|---|
//! | `stat` | status of files and directories, listings, sums |
//! | `names` | making, moving and removing names; home and trash |
//! | `attributes` | owner, permission, times, replication, access |
//! | `xattrs` | extended attributes |
//! | `redirect` | which gateway a transfer goes to |
//! | `download`, `upload` | OPEN; CREATE and APPEND |
//! | `content` | CONCAT, TRUNCATE |
//! | `checksum` | GETFILECHECKSUM |
//! | `locations` | where a file's bytes are |
//! | `cluster` | defaults, space, storage policies |
//! | `tokens` | delegation tokens |
//! | `absent` | what Cairn has not: snapshots, erasure coding, ACLs, quotas |
//!
//! Nothing is held while a body is read or written. Answers are those of Hadoop 3.

mod absent;
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
use tokio::time::Instant;

use crate::audit::{Entry, milliseconds};
use crate::connections::ClientAddress;
use crate::error::GatewayError;
use crate::params::Params;
use crate::server::Shared;
use crate::who::{self, Who};

pub(crate) use call::{Answer, Call, Upload};
pub(crate) use operation::Operation;
pub(crate) use refusal::{Exception, Refusal};

/// Where it begins.
pub(crate) const PREFIX: &str = "/webhdfs/v1";

/// Answers every request below [`PREFIX`].
pub(crate) async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let began = Instant::now();
    let from = request.extensions().get::<ClientAddress>();
    // Tests of the router alone have no connection.
    let from = from.map_or(SocketAddr::from(([0; 4], 0)), |client| client.0);
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(body, &parts.headers, shared.settings());
    let java = is_java(&parts.headers);
    let question = Question::parse(parts, from);
    let record = Record::of(&question, &shared, began);
    let mut response = match question {
        Ok(question) => answer(&shared, question, &mut upload).await,
        Err(refusal) => Err(refusal),
    }
    .unwrap_or_else(IntoResponse::into_response);
    record.finish(&response);
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
    admit(shared, &question, &who)?;
    let known = Known(who.name.clone());
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
    let mut response = carry_out(&call, upload)
        .await
        .unwrap_or_else(IntoResponse::into_response);
    response.extensions_mut().insert(known);
    Ok(response)
}

/// Who asked, for the audit log: known only when that is proved.
#[derive(Clone)]
struct Known(String);

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
        Operation::GetAclStatus => absent::acl_status(call).await,
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
        | Operation::SetAcl
        | Operation::ModifyAclEntries
        | Operation::RemoveAclEntries
        | Operation::RemoveDefaultAcl
        | Operation::RemoveAcl
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

/// What the audit log and the counters keep of a request. A request whose client goes away before its answer leaves a line, too:
/// nobody was told what came of it.
struct Record {
    shared: Arc<Shared>,
    began: Instant,
    operation: Option<Operation>,
    user: String,
    path: String,
    destination: Option<String>,
    from: SocketAddr,
    finished: bool,
}

impl Record {
    fn of(question: &Result<Question, Refusal>, shared: &Arc<Shared>, began: Instant) -> Self {
        let mut record = Self {
            shared: Arc::clone(shared),
            began,
            operation: None,
            user: String::new(),
            path: String::new(),
            destination: None,
            from: SocketAddr::from(([0; 4], 0)),
            finished: false,
        };
        let Ok(question) = question else {
            return record;
        };
        let params = &question.params;
        let other = ["destination", "sources"];
        let destination = other.iter().find_map(|name| params.text(name));
        record.operation = Some(question.operation);
        record.user = who::claimed(shared.settings(), params);
        record.path = String::from_utf8_lossy(&question.path).into_owned();
        record.destination = destination.map(|text| text.into_owned());
        record.from = question.from;
        record
    }

    fn finish(mut self, response: &Response) {
        self.finished = true;
        let failed = response.extensions().get::<Exception>();
        let exception = failed.map(|exception| exception.name());
        self.count(exception);
        if let Some(Known(user)) = response.extensions().get() {
            self.user.clone_from(user);
        }
        let redirected = response.extensions().get::<redirect::Redirected>();
        // The gateway that the client is sent to writes the line.
        if redirected.is_none() {
            self.audit(response.status().as_u16(), exception.unwrap_or("ok"));
        }
    }

    fn name(&self) -> &'static str {
        self.operation.map_or("unknown", Operation::name)
    }

    fn count(&self, exception: Option<&'static str>) {
        let seconds = self.began.elapsed().as_secs_f64();
        let metrics = self.shared.metrics();
        metrics.request(self.name(), exception, seconds);
    }

    fn audit(&self, status: u16, outcome: &str) {
        if !self.operation.is_some_and(Operation::changes) {
            return;
        }
        self.shared.audit().write(&Entry {
            time_ms: self.shared.now_ms(),
            user: &self.user,
            from: self.from,
            operation: self.name(),
            path: &self.path,
            destination: self.destination.as_deref(),
            status,
            outcome,
            duration_ms: milliseconds(self.began.elapsed()),
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.finished {
            self.count(Some("client gone"));
            self.audit(0, "client gone");
        }
    }
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
