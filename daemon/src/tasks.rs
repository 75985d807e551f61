//! All tasks of a daemon: counted, awaited, and stopped in order.
//!
//! Two kinds. A *component* is a part without which the daemon makes no sense: if it ends before it was told to, fails or
//! panics, the whole daemon shuts down and [`Tasks::run_until_shutdown`] gives the reason. A *request* is one connection
//! or job: it fails alone and is logged.
//!
//! Shutdown begins when the root token is cancelled (signal, failure, [`Tasks::shutdown`]). Those who let new work in
//! watch the root token and stop at once; requests get half the time to end; then components are told to stop one by
//! one, the last started first, so that each can still use those that it was built on. What is left after that is dropped:
//! `kill -9` is a normal exit.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

/// The tasks of one daemon. Clones are the same set.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    /// Cancelled when shutdown begins.
    root: CancellationToken,
    /// Cancelled when waiting ends: what still runs is dropped.
    abandon: CancellationToken,
    requests: TaskTracker,
    /// In order of start. Short critical sections only.
    components: Mutex<Vec<Component>>,
    /// Why a component brought the daemon down; the first reason wins.
    failure: Mutex<Option<anyhow::Error>>,
}

struct Component {
    name: &'static str,
    stop: CancellationToken,
    abort: AbortHandle,
    /// Taken by whoever awaits it.
    handle: Option<JoinHandle<()>>,
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Tasks {
    fn default() -> Tasks {
        Tasks::new()
    }
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Tasks {
        Tasks::with_root(CancellationToken::new())
    }

    /// Like [`Tasks::new`], and shuts down when `parent` is cancelled: several daemons in one process.
    pub fn under(parent: &CancellationToken) -> Tasks {
        Tasks::with_root(parent.child_token())
    }

    fn with_root(root: CancellationToken) -> Tasks {
        let inner = Inner {
            root,
            abandon: CancellationToken::new(),
            requests: TaskTracker::new(),
            components: Mutex::new(Vec::new()),
            failure: Mutex::new(None),
        };
        Tasks {
            inner: Arc::new(inner),
        }
    }

    /// Cancelled when shutdown begins. Accept loops and idle connections end on it; components stop on the token that
    /// they are given.
    pub fn shutdown_token(&self) -> CancellationToken {
        self.inner.root.clone()
    }

    /// Begins the shutdown; [`Tasks::run_until_shutdown`] then does it.
    pub fn shutdown(&self) {
        self.inner.root.cancel();
    }

    /// Starts a component. It must run until its token is cancelled (or the root token is, if it lets work in); then it
    /// should finish what it holds and return.
    pub fn component<F, E>(&self, name: &'static str, start: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error>,
    {
        let stop = CancellationToken::new();
        let future = start(stop.clone());
        let tasks = self.clone();
        let handle = spawn(async move {
            let ending = caught(future).await;
            tasks.component_ended(name, ending.map(|result| result.map_err(Into::into)));
        });
        let abort = handle.abort_handle();
        let component = Component {
            name,
            stop,
            abort,
            handle: Some(handle),
        };
        let mut components = guard(&self.inner.components);
        if self.inner.abandon.is_cancelled() {
            // Too late: `kill` has been here, or waits for the lock and will find nothing that runs.
            component.abort.abort();
        }
        components.push(component);
    }

    fn component_ended(&self, name: &'static str, ending: Result<anyhow::Result<()>, String>) {
        let reason = match ending {
            Ok(Ok(())) if self.inner.root.is_cancelled() => return,
            Ok(Ok(())) => anyhow::anyhow!("{name} ended early"),
            Ok(Err(error)) => error.context(format!("{name} failed")),
            Err(panic) => anyhow::anyhow!("{name} panicked: {panic}"),
        };
        error!(
            component = name,
            error = format!("{reason:#}"),
            "component failed"
        );
        guard(&self.inner.failure).get_or_insert(reason);
        self.inner.root.cancel();
    }

    /// Starts a request: an error is logged as a warning, a panic as an error, and nothing else happens. Bounding
    /// how many there are is up to the caller.
    pub fn request<F, E>(&self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error>,
    {
        let abandon = self.inner.abandon.clone();
        spawn(self.inner.requests.track_future(async move {
            let ending = tokio::select! {
                biased;
                () = abandon.cancelled() => return,
                ending = caught(future) => ending,
            };
            match ending {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let error: anyhow::Error = error.into();
                    warn!(
                        request = name,
                        error = format!("{error:#}"),
                        "request failed"
                    );
                }
                Err(panic) => error!(request = name, panic, "request panicked"),
            }
        }));
    }

    /// How many requests are running.
    pub fn request_count(&self) -> usize {
        self.inner.requests.len()
    }

    /// Names of the components that are running, in order of start.
    pub fn running_components(&self) -> Vec<&'static str> {
        let components = guard(&self.inner.components);
        let running = components
            .iter()
            .filter(|component| !component.abort.is_finished());
        running.map(|component| component.name).collect()
    }

    /// SIGTERM and SIGINT begin the shutdown; a second one ends it without waiting.
    pub fn shutdown_on_signals(&self) -> io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let tasks = self.clone();
        // Not counted: it has nothing to finish and ends with the runtime.
        spawn(async move {
            for step in [&tasks.inner.root, &tasks.inner.abandon] {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                info!(signal = name, "signal received");
                step.cancel();
            }
        });
        Ok(())
    }

