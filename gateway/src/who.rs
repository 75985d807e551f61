//! Who asks. `user.name` is believed only where the operator says so; names become numbers by this machine's user database.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use cairn_daemon::blocking;
use cairn_daemon::config::{GatewayAuth, GatewaySettings};
use cairn_daemon::users::{UserIds, Users};
use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::user_token::TokenInfo;
use cairn_protocol::user_token::UserToken;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::params::Params;
use crate::server::Shared;
use crate::webhdfs::{Exception, Refusal};

/// Names are read from the machine's files again after this long.
const NAMES_KEPT: Duration = Duration::from_secs(10);

/// Whose a token is, is asked again after this long.
const TOKENS_KEPT: Duration = Duration::from_secs(10);

/// Tokens that are remembered.
const TOKENS_MAX: usize = 1024;

/// User and group that nobody is.
const NOBODY: u32 = 65_534;

/// A user, by name and numbers.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) name: String,
    pub(crate) caller: Caller,
    /// The token that proves it would prove any other name as well.
    pub(crate) by_proxy: bool,
}

impl Who {
    /// A user of this machine.
    fn of(name: String, ids: UserIds, by_proxy: bool) -> Self {
        let caller = Caller {
            uid: ids.uid,
            gid: ids.gid,
            groups: ids.groups,
            umask: 0,
            token: Vec::new(),
            session: 0,
        };
        Self {
            name,
            caller,
            by_proxy,
        }
    }
}

/// The machine's users, kept for a while.
#[derive(Default)]
pub(crate) struct Names(Mutex<Option<(Instant, Arc<Users>)>>);

impl Names {
    pub(crate) async fn users(&self) -> Arc<Users> {
        let mut known = self.0.lock().await;
        if let Some((read_at, users)) = known.as_ref()
            && read_at.elapsed() < NAMES_KEPT
        {
            return users.clone();
        }
        let users = Arc::new(blocking(Users::load).await);
        *known = Some((Instant::now(), users.clone()));
        users
    }
}

/// What the request says about its user, believed or not. For the audit log.
pub(crate) fn claimed<'a>(settings: &'a GatewaySettings, params: &'a Params) -> String {
    let claimed = params.text("user.name");
    claimed.map_or_else(|| settings.default_user.clone(), |name| name.into_owned())
}

/// Who asks, or why that is not believed.
pub(crate) fn identify(
    settings: &GatewaySettings,
    params: &Params,
    users: &Users,
) -> Result<Who, Refusal> {
    if settings.auth == GatewayAuth::Token {
        let message = "Authentication required: this gateway believes no user.name (its [gateway] `auth` is \"token\"), and there \
            are tokens only in a cluster with auth = \"tokens\" in [security]. In a network that you trust, set auth = \"simple\" \
            in [gateway]";
        return Err(Refusal::new(Exception::Security, message));
    }
    if params.has("delegation") {
        let message =
            "Authentication failed: this cluster has no tokens: [security] auth is \"simple\"";
        return Err(Refusal::new(Exception::Security, message));
    }
    let name = claimed(settings, params);
    if let Some(other) = params.text("doas").filter(|other| *other != name) {
        let message = format!("User: {name} is not allowed to impersonate {other}");
        return Err(Refusal::new(Exception::Authorization, message));
    }
    let ids = match users.ids(&name) {
        Ok(ids) => ids,
        Err(_) if name == settings.default_user => UserIds {
            uid: NOBODY,
            gid: NOBODY,
            groups: Vec::new(),
        },
        Err(error) => {
            let message = format!("Authentication failed: {error}");
            return Err(Refusal::new(Exception::Security, message));
        }
    };
    Ok(Who::of(name, ids, false))
}

/// Whoever asks, with the name that the audit log gets. Where connections are under TLS a token decides, else the request's word
/// and the settings.
pub(crate) async fn authenticate(
    shared: &Shared,
    headers: &HeaderMap,
    params: &Params,
    users: &Users,
) -> Result<Who, Refusal> {
    if !shared.wants_tokens() {
        return identify(shared.settings(), params, users);
    }
    let token = presented(headers, params)?;
    let info = shared.tokens().look_up(shared, &token).await?;
    let asked = ["doas", "user.name"]
        .iter()
        .find_map(|name| params.text(name));
    let asked = asked.map(|name| name.into_owned());
    let mut who = Who {
        name: info.user,
        caller: info.bearer,
        by_proxy: false,
    };
    if let Some(other) = asked.filter(|other| *other != who.name) {
        if !info.acts_for_others {
            let message = format!("User: {} is not allowed to impersonate {other}", who.name);
            return Err(Refusal::new(Exception::Authorization, message));
        }
        who = named(other, users)?;
    }
    who.by_proxy = info.acts_for_others;
    // The namenode believes the token alone, each time.
    who.caller.token = token.bytes().to_vec();
    Ok(who)
}

