//! In whose name things are made. The kernel tells user and group of a request, and not the other groups: those are looked
//! up only when they matter.

use cairn_protocol::messages::common::Caller;

/// Most supplementary groups that the cluster takes.
const GROUPS_MAX: usize = 1024;

/// The process behind a request.
#[derive(Clone, Copy, Debug)]
pub struct Requester {
    /// User.
    pub uid: u32,
    /// Group of what it makes.
    pub gid: u32,
    /// Thread.
    pub pid: u32,
    /// What it makes does not get these bits, unless the directory says what it gets.
    pub umask: u32,
}

impl Requester {
    /// Without supplementary groups.
    pub(crate) fn caller(self) -> Caller {
        Caller {
            uid: self.uid,
            gid: self.gid,
            groups: Vec::new(),
            umask: self.umask,
            token: Vec::new(),
            session: 0,
        }
    }

    /// With the supplementary groups that the process has now; none if it is gone.
    pub(crate) fn caller_with_groups(self) -> Caller {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        let groups = parse_groups(&status.unwrap_or_default());
        Caller {
            groups,
            ..self.caller()
        }
    }
}

fn parse_groups(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    let groups = line.unwrap_or_default().split_whitespace();
    groups
        .filter_map(|group| group.parse().ok())
        .take(GROUPS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse_groups;

    #[test]
    fn groups_come_from_the_process_status() {
        assert_eq!(
            parse_groups("Name:\tx\nGroups:\t4 24 1000 \nNStgid:\t1\n"),
            [4, 24, 1000]
        );
        assert!(parse_groups("Groups:\t\n").is_empty());
        assert!(parse_groups("").is_empty());
    }
}
