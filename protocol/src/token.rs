//! Access tokens: what a datanode asks for before it serves or accepts a byte. Minted by the namenode, verified without it.
//!
//! A token is an HMAC-SHA256 over the grant and the cluster's id, under a key that the namenode replicates and hands to
//! datanodes in heartbeats. The current and the previous key are accepted, so that a key can change under load.
//!
//! ```text
//! 0   version     u8   1
//! 1   kind        u8   1 read, 2 append, 3 instruct
//! 2   reserved    u16  0
//! 4   key id      u32
//! 8   chunk       u64  (instruct: 0)
//! 16  offset      u64  (read: first byte; append: epoch; instruct: datanode)
//! 24  length      u64  (read: bytes; append: start, the replica's length when the stream opens; instruct: the leader's term)
//! 32  expires at  u64  milliseconds since 1970, namenode time
//! 40  mac         32 bytes over "cairn token", cluster id (16 bytes), bytes 0..40
//! 72
//! ```
//! All integers are big-endian.

use std::fmt;

use bytes::{Buf, BufMut};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::ids::{ChunkId, DatanodeId, Epoch};
use crate::{ErrorCode, Failure};

/// Length of every token of this version.
pub const TOKEN_BYTES: usize = 72;

const VERSION: u8 = 1;
const GRANT_BYTES: usize = 40;
/// Keeps a MAC made for another purpose under the same key from being a token.
const DOMAIN: &[u8] = b"cairn token";

/// A secret and the number by which tokens refer to it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKey {
    /// Grows by one with each key.
    pub id: u32,
    /// Random; never logged.
    pub secret: [u8; 32],
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The keys that are good now, and the cluster they belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRing {
    /// The cluster's id: a token of another cluster is never good here.
    pub cluster: [u8; 16],
    /// New tokens are minted under this one.
    pub current: TokenKey,
    /// Tokens minted under this one are still good.
    pub previous: Option<TokenKey>,
}

impl KeyRing {
    fn key(&self, id: u32) -> Option<&TokenKey> {
        [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .find(|key| key.id == id)
    }

    fn mac(&self, key: &TokenKey, grant: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&key.secret).expect("HMAC takes keys of any length");
        mac.update(DOMAIN);
        mac.update(&self.cluster);
        mac.update(grant);
        mac
    }
}

/// What a token lets its bearer do with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantKind {
    /// Read bytes `offset..offset + len` of the chunk.
    Read {
        /// First byte.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// Append as the writer of `epoch`, to a replica that is `start` bytes long.
    Append {
        /// The chunk's current epoch.
        epoch: Epoch,
        /// The replica's length when the stream opens.
        start: u64,
    },
    /// Instruct a datanode as the leader of a term: only namenodes mint these, for themselves.
    Instruct {
        /// The datanode that is meant.
        datanode: DatanodeId,
        /// The leader's term.
        term: u64,
    },
}

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The only chunk it is good for.
    pub chunk: ChunkId,
    /// What may be done.
    pub kind: GrantKind,
    /// Milliseconds since 1970 in namenode time; the token is good before this instant.
    pub expires_at_ms: u64,
}

impl Grant {
    /// True if `len` bytes from `offset` of `chunk` may be read.
    pub fn covers_read(&self, chunk: ChunkId, offset: u64, len: u64) -> bool {
        let GrantKind::Read {
            offset: first,
            len: granted,
        } = self.kind
        else {
            return false;
        };
        let (Some(end), Some(end_granted)) = (offset.checked_add(len), first.checked_add(granted))
        else {
            return false;
        };
        self.chunk == chunk && first <= offset && end <= end_granted
    }

    /// True if the bearer may append to `chunk` in `epoch`, starting at `start`.
    pub fn covers_append(&self, chunk: ChunkId, epoch: Epoch, start: u64) -> bool {
        self.chunk == chunk && self.kind == GrantKind::Append { epoch, start }
    }

