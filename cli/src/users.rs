//! Who uses this program, and as whom.

use cairn_daemon::users::Users;
use cairn_protocol::messages::common::Caller;

/// The caller that a user of this machine is.
pub(crate) fn caller(user: &str) -> anyhow::Result<Caller> {
    let ids = Users::load().ids(user)?;
    Ok(Caller {
        uid: ids.uid,
        gid: ids.gid,
        groups: ids.groups,
        umask: 0,
        token: Vec::new(),
        session: 0,
    })
}

/// Who runs this process.
pub(crate) fn own_caller() -> Caller {
    let groups = rustix::process::getgroups().unwrap_or_default();
    Caller {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        groups: groups.into_iter().map(|group| group.as_raw()).collect(),
        umask: 0,
        token: Vec::new(),
        session: 0,
    }
}

/// This process's umask, as the kernel tells it; the usual one if it does not.
pub(crate) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok())
        .unwrap_or(0o022)
}
