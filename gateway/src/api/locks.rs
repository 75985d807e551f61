//! Advisory locks for clients that have no session of their own. The gateway holds a lock for a client as long as that renews its
//! lease; the end of the lease, or of the gateway, ends the lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use cairn_client::LockRequest;
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::lock::{LockHolder, LockMode, LockSpace};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::asker::{Asker, Told};
use super::names::shown;
use super::problem::{Answer, Problem, Problems};
use crate::error::GatewayError;
use crate::server::Shared;

/// Locks that one gateway holds for its clients.
const LEASES_MAX: usize = 4096;

/// How long a client may be silent, unless it says another time.
const LEASE_SECONDS: u32 = 30;
const LEASE_SECONDS_MAX: u32 = 3600;

/// Longest wait of one request.
const WAIT_SECONDS_MAX: u32 = 300;

/// How often leases are looked at: they end so much later at most.
const SWEEP: Duration = Duration::from_millis(250);

/// After a lock could not be let go of.
const RELEASE_AGAIN: Duration = Duration::from_secs(2);

/// The locks that this gateway holds, by the number that is their name and their owner.
#[derive(Default)]
pub(crate) struct Leases(Mutex<BTreeMap<u64, Lease>>);

#[derive(Clone, Copy)]
struct Lease {
    uid: u32,
    inode: InodeId,
    lasts: Duration,
    phase: Phase,
}

/// How far a lock has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Asked for: nobody knows its name yet, and it cannot end before it has begun.
    Asked,
    /// Granted; it ends at this time unless it is renewed.
    Held(Instant),
    /// To be let go of at this time, whatever happens.
    Ending(Instant),
}

/// What renewing came to.
#[derive(Debug, PartialEq, Eq)]
enum Renewal {
    /// It goes on for so long.
    On(Duration),
    /// It was lost together with the session that it was granted in.
    Lost,
    /// There is none of that name.
    Unknown,
}

impl Leases {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<u64, Lease>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, number: u64, lease: Lease) -> Answer<()> {
        self.with(|leases| {
            if leases.len() >= LEASES_MAX {
                let text = format!("{LEASES_MAX} locks are held here, and no more may be");
                return Err(Problem::new(ErrorCode::Overloaded, text));
            }
            leases.insert(number, lease);
            Ok(())
        })
    }

    /// Begins the lease of a lock that was granted.
    fn begin(&self, number: u64) {
        self.with(|leases| {
            if let Some(lease) = leases.get_mut(&number) {
                lease.phase = Phase::Held(Instant::now() + lease.lasts);
            }
        });
    }

    /// Has the sweep let go of whatever came of it.
    fn end(&self, number: u64) {
        self.with(|leases| {
            if let Some(lease) = leases.get_mut(&number) {
                lease.phase = Phase::Ending(Instant::now());
            }
        });
    }

    /// `is_held` tells whether the lock is still there: a lease that outlived it promises what nobody keeps.
    fn renew(&self, number: u64, uid: u32, is_held: impl FnOnce(InodeId) -> bool) -> Renewal {
        self.with(|leases| {
            let lease = leases.get_mut(&number).filter(|lease| lease.uid == uid);
            let held = lease.filter(|lease| matches!(lease.phase, Phase::Held(_)));
            let Some(lease) = held else {
                return Renewal::Unknown;
            };
            let now = Instant::now();
            if !is_held(lease.inode) {
                lease.phase = Phase::Ending(now);
                return Renewal::Lost;
            }
            lease.phase = Phase::Held(now + lease.lasts);
            Renewal::On(lease.lasts)
        })
    }

    fn take(&self, number: u64, uid: u32) -> Option<Lease> {
        self.with(|leases| {
            let lease = leases.get(&number)?;
            let mine = lease.uid == uid && lease.phase != Phase::Asked;
            if mine { leases.remove(&number) } else { None }
        })
    }

    fn ended(&self) -> Vec<(u64, Lease)> {
        let now = Instant::now();
        let is_over = |lease: &Lease| match lease.phase {
            Phase::Asked => false,
            Phase::Held(until) | Phase::Ending(until) => until <= now,
        };
        self.with(|leases| {
            let ended = leases.extract_if(.., |_, lease| is_over(lease));
            ended.collect()
        })
    }

    /// Lets go of what nobody renews, until `stop`.
    pub(crate) async fn keep(
        shared: Arc<Shared>,
        stop: CancellationToken,
    ) -> Result<(), GatewayError> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep(SWEEP) => {}
            }
            for (number, lease) in shared.leases().ended() {
                let keeper = Arc::clone(&shared);
                let released = async move {
                    if let Err(error) = release(&keeper, number, lease).await {
                        tracing::debug!(%error, "lock not released at the end of its lease");
                    }
                    Ok::<(), GatewayError>(())
                };
                shared.tasks().request("http lock lease", released);
            }
        }
    }
}

