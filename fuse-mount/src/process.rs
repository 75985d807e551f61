//! The thread behind a request, as `/proc` shows it. Two things that matter to locks cannot be had from the kernel's requests:
//! whether a whole file is locked by `flock` or by `fcntl`, and that somebody who waits has got a signal.

use std::time::Duration;

use tokio::time::sleep;

/// How often a waiting thread is looked at.
const SIGNAL_LOOK: Duration = Duration::from_millis(50);
/// A thread that sends a request is not asleep yet for a moment.
const ASLEEP_LOOKS: u32 = 50;
const ASLEEP_LOOK: Duration = Duration::from_millis(1);
/// `flock` of 32-bit programs on x86.
const SYS_FLOCK_32: i64 = 143;

/// A thread's number in the mount's own view; 0 if it has none there.
#[derive(Clone, Copy, Debug)]
pub struct Thread(pub u32);

impl Thread {
    fn read(self, what: &str) -> Option<String> {
        if self.0 == 0 {
            return None;
        }
        // Never waits: the kernel makes it up.
        std::fs::read_to_string(format!("/proc/{}/{what}", self.0)).ok()
    }

    /// Whether it waits in `flock(2)`; `None` if that cannot be seen.
    pub(crate) async fn is_in_flock(self) -> Option<bool> {
        for _ in 0..ASLEEP_LOOKS {
            if let Some(number) = parse_syscall(&self.read("syscall")?) {
                return Some(number == libc::SYS_flock || number == SYS_FLOCK_32);
            }
            sleep(ASLEEP_LOOK).await;
        }
        None
    }

    /// Returns when a signal waits for it that it does not block. Never, if it cannot be seen. Cancel-safe.
    pub(crate) async fn signalled(self) {
        let mut before = Signals::default();
        loop {
            sleep(SIGNAL_LOOK).await;
            let Some(status) = self.read("status") else {
                continue;
            };
            let now = Signals::parse(&status);
            // Another thread may take what is its process's, and does so at once.
            if now.own != 0 || now.shared & before.shared != 0 {
                return;
            }
            before = now;
        }
    }
}

/// Signals that are pending and not blocked by a thread: its own, and those of its process. An end is everybody's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signals {
    own: u64,
    shared: u64,
}

impl Signals {
    fn parse(status: &str) -> Self {
        let mask = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            u64::from_str_radix(line.unwrap_or_default().trim(), 16).unwrap_or(0)
        };
        let blocked = mask("SigBlk:");
        Self {
            own: mask("SigPnd:") & !blocked,
            shared: mask("ShdPnd:") & !blocked,
        }
    }
}

/// The number of the system call in which a thread sleeps.
fn parse_syscall(line: &str) -> Option<i64> {
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Signals, Thread, parse_syscall};

    #[test]
    fn the_system_call_is_the_first_number() {
        assert_eq!(parse_syscall("73 0x3 0x2 0x0 0x7ffe 0x7f00\n"), Some(73));
        assert_eq!(parse_syscall("running\n"), None);
        assert_eq!(parse_syscall(""), None);
    }

    #[test]
    fn a_signal_counts_unless_it_is_blocked() {
        let status = |pending: &str, shared: &str, blocked: &str| {
            format!("Name:\tx\nSigPnd:\t{pending}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\n")
        };
        let none = "0000000000000000";
        let seen = |own, shared| Signals { own, shared };
        let parse = |status: &str| Signals::parse(status);
        assert_eq!(parse(&status(none, none, none)), seen(0, 0));
        assert_eq!(
            parse(&status("0000000000000100", none, none)),
            seen(0x100, 0)
        );
        assert_eq!(
            parse(&status(none, "0000000000000006", "0000000000000002")),
            seen(0, 4)
        );
        assert_eq!(parse("no such lines"), seen(0, 0));
    }

    #[test]
    fn nothing_is_seen_of_a_thread_without_a_number() {
        assert_eq!(Thread(0).read("status"), None);
        assert!(Thread(std::process::id()).read("status").is_some());
    }
}
