//! `dfs`, the one binary: every role of a cluster, and the commands of its users and operators.
//!
//! ```text
//! arguments   what can be typed; habits too               commands/   one file per command
//! cluster waiting  where the cluster is, connecting, and saying what is waited for   roles/      namenode, datanode, `dfs up`
//! session     what the file commands share           transfer/   engines of put and get
//! paths glob walk                                    names in the cluster
//! mode users quantity output progress                what people read and type
//! ```
//!
//! Exit status: 0 all done, 1 something failed and was named on standard error, 2 the command line makes no sense,
//! 130 interrupted.

mod arguments;
mod authority;
mod cluster;
mod commands;
mod glob;
mod habits;
mod mode;
mod output;
mod paths;
mod progress;
mod quantity;
mod roles;
mod session;
mod transfer;
mod users;
mod waiting;
mod walk;

use std::process::ExitCode;
use std::time::Duration;

use clap::FromArgMatches;

use arguments::{Arguments, grammar};
use session::Ending;

/// What still runs when the command is over, such as a read of a slow local disk, is not waited for.
const LEFT_BEHIND: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let line = commands::mount::as_mount_helper(std::env::args_os());
    let line = line.unwrap_or_else(|| habits::translated(std::env::args_os()));
    let matches = grammar().get_matches_from(line);
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return ending(Err(anyhow::Error::new(error).context("start threads"))).into();
        }
    };
    let result = runtime.block_on(commands::run(arguments));
    runtime.shutdown_timeout(LEFT_BEHIND);
    ending(result).into()
}

/// Says what went wrong, and what the shell is told.
fn ending(result: anyhow::Result<Ending>) -> Ending {
    let error = match result {
        Ok(ending) => return ending,
        Err(error) => error,
    };
    if session::is_broken_pipe(&error) {
        return Ending::Failed;
    }
    session::complain(session::told(&error));
    if error.is::<session::Usage>() {
        Ending::Usage
    } else {
        Ending::Failed
    }
}