/// A lock that is asked for. Unless it is granted, the sweep lets go of what may come of it: whoever asked may be gone.
struct Request<'a> {
    leases: &'a Leases,
    number: u64,
    granted: bool,
}

impl Request<'_> {
    fn grant(mut self) {
        self.granted = true;
        self.leases.begin(self.number);
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if !self.granted {
            self.leases.end(self.number);
        }
    }
}

/// Lets go of a lock; on failure it is tried again after a while. In the gateway's own name: that of who took it may be good for
/// nothing by now, and unlocking needs no right.
async fn release(shared: &Shared, number: u64, lease: Lease) -> Result<(), cairn_client::Error> {
    let released = match shared.fs().await {
        Ok(fs) => {
            let space = LockSpace::Posix;
            fs.release_owner(lease.inode, space, number).await
        }
        Err(error) => Err(error),
    };
    if released.is_err() {
        let phase = Phase::Ending(Instant::now() + RELEASE_AGAIN);
        // It was counted a moment ago: there may be one too many for a while.
        shared
            .leases()
            .with(|leases| leases.insert(number, Lease { phase, ..lease }));
    }
    released
}

/// What a lock allows others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// To read, too.
    Read,
    /// Nothing.
    Write,
}

/// Which lock.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// Absolute path of a file.
    #[schema(example = "/counter")]
    path: String,
    mode: Mode,
    /// First byte.
    #[serde(default)]
    start: u64,
    /// Last byte; up to the end of the file, wherever that will be, unless said.
    end: Option<u64>,
    /// How long to wait for others, at most 300 s. 0, or not said: not at all.
    #[serde(default)]
    #[schema(maximum = 300)]
    wait_seconds: u32,
    /// The lock ends if it is not renewed for so long: 1 to 3600 s, 30 unless said.
    #[schema(minimum = 1, maximum = 3600)]
    lease_seconds: Option<u32>,
}

/// A lock that was granted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Granted {
    /// Its name, to renew and to release it, at this gateway.
    lock: String,
    inode: u64,
    /// It ends after this time unless it is renewed.
    lease_seconds: u64,
}

/// A lock, and who holds it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Holder {
    /// Name of the client, where it is known.
    client: String,
    session: u64,
    owner: String,
    pid: u32,
    /// `posix` (ranges) or `flock` (whole files): the two do not meet.
    space: String,
    /// `read` or `write`.
    mode: String,
    start: u64,
    /// Last byte; null is the end of the file, wherever that will be.
    #[schema(required)]
    end: Option<u64>,
}

impl From<&LockHolder> for Holder {
    fn from(holder: &LockHolder) -> Self {
        let flock = holder.space == LockSpace::Flock as i32;
        let write = holder.mode == LockMode::Write as i32;
        Self {
            client: holder.client_name.clone(),
            session: holder.session,
            owner: format!("{:016x}", holder.owner),
            pid: holder.pid,
            space: if flock { "flock" } else { "posix" }.to_owned(),
            mode: if write { "write" } else { "read" }.to_owned(),
            start: holder.start,
            end: (holder.end != u64::MAX).then_some(holder.end),
        }
    }
}

