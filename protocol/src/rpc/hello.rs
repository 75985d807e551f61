//! How two processes introduce themselves: the first frame each way, before anything else.

use std::fmt;

use bytes::Bytes;
use prost::Message;

use super::standing::Standing;
use crate::error::{ErrorCode, Failure};
use crate::net::{Proof, Role};

/// The oldest protocol that this process speaks.
pub const PROTOCOL_VERSION_MIN: u32 = 1;

/// The newest protocol that this process speaks.
pub const PROTOCOL_VERSION_MAX: u32 = 1;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// Multiplexed requests and replies.
    Calls,
    /// The frames of one stream.
    Stream,
}

/// Who a process is, and what it speaks.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Hello {
    /// Oldest protocol spoken.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// Newest protocol spoken.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// 16 bytes; empty from a process that does not know its cluster yet, which matches any.
    #[prost(bytes = "bytes", tag = "3")]
    pub cluster: Bytes,
    /// `namenode`, `datanode` or `client`.
    #[prost(string, tag = "4")]
    pub role: String,
    /// The namenode's or datanode's id; 0 if it has none.
    #[prost(uint64, tag = "5")]
    pub node: u64,
    /// 1 calls, 2 stream; set by whoever connects.
    #[prost(uint32, tag = "6")]
    pub kind: u32,
    /// A client's [`UserToken`](crate::user_token::UserToken), where clients need one; else empty. Never sent in the clear.
    #[prost(bytes = "bytes", tag = "7")]
    pub token: Bytes,
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("role", &self.role)
            .field("node", &self.node)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl Hello {
    /// Introduces this process. `cluster` is `None` while it is not known.
    pub fn new(role: impl Into<String>, cluster: Option<[u8; 16]>, node: u64) -> Self {
        Self {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            cluster: cluster
                .map(|id| Bytes::copy_from_slice(&id))
                .unwrap_or_default(),
            role: role.into(),
            node,
            kind: 0,
            token: Bytes::new(),
        }
    }

    /// The cluster that the process belongs to, if it knows one.
    pub fn cluster(&self) -> Result<Option<[u8; 16]>, Failure> {
        if self.cluster.is_empty() {
            return Ok(None);
        }
        let id = <[u8; 16]>::try_from(&self.cluster[..]);
        id.map(Some)
            .map_err(|_| Failure::new(ErrorCode::Malformed, "a cluster id has 16 bytes"))
    }

    /// The same with a token that says who asks.
    pub fn with_token(self, token: impl Into<Bytes>) -> Self {
        Self {
            token: token.into(),
            ..self
        }
    }

    /// Fails if it claims a role that the other end's certificate does not state.
    pub(crate) fn check_role(&self, proof: Proof) -> Result<(), Failure> {
        match Role::from_name(&self.role) {
            Some(role) if !proof.allows(role) => Err(Failure::new(
                ErrorCode::Unauthenticated,
                format!(
                    "it says that it is a {role}, and has no certificate for that",
                    role = self.role
                ),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn with_kind(mut self, kind: ConnectionKind) -> Self {
        self.kind = match kind {
            ConnectionKind::Calls => 1,
            ConnectionKind::Stream => 2,
        };
        self
    }

    pub(crate) fn connection_kind(&self) -> Result<ConnectionKind, Failure> {
        match self.kind {
            1 => Ok(ConnectionKind::Calls),
            2 => Ok(ConnectionKind::Stream),
            other => Err(Failure::new(
                ErrorCode::Malformed,
                format!("unknown kind of connection {other}"),
            )),
        }
    }

    /// The newest protocol that both processes speak, if they also belong together.
    pub(crate) fn agree(&self, theirs: &Hello) -> Result<u32, Failure> {
        if let (Some(our_cluster), Some(their_cluster)) = (self.cluster()?, theirs.cluster()?)
            && our_cluster != their_cluster
        {
            let message = format!(
                "{} of cluster {}, not {}",
                theirs.role,
                hex(&their_cluster),
                hex(&our_cluster)
            );
            return Err(Failure::new(ErrorCode::WrongCluster, message));
        }
        let version = self.version_max.min(theirs.version_max);
        if version < self.version_min.max(theirs.version_min) {
            let message = format!(
                "{} speaks protocol {} to {}, {} speaks {} to {}",
                self.role,
                self.version_min,
                self.version_max,
                theirs.role,
                theirs.version_min,
                theirs.version_max
            );
            return Err(Failure::new(ErrorCode::VersionMismatch, message));
        }
        Ok(version)
    }
}

fn hex(id: &[u8; 16]) -> String {
    // As `dfs status` shows it.
    uuid::Uuid::from_bytes(*id).simple().to_string()
}

/// The process at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// As it was dialled, or `ip:port` of an incoming connection.
    pub address: String,
    /// How it introduced itself.
    pub hello: Hello,
    /// The protocol version that both speak.
    pub version: u32,
    /// What is known of it besides its own words.
    pub proof: Proof,
    /// Whether it has shown yet that it may ask.
    pub standing: Standing,
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{ConnectionKind, Hello};
    use crate::ErrorCode;

    #[test]
    fn bytes_are_golden() {
        let hello = Hello {
            version_min: 1,
            version_max: 2,
            ..Hello::new("dn", Some([0xAB; 16]), 5)
        };
        let bytes = hello.with_kind(ConnectionKind::Stream).encode_to_vec();
        let mut golden = vec![0x08, 1, 0x10, 2, 0x1A, 16];
        golden.extend([0xAB; 16]);
        golden.extend([0x22, 2, b'd', b'n', 0x28, 5, 0x30, 2]);
        assert_eq!(bytes, golden);
    }

    #[test]
    fn the_newest_common_version_is_chosen() {
        let old = Hello {
            version_min: 1,
            version_max: 2,
            ..Hello::new("namenode", None, 1)
        };
        let new = Hello {
            version_min: 2,
            version_max: 4,
            ..Hello::new("datanode", Some([1; 16]), 2)
        };
        assert_eq!(old.agree(&new), Ok(2));
        assert_eq!(new.agree(&old), Ok(2));
    }

    #[test]
    fn processes_without_a_common_version_part() {
        let old = Hello {
            version_min: 1,
            version_max: 1,
            ..Hello::new("namenode", None, 1)
        };
        let new = Hello {
            version_min: 2,
            version_max: 4,
            ..Hello::new("datanode", None, 2)
        };
        assert_eq!(
            old.agree(&new).unwrap_err().code,
            ErrorCode::VersionMismatch
        );
    }

    #[test]
    fn clusters_do_not_mix_and_an_unknown_one_matches() {
        let one = Hello::new("namenode", Some([1; 16]), 1);
        let two = Hello::new("datanode", Some([2; 16]), 2);
        assert_eq!(one.agree(&two).unwrap_err().code, ErrorCode::WrongCluster);
        assert_eq!(one.agree(&Hello::new("client", None, 0)), Ok(1));
        let short = Hello {
            cluster: vec![1; 15].into(),
            ..two
        };
        assert_eq!(one.agree(&short).unwrap_err().code, ErrorCode::Malformed);
    }
}
