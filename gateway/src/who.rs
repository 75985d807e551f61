//! Who asks. `user.name` is believed only where the operator says so; names become numbers by this machine's user database.

use std::sync::Arc;
use std::time::Duration;

use cairn_daemon::blocking;
use cairn_daemon::config::{GatewayAuth, GatewaySettings};
use cairn_daemon::users::{UserIds, Users};
use cairn_protocol::messages::common::Caller;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::params::Params;
use crate::webhdfs::{Exception, Refusal};

/// Names are read from the machine's files again after this long.
const NAMES_KEPT: Duration = Duration::from_secs(10);

/// User and group that nobody is.
const NOBODY: u32 = 65_534;

/// A user, by name and numbers.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) name: String,
    pub(crate) caller: Caller,
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
        let message = "Authentication required: this gateway believes no user.name (its `auth` is \"token\"), and \
            tokens are not supported yet. In a network that you trust, set auth = \"simple\" in [gateway]";
        return Err(Refusal::new(Exception::Security, message));
    }
    if params.has("delegation") {
        let message = "Authentication failed: delegation tokens are not supported yet";
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
    let caller = Caller {
        uid: ids.uid,
        gid: ids.gid,
        groups: ids.groups,
        umask: 0,
    };
    Ok(Who { name, caller })
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
        assert!(refused.message.contains("tokens are not supported yet"));
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