/// Who holds what on a file; the first 1000.
#[utoipa::path(get, path = "/locks", tag = "locks",
    params(
        ("path" = String, Query, description = "Absolute path of a file", example = "/counter"),
        ("user.name" = Option<String>, Query, description = "Who asks")
    ),
    responses((status = 200, description = "In order of their ranges", body = Vec<Holder>), Problems))]
pub(super) async fn list(asker: Asker) -> Answer<Json<Vec<Holder>>> {
    let path = asker.path("path")?;
    let locks = asker.fs.list_locks(path.as_slice()).await?;
    Ok(Json(locks.iter().map(Holder::from).collect()))
}

/// Locks a range of a file.
///
/// 409 if others hold what forbids it, and the wait is over: `holder` says who. Locks are advisory. This gateway holds it: renew
/// it here; if the gateway ends, so does the lock.
#[utoipa::path(post, path = "/locks", tag = "locks",
    params(("user.name" = Option<String>, Query, description = "Who asks: needs the right to read, or to write, the file")),
    request_body = Wish,
    responses((status = 201, description = "It is held", body = Granted), Problems))]
pub(super) async fn lock(
    asker: Asker,
    Told(wish): Told<Wish>,
) -> Answer<(StatusCode, Json<Granted>)> {
    asker.notes.paths(wish.path.as_bytes(), None);
    let granted = take(&asker, &wish).await?;
    Ok((StatusCode::CREATED, Json(granted)))
}

async fn take(asker: &Asker, wish: &Wish) -> Answer<Granted> {
    let lasts = wish.lease_seconds.unwrap_or(LEASE_SECONDS);
    if !(1..=LEASE_SECONDS_MAX).contains(&lasts) || wish.wait_seconds > WAIT_SECONDS_MAX {
        let text = format!(
            "lease_seconds is 1 to {LEASE_SECONDS_MAX}, and wait_seconds at most {WAIT_SECONDS_MAX}"
        );
        return Err(Problem::invalid(text));
    }
    let end = wish.end.unwrap_or(u64::MAX);
    if end < wish.start {
        return Err(Problem::invalid(
            "end is the last byte, and comes before start",
        ));
    }
    let number = asker.shared.fresh_number();
    let inode = InodeId(asker.fs.stat(wish.path.as_str()).await?.inode);
    let wanted = LockRequest {
        start: wish.start,
        end,
        write: wish.mode == Mode::Write,
        ..LockRequest::exclusive(number)
    };
    // It is noted before it is asked for: if the request is given up half-way, the sweep lets go of what came of it.
    let wait = Duration::from_secs(wish.wait_seconds.into());
    let lasts = Duration::from_secs(lasts.into());
    let lease = Lease {
        uid: asker.who.caller.uid,
        inode,
        lasts,
        phase: Phase::Asked,
    };
    let leases = asker.shared.leases();
    leases.put(number, lease)?;
    let request = Request {
        leases,
        number,
        granted: false,
    };
    acquire(asker, inode, wanted, wait).await?;
    request.grant();
    Ok(Granted {
        lock: format!("{number:016x}"),
        inode: inode.0,
        lease_seconds: lasts.as_secs(),
    })
}

async fn acquire(
    asker: &Asker,
    inode: InodeId,
    request: LockRequest,
    wait: Duration,
) -> Answer<()> {
    let Some(holder) = asker.fs.try_lock(inode, request).await? else {
        return Ok(());
    };
    if wait.is_zero() {
        return Err(Problem::held(&holder));
    }
    match timeout(wait, asker.fs.lock(inode, request)).await {
        Ok(locked) => Ok(locked?),
        Err(_) => Err(Problem::held(&holder)),
    }
}

/// A lock's name in a request.
type Named = Result<Path<String>, PathRejection>;

fn named(lock: Named) -> Answer<String> {
    let named = lock.map_err(|rejection| Problem::invalid(rejection.body_text()));
    named.map(|Path(lock)| lock)
}

fn number(text: &str) -> Answer<u64> {
    let parsed = u64::from_str_radix(text, 16);
    parsed.map_err(|_| unknown(text))
}

fn unknown(text: &str) -> Problem {
    let text = shown(text.as_bytes());
    Problem::not_found(format!(
        "{text}: no lock of yours that this gateway holds: its lease may have ended"
    ))
}

