//! Connections to datanodes, and which of them failed us a moment ago.
//!
//! Bulk reads have connections of their own, so that a small read never waits behind megabytes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::rpc::{ConnectionOptions, FramedStream, Hello, Peers};
use cairn_protocol::{Failure, rpc::Connection};
use tokio::time::Instant;

use crate::namenode::lock;

/// Bulk connections per datanode.
const BULK_CONNECTIONS: usize = 2;

/// A datanode that could not be reached is asked last for this long.
const AVOID_FOR: Duration = Duration::from_secs(5);

/// One that is slow, for this long: then it gets another chance.
const AVOID_SLOW_FOR: Duration = Duration::from_secs(1);

/// What a read is like: decides on which connection it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadKind {
    /// Few bytes, somebody waits for them.
    Small,
    /// Many bytes at once.
    Bulk,
    /// Many bytes, and more to come right behind them.
    Sequential,
}

pub(crate) struct Datanodes {
    hello: Hello,
    options: ConnectionOptions,
    host: String,
    small: Peers,
    bulk: [Peers; BULK_CONNECTIONS],
    next_bulk: AtomicUsize,
    /// Addresses that were not reachable, and until when they are asked last. Bounded by the cluster's size; entries go as they
    /// are looked at.
    avoided: Mutex<BTreeMap<String, Instant>>,
}

impl Datanodes {
    pub(crate) fn new(hello: Hello, options: ConnectionOptions, host: String) -> Self {
        let peers = || Peers::new(hello.clone(), options.clone());
        Self {
            host,
            small: peers(),
            bulk: std::array::from_fn(|_| peers()),
            next_bulk: AtomicUsize::new(0),
            avoided: Mutex::new(BTreeMap::new()),
            hello,
            options,
        }
    }

    /// The name of this machine.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// A connection for a read.
    pub(crate) async fn connection(
        &self,
        address: &str,
        kind: ReadKind,
    ) -> Result<Connection, Failure> {
        let peers = match kind {
            ReadKind::Small => &self.small,
            ReadKind::Bulk | ReadKind::Sequential => {
                let index = self.next_bulk.fetch_add(1, Ordering::Relaxed) % BULK_CONNECTIONS;
                &self.bulk[index]
            }
        };
        peers.get(address).await
    }

    /// A stream of its own, for a pipeline.
    pub(crate) async fn stream(&self, address: &str) -> Result<FramedStream, Failure> {
        FramedStream::connect(address, self.hello.clone(), &self.options).await
    }

    /// Remembers that a datanode could not be reached.
    pub(crate) fn avoid(&self, address: &str, code: ErrorCode) {
        if matches!(
            code,
            ErrorCode::Unavailable | ErrorCode::TimedOut | ErrorCode::ConnectionLost
        ) {
            lock(&self.avoided).insert(address.to_owned(), Instant::now() + AVOID_FOR);
        }
    }

    /// Remembers that a datanode answered later than another one that was asked after it.
    pub(crate) fn avoid_slow(&self, address: &str) {
        let until = Instant::now() + AVOID_SLOW_FOR;
        let mut avoided = lock(&self.avoided);
        let known = avoided.entry(address.to_owned()).or_insert(until);
        *known = until.max(*known);
    }

    /// True while a datanode is asked last.
    pub(crate) fn is_avoided(&self, address: &str) -> bool {
        let mut avoided = lock(&self.avoided);
        match avoided.get(address) {
            Some(until) if Instant::now() < *until => true,
            Some(_) => {
                avoided.remove(address);
                false
            }
            None => false,
        }
    }
}
