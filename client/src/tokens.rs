//! Tokens of users, and who the cluster takes the caller for.

use std::time::Duration;

use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::user_token::{
    ChangeTokenReply, ChangeTokenRequest, IssueTokenReply, IssueTokenRequest, ListTokensReply,
    ListTokensRequest, TokenInfo, WhoAmIReply, WhoAmIRequest,
};
use cairn_protocol::user_token::UserToken;
use cairn_protocol::{ErrorCode, Failure, Method};

use crate::error::{Error, Result, Subject};
use crate::file_system::FileSystem;

/// What a new token shall be.
#[derive(Clone, Debug)]
pub struct TokenWish {
    /// Name of its user, for people and HTTP clients.
    pub user: String,
    /// Its user.
    pub bearer: Caller,
    /// How long it is good, unless it is renewed.
    pub lifetime: Duration,
    /// How long it can be renewed.
    pub renewable: Duration,
    /// Its bearer may speak for others.
    pub acts_for_others: bool,
}

/// Which token is meant.
#[derive(Clone, Debug)]
pub enum TokenName {
    /// The one with this number.
    Id(u64),
    /// This one.
    Token(UserToken),
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl FileSystem {
    /// A new token. The superuser gets one for anybody, others for themselves. Issued again if the answer is lost.
    pub async fn issue_token(&self, wish: TokenWish) -> Result<(UserToken, TokenInfo)> {
        let request = IssueTokenRequest {
            caller: self.asker(),
            user: wish.user,
            bearer: wish.bearer,
            lifetime_ms: milliseconds(wish.lifetime),
            renewable_ms: milliseconds(wish.renewable),
            acts_for_others: wish.acts_for_others,
        };
        let reply: IssueTokenReply = self.ask(Method::IssueToken, &request).await?;
        let malformed = |failure: Failure| Error::Refused {
            subject: Subject::Cluster,
            failure: Failure::new(ErrorCode::Malformed, failure.message),
        };
        let token = UserToken::try_from(reply.token).map_err(malformed)?;
        Ok((token, reply.info))
    }

    /// One page of tokens, and where the next one begins, if there is one: all for the superuser, else the caller's own.
    pub async fn list_tokens(&self, after_id: u64) -> Result<(Vec<TokenInfo>, Option<u64>)> {
        let request = ListTokensRequest {
            caller: self.asker(),
            after_id,
        };
        let reply: ListTokensReply = self.ask(Method::ListTokens, &request).await?;
        let next = Some(reply.next_after_id).filter(|next| *next != 0);
        Ok((reply.tokens, next))
    }

    /// Makes a token worthless, at once and for ever.
    pub async fn revoke_token(&self, token: TokenName) -> Result<TokenInfo> {
        self.change_token(token, 0).await
    }

    /// Makes a token good for so long from now on, as far as it can be renewed.
    pub async fn renew_token(&self, token: TokenName, lifetime: Duration) -> Result<TokenInfo> {
        self.change_token(token, milliseconds(lifetime).max(1))
            .await
    }

    async fn change_token(&self, token: TokenName, lifetime_ms: u64) -> Result<TokenInfo> {
        let (id, token) = match token {
            TokenName::Id(id) => (id, Vec::new()),
            TokenName::Token(token) => (0, token.bytes().to_vec()),
        };
        let request = ChangeTokenRequest {
            caller: self.asker(),
            id,
            token,
            lifetime_ms,
        };
        let reply: ChangeTokenReply = self.ask(Method::ChangeToken, &request).await?;
        Ok(reply.info)
    }

    /// As whom the cluster sees the caller, and by which token.
    pub async fn who_am_i(&self) -> Result<(Caller, Option<TokenInfo>)> {
        let caller = self.asker();
        let reply: WhoAmIReply = self.ask(Method::WhoAmI, &WhoAmIRequest { caller }).await?;
        Ok((reply.caller, reply.token))
    }
}
