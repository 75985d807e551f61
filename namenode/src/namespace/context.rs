//! What an operation knows beside the state and its own message: when, who, and in which session.

use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::messages::common::Caller;

/// When a command happens, the same on every namenode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The batch's time, never before an earlier batch's; ns since 1970.
    pub time_ns: u64,
    /// Index of the log entry.
    pub index: u64,
    /// When it is said to have been done: the time that inodes get. The batch's time, or before it for what a client did by itself;
    /// what is kept for a while is kept from the batch's time on.
    pub at_ns: u64,
}

/// The circumstances of one command.
#[derive(Clone, Debug)]
pub struct Context {
    /// When.
    pub stamp: Stamp,
    /// Who.
    pub caller: Caller,
    /// In which session; 0 for the leader's own commands.
    pub session: SessionId,
    /// The number that a new inode gets; the next of the cluster without one.
    pub inode: Option<InodeId>,
    /// What needs more room fails.
    pub no_growth: bool,
}

impl Context {
    /// The leader's own commands act as the superuser, in no session.
    pub(super) fn internal(stamp: Stamp) -> Self {
        let caller = Caller {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            umask: 0,
            token: Vec::new(),
            session: 0,
        };
        Self {
            stamp,
            caller,
            session: SessionId(0),
            inode: None,
            no_growth: false,
        }
    }
}