    /// True if the bearer may instruct `datanode` as the leader of `term`.
    pub fn covers_instruct(&self, datanode: DatanodeId, term: u64) -> bool {
        self.kind == GrantKind::Instruct { datanode, term }
    }

    fn encode(&self, key_id: u32) -> Vec<u8> {
        let (kind, first, second) = match self.kind {
            GrantKind::Read { offset, len } => (1, offset, len),
            GrantKind::Append { epoch, start } => (2, epoch.0, start),
            GrantKind::Instruct { datanode, term } => (3, datanode.0, term),
        };
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.put_u8(VERSION);
        bytes.put_u8(kind);
        bytes.put_u16(0);
        bytes.put_u32(key_id);
        bytes.put_u64(self.chunk.0);
        bytes.put_u64(first);
        bytes.put_u64(second);
        bytes.put_u64(self.expires_at_ms);
        bytes
    }

    /// Reads the part after the key id. The MAC has been checked, so `None` means a token of a newer minter.
    fn decode(kind: u8, mut bytes: &[u8]) -> Option<Self> {
        let chunk = ChunkId(bytes.try_get_u64().ok()?);
        let first = bytes.try_get_u64().ok()?;
        let second = bytes.try_get_u64().ok()?;
        let expires_at_ms = bytes.try_get_u64().ok()?;
        let kind = match kind {
            1 => GrantKind::Read {
                offset: first,
                len: second,
            },
            2 => GrantKind::Append {
                epoch: Epoch(first),
                start: second,
            },
            3 => GrantKind::Instruct {
                datanode: DatanodeId(first),
                term: second,
            },
            _ => return None,
        };
        Some(Self {
            chunk,
            kind,
            expires_at_ms,
        })
    }
}

/// A token for `grant` under the current key.
pub fn mint(keys: &KeyRing, grant: &Grant) -> Vec<u8> {
    let mut token = grant.encode(keys.current.id);
    let mac = keys.mac(&keys.current, &token).finalize().into_bytes();
    token.extend_from_slice(&mac);
    token
}

