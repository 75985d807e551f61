//! What went wrong, as JSON: a sentence for people, a code for programs, and the HTTP status of that code.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cairn_client::Error;
use cairn_protocol::messages::lock::LockHolder;
use cairn_protocol::{ErrorCode, Failure};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder, response::Response as Described};
use utoipa::{IntoResponses, ToSchema};

use super::locks::Holder;
use crate::error::http_status;
use crate::record::Outcome;
use crate::webhdfs::{Exception, Refusal};

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// For people.
    error: String,
    /// For programs: a name that stays the same.
    code: String,
    /// The lock that is in the way, if that is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    holder: Option<Box<Holder>>,
    #[serde(skip)]
    status: StatusCode,
}

/// What an operation comes to.
pub(crate) type Answer<T> = Result<T, Problem>;

impl Problem {
    pub(crate) fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self::with(http_status(code), format!("{code:?}"), error.into())
    }

    fn with(status: StatusCode, code: String, error: String) -> Self {
        Self {
            error,
            code,
            holder: None,
            status,
        }
    }

    /// The caller's fault.
    pub(crate) fn invalid(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, error)
    }

    pub(crate) fn not_found(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, error)
    }

    pub(crate) fn no_method() -> Self {
        let error = "there is such a path, but not with this method".to_owned();
        Self::with(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed".to_owned(),
            error,
        )
    }

    pub(crate) fn media_type() -> Self {
        let error = "the body must be JSON: Content-Type: application/json".to_owned();
        let code = "UnsupportedMediaType".to_owned();
        Self::with(StatusCode::UNSUPPORTED_MEDIA_TYPE, code, error)
    }

    /// Somebody holds what forbids a lock.
    pub(crate) fn held(holder: &LockHolder) -> Self {
        let mut problem = Self::new(ErrorCode::WouldBlock, "somebody else holds a lock");
        // To HTTP it is a conflict that a later attempt may not meet.
        problem.holder = Some(Box::new(Holder::from(holder)));
        problem
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code, failure.to_string())
    }
}

/// Of a request's parameters, and of who asks.
impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = match refusal.exception {
            Exception::Security | Exception::InvalidToken => {
                (StatusCode::UNAUTHORIZED, "Unauthenticated")
            }
            Exception::AccessControl | Exception::Authorization => {
                (StatusCode::FORBIDDEN, "PermissionDenied")
            }
            Exception::TooOften => (StatusCode::TOO_MANY_REQUESTS, "Overloaded"),
            Exception::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "TooLarge"),
            Exception::Retriable => (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
            _ => (StatusCode::BAD_REQUEST, "InvalidArgument"),
        };
        let error = refusal.message.replace("webhdfs parameter", "parameter");
        Self::with(status, code.to_owned(), error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let outcome = Outcome(self.code.clone());
        let mut response = (self.status, Json(self)).into_response();
        response.extensions_mut().insert(outcome);
        response
    }
}

/// Every answer that is not a success, for the description of the API.
pub(crate) struct Problems;

/// Which statuses there are, and when.
const STATUSES: [(u16, &str); 16] = [
    (400, "The request makes no sense; the message says what"),
    (401, "Who asks is not believed"),
    (403, "Not permitted"),
    (404, "There is no such thing"),
    (405, "Not with this method"),
    (
        409,
        "It contradicts what is there: exists already, is a directory, is locked, …",
    ),
    (412, "A precondition does not hold"),
    (413, "Too large"),
    (415, "The body must be JSON"),
    (429, "Too much at once; try again"),
    (431, "The request's head is too large"),
    (
        500,
        "Data is lost, or the outcome is not known; the code says which",
    ),
    (501, "Not supported"),
    (503, "The cluster does not answer now; try again"),
    (504, "The cluster did not answer in time; try again"),
    (507, "No space left"),
];

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let describe = |(status, text): (u16, &str)| {
            let schema = Ref::from_schema_name("Problem");
            let content = Content::new(Some(schema));
            let response = ResponseBuilder::new()
                .description(text)
                .content("application/json", content)
                .build();
            (status.to_string(), RefOr::T(response))
        };
        STATUSES.into_iter().map(describe).collect()
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::ErrorCode;

    use super::STATUSES;
    use crate::error::http_status;

    #[test]
    fn every_failure_has_a_documented_status() {
        for &code in ErrorCode::ALL {
            let status = http_status(code).as_u16();
            assert!(
                STATUSES.iter().any(|(known, _)| *known == status),
                "{code:?} is {status}"
            );
        }
    }
}