    /// Waits for the shutdown and does it, in at most `timeout`. Fails with the reason if a component brought it about.
    pub async fn run_until_shutdown(&self, timeout: Duration) -> anyhow::Result<()> {
        self.inner.root.cancelled().await;
        info!("shutting down");
        let abandon = self.inner.abandon.clone();
        let in_time = tokio::select! {
            biased;
            () = abandon.cancelled() => false,
            result = tokio::time::timeout(timeout, self.drain(timeout / 2)) => result.is_ok(),
        };
        if !in_time {
            let (components, requests) = (self.running_components(), self.request_count());
            warn!(
                ?components,
                requests, "shutdown was cut short, the rest is abandoned"
            );
        }
        self.kill();
        match guard(&self.inner.failure).take() {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    async fn drain(&self, requests_timeout: Duration) {
        self.inner.requests.close();
        if tokio::time::timeout(requests_timeout, self.inner.requests.wait())
            .await
            .is_err()
        {
            warn!(
                requests = self.request_count(),
                "requests outlasted their time"
            );
        }
        while let Some(handle) = self.stop_last() {
            // The task itself has reported how it ended.
            let _ = handle.await;
        }
    }

    /// Tells the last started component that was not told yet.
    fn stop_last(&self) -> Option<JoinHandle<()>> {
        let mut components = guard(&self.inner.components);
        let component = components
            .iter_mut()
            .rev()
            .find(|component| component.handle.is_some())?;
        component.stop.cancel();
        component.handle.take()
    }

    /// Drops everything at once, as `kill -9` would.
    pub fn kill(&self) {
        self.inner.root.cancel();
        self.inner.abandon.cancel();
        for component in guard(&self.inner.components).iter() {
            component.abort.abort();
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the door that everyone else must use"
)]
fn spawn(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(future)
}

/// Runs a future and turns a panic into its message.
async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    poll_fn(|context| {
        // After a panic the future is never polled again, so nobody sees what it left half done.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic_message(&*panic))),
        }
    })
    .await
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("unknown reason").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    type Nothing = Result<(), anyhow::Error>;

    const TIMEOUT: Duration = Duration::from_secs(10);

    async fn until(stop: CancellationToken) -> Nothing {
        stop.cancelled().await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn requests_drain_first_and_components_stop_in_reverse_order_of_start() {
        let tasks = Tasks::new();
        let (sender, events) = mpsc::channel();
        for name in ["first", "second", "third"] {
            let sender = sender.clone();
            tasks.component(name, |stop| async move {
                until(stop).await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
                sender.send(name)?;
                Nothing::Ok(())
            });
        }
        tasks.request("request", async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            sender.send("request")?;
            Nothing::Ok(())
        });
        assert_eq!(tasks.request_count(), 1);
        assert_eq!(tasks.running_components(), ["first", "second", "third"]);
        tasks.shutdown();
        tasks.run_until_shutdown(TIMEOUT).await.unwrap();
        let events: Vec<_> = events.iter().collect();
        assert_eq!(events, ["request", "third", "second", "first"]);
        assert!(tasks.running_components().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_component_that_ends_fails_or_panics_brings_everything_down() {
        async fn outcome(part: impl Future<Output = Nothing> + Send + 'static) -> String {
            let tasks = Tasks::new();
            tasks.component("other", until);
            tasks.component("part", |_| part);
            let error = tasks.run_until_shutdown(TIMEOUT).await.unwrap_err();
            assert!(tasks.running_components().is_empty());
            format!("{error:#}")
        }
        assert_eq!(outcome(async { Ok(()) }).await, "part ended early");
        let fails = async { Err(anyhow::anyhow!("disk is gone")) };
        assert_eq!(outcome(fails).await, "part failed: disk is gone");
        assert_eq!(
            outcome(async { panic!("bug {}", 1) }).await,
            "part panicked: bug 1"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_fails_alone() {
        let tasks = Tasks::new();
        tasks.component("other", until);
        tasks.request("failing", async {
            Nothing::Err(anyhow::anyhow!("peer went away"))
        });
        tasks.request("panicking", async { panic!("bug") as Nothing });
        while tasks.request_count() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!tasks.shutdown_token().is_cancelled());
        assert_eq!(tasks.running_components(), ["other"]);
        tasks.shutdown();
        tasks.run_until_shutdown(TIMEOUT).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_in_time_is_abandoned() {
        let tasks = Tasks::new();
        let (sender, dropped) = tokio::sync::oneshot::channel::<()>();
        tasks.component("deaf", |_| std::future::pending::<Nothing>());
        tasks.request("endless", async move {
            let _sender = sender;
            std::future::pending::<Nothing>().await
        });
        tasks.shutdown();
        let start = tokio::time::Instant::now();
        tasks.run_until_shutdown(TIMEOUT).await.unwrap();
        assert_eq!(start.elapsed(), TIMEOUT);
        dropped.await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_starts_after_a_kill() {
        let tasks = Tasks::new();
        let (sender, dropped) = tokio::sync::oneshot::channel::<()>();
        tasks.kill();
        tasks.component("late", |stop| async move {
            let _sender = sender;
            until(stop).await
        });
        dropped.await.unwrap_err();
        tasks.run_until_shutdown(TIMEOUT).await.unwrap();
    }

    #[tokio::test]
    async fn a_first_signal_begins_the_shutdown_and_a_second_one_ends_it() {
        fn send(signal: &str) {
            // The shell's own: a small system has no program of that name.
            let line = format!("kill {signal} {}", std::process::id());
            let status = std::process::Command::new("sh")
                .args(["-c", &line])
                .status();
            assert!(status.unwrap().success());
        }
        let tasks = Tasks::new();
        tasks.shutdown_on_signals().unwrap();
        tasks.component("deaf", |_| std::future::pending::<Nothing>());
        send("-TERM");
        tasks.shutdown_token().cancelled().await;
        send("-INT");
        // Without the second signal this would take longer than any test may.
        tasks
            .run_until_shutdown(Duration::from_secs(1_000_000))
            .await
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_parent_token_shuts_its_daemons_down() {
        let parent = CancellationToken::new();
        let tasks = Tasks::under(&parent);
        tasks.component("other", until);
        parent.cancel();
        tasks.run_until_shutdown(TIMEOUT).await.unwrap();
    }
}
