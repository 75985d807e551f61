//! Feeds, as server-sent events: what changes in the file system, and all that the console shows.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use cairn_client::{FileSystem, Watch, WatchEvent, WatchOptions, WatchScope};
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::InodeKind;
use cairn_protocol::messages::feed::{Change as Told, ChangeKind, ChangeSet};
use futures::stream::{self, BoxStream, StreamExt};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use utoipa::ToSchema;

use super::asker::{Asker, Onlooker};
use super::files::kind;
use super::names::shown;
use super::problem::{Answer, Problem, Problems};
use crate::overview;
use crate::server::Shared;
use crate::who::Who;

/// Feeds of one gateway at a time.
pub(crate) const FEEDS_MAX: usize = 1024;

/// After a question that nobody answered.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The console begins with changes of so many entries of the log before now.
const RECENT_ENTRIES: u64 = 300;

/// What one mutation changed.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct Changes {
    /// Entry of the log: several mutations may share one.
    index: u64,
    changes: Vec<Change>,
}

/// One change of one inode.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct Change {
    /// `attributes`, `content`, `named`, `unnamed` or `gone`.
    kind: &'static str,
    inode: u64,
    inode_kind: &'static str,
    /// The directory of the name, or the one in which it was last given a name; 0 if that is not known.
    directory: u64,
    /// The name that it was given, or that it lost; absent where the caller may not read the directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    name: Option<String>,
    /// The path of that name, or one of the inode; of what is gone its last one. Of the last changes that come together, where the caller may
    /// read all directories of it and it is found soon.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    path: Option<String>,
}

impl From<&ChangeSet> for Changes {
    fn from(set: &ChangeSet) -> Self {
        Self {
            index: set.index,
            changes: set.changes.iter().map(Change::from).collect(),
        }
    }
}

impl From<&Told> for Change {
    fn from(change: &Told) -> Self {
        let change_kind = match change.kind() {
            ChangeKind::Attributes => "attributes",
            ChangeKind::Content => "content",
            ChangeKind::Named => "named",
            ChangeKind::Unnamed => "unnamed",
            ChangeKind::Gone => "gone",
            ChangeKind::Unspecified => "unknown",
        };
        Self {
            kind: change_kind,
            inode: change.inode,
            inode_kind: kind(change.inode_kind),
            directory: change.parent,
            name: (!change.name.is_empty()).then(|| shown(&change.name)),
            path: (!change.path.is_empty()).then(|| shown(&change.path)),
        }
    }
}

/// The change feed: what anybody changes, within moments, without gaps.
///
/// Events: `changes` (an index and what changed; the event's id is the index), `lost` (changes are missing: whatever was read before
/// may be out of date; the feed goes on from now), `problem` (the cluster does not answer; the feed goes on when it does). Who
/// reconnects with `Last-Event-ID`, or `after`, misses nothing: any gateway knows.
#[utoipa::path(get, path = "/changes", tag = "changes",
    params(
        ("path" = Option<String>, Query, description = "Only this file, or this directory and all below it", example = "/"),
        ("after" = Option<u64>, Query, description = "Changes after this index; from now on unless said"),
        ("paths" = Option<bool>, Query, description = "With paths of what changed, for people; not unless said"),
        ("user.name" = Option<String>, Query, description = "Who asks: names in directories that they may not read are left out")
    ),
    responses((status = 200, description = "A stream without an end", body = Changes, content_type = "text/event-stream"), Problems))]
pub(super) async fn changes(asker: Asker) -> Answer<Response> {
    let permit = permit(&asker.shared)?;
    let scope = scope(&asker).await?;
    let resumed = asker.headers.get("last-event-id");
    let resumed = resumed.and_then(|id| id.to_str().ok()?.parse().ok());
    let after = resumed.or(asker.params.number("after")?);
    let options = WatchOptions {
        scope,
        others_only: false,
    };
    let watch = match after {
        Some(index) => asker.fs.watch_after(options, index),
        None => asker.fs.watch(options).await?,
    };
    let watch = match asker.params.flag("paths")? {
        Some(true) => watch.with_paths(),
        _ => watch,
    };
    Ok(feed(&asker.shared, permit, feed_of(watch)))
}

/// All that the console shows, live.
///
/// Events: `overview` (as `/overview`), and of who says who they are also `changes`, `lost` and `problem` (as `/changes`), beginning
/// with recent ones.
#[utoipa::path(get, path = "/events", tag = "changes",
    params(("user.name" = Option<String>, Query, description = "Who asks")),
    responses((status = 200, description = "A stream without an end", body = overview::Overview, content_type = "text/event-stream"), Problems))]
