//! `dfs token`: tokens by which users prove who they are.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use cairn_client::{TokenName, TokenWish};
use cairn_daemon::config::duration;
use cairn_daemon::users::Users;
use cairn_protocol::messages::user_token::TokenInfo;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::authority::write_key;
use crate::output::{Align, Table, print_json};
use crate::session::Session;
use crate::users;

/// Issue, list, renew and revoke the tokens by which users prove who they are to a cluster with `auth = "tokens"`.
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Issue a token. Without USER it is for yourself; for others only the superuser may.
    Issue {
        /// A user of this machine, by name or number.
        #[arg(value_name = "NAME")]
        bearer: Option<String>,
        /// How long it is good, unless it is renewed.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration::parse)]
        lifetime: Duration,
        /// How long it can be renewed.
        #[arg(long, value_name = "TIME", default_value = "168h", value_parser = duration::parse)]
        renewable: Duration,
        /// Its bearer may act for everybody: for a mount that serves all users of a machine.
        #[arg(long)]
        acts_for_others: bool,
        /// Write it to this file, which nobody else can read, instead of showing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List tokens: all for the superuser, else your own.
    List {
        /// One JSON array of objects.
        #[arg(long)]
        json: bool,
    },
    /// Make a token good for longer, as far as it can be renewed.
    Renew {
        /// Its number.
        id: u64,
        /// How long from now on.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration::parse)]
        lifetime: Duration,
    },
    /// Make tokens worthless, at once and for ever.
    Revoke {
        /// Their numbers.
        #[arg(required = true)]
        ids: Vec<u64>,
    },
    /// Tell as whom the cluster sees you.
    Whoami,
}

impl Token {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        match self.command {
            TokenCommand::Issue {
                bearer,
                lifetime,
                renewable,
                acts_for_others,
                out,
            } => {
                let bearer = match bearer {
                    Some(name) => users::caller(&name)?,
                    None => session.fs.who_am_i().await?.0,
                };
                let wish = TokenWish {
                    user: Users::load().user_name(bearer.uid),
                    bearer,
                    lifetime,
                    renewable,
                    acts_for_others,
                };
                let (token, info) = session.fs.issue_token(wish).await?;
                match out {
                    Some(file) => {
                        write_key(&file, &format!("{token}\n"))?;
                        writeln!(
                            session.out,
                            "token {} of {} is in {}",
                            info.id,
                            info.user,
                            file.display()
                        )?;
                    }
                    None => writeln!(session.out, "{token}")?,
                }
            }
            TokenCommand::List { json } => list(session, json).await?,
            TokenCommand::Renew { id, lifetime } => {
                let info = session.fs.renew_token(TokenName::Id(id), lifetime).await?;
                let until = date(info.expires_at_ms);
                writeln!(session.out, "token {id} is good until {until}")?;
            }
            TokenCommand::Revoke { ids } => {
                for id in ids {
                    let revoked = session.fs.revoke_token(TokenName::Id(id)).await;
                    if let Some(info) = session.check(revoked) {
                        writeln!(session.out, "token {id} of {} is worthless now", info.user)?;
                    }
                }
            }
            TokenCommand::Whoami => {
                let (caller, token) = session.fs.who_am_i().await?;
                let name = Users::load().user_name(caller.uid);
                write!(
                    session.out,
                    "{name} (uid {}, gid {})",
                    caller.uid, caller.gid
                )?;
                match token {
                    Some(info) => writeln!(
                        session.out,
                        " by token {}, good until {}",
                        info.id,
                        date(info.expires_at_ms)
                    )?,
                    None => writeln!(session.out)?,
                }
            }
        }
        Ok(())
    }
}

async fn list(session: &mut Session, json: bool) -> anyhow::Result<()> {
    let (mut all, mut after) = (Vec::new(), Some(0));
    while let Some(after_id) = after {
        let (page, next) = session
            .fs
            .list_tokens(after_id)
            .await
            .context("list tokens")?;
        all.extend(page);
        after = next;
    }
    if json {
        let all = all.iter().map(object).collect();
        return Ok(print_json(&mut session.out, &Value::Array(all))?);
    }
    let mut table = Table::new(&[
        Align::Right,
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Left,
    ]);
    table.row(
        [
            "ID",
            "USER",
            "ISSUED",
            "EXPIRES",
            "RENEWABLE UNTIL",
            "STATE",
        ]
        .map(str::to_owned),
    );
    for info in &all {
        table.row([
            info.id.to_string(),
            info.user.clone(),
            date(info.issued_at_ms),
            date(info.expires_at_ms),
            date(info.renewable_until_ms),
            state(info),
        ]);
    }
    Ok(table.print(&mut session.out, "  ")?)
}

fn state(info: &TokenInfo) -> String {
    match (info.revoked, info.acts_for_others) {
        (true, _) => "revoked".to_owned(),
        (false, true) => "acts for others".to_owned(),
        (false, false) => String::new(),
    }
}

fn object(info: &TokenInfo) -> Value {
    json!({
        "id": info.id,
        "user": info.user,
        "uid": info.bearer.uid,
        "gid": info.bearer.gid,
        "groups": info.bearer.groups,
        "acts_for_others": info.acts_for_others,
        "issued_at_ms": info.issued_at_ms,
        "expires_at_ms": info.expires_at_ms,
        "renewable_until_ms": info.renewable_until_ms,
        "revoked": info.revoked,
    })
}

fn date(ms: u64) -> String {
    let at = i64::try_from(ms).map(|ms| jiff::Timestamp::from_second(ms / 1000));
    match at {
        Ok(Ok(at)) => at.to_string(),
        _ => ms.to_string(),
    }
}
