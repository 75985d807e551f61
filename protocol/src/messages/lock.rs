//! Advisory locks on ranges of files, held by sessions in the name of their owners.
//!
//! An owner is whatever the client says: for a mount the kernel's number of an open file or of a process. Owners of different
//! sessions are different. Ranges include both ends, so that `u64::MAX` is a byte like any other.

use super::common::{Caller, Location};

/// Locks of one space never meet those of the other, as in Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum LockSpace {
    /// Ranges, as `fcntl` locks: an owner's locks split, merge and change their mode byte by byte.
    Posix = 0,
    /// Whole files, as `flock`.
    Flock = 1,
}

/// What a lock allows others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum LockMode {
    /// No lock: what `SetLock` leaves behind where it unlocks.
    Unlocked = 0,
    /// Others may read, too.
    Read = 1,
    /// Nobody else.
    Write = 2,
}

/// Gives one owner this mode on exactly this range, whatever it held there before; or changes nothing if others hold what
/// forbids it. (One exception, as in Linux: a refused change of mode in [`LockSpace::Flock`] loses the lock held before.)
/// Answers `LockOutcome`. A read lock needs read permission, a write lock write permission; in `Flock` either will do.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SetLock {
    /// Inode id of a regular file.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// Which space.
    #[prost(enumeration = "LockSpace", tag = "2")]
    pub space: i32,
    /// Whose, within the session.
    #[prost(uint64, tag = "3")]
    pub owner: u64,
    /// Which mode.
    #[prost(enumeration = "LockMode", tag = "4")]
    pub mode: i32,
    /// First byte; 0 in `Flock`.
    #[prost(uint64, tag = "5")]
    pub start: u64,
    /// Last byte; the largest number in `Flock`.
    #[prost(uint64, tag = "6")]
    pub end: u64,
    /// Process, for people.
    #[prost(uint32, tag = "7")]
    pub pid: u32,
}

/// A range and what was or is held on it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LockPiece {
    /// First byte.
    #[prost(uint64, tag = "1")]
    pub start: u64,
    /// Last byte.
    #[prost(uint64, tag = "2")]
    pub end: u64,
    /// Mode.
    #[prost(enumeration = "LockMode", tag = "3")]
    pub mode: i32,
}

/// A lock and who holds it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LockHolder {
    /// Session id.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Owner within the session.
    #[prost(uint64, tag = "2")]
    pub owner: u64,
    /// Process on the client's machine.
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    /// Which space.
    #[prost(enumeration = "LockSpace", tag = "4")]
    pub space: i32,
    /// Mode.
    #[prost(enumeration = "LockMode", tag = "5")]
    pub mode: i32,
    /// First byte.
    #[prost(uint64, tag = "6")]
    pub start: u64,
    /// Last byte.
    #[prost(uint64, tag = "7")]
    pub end: u64,
    /// Name of the session's client; in listings only.
    #[prost(string, tag = "8")]
    pub client_name: String,
}

/// Answers `SetLock`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LockOutcome {
    /// A lock that forbids it; none if it was granted.
    #[prost(message, optional, tag = "1")]
    pub conflict: Option<LockHolder>,
    /// What the owner held in the range before, in order, if it was granted: the way back.
    #[prost(message, repeated, tag = "2")]
    pub replaced: Vec<LockPiece>,
    /// How many ranges the owner holds now in this space of the file.
    #[prost(uint64, tag = "3")]
    pub held: u64,
}

/// Asks which lock would forbid this one (a query; `F_GETLK`). Needs read or write permission.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct TestLock {
    /// In whose session; 0 for none.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// The lock that is wished for.
    #[prost(message, required, tag = "2")]
    pub lock: SetLock,
}

/// Answers `TestLock`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LockTest {
    /// The first lock that forbids it, if any does.
    #[prost(message, optional, tag = "1")]
    pub conflict: Option<LockHolder>,
}

/// Asks who holds what on a file (a query). Needs search permission on the way, as `stat`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListLocks {
    /// Which file; symlinks are followed.
    #[prost(message, required, tag = "1")]
    pub location: Location,
}

/// Answers `ListLocks`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LockListing {
    /// In order of space and first byte; at most 1,000.
    #[prost(message, repeated, tag = "1")]
    pub locks: Vec<LockHolder>,
    /// Whether there are more.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// Waits at the leader until a lock could be granted, or for a while. Changes nothing: the caller then tries again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WaitLockRequest {
    /// Session id.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Who asks.
    #[prost(message, required, tag = "2")]
    pub caller: Caller,
    /// The lock that is wished for.
    #[prost(message, required, tag = "3")]
    pub lock: SetLock,
    /// Place in the queue, as an earlier answer told it; 0 at first.
    #[prost(uint64, tag = "4")]
    pub place: u64,
    /// The longest wait; the leader may answer before. 0: gives up a wait for this very lock.
    #[prost(uint64, tag = "5")]
    pub wait_ms: u64,
}

/// The wait is over. Fails with `Deadlock` if it would never end.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct WaitLockReply {
    /// Whether the lock could be granted a moment ago.
    #[prost(bool, tag = "1")]
    pub free: bool,
    /// Place in the queue, to be named when waiting goes on.
    #[prost(uint64, tag = "2")]
    pub place: u64,
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{
        Caller, ListLocks, Location, LockHolder, LockListing, LockMode, LockOutcome, LockPiece,
        LockSpace, LockTest, SetLock, TestLock, WaitLockReply, WaitLockRequest,
    };

    fn hex(message: &impl Message) -> String {
        let bytes = message.encode_to_vec();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn field_numbers_are_golden() {
        let lock = SetLock {
            inode: 1,
            space: LockSpace::Flock as i32,
            owner: 3,
            mode: LockMode::Write as i32,
            start: 5,
            end: 6,
            pid: 7,
        };
        let holder = LockHolder {
            session: 1,
            owner: 2,
            pid: 3,
            space: LockSpace::Flock as i32,
            mode: LockMode::Read as i32,
            start: 6,
            end: 7,
            client_name: "c".into(),
        };
        let piece = LockPiece {
            start: 1,
            end: 2,
            mode: LockMode::Write as i32,
        };
        let cases = [
            (hex(&lock), "08011001180320022805300638 07".replace(' ', "")),
            (hex(&holder), "0801100218032001280130063807420163".into()),
            (hex(&piece), "080110021802".into()),
            (
                hex(&LockOutcome {
                    conflict: Some(LockHolder::default()),
                    replaced: vec![piece],
                    held: 3,
                }),
                "0a0012060801100218021803".into(),
            ),
            (
                hex(&TestLock {
                    session: 1,
                    lock: SetLock::default(),
                }),
                "08011200".into(),
            ),
            (
                hex(&LockTest {
                    conflict: Some(LockHolder::default()),
                }),
                "0a00".into(),
            ),
            (
                hex(&ListLocks {
                    location: Location::default(),
                }),
                "0a00".into(),
            ),
            (
                hex(&LockListing {
                    locks: vec![LockHolder::default()],
                    more: true,
                }),
                "0a001001".into(),
            ),
            (
                hex(&WaitLockRequest {
                    session: 1,
                    caller: Caller::default(),
                    lock: SetLock::default(),
                    place: 4,
                    wait_ms: 5,
                }),
                "080112001a0020042805".into(),
            ),
            (
                hex(&WaitLockReply {
                    free: true,
                    place: 2,
                }),
                "08011002".into(),
            ),
        ];
        for (index, (found, expected)) in cases.iter().enumerate() {
            assert_eq!(found, expected, "case {index}");
        }
    }
}
