//! Bearer tokens of users: who has one is the user that it was issued for. Made and verified by namenodes alone.
//!
//! A token is a number and an HMAC-SHA256 over it and the cluster's id, under a key in replicated state that serves nothing
//! else. For whom it is, until when, and whether it was revoked stands beside the number in replicated state, so that a token
//! can be renewed, listed and revoked, and stays short.
//!
//! ```text
//! 0   version   u8   1
//! 1   id        u64  big-endian
//! 9   mac       32 bytes over "cairn user token", cluster id (16 bytes), bytes 0..9
//! 41
//! ```
//! People see it as `cairn-` and 82 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{ErrorCode, Failure};

/// Length of every token of this version.
pub const USER_TOKEN_BYTES: usize = 41;

const VERSION: u8 = 1;
const SIGNED_BYTES: usize = 9;
/// Keeps a MAC made for another purpose from being a token.
const DOMAIN: &[u8] = b"cairn user token";
/// So that people, and programs that look for leaked secrets, know one when they see it.
const PREFIX: &str = "cairn-";

/// A token as its bearer has it. Whether it is good only a namenode can say. It is a secret: `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct UserToken(Vec<u8>);

/// What tokens of one cluster are signed with.
#[derive(Clone)]
pub struct UserTokenKey {
    /// The cluster's id: a token of another cluster is never good here.
    pub cluster: [u8; 16],
    /// Random; never logged.
    pub secret: [u8; 32],
}

impl fmt::Debug for UserTokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserTokenKey")
    }
}

impl fmt::Debug for UserToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserToken")
    }
}

impl UserToken {
    /// As it crosses the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for UserToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl TryFrom<Vec<u8>> for UserToken {
    type Error = Failure;

    fn try_from(bytes: Vec<u8>) -> Result<Self, Failure> {
        if bytes.len() == USER_TOKEN_BYTES {
            return Ok(Self(bytes));
        }
        let message = format!("a token has {USER_TOKEN_BYTES} bytes");
        Err(Failure::new(ErrorCode::Unauthenticated, message))
    }
}

impl FromStr for UserToken {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let malformed = || Failure::new(ErrorCode::Unauthenticated, "that is not a token");
        let hex = text.trim().strip_prefix(PREFIX).ok_or_else(malformed)?;
        if hex.len() != 2 * USER_TOKEN_BYTES || !hex.is_ascii() {
            return Err(malformed());
        }
        let byte = |index| u8::from_str_radix(&hex[index..index + 2], 16);
        let bytes = (0..hex.len())
            .step_by(2)
            .map(byte)
            .collect::<Result<_, _>>();
        bytes.map(Self).map_err(|_| malformed())
    }
}

impl UserTokenKey {
    /// The token with this number.
    pub fn mint(&self, id: u64) -> UserToken {
        let mut token = vec![VERSION];
        token.extend_from_slice(&id.to_be_bytes());
        let mac = self.mac(&token).finalize().into_bytes();
        token.extend_from_slice(&mac);
        UserToken(token)
    }

    /// The number of a genuine token. The comparison takes the same time wherever a forgery differs.
    pub fn verify(&self, token: &[u8]) -> Result<u64, Failure> {
        let refuse = |why: &str| Failure::new(ErrorCode::Unauthenticated, why);
        if token.len() != USER_TOKEN_BYTES || token[0] != VERSION {
            return Err(refuse("token of an unknown kind"));
        }
        let (signed, mac) = token.split_at(SIGNED_BYTES);
        self.mac(signed)
            .verify_slice(mac)
            .map_err(|_| refuse("token is not genuine"))?;
        let id = signed[1..].try_into().map(u64::from_be_bytes);
        id.map_err(|_| refuse("token of an unknown kind"))
    }

    fn mac(&self, signed: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        mac.update(DOMAIN);
        mac.update(&self.cluster);
        mac.update(signed);
        mac
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::{USER_TOKEN_BYTES, UserToken, UserTokenKey};
    use crate::ErrorCode;

    fn key() -> UserTokenKey {
        UserTokenKey {
            cluster: [7; 16],
            secret: [3; 32],
        }
    }

    #[test]
    fn bytes_are_golden() {
        assert_eq!(
            key().mint(0x0102).to_string(),
            "cairn-0100000000000001029407e8d1997fba4a261400705f58f4e2dc5c\
             96dd54fda8020f95d709bf1879bf"
        );
    }

    #[test]
    fn another_cluster_or_key_refuses_it() {
        let token = key().mint(1);
        let cluster = UserTokenKey {
            cluster: [8; 16],
            ..key()
        };
        let secret = UserTokenKey {
            secret: [4; 32],
            ..key()
        };
        assert_eq!(key().verify(token.bytes()), Ok(1));
        assert!(cluster.verify(token.bytes()).is_err());
        assert!(secret.verify(token.bytes()).is_err());
    }

    #[test]
    fn debug_output_keeps_the_secret() {
        assert_eq!(
            format!("{:?} {:?}", key(), key().mint(1)),
            "UserTokenKey UserToken"
        );
    }

    proptest! {
        #[test]
        fn every_token_comes_back_as_text(id: u64) {
            let text = format!(" {}\n", key().mint(id));
            let token: UserToken = text.parse().unwrap();
            assert_eq!(key().verify(token.bytes()), Ok(id));
        }

        #[test]
        fn any_flipped_bit_is_refused(index in 0..USER_TOKEN_BYTES, bit in 0u8..8) {
            let mut token = key().mint(5).bytes().to_vec();
            token[index] ^= 1 << bit;
            assert_eq!(key().verify(&token).unwrap_err().code, ErrorCode::Unauthenticated);
        }

        #[test]
        fn arbitrary_bytes_and_texts_are_refused(token in prop::collection::vec(any::<u8>(), 0..60), text: String) {
            assert!(key().verify(&token).is_err());
            assert!(text.parse::<UserToken>().is_err());
        }
    }
}
