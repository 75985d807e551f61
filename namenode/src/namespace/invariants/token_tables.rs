//! Checks of the tokens of users: each is listed by its user, and nothing else is.

use super::Page;
use crate::store::{KeyKind, Read, StoreError, token_of_user, user_token};

/// True if the key is of one of these tables.
pub(super) fn check(read: &impl Read, key: &[u8], page: &mut Page) -> Result<bool, StoreError> {
    if key[0] == KeyKind::UserToken as u8 {
        let id = user_token::decode(key)?;
        let record = user_token::get(read, id)?;
        let listed = match record {
            Some(record) => token_of_user::contains(read, record.bearer.uid, id)?,
            None => false,
        };
        if !listed {
            page.problem("I7", format!("token {id} is not listed by its user"));
        }
    } else if key[0] == KeyKind::TokenOfUser as u8 {
        let (uid, id) = token_of_user::decode(key)?;
        let record = user_token::get(read, id)?;
        if record.is_none_or(|record| record.bearer.uid != uid) {
            let message = format!("token {id} is listed by user {uid}, who has no such token");
            page.problem("I7", message);
        }
    } else {
        return Ok(false);
    }
    Ok(true)
}
