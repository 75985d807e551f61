//! Delegation tokens, as Hadoop calls them: the cluster's tokens of users, for as long as HDFS gives them by default.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_client::{TokenName, TokenWish};
use cairn_protocol::user_token::UserToken;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::call::{empty, json_answer};
use super::{Answer, Call, Exception, Refusal};

/// `dfs.namenode.delegation.token.renew-interval` of HDFS.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// `dfs.namenode.delegation.token.max-lifetime` of HDFS.
const RENEWABLE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Of tokens that go into URLs; whoever is sent to another gateway goes there at once.
const BRIEF_LIFETIME: Duration = Duration::from_secs(15 * 60);
const BRIEF_KEPT: Duration = Duration::from_secs(10 * 60);
const BRIEF_MAX: usize = 1024;

/// For whoever asks; none lives longer than the token that it was asked with. Without security none is needed, and HDFS says so with
/// null.
pub(super) async fn get(call: &Call) -> Answer {
    if !call.shared.wants_tokens() {
        return Ok(json_answer(json!({ "Token": Value::Null })));
    }
    let wish = TokenWish {
        user: call.who.name.clone(),
        bearer: call.who.caller.clone(),
        lifetime: LIFETIME,
        renewable: RENEWABLE,
        acts_for_others: false,
    };
    let issued = call.fs.issue_token(wish).await;
    let (token, _) = issued.map_err(|error| call.fail(error))?;
    Ok(json_answer(
        json!({ "Token": { "urlString": token.to_string() } }),
    ))
}

/// The token that somebody showed, and the user that it was shown for.
type Shown = (Vec<u8>, u32);

/// Tokens for redirects, kept for a while.
#[derive(Default)]
pub(crate) struct BriefTokens(Mutex<BTreeMap<Shown, (Instant, UserToken)>>);

/// A token for one redirect: of who asks, and good for minutes.
pub(super) async fn brief(call: &Call) -> Result<UserToken, Refusal> {
    let caller = &call.who.caller;
    let key = (caller.token.clone(), caller.uid);
    // Held while it is asked for, so that many transfers that begin at once share one.
    let mut kept = call.shared.brief_tokens().0.lock().await;
    if let Some((issued_at, token)) = kept.get(&key)
        && issued_at.elapsed() < BRIEF_KEPT
    {
        return Ok(token.clone());
    }
    let wish = TokenWish {
        user: call.who.name.clone(),
        bearer: caller.clone(),
        lifetime: BRIEF_LIFETIME,
        renewable: BRIEF_LIFETIME,
        acts_for_others: false,
    };
    let issued = call.fs.issue_token(wish).await;
    let (token, _) = issued.map_err(|error| call.fail(error))?;
    kept.retain(|_, (issued_at, _)| issued_at.elapsed() < BRIEF_KEPT);
    if kept.len() < BRIEF_MAX {
        kept.insert(key, (Instant::now(), token.clone()));
    }
    Ok(token)
}

/// Until when it is good then.
pub(super) async fn renew(call: &Call) -> Answer {
    let renewed = call.fs.renew_token(named(call)?, LIFETIME).await;
    let info = renewed.map_err(|error| call.fail(error))?;
    Ok(json_answer(json!({ "long": info.expires_at_ms })))
}

pub(super) async fn cancel(call: &Call) -> Answer {
    let revoked = call.fs.revoke_token(named(call)?).await;
    revoked.map_err(|error| call.fail(error))?;
    Ok(empty())
}

fn named(call: &Call) -> Result<TokenName, Refusal> {
    if !call.shared.wants_tokens() {
        let message = "there are no delegation tokens: none was issued by this cluster";
        return Err(Refusal::new(Exception::InvalidToken, message));
    }
    let text = String::from_utf8_lossy(call.params.required("token")?).into_owned();
    let token = text.parse::<UserToken>();
    let bad = |_| Refusal::new(Exception::InvalidToken, "that is no token of this cluster");
    token.map(TokenName::Token).map_err(bad)
}