/// Renews the lease of a lock.
///
/// `LockLost` if the lock ended with the gateway's session: others may have held it since. Its name is then good for nothing.
#[utoipa::path(put, path = "/locks/{lock}", tag = "locks",
    params(
        ("lock" = String, Path, description = "Its name", example = "0000000000000001"),
        ("user.name" = Option<String>, Query, description = "Who asks: the one who took it")
    ),
    responses((status = 200, description = "It goes on", body = Renewed), Problems))]
pub(super) async fn renew(asker: Asker, lock: Named) -> Answer<Json<Renewed>> {
    let lock = named(lock)?;
    let number = number(&lock)?;
    let is_held = |inode| asker.fs.holds_locks(inode, LockSpace::Posix, number);
    let leases = asker.shared.leases();
    match leases.renew(number, asker.who.caller.uid, is_held) {
        Renewal::On(lasts) => Ok(Json(Renewed {
            lease_seconds: lasts.as_secs(),
        })),
        Renewal::Lost => {
            let text =
                "this lock is lost: the gateway's session ended, and others may have held it since";
            Err(Problem::new(ErrorCode::LockLost, text))
        }
        Renewal::Unknown => Err(unknown(&lock)),
    }
}

/// A lease that goes on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Renewed {
    /// For so long.
    lease_seconds: u64,
}

/// Lets go of a lock.
#[utoipa::path(delete, path = "/locks/{lock}", tag = "locks",
    params(
        ("lock" = String, Path, description = "Its name", example = "0000000000000001"),
        ("user.name" = Option<String>, Query, description = "Who asks: the one who took it")
    ),
    responses((status = 204, description = "It is free"), Problems))]
pub(super) async fn unlock(asker: Asker, lock: Named) -> Answer<StatusCode> {
    let lock = named(lock)?;
    asker.notes.paths(lock.as_bytes(), None);
    let_go(&asker, &lock).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn let_go(asker: &Asker, lock: &str) -> Answer<()> {
    let number = number(lock)?;
    let lease = asker.shared.leases().take(number, asker.who.caller.uid);
    let lease = lease.ok_or_else(|| unknown(lock))?;
    Ok(release(&asker.shared, number, lease).await?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cairn_protocol::ids::InodeId;
    use tokio::time::advance;

    use super::{Lease, Leases, Phase, Renewal, Request};

    const LASTS: Duration = Duration::from_secs(5);

    fn asked(leases: &Leases, number: u64) -> Request<'_> {
        let lease = Lease {
            uid: 7,
            inode: InodeId(2),
            lasts: LASTS,
            phase: Phase::Asked,
        };
        leases.put(number, lease).unwrap();
        let granted = false;
        Request {
            leases,
            number,
            granted,
        }
    }

    fn ended(leases: &Leases) -> Vec<u64> {
        let ended = leases.ended().into_iter();
        ended.map(|(number, _)| number).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_begins_when_the_lock_is_granted() {
        let leases = Leases::default();
        let request = asked(&leases, 1);
        advance(10 * LASTS).await;
        assert!(ended(&leases).is_empty(), "it has not begun");
        assert!(leases.take(1, 7).is_none());
        assert_eq!(leases.renew(1, 7, |_| true), Renewal::Unknown);
        request.grant();
        advance(LASTS / 2).await;
        assert!(ended(&leases).is_empty());
        assert_eq!(leases.renew(1, 8, |_| true), Renewal::Unknown);
        assert_eq!(leases.renew(1, 7, |_| true), Renewal::On(LASTS));
        advance(LASTS).await;
        assert_eq!(ended(&leases), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_or_lost_is_let_go_of() {
        let leases = Leases::default();
        drop(asked(&leases, 1));
        assert_eq!(ended(&leases), [1]);
        asked(&leases, 2).grant();
        assert_eq!(leases.renew(2, 7, |_| false), Renewal::Lost);
        assert_eq!(leases.renew(2, 7, |_| true), Renewal::Unknown);
        assert_eq!(ended(&leases), [2]);
    }
}
