//! Access control lists, as HDFS words them: see [`cairn_daemon::acl`]. Whoever changes a list reads it first: of two at the same time the
//! last one's stands.

use cairn_client::AccessListKind;
use cairn_daemon::acl::{List, Lists, Tag, text};
use cairn_daemon::users::Users;
use cairn_protocol::messages::common::{Attributes, InodeKind};
use serde_json::json;

use super::call::{empty, json_answer};
use super::{Answer, Call, Exception, Refusal};

/// The lists of the path, and what else is known of it.
async fn read(call: &Call) -> Result<(Attributes, Lists), Refusal> {
    let kept = call.fs.access_lists(call.place()).await;
    let kept = kept.map_err(|error| call.fail(error))?;
    let decoded = |bytes: Option<Vec<u8>>| match bytes.map(|bytes| List::decode(&bytes)) {
        None => Ok(None),
        Some(Some(list)) => Ok(Some(list)),
        Some(None) => Err(Refusal::new(Exception::Io, "that is no list".to_owned())),
    };
    let access = decoded(kept.access)?;
    let lists = Lists {
        access: access.unwrap_or_else(|| List::of_mode(kept.attributes.mode)),
        default: decoded(kept.default)?.unwrap_or_default(),
    };
    Ok((kept.attributes, lists))
}

/// What a request says.
fn wish(call: &Call, permitted: bool) -> Result<Lists, Refusal> {
    let text = String::from_utf8_lossy(call.params.required("aclspec")?).into_owned();
    let parsed = Lists::parse(&text, permitted, &call.users);
    parsed.map_err(|why| Refusal::parameter("aclspec", why))
}

/// Checks and keeps what differs.
async fn change(call: &Call, of: impl FnOnce(&Lists) -> Result<Lists, Refusal>) -> Answer {
    let (attributes, old) = read(call).await?;
    let new = of(&old)?;
    let checked = new.check(attributes.kind == InodeKind::Directory as i32);
    checked.map_err(|why| Refusal::new(Exception::Acl, format!("Invalid ACL: {why}")))?;
    for (kind, new, old) in [
        (AccessListKind::Access, new.access, old.access),
        (AccessListKind::Default, new.default, old.default),
    ] {
        if new != old {
            let list = (!new.is_empty()).then(|| new.encode());
            let kept = call.fs.set_access_list(call.place(), kind, list).await;
            kept.map_err(|error| call.fail(error))?;
        }
    }
    Ok(empty())
}

/// As HDFS writes it, but for what a mode says as well.
fn texts(list: &List, is_default: bool, users: &Users) -> Vec<String> {
    if !is_default && !list.names_somebody() {
        return Vec::new();
    }
    let is_told = |tag: &Tag| {
        let is_named = matches!(tag, Tag::User(_) | Tag::NamedGroup(_) | Tag::Group);
        is_default || is_named
    };
    let scope = if is_default { "default:" } else { "" };
    let told = list.entries().filter(|(tag, _)| is_told(tag));
    told.map(|(tag, permissions)| format!("{scope}{}", text(tag, permissions, users)))
        .collect()
}

pub(super) async fn status(call: &Call) -> Answer {
    let (attributes, lists) = read(call).await?;
    let mut entries = texts(&lists.access, false, &call.users);
    entries.extend(texts(&lists.default, true, &call.users));
    Ok(json_answer(json!({ "AclStatus": {
        "entries": entries,
        "group": call.users.group_name(attributes.gid),
        "owner": call.users.user_name(attributes.uid),
        "permission": format!("{:o}", attributes.mode & 0o777),
        "stickyBit": attributes.mode & 0o1000 != 0,
    }})))
}

/// Each of the two lists that the request says anything of is replaced.
pub(super) async fn set(call: &Call) -> Answer {
    change(call, |old| Ok(old.set(wish(call, true)?))).await
}

pub(super) async fn modify(call: &Call) -> Answer {
    change(call, |old| Ok(old.modified(wish(call, true)?))).await
}

pub(super) async fn remove_entries(call: &Call) -> Answer {
    change(call, |old| Ok(old.without(&wish(call, false)?))).await
}

pub(super) async fn remove_default(call: &Call) -> Answer {
    change(call, |old| Ok(old.without_default())).await
}

/// What owner, group and others may stays.
pub(super) async fn remove(call: &Call) -> Answer {
    change(call, |old| Ok(old.plain())).await
}

#[cfg(test)]
mod tests {
    use cairn_daemon::acl::{List, Lists};
    use cairn_daemon::users::Users;

    use super::texts;

    #[test]
    fn what_a_mode_says_is_left_out() {
        let users = Users::parse("ada:x:1000:100::/:/\n", "wheel:x:10:ada\n");
        let typed = "user::rwx,user:ada:r--,group::r-x,group:wheel:-w-,mask::rwx,other::---";
        let list = Lists::parse(typed, true, &users).unwrap().access;
        let told = ["user:ada:r--", "group::r-x", "group:wheel:-w-"];
        assert_eq!(texts(&list, false, &users), told);
        let defaults = texts(&list, true, &users);
        assert_eq!(
            (defaults.len(), defaults[0].as_str()),
            (6, "default:user::rwx")
        );
        assert!(texts(&List::of_mode(0o750), false, &users).is_empty());
    }
}