pub(super) async fn events(onlooker: Onlooker) -> Answer<Response> {
    let Onlooker { shared, who } = onlooker;
    let permit = permit(&shared)?;
    let overviews = overviews(Arc::clone(&shared), who.clone());
    let all = match who {
        None => overviews,
        Some(who) => stream::select(overviews, recent(Arc::clone(&shared), who)).boxed(),
    };
    Ok(feed(&shared, permit, all))
}

type Events = BoxStream<'static, Event>;

fn permit(shared: &Shared) -> Answer<OwnedSemaphorePermit> {
    let permit = shared.feeds().clone().try_acquire_owned();
    permit.map_err(|_| {
        let text = format!("{FEEDS_MAX} feeds are open here, and no more may be");
        Problem::new(ErrorCode::Overloaded, text)
    })
}

/// A stream until the client goes or the gateway stops.
fn feed(shared: &Shared, permit: OwnedSemaphorePermit, events: Events) -> Response {
    let stop = shared.tasks().shutdown_token();
    let held = events.map(move |event| {
        let _held = &permit;
        Ok::<Event, std::convert::Infallible>(event)
    });
    let until = held.take_until(stop.cancelled_owned());
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let feed = Sse::new(until).keep_alive(KeepAlive::default());
    (headers, feed).into_response()
}

async fn scope(asker: &Asker) -> Answer<WatchScope> {
    if !asker.params.has("path") {
        return Ok(WatchScope::All);
    }
    let attributes = asker.fs.stat(asker.path("path")?).await?;
    let inode = InodeId(attributes.inode);
    Ok(if attributes.kind == InodeKind::Directory as i32 {
        WatchScope::Below(inode)
    } else {
        WatchScope::Inodes(vec![inode])
    })
}

fn json(name: &str, document: &impl Serialize) -> Event {
    // Text and numbers: nothing in it can fail.
    let text = serde_json::to_string(document).unwrap_or_default();
    Event::default().event(name).data(text)
}

/// What a watch tells, as events.
fn feed_of(watch: Watch) -> Events {
    let told = stream::unfold(watch, |mut watch| async move {
        let events = match watch.next().await {
            Ok(WatchEvent::Changes(sets)) => sets.iter().map(event_of).collect(),
            Ok(WatchEvent::Lost) => {
                let index = watch.index().to_string();
                vec![Event::default().event("lost").id(&index).data(&index)]
            }
            Err(error) => {
                sleep(AFTER_FAILURE).await;
                vec![json("problem", &Problem::from(error))]
            }
        };
        Some((stream::iter(events), watch))
    });
    told.flatten().boxed()
}

fn event_of(set: &ChangeSet) -> Event {
    json("changes", &Changes::from(set)).id(set.index.to_string())
}

/// Recent changes, and those that come.
fn recent(shared: Arc<Shared>, who: Who) -> Events {
    let begun = stream::once(async move {
        let fs: FileSystem = loop {
            match shared.fs().await {
                Ok(fs) => break fs.on_behalf_of(who.caller.clone()),
                Err(_) => sleep(AFTER_FAILURE).await,
            }
        };
        let seen = overview::applied_index(&shared).await;
        let after = seen.saturating_sub(RECENT_ENTRIES).max(1);
        feed_of(fs.watch_after(WatchOptions::default(), after).with_paths())
    });
    begun.flatten().boxed()
}

/// The overview, again and again.
fn overviews(shared: Arc<Shared>, who: Option<Who>) -> Events {
    let first = true;
    let told = stream::unfold((shared, who, first), |(shared, who, first)| async move {
        if !first {
            sleep(shared.lookout().pace()).await;
        }
        let document = overview::of(&shared, who.as_ref()).await;
        let event = json("overview", &document);
        Some((event, (shared, who, false)))
    });
    told.boxed()
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::common::InodeKind;
    use cairn_protocol::messages::feed::{Change, ChangeKind, ChangeSet};

    use super::Changes;

    #[test]
    fn changes_are_told_in_words() {
        let set = ChangeSet {
            index: 7,
            session: 1,
            changes: vec![Change {
                inode: 2,
                inode_kind: InodeKind::File as i32,
                parent: 1,
                kind: ChangeKind::Named as i32,
                name: b"a\xff".as_slice().into(),
                path: b"/b/a\xff".as_slice().into(),
            }],
        };
        let told = serde_json::to_value(Changes::from(&set)).unwrap();
        let expected = serde_json::json!({ "index": 7, "changes": [{
            "kind": "named", "inode": 2, "inode_kind": "file", "directory": 1, "name": "a\\xff", "path": "/b/a\\xff",
        }]});
        assert_eq!(told, expected);
    }
}