/// What `token` grants, if one of our keys made it for this cluster and it has not expired. The comparison takes the same
/// time wherever a forgery differs.
pub fn verify(keys: &KeyRing, token: &[u8], now_ms: u64) -> Result<Grant, Failure> {
    let refuse = |why: &str| Failure::new(ErrorCode::BadToken, why);
    if token.len() != TOKEN_BYTES {
        return Err(refuse("a token has 72 bytes"));
    }
    let (grant, mac) = token.split_at(GRANT_BYTES);
    let [version, kind, reserved @ ..] = [grant[0], grant[1], grant[2], grant[3]];
    if version != VERSION || reserved != [0, 0] {
        return Err(refuse("token of an unknown version"));
    }
    let key_id = u32::from_be_bytes([grant[4], grant[5], grant[6], grant[7]]);
    let key = keys
        .key(key_id)
        .ok_or_else(|| refuse("token under an unknown or retired key"))?;
    keys.mac(key, grant)
        .verify_slice(mac)
        .map_err(|_| refuse("token is not genuine"))?;
    let grant =
        Grant::decode(kind, &grant[8..]).ok_or_else(|| refuse("token of an unknown kind"))?;
    if now_ms >= grant.expires_at_ms {
        return Err(refuse(
            "token has expired: ask a namenode for another one, and see that the clocks agree",
        ));
    }
    Ok(grant)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::{Grant, GrantKind, KeyRing, TOKEN_BYTES, TokenKey, mint, verify};
    use crate::ErrorCode;
    use crate::ids::{ChunkId, Epoch};

    fn keys() -> KeyRing {
        KeyRing {
            cluster: [7; 16],
            current: TokenKey {
                id: 2,
                secret: [2; 32],
            },
            previous: Some(TokenKey {
                id: 1,
                secret: [1; 32],
            }),
        }
    }

    fn read() -> Grant {
        let kind = GrantKind::Read {
            offset: 4096,
            len: 8192,
        };
        Grant {
            chunk: ChunkId(0x1234),
            kind,
            expires_at_ms: 1000,
        }
    }

    #[test]
    fn bytes_are_golden() {
        let token = mint(&keys(), &read());
        let hex: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "01010000000000020000000000001234000000000000100000000000000020000\
             0000000000003e8ce5a0cc10a30dabf2734a5f4\
             f9c9a427e836b563e19d293d316c0ccd2be41672"
        );
    }

    #[test]
    fn a_token_is_good_until_it_expires() {
        let token = mint(&keys(), &read());
        assert_eq!(verify(&keys(), &token, 999), Ok(read()));
        let refused = verify(&keys(), &token, 1000).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (
                ErrorCode::BadToken,
                "token has expired: ask a namenode for another one, and see that the clocks agree"
            )
        );
    }

    #[test]
    fn the_previous_key_is_accepted_and_an_older_one_is_not() {
        let token = mint(&keys(), &read());
        let mut ring = keys();
        ring.previous = Some(std::mem::replace(
            &mut ring.current,
            TokenKey {
                id: 3,
                secret: [3; 32],
            },
        ));
        assert_eq!(verify(&ring, &token, 0), Ok(read()));
        ring.previous = None;
        assert!(verify(&ring, &token, 0).is_err());
    }

    #[test]
    fn another_cluster_refuses_it() {
        let token = mint(&keys(), &read());
        let other = KeyRing {
            cluster: [8; 16],
            ..keys()
        };
        assert!(verify(&other, &token, 0).is_err());
    }

    #[test]
    fn a_grant_covers_its_range_and_nothing_else() {
        let grant = read();
        assert!(grant.covers_read(ChunkId(0x1234), 4096, 8192));
        assert!(grant.covers_read(ChunkId(0x1234), 5000, 1));
        assert!(!grant.covers_read(ChunkId(0x1235), 5000, 1));
        assert!(!grant.covers_read(ChunkId(0x1234), 4095, 1));
        assert!(!grant.covers_read(ChunkId(0x1234), 4096, 8193));
        assert!(!grant.covers_read(ChunkId(0x1234), 4096, u64::MAX));
        assert!(!grant.covers_append(ChunkId(0x1234), Epoch(4096), 8192));
        let append = Grant {
            kind: GrantKind::Append {
                epoch: Epoch(3),
                start: 10,
            },
            ..grant
        };
        assert!(append.covers_append(ChunkId(0x1234), Epoch(3), 10));
        assert!(!append.covers_append(ChunkId(0x1234), Epoch(4), 10));
        assert!(!append.covers_append(ChunkId(0x1234), Epoch(3), 11));
        assert!(!append.covers_read(ChunkId(0x1234), 3, 10));
    }

    #[test]
    fn debug_output_keeps_the_secret() {
        assert!(!format!("{:?}", keys()).contains("2, 2"));
    }

    proptest! {
        #[test]
        fn every_grant_comes_back(chunk: u64, a: u64, b: u64, append: bool, expires_at_ms in 1u64..) {
            let kind = if append {
                GrantKind::Append { epoch: Epoch(a), start: b }
            } else {
                GrantKind::Read { offset: a, len: b }
            };
            let grant = Grant { chunk: ChunkId(chunk), kind, expires_at_ms };
            assert_eq!(verify(&keys(), &mint(&keys(), &grant), 0), Ok(grant));
        }

        #[test]
        fn any_flipped_bit_is_refused(index in 0..TOKEN_BYTES, bit in 0u8..8) {
            let mut token = mint(&keys(), &read());
            token[index] ^= 1 << bit;
            assert_eq!(verify(&keys(), &token, 0).unwrap_err().code, ErrorCode::BadToken);
        }

        #[test]
        fn arbitrary_bytes_are_refused(token in prop::collection::vec(any::<u8>(), 0..100)) {
            assert!(verify(&keys(), &token, 0).is_err());
        }
    }
}
