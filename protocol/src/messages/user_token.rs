//! Tokens of users: issued, listed, renewed and revoked; and who a caller is to the cluster.

use super::common::Caller;

/// Issues a token. The superuser issues for anybody; others get one for themselves that lives no longer than the one that they
/// ask with.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IssueTokenRequest {
    /// Who asks.
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
    /// Name of the user that it is for; for people, and for HTTP clients that say who they are.
    #[prost(string, tag = "2")]
    pub user: String,
    /// The user that it is for.
    #[prost(message, required, tag = "3")]
    pub bearer: Caller,
    /// How long it is good, unless it is renewed.
    #[prost(uint64, tag = "4")]
    pub lifetime_ms: u64,
    /// How long it can be renewed; at least `lifetime_ms`.
    #[prost(uint64, tag = "5")]
    pub renewable_ms: u64,
    /// Its bearer may speak for others: a mount for all users of its machine.
    #[prost(bool, tag = "6")]
    pub acts_for_others: bool,
}

/// A new token.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct IssueTokenReply {
    /// What its bearer shows.
    #[prost(bytes = "vec", tag = "1")]
    pub token: Vec<u8>,
    /// What the cluster keeps of it.
    #[prost(message, required, tag = "2")]
    pub info: TokenInfo,
}

impl std::fmt::Debug for IssueTokenReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssueTokenReply")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// What the cluster keeps of a token; nobody can make the token from it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TokenInfo {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Name of its user.
    #[prost(string, tag = "2")]
    pub user: String,
    /// Its user.
    #[prost(message, required, tag = "3")]
    pub bearer: Caller,
    /// Its bearer may speak for others.
    #[prost(bool, tag = "4")]
    pub acts_for_others: bool,
    /// Milliseconds since 1970, as all times here.
    #[prost(uint64, tag = "5")]
    pub issued_at_ms: u64,
    /// Good before this instant.
    #[prost(uint64, tag = "6")]
    pub expires_at_ms: u64,
    /// It can be renewed up to this instant.
    #[prost(uint64, tag = "7")]
    pub renewable_until_ms: u64,
    /// It is good no more.
    #[prost(bool, tag = "8")]
    pub revoked: bool,
}

/// One page of tokens: all for the superuser, else the caller's own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListTokensRequest {
    /// Who asks.
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
    /// Tokens with greater numbers.
    #[prost(uint64, tag = "2")]
    pub after_id: u64,
}

/// In the order of their numbers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListTokensReply {
    /// The page.
    #[prost(message, repeated, tag = "1")]
    pub tokens: Vec<TokenInfo>,
    /// Where the next page begins; 0 if there is none.
    #[prost(uint64, tag = "2")]
    pub next_after_id: u64,
}

/// Makes a token worthless, or good for longer. The superuser may for any; others for their own.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct ChangeTokenRequest {
    /// Who asks.
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
    /// Number of the token; 0 if `token` is given.
    #[prost(uint64, tag = "2")]
    pub id: u64,
    /// The token itself.
    #[prost(bytes = "vec", tag = "3")]
    pub token: Vec<u8>,
    /// Good for so long from now on, but no longer than it can be renewed; 0 revokes it.
    #[prost(uint64, tag = "4")]
    pub lifetime_ms: u64,
}

impl std::fmt::Debug for ChangeTokenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangeTokenRequest")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Done.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChangeTokenReply {
    /// The token as it is now.
    #[prost(message, required, tag = "1")]
    pub info: TokenInfo,
}

/// Asks as whom the cluster sees the caller.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WhoAmIRequest {
    /// Who asks, and perhaps with what token.
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
}

/// As whom the cluster sees the caller.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WhoAmIReply {
    /// The user.
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
    /// The token that says so; none for a certificate, or where everybody is believed.
    #[prost(message, optional, tag = "2")]
    pub token: Option<TokenInfo>,
}
