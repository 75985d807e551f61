//! Finds the leader among the namenodes: by the hint of one that is not, else by asking one after the other.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use cairn_protocol::rpc::{Peers, RpcError};
use cairn_protocol::{ErrorCode, Method};

/// How long a namenode may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Namenodes whose address is remembered.
const NAMENODES_MAX: usize = 64;

/// Calls to whoever leads.
pub(crate) struct Leader {
    peers: Peers,
    /// From the configuration: kept, since what the cluster says may be out of date after a long absence.
    configured: Vec<String>,
    addresses: Vec<String>,
    /// Index of the one to ask first.
    current: usize,
}

impl Leader {
    pub(crate) fn new(peers: Peers, configured: Vec<String>) -> Self {
        Self {
            peers,
            addresses: configured.clone(),
            configured,
            current: 0,
        }
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The namenodes that the leader told of.
    pub(crate) fn learn(&mut self, namenodes: &[String]) {
        let asked = self.addresses.get(self.current).cloned();
        let mut addresses: Vec<String> = namenodes.iter().take(NAMENODES_MAX).cloned().collect();
        for known in self.configured.iter().chain(&asked) {
            if !addresses.contains(known) {
                addresses.push(known.clone());
            }
        }
        self.current = addresses
            .iter()
            .position(|address| Some(address) == asked.as_ref())
            .unwrap_or(0);
        self.addresses = addresses;
    }

    /// Asks the leader. Every namenode is tried about once, and hints are followed; the last failure is the answer when
    /// nobody leads. `WrongCluster` is the answer only if all of them say so: one that was set up wrongly is passed over.
    pub(crate) async fn call<M: Message + Default>(
        &mut self,
        method: Method,
        request: &impl Message,
    ) -> Result<M, RpcError> {
        let mut last = RpcError::new(ErrorCode::Unavailable, "no namenode is known");
        let mut all_wrong = true;
        for _ in 0..self.addresses.len() + 1 {
            let address = self.addresses[self.current].clone();
            let call = self.peers.call_typed::<M>(
                &address,
                method.into(),
                request,
                Bytes::new(),
                CALL_TIMEOUT,
            );
            last = match call.await {
                Ok((reply, _)) => return Ok(reply),
                Err(error) if !moves_on(error.code()) => return Err(error),
                Err(error) => error,
            };
            all_wrong &= last.code() == ErrorCode::WrongCluster;
            self.follow(last.leader_hint.as_deref());
        }
        if last.code() == ErrorCode::WrongCluster && !all_wrong {
            let text = format!("no leader, and a namenode of another cluster: {last}");
            return Err(RpcError::new(ErrorCode::Unavailable, text));
        }
        Err(last)
    }

    fn follow(&mut self, hint: Option<&str>) {
        let hinted =
            hint.map(
                |hint| match self.addresses.iter().position(|address| address == hint) {
                    Some(index) => index,
                    None => {
                        self.addresses.truncate(NAMENODES_MAX);
                        self.addresses.push(hint.to_owned());
                        self.addresses.len() - 1
                    }
                },
            );
        let next = (self.current + 1) % self.addresses.len();
        self.current = hinted
            .filter(|index| *index != self.current)
            .unwrap_or(next);
    }
}

/// Whether another namenode may answer better.
fn moves_on(code: ErrorCode) -> bool {
    code.is_retryable()
        || matches!(
            code,
            ErrorCode::VersionMismatch | ErrorCode::Malformed | ErrorCode::WrongCluster
        )
}

#[cfg(test)]
mod tests {
    use super::Leader;
    use cairn_protocol::rpc::{ConnectionOptions, Hello, Peers};

    #[tokio::test]
    async fn hints_are_followed_and_configured_addresses_kept() {
        let peers = Peers::new(
            Hello::new("datanode", None, 0),
            ConnectionOptions::default(),
        );
        let mut leader = Leader::new(peers, vec!["a:1".into(), "b:1".into()]);
        leader.follow(Some("c:1"));
        assert_eq!(leader.addresses[leader.current], "c:1");
        // Who points at itself although it does not lead is passed over.
        leader.follow(Some("c:1"));
        assert_eq!(leader.addresses[leader.current], "a:1");
        leader.follow(None);
        assert_eq!(leader.addresses[leader.current], "b:1");
        leader.learn(&["c:1".into(), "d:1".into()]);
        assert_eq!(leader.addresses, ["c:1", "d:1", "a:1", "b:1"]);
        assert_eq!(leader.addresses[leader.current], "b:1");
    }
}
