//! Says, once and on standard error, what is waited for when a cluster does not answer: silence for a minute looks like a crash.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use cairn_client::{FileSystem, Waiting};
use cairn_protocol::messages::admin::{NamenodeStatus, StatusReply};
use tokio::time::sleep;

use crate::session::complain;

/// Nobody is told of a wait that is shorter: an election takes a second or two.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

const LOOK: Duration = Duration::from_millis(250);
/// For what namenodes know by themselves.
const MEMBER_PATIENCE: Duration = Duration::from_secs(2);

/// Does the work, and says what it waits for if the namenodes leave an operation without an answer.
pub(crate) async fn said<T>(
    fs: &FileSystem,
    patience: Duration,
    work: impl Future<Output = T>,
) -> T {
    tokio::select! {
        biased;
        done = work => done,
        never = say(fs, patience) => match never {},
    }
}

/// Does the work. If it takes long, `look` says why, or finds that it is in vain, and why.
pub(crate) async fn unless_hopeless<T, E>(
    work: impl Future<Output = Result<T, E>>,
    look: impl AsyncFnOnce() -> Option<E>,
) -> Result<T, E> {
    let hopeless = async {
        sleep(SILENCE).await;
        match look().await {
            Some(error) => error,
            None => pending().await,
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        error = hopeless => Err(error),
    }
}

async fn say(fs: &FileSystem, patience: Duration) -> Infallible {
    loop {
        sleep(LOOK).await;
        let Some(waiting) = fs.waiting().filter(|waiting| waiting.so_far >= SILENCE) else {
            continue;
        };
        let known = fs.local_status(MEMBER_PATIENCE).await;
        // It may have been answered while we looked.
        if fs.waiting().is_some() {
            let what = what(known.as_ref(), &waiting);
            complain(format_args!(
                "no answer yet: {what}; each operation is tried for up to {patience:?} (--timeout)"
            ));
            return pending().await;
        }
    }
}

/// Why: too few namenodes answer, or none of them leads; else what the last answer said.
fn what(known: Option<&StatusReply>, waiting: &Waiting) -> String {
    let members = known.map_or(&[][..], |known| &known.namenodes);
    let voters = members.iter().filter(|member| member.role != "learner");
    let (here, away): (Vec<_>, Vec<_>) = voters.partition(|member| member.reachable);
    let addresses = |those: &[&NamenodeStatus]| {
        let addresses = those.iter().map(|member| member.address.as_str());
        addresses.collect::<Vec<_>>().join(", ")
    };
    let (count, needed) = (here.len() + away.len(), (here.len() + away.len()) / 2 + 1);
    let answer = if here.len() == 1 { "answers" } else { "answer" };
    let counted = format!(
        "{} of {count} namenodes {answer} ({})",
        here.len(),
        addresses(&here)
    );
    if !here.is_empty() && here.len() < needed {
        return format!(
            "{counted} and {needed} are needed; not {}",
            addresses(&away)
        );
    }
    if here.iter().any(|member| member.role == "leader") || here.is_empty() {
        return waiting.failure.to_string();
    }
    format!("{counted}, and none of them leads yet")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cairn_client::Waiting;
    use cairn_protocol::messages::admin::{NamenodeStatus, StatusReply};
    use cairn_protocol::{ErrorCode, Failure};

    use super::what;

    #[test]
    fn what_is_missing_is_named() {
        let waiting = Waiting {
            so_far: Duration::from_secs(3),
            failure: Failure::new(ErrorCode::Unavailable, "why"),
        };
        let told = |members: &[(&str, bool)]| {
            let member = |(index, (role, reachable)): (usize, &(&str, bool))| NamenodeStatus {
                address: format!("nn{}:1", index + 1),
                role: (*role).to_owned(),
                reachable: *reachable,
                ..NamenodeStatus::default()
            };
            let known = StatusReply {
                namenodes: members.iter().enumerate().map(member).collect(),
                ..StatusReply::default()
            };
            what(Some(&known), &waiting)
        };
        assert_eq!(
            told(&[
                ("leader", false),
                ("follower", true),
                ("follower", false),
                ("learner", true)
            ]),
            "1 of 3 namenodes answers (nn2:1) and 2 are needed; not nn1:1, nn3:1"
        );
        assert_eq!(
            told(&[("leader", false), ("follower", true), ("follower", true)]),
            "2 of 3 namenodes answer (nn2:1, nn3:1), and none of them leads yet"
        );
        let failure = waiting.failure.to_string();
        assert_eq!(told(&[("leader", true)]), failure);
        assert_eq!(told(&[]), failure);
        assert_eq!(what(None, &waiting), failure);
    }
}
