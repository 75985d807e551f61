//! Says, once and on standard error, what is waited for when a cluster does not answer: silence for a minute looks like a crash.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use cairn_client::{FileSystem, Waiting, has_quorum};
use cairn_protocol::messages::admin::StatusReply;
use tokio::time::sleep;

use crate::session::complain;

/// Nobody is told of a wait that is shorter: an election takes a second or two.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

const LOOK: Duration = Duration::from_millis(250);
/// For what namenodes know by themselves.
const MEMBER_PATIENCE: Duration = Duration::from_secs(2);

/// Does the work, and says what it waits for if the namenodes leave an operation without an answer.
pub(crate) async fn said<T>(fs: &FileSystem, patience: Duration, work: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        done = work => done,
        never = say(fs, patience) => match never {},
    }
}

/// Does the work, and says this if it takes long.
pub(crate) async fn said_after<T>(
    work: impl Future<Output = T>,
    text: impl FnOnce() -> String,
) -> T {
    let say = async {
        sleep(SILENCE).await;
        complain(text());
        pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        done = work => done,
        never = say => match never {},
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

fn what(known: Option<&StatusReply>, waiting: &Waiting) -> String {
    let Some(known) = known else {
        return waiting.failure.to_string();
    };
    let named = |reachable: bool| {
        let those = known.namenodes.iter();
        let those = those.filter(|namenode| namenode.reachable == reachable);
        those.map(|namenode| namenode.address.as_str()).collect::<Vec<_>>()
    };
    let (here, away, all) = (named(true), named(false), known.namenodes.len());
    let answer = if here.len() == 1 { "answers" } else { "answer" };
    let whom = |those: &[&str]| match those {
        [] => String::new(),
        those => format!(" ({})", those.join(", ")),
    };
    let counted = format!("{} of {all} namenodes {answer}{}", here.len(), whom(&here));
    let leads = known
        .namenodes
        .iter()
        .any(|namenode| namenode.reachable && namenode.role == "leader");
    match (has_quorum(known), leads) {
        (false, _) => format!(
            "{counted} and {} are needed; not {}",
            all / 2 + 1,
            away.join(", ")
        ),
        (true, false) => format!("{counted}, and none of them leads yet"),
        (true, true) => waiting.failure.to_string(),
    }
}
