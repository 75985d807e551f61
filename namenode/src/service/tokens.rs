//! Tokens of users: issue, list, renew, revoke; and who a caller is.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::user_token::{
    ChangeTokenReply, ChangeTokenRequest, IssueTokenReply, IssueTokenRequest, ListTokensReply,
    ListTokensRequest, TokenInfo, WhoAmIReply, WhoAmIRequest,
};
use cairn_protocol::rpc::{Reply, Request, RpcError};

use super::principal::{Principal, user_token_key};
use super::{NamenodeService, internal, outcome_failure};
use crate::namespace::command::{ChangeUserToken, CommandKind, IssueUserToken};
use crate::store::records::UserTokenRecord;
use crate::store::{Read, user_token};

/// Tokens in one page of a list.
const PAGE_MAX: usize = 1_000;

/// No token is good for longer, renewed or not.
const LIFETIME_MS_MAX: u64 = 10 * 365 * 24 * 3600 * 1000;

/// Fails where everybody is believed: whoever could get tokens there would have them still when nobody is any more.
fn check_proved(principal: &Principal) -> Result<(), RpcError> {
    match principal {
        Principal::Believed => Err(RpcError::new(
            ErrorCode::NotSupported,
            "tokens of users are for clusters with auth = \"tokens\" in [security]",
        )),
        _ => Ok(()),
    }
}

impl NamenodeService {
    pub(super) async fn issue_token(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let request: IssueTokenRequest = request.decode()?;
        check_proved(principal)?;
        let (caller, shown) = self.identify(principal, request.caller).await?;
        self.group.require_leader()?;
        super::client::check_caller(&request.bearer)?;
        if request.lifetime_ms == 0 || request.lifetime_ms > LIFETIME_MS_MAX {
            let message = "a token is good for 1 ms to 10 years";
            return Err(RpcError::new(ErrorCode::InvalidArgument, message));
        }
        let uid = caller.uid;
        let (mut bearer, mut user, mut until_ms) = (request.bearer, request.user, u64::MAX);
        bearer.token.clear();
        if caller.uid != 0 {
            if bearer.uid != caller.uid || request.acts_for_others {
                let message = "issue a token for somebody else: only the superuser may";
                return Err(RpcError::new(ErrorCode::NotPermitted, message));
            }
            bearer = caller;
        }
        let mut parent = 0;
        if let Some((id, shown)) = shown {
            parent = id;
            // A token begets none that lives longer, can do more, or has another name.
            until_ms = shown.renewable_until_ms;
            if !shown.acts_for_others && shown.bearer.uid == bearer.uid {
                user = shown.user;
            }
        }
        let secret = self
            .controllers
            .new_secret()
            .ok_or_else(|| internal("the system has no random bytes for a token key"))?;
        let command = CommandKind::IssueUserToken(IssueUserToken {
            user,
            bearer,
            acts_for_others: request.acts_for_others,
            lifetime_ms: request.lifetime_ms,
            renewable_ms: request.renewable_ms.min(LIFETIME_MS_MAX),
            until_ms,
            secret: secret.to_vec(),
            parent,
        });
        let id = self.change(command).await?;
        audit("issued", id, &self.token_info(id)?, uid, parent);
        let store = self.group.state().store();
        let cluster = store.snapshot().cluster_record().map_err(internal)?;
        let key = user_token_key(&cluster).ok_or_else(|| internal("no key of tokens"))?;
        Ok(Reply::new(&IssueTokenReply {
            token: key.mint(id).bytes().to_vec(),
            info: self.token_info(id)?,
        }))
    }

    async fn change(&self, command: CommandKind) -> Result<u64, RpcError> {
        let proposed = self.group.propose(command).await?;
        match outcome_failure(&proposed.outcome) {
            Some(failure) => Err(failure.into()),
            None => Ok(proposed.outcome.id),
        }
    }

    fn token_info(&self, id: u64) -> Result<TokenInfo, RpcError> {
        let store = self.group.state().store();
        let record = user_token::get(&store.snapshot(), id).map_err(internal)?;
        let record =
            record.ok_or_else(|| RpcError::new(ErrorCode::NotFound, format!("token {id}")))?;
        Ok(info(id, record))
    }

    pub(super) async fn list_tokens(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let request: ListTokensRequest = request.decode()?;
        let caller = self.caller(principal, request.caller).await?;
        self.group.linearize().await?;
        let store = self.group.state().store();
        let (mut tokens, mut seen, mut next_after_id) = (Vec::new(), 0, 0);
        let first = request.after_id.saturating_add(1);
        user_token::scan(&store.snapshot(), first, &mut |id, record| {
            if seen == PAGE_MAX {
                next_after_id = id - 1;
                return Ok(false);
            }
            seen += 1;
            if caller.uid == 0 || record.bearer.uid == caller.uid {
                tokens.push(info(id, record));
            }
            Ok(true)
        })
        .map_err(internal)?;
        Ok(Reply::new(&ListTokensReply {
            tokens,
            next_after_id,
        }))
    }

    pub(super) async fn change_token(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let request: ChangeTokenRequest = request.decode()?;
        check_proved(principal)?;
        let (caller, shown) = self.identify(principal, request.caller).await?;
        self.group.require_leader()?;
        self.group.linearize().await?;
        let id = if request.token.is_empty() {
            request.id
        } else {
            self.token_id(&request.token)?
        };
        if caller.uid != 0 && self.token_info(id)?.bearer.uid != caller.uid {
            let message = format!("token {id}: only its user and the superuser may");
            return Err(RpcError::new(ErrorCode::NotPermitted, message));
        }
        let lifetime_ms = request.lifetime_ms;
        let command = ChangeUserToken { id, lifetime_ms };
        self.change(CommandKind::ChangeUserToken(command)).await?;
        let info = self.token_info(id)?;
        let what = if info.revoked { "revoked" } else { "renewed" };
        audit(what, id, &info, caller.uid, shown.map_or(0, |(id, _)| id));
        Ok(Reply::new(&ChangeTokenReply { info }))
    }

    /// The number of a genuine token, good or not.
    fn token_id(&self, token: &[u8]) -> Result<u64, RpcError> {
        let store = self.group.state().store();
        let cluster = store.snapshot().cluster_record().map_err(internal)?;
        let key = user_token_key(&cluster)
            .ok_or_else(|| RpcError::new(ErrorCode::NotFound, "no token was issued yet"))?;
        Ok(key.verify(token)?)
    }

    pub(super) async fn who_am_i(
        &self,
        principal: &Principal,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let request: WhoAmIRequest = request.decode()?;
        let (caller, token) = self.identify(principal, request.caller).await?;
        Ok(Reply::new(&WhoAmIReply {
            caller: Caller {
                token: Vec::new(),
                ..caller
            },
            token: token.map(|(id, record)| info(id, record)),
        }))
    }
}

/// Notes what became of a token: whose it is, and who did it with which other.
fn audit(what: &str, id: u64, info: &TokenInfo, by_uid: u32, by_token: u64) {
    tracing::info!(
        target: "audit",
        token = id,
        user = info.user,
        uid = info.bearer.uid,
        acts_for_others = info.acts_for_others,
        by_uid,
        by_token,
        outcome = what,
        "token"
    );
}

fn info(id: u64, record: UserTokenRecord) -> TokenInfo {
    TokenInfo {
        id,
        user: record.user,
        bearer: record.bearer,
        acts_for_others: record.acts_for_others,
        issued_at_ms: record.issued_at_ms,
        expires_at_ms: record.expires_at_ms,
        renewable_until_ms: record.renewable_until_ms,
        revoked: record.revoked,
    }
}