fn named(name: String, users: &Users) -> Result<Who, Refusal> {
    let ids = users.ids(&name).map_err(|error| {
        Refusal::new(
            Exception::Security,
            format!("Authentication failed: {error}"),
        )
    })?;
    Ok(Who::of(name, ids, true))
}

/// The token in `Authorization: Bearer` or in the parameter `delegation`.
fn presented(headers: &HeaderMap, params: &Params) -> Result<UserToken, Refusal> {
    let refuse = |why: &str| Refusal::new(Exception::Security, why);
    let header = headers.get(header::AUTHORIZATION);
    let bearer = header.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let text = match (bearer, params.text("delegation")) {
        (Some(bearer), _) => bearer.to_owned(),
        (None, Some(delegation)) => delegation.into_owned(),
        (None, None) => {
            return Err(refuse(
                "Authentication required: send a token of `dfs token issue` as `Authorization: Bearer TOKEN` or `delegation=TOKEN`",
            ));
        }
    };
    text.parse()
        .map_err(|_| refuse("Authentication failed: that is not a token"))
}

/// Whose tokens are, kept for a moment: it is the namenode that lets a token pass, with each request.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<BTreeMap<Vec<u8>, (Instant, TokenInfo)>>);

impl Tokens {
    async fn look_up(&self, shared: &Shared, token: &UserToken) -> Result<TokenInfo, Refusal> {
        if let Some((asked_at, info)) = self.0.lock().await.get(token.bytes())
            && asked_at.elapsed() < TOKENS_KEPT
        {
            return Ok(info.clone());
        }
        let bearer = Caller {
            uid: NOBODY,
            gid: NOBODY,
            groups: Vec::new(),
            umask: 0,
            token: token.bytes().to_vec(),
            session: 0,
        };
        let fs = shared.fs().await;
        let fs = fs.map_err(|error| Refusal::of(&error, ""))?;
        let known = fs.on_behalf_of(bearer).who_am_i().await;
        let (_, info) = known.map_err(|error| Refusal::of(&error, ""))?;
        let info = info.ok_or_else(|| {
            let message = "Authentication failed: the cluster does not look at tokens";
            Refusal::new(Exception::Security, message)
        })?;
        let mut known = self.0.lock().await;
        if known.len() >= TOKENS_MAX {
            known.clear();
        }
        known.insert(token.bytes().to_vec(), (Instant::now(), info.clone()));
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use cairn_daemon::config::{GatewayAuth, GatewaySettings};
    use cairn_daemon::users::Users;

    use super::{NOBODY, identify};
    use crate::params::Params;
    use crate::webhdfs::Exception;

    fn simple() -> GatewaySettings {
        GatewaySettings {
            auth: GatewayAuth::Simple,
            ..GatewaySettings::default()
        }
    }

    fn ask(settings: &GatewaySettings, query: &str) -> Result<super::Who, crate::webhdfs::Refusal> {
        let users = Users::parse("root:x:0:0::/:/\nada:x:1000:100::/:/\n", "wheel:x:10:ada\n");
        identify(settings, &Params::parse(query).unwrap(), &users)
    }

    #[test]
    fn nobody_is_believed_without_being_told_so() {
        let refused = ask(&GatewaySettings::default(), "user.name=ada").unwrap_err();
        assert_eq!(refused.exception, Exception::Security);
        assert!(refused.message.contains("Authentication required"));
    }

    #[test]
    fn names_become_numbers() {
        let ada = ask(&simple(), "user.name=ada").unwrap();
        assert_eq!((ada.caller.uid, ada.caller.gid), (1000, 100));
        assert_eq!(ada.caller.groups, [10]);
        assert_eq!(ask(&simple(), "user.name=77").unwrap().caller.uid, 77);
        let nobody = ask(&simple(), "op=x").unwrap();
        assert_eq!(
            (nobody.name.as_str(), nobody.caller.uid),
            ("dr.who", NOBODY)
        );
        let unknown = ask(&simple(), "user.name=bob").unwrap_err();
        assert!(unknown.message.contains("no user `bob`"), "{unknown:?}");
    }

    #[test]
    fn nobody_speaks_for_another() {
        let refused = ask(&simple(), "user.name=ada&doas=root").unwrap_err();
        assert_eq!(refused.exception, Exception::Authorization);
        assert!(ask(&simple(), "user.name=ada&doas=ada").is_ok());
        let token = ask(&simple(), "delegation=x").unwrap_err();
        assert_eq!(token.exception, Exception::Security);
    }
}
