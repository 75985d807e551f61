//! What a service is asked and what it answers.

use std::fmt;

use bytes::Bytes;
use prost::Message;

use crate::error::{ErrorCode, Failure};
use crate::frame::{Flags, Frame};

/// A request as a service sees it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is asked.
    pub method: u16,
    /// The request message, encoded.
    pub header: Bytes,
    /// Raw bytes that go with it; often none.
    pub payload: Bytes,
}

impl Request {
    /// The request message.
    pub fn decode<M: Message + Default>(&self) -> Result<M, Failure> {
        decode(&self.header)
    }
}

/// The answer to a request that succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The reply message, encoded.
    pub header: Bytes,
    /// Raw bytes that go with it; often none.
    pub payload: Bytes,
}

impl Reply {
    /// A reply without payload.
    pub fn new(message: &impl Message) -> Self {
        Self {
            header: message.encode_to_vec().into(),
            payload: Bytes::new(),
        }
    }

    /// Adds raw bytes.
    pub fn with_payload(self, payload: Bytes) -> Self {
        Self { payload, ..self }
    }

    /// The reply message.
    pub fn decode<M: Message + Default>(&self) -> Result<M, Failure> {
        decode(&self.header)
    }
}

fn decode<M: Message + Default>(header: &Bytes) -> Result<M, Failure> {
    M::decode(header.clone()).map_err(|error| Failure::new(ErrorCode::Malformed, error.to_string()))
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct RpcError {
    /// What kind, and the nouns.
    #[source]
    pub failure: Failure,
    /// With `NotLeader`: the address to try instead, if the answering process knew it.
    pub leader_hint: Option<String>,
}

impl RpcError {
    /// A failure with its nouns and no hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Failure::new(code, message).into()
    }

    /// `NotLeader`, with the leader's address if it is known.
    pub fn not_leader(leader_hint: Option<String>) -> Self {
        Self {
            failure: ErrorCode::NotLeader.into(),
            leader_hint,
        }
    }

    /// What kind of failure.
    pub fn code(&self) -> ErrorCode {
        self.failure.code
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.leader_hint {
            Some(leader) => write!(f, "{} (try {leader})", self.failure),
            None => self.failure.fmt(f),
        }
    }
}

impl From<Failure> for RpcError {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            leader_hint: None,
        }
    }
}

impl From<ErrorCode> for RpcError {
    fn from(code: ErrorCode) -> Self {
        Failure::from(code).into()
    }
}

/// An [`RpcError`] on the wire: the header of a frame with the error flag.
#[derive(Clone, PartialEq, Message)]
pub struct ErrorReply {
    /// The number of an [`ErrorCode`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// The nouns.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Empty if there is none.
    #[prost(string, tag = "3")]
    pub leader_hint: String,
}

impl From<&RpcError> for ErrorReply {
    fn from(error: &RpcError) -> Self {
        Self {
            code: error.failure.code as u32,
            message: error.failure.message.clone(),
            leader_hint: error.leader_hint.clone().unwrap_or_default(),
        }
    }
}

impl From<ErrorReply> for RpcError {
    fn from(reply: ErrorReply) -> Self {
        let failure = match ErrorCode::from_number(reply.code) {
            Some(code) => Failure::new(code, reply.message),
            // A newer process may know more codes; ours says so instead of guessing.
            None => {
                let message = format!("unknown error code {}: {}", reply.code, reply.message);
                Failure::new(ErrorCode::Internal, message)
            }
        };
        let leader_hint = Some(reply.leader_hint).filter(|hint| !hint.is_empty());
        Self {
            failure,
            leader_hint,
        }
    }
}

impl Frame {
    /// The answer that `method` with `request_id` failed.
    pub fn error(method: u16, request_id: u64, error: &RpcError) -> Self {
        let header = ErrorReply::from(error).encode_to_vec().into();
        let flags = Flags::REPLY.with(Flags::ERROR);
        Self {
            method,
            flags,
            request_id,
            header,
            payload: Bytes::new(),
        }
    }

    /// What the frame says as a reply: its content, or the failure that it carries.
    pub fn into_reply(self) -> Result<Reply, RpcError> {
        if !self.flags.contains(Flags::ERROR) {
            return Ok(Reply {
                header: self.header,
                payload: self.payload,
            });
        }
        Err(match decode::<ErrorReply>(&self.header) {
            Ok(reply) => reply.into(),
            Err(failure) => failure.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{any, prop, proptest};
    use prost::Message;

    use super::{ErrorReply, RpcError};
    use crate::ErrorCode;
    use crate::frame::{Flags, Frame};

    #[test]
    fn error_bytes_are_golden() {
        let error = RpcError::not_leader(Some("a:1".to_owned()));
        let golden = [0x08, 32, 0x1A, 3, b'a', b':', b'1'];
        assert_eq!(ErrorReply::from(&error).encode_to_vec(), golden);
    }

    #[test]
    fn every_error_survives_the_wire() {
        for &code in ErrorCode::ALL {
            let error = RpcError::new(code, "/a/b");
            assert_eq!(Frame::error(1, 2, &error).into_reply(), Err(error));
        }
    }

    #[test]
    fn an_unknown_code_is_not_taken_for_a_known_one() {
        let reply = ErrorReply {
            code: 4_000_000,
            message: "news".to_owned(),
            ..ErrorReply::default()
        };
        let error = RpcError::from(reply);
        assert_eq!(error.code(), ErrorCode::Internal);
        assert_eq!(error.failure.message, "unknown error code 4000000: news");
    }

    proptest! {
        #[test]
        fn arbitrary_error_replies_never_panic(header in prop::collection::vec(any::<u8>(), 0..200)) {
            let flags = Flags::REPLY.with(Flags::ERROR);
            let frame = Frame { flags, header: Bytes::from(header), ..Frame::default() };
            assert!(frame.into_reply().is_err());
        }
    }
}
