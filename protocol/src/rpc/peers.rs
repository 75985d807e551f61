//! Connections to many processes, by address: dialled when first needed, dialled again when broken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, ConnectionOptions};
use super::hello::Hello;
use super::message::{Reply, RpcError};
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
}

#[derive(Debug)]
struct Inner {
    hello: Mutex<Hello>,
    options: ConnectionOptions,
    /// Held for a look-up only. A slot's own lock is held while its address is dialled, so that all who want it share the attempt.
    slots: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Slot>>>>,
}

#[derive(Debug, Default)]
struct Slot {
    connection: Option<Connection>,
    /// The last attempt, if it failed.
    failed: Option<Failed>,
}

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
        }
    }

    /// Introduces this process differently from the next connection on: once it has learnt its cluster or id.
    pub fn set_hello(&self, hello: Hello) {
        *self
            .inner
            .hello
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = hello;
    }

    /// A live connection to `address`. If the last attempt failed a moment ago, so does this one, at once and in the same way:
    /// the caller knows better where else to go.
    pub async fn get(&self, address: &str) -> Result<Connection, Failure> {
        let slot = self.slot(address);
        let mut slot = slot.lock().await;
        if let Some(connection) = &slot.connection
            && !connection.is_closed()
        {
            return Ok(connection.clone());
        }
        slot.connection = None;
        if let Some(failed) = &slot.failed
            && Instant::now() < failed.retry_at
        {
            return Err(failed.failure.clone());
        }
        let hello = self
            .inner
            .hello
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match Connection::connect(address, hello, self.inner.options.clone()).await {
            Ok(connection) => {
                *slot = Slot {
                    connection: Some(connection.clone()),
                    failed: None,
                };
                Ok(connection)
            }
            Err(failure) => {
                let backoff = match &slot.failed {
                    Some(failed) => (failed.backoff * 2).min(BACKOFF_MAX),
                    None => BACKOFF_MIN,
                };
                let retry_at = Instant::now() + backoff;
                slot.failed = Some(Failed {
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

    fn slot(&self, address: &str) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut slots = self
            .inner
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(address) {
            return slot.clone();
        }
        if slots.len() >= ADDRESSES_MAX {
            // A slot that somebody is dialling is locked, and stays.
            slots.retain(|_, slot| slot.try_lock().map_or(true, |slot| slot.is_live()));
        }
        slots.entry(address.to_owned()).or_default().clone()
    }
}

impl Slot {
    fn is_live(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| !connection.is_closed())
    }
}
