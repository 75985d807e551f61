//! Connections to many processes, by address: dialled when first needed, dialled again when broken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, ConnectionOptions};
use super::hello::Hello;
use super::message::{Reply, RpcError};
use crate::net::Role;
use crate::{ErrorCode, Failure};

/// After a failed attempt the address is left alone for this long, then twice as long, …
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// … up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Addresses without a live connection are forgotten beyond this many.
const ADDRESSES_MAX: usize = 1024;

/// One shared connection per address. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    inner: Arc<Inner>,
    expects: Option<Role>,
}

#[derive(Debug)]
struct Inner {
    hello: Mutex<Hello>,
    options: ConnectionOptions,
    /// Held for a look-up or an insertion only, never across an await.
    slots: Mutex<BTreeMap<String, Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    connection: Option<Connection>,
    /// Held while the address is dialled, so that all who want it share the attempt. Taken before `slots`.
    dialling: Arc<tokio::sync::Mutex<Option<Failed>>>,
}

/// The last attempt, if it failed.
#[derive(Debug)]
struct Failed {
    failure: Failure,
    backoff: Duration,
    retry_at: Instant,
}

impl Peers {
    /// No connections yet; each will introduce this process as `hello`.
    pub fn new(hello: Hello, options: ConnectionOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                hello: Mutex::new(hello),
                options,
                slots: Mutex::default(),
            }),
            expects: None,
        }
    }

    /// The same connections, for those whose certificates state `role`. In the clear everybody may be anything.
    pub fn expecting(&self, role: Role) -> Self {
        Self {
            inner: self.inner.clone(),
            expects: Some(role),
        }
    }

    /// Introduces this process differently from the next connection on: once it has learnt its cluster or id.
    pub fn set_hello(&self, hello: Hello) {
        *lock(&self.inner.hello) = hello;
    }

    /// A live connection to `address`. If the last attempt failed a moment ago, so does this one, at once and in the same
    /// way: the caller knows better where else to go.
    pub async fn get(&self, address: &str) -> Result<Connection, Failure> {
        let connection = self.live_or_dialled(address).await?;
        match self.expects {
            Some(role) if !connection.peer().proof.allows(role) => {
                let message = format!("{address} has no certificate of a {}", role.name());
                Err(Failure::new(ErrorCode::Unauthenticated, message))
            }
            _ => Ok(connection),
        }
    }

    async fn live_or_dialled(&self, address: &str) -> Result<Connection, Failure> {
        let dialling = match self.live_or_dialling(address) {
            Ok(connection) => return Ok(connection),
            Err(dialling) => dialling,
        };
        let mut failed = dialling.lock().await;
        if let Ok(connection) = self.live_or_dialling(address) {
            return Ok(connection);
        }
        if let Some(failed) = &*failed
            && Instant::now() < failed.retry_at
        {
            return Err(failed.failure.clone());
        }
        let hello = lock(&self.inner.hello).clone();
        match Connection::connect(address, hello, self.inner.options.clone()).await {
            Ok(connection) => {
                *failed = None;
                let mut slots = lock(&self.inner.slots);
                slots.entry(address.to_owned()).or_default().connection = Some(connection.clone());
                Ok(connection)
            }
            Err(failure) => {
                let backoff = match &*failed {
                    Some(failed) => (failed.backoff * 2).min(BACKOFF_MAX),
                    None => BACKOFF_MIN,
                };
                let retry_at = Instant::now() + backoff;
                *failed = Some(Failed {
                    failure: failure.clone(),
                    backoff,
                    retry_at,
                });
                Err(failure)
            }
        }
    }

    /// Sends a request to `address`, see [`Connection::call`]. Connecting, if need be, counts against `timeout` as well.
    pub async fn call(
        &self,
        address: &str,
        method: u16,
        header: &impl Message,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Reply, RpcError> {
        let deadline = Instant::now() + timeout;
        let connection = match timeout_at(deadline, self.get(address)).await {
            Ok(connection) => connection?,
            Err(_) => {
                return Err(RpcError::new(
                    ErrorCode::TimedOut,
                    format!("connect to {address}"),
                ));
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        connection.call(method, header, payload, left).await
    }

    /// Like [`Peers::call`], for a reply message of type `M`.
    pub async fn call_typed<M: Message + Default>(
        &self,
        address: &str,
        method: u16,
        header: &impl Message,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<(M, Bytes), RpcError> {
        let reply = self.call(address, method, header, payload, timeout).await?;
        Ok((reply.decode()?, reply.payload))
    }

    /// The live connection, or else what to hold while dialling.
    fn live_or_dialling(
        &self,
        address: &str,
    ) -> Result<Connection, Arc<tokio::sync::Mutex<Option<Failed>>>> {
        let mut slots = lock(&self.inner.slots);
        if let Some(slot) = slots.get(address) {
            return match &slot.connection {
                Some(connection) if !connection.is_closed() => Ok(connection.clone()),
                _ => Err(slot.dialling.clone()),
            };
        }
        if slots.len() >= ADDRESSES_MAX {
            slots.retain(|_, slot| slot.is_in_use());
        }
        Err(slots
            .entry(address.to_owned())
            .or_default()
            .dialling
            .clone())
    }
}

impl Slot {
    fn is_in_use(&self) -> bool {
        let live = self
            .connection
            .as_ref()
            .is_some_and(|connection| !connection.is_closed());
        live || Arc::strong_count(&self.dialling) > 1
    }
}

/// Nothing can leave these values half changed, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
