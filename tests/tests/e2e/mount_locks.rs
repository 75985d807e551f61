//! Locks through two mounts: `fcntl` ranges and `flock`, and what ends them.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use crate::mounted::{Mounted, can_mount, tool};
use crate::program::{Cluster, eventually, signal};

/// Does what each line says, and says what came of it.
const LOCKER: &str = "
import errno, fcntl, os, signal, sys

class Alarm(Exception):
    pass

def alarm(*_):
    raise Alarm

signal.signal(signal.SIGUSR1, alarm)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
kinds = {'r': fcntl.LOCK_SH, 'w': fcntl.LOCK_EX, 'u': fcntl.LOCK_UN}
print('ready', flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    try:
        said = 'ok'
        if word in ('lock', 'wait'):
            kind, start, length = rest
            at_once = word == 'lock' and kind != 'u'
            fcntl.lockf(fd, kinds[kind] | (fcntl.LOCK_NB if at_once else 0), int(length), int(start))
        elif word in ('flock', 'flockwait'):
            fcntl.flock(fd, kinds[rest[0]] | (fcntl.LOCK_NB if word == 'flock' else 0))
        elif word == 'write':
            os.pwrite(fd, rest[0].encode(), 0)
        elif word == 'read':
            said = os.pread(fd, 100, 0).decode()
        elif word == 'reopen':
            os.close(fd)
            fd = os.open(sys.argv[1], os.O_RDWR)
        elif word == 'close':
            os.close(os.open(sys.argv[1], os.O_RDONLY))
    except Alarm:
        said = 'interrupted'
    except OSError as error:
        said = errno.errorcode[error.errno]
    print(said, flush=True)
";

/// A process with the file open.
struct Locker {
    process: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Locker {
    fn on(file: &Path) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", LOCKER])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start python3");
        let input = process.stdin.take().expect("a pipe");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let mut locker = Self {
            process,
            input,
            lines,
        };
        assert_eq!(locker.said(), "ready");
        locker
    }

    fn start(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("it listens");
    }

    fn said(&mut self) -> String {
        self.lines.next().expect("it goes on").expect("text")
    }

    #[track_caller]
    fn does(&mut self, line: &str, expected: &str) {
        self.start(line);
        assert_eq!(self.said(), expected, "{line}");
    }

    /// Starts to wait, and is seen to sleep in it.
    fn waits(&mut self, line: &str) {
        self.start(line);
        let call = if line.starts_with("flock") {
            libc::SYS_flock
        } else {
            libc::SYS_fcntl
        };
        let file = format!("/proc/{}/syscall", self.process.id());
        eventually("it waits", || {
            let read = std::fs::read_to_string(&file).unwrap_or_default();
            read.starts_with(&format!("{call} "))
        });
    }

    fn kill(mut self) {
        self.process.kill().expect("kill it");
        self.process.wait().expect("wait for it");
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Setting {
    first: Mounted,
    second: Mounted,
    cluster: Cluster,
    _work: TempDir,
}

fn setting() -> Option<Setting> {
    let has_python = tool("sh", &["-c", "command -v python3"]).status == Some(0);
    if !can_mount() || !has_python {
        return None;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    Some(Setting {
        first: Mounted::on(&cluster, work.path().join("first"), &[]),
        second: Mounted::on(&cluster, work.path().join("second"), &[]),
        cluster,
        _work: work,
    })
}

#[test]
fn two_mounts_keep_each_other_out() {
    let Some(setting) = setting() else {
        return;
    };
    let mut here = Locker::on(&setting.first.path().join("file"));
    let mut there = Locker::on(&setting.second.path().join("file"));
    // Ranges.
    here.does("lock w 0 10", "ok");
    there.does("lock w 5 10", "EAGAIN");
    there.does("lock r 9 1", "EAGAIN");
    there.does("lock w 10 10", "ok");
    here.does("lock r 15 1", "EAGAIN");
    here.does("lock u 5 5", "ok");
    there.does("lock w 5 5", "ok");
    let listed = setting.cluster.run(["locks", "/file"]).text();
    assert_eq!(
        listed.matches("fcntl").count(),
        2,
        "ranges that touch are one: {listed}"
    );
    // A descriptor of the file that is closed ends all of the process's, as POSIX has it.
    here.does("close", "ok");
    there.does("lock w 0 0", "ok");
    there.does("lock u 0 0", "ok");
    // Whole files: the two kinds do not meet.
    here.does("lock w 0 0", "ok");
    there.does("flock w", "ok");
    here.does("flock r", "EAGAIN");
    there.does("lock r 0 0", "EAGAIN");
    there.does("flock r", "ok");
    here.does("flock r", "ok");
    there.does("flock w", "EAGAIN");
    here.does("flock u", "ok");
    here.does("lock u 0 0", "ok");
    there.does("flock w", "ok");
    there.does("lock r 3 0", "ok");
    here.does("lock r 0 0", "ok");
    here.does("lock w 0 0", "EAGAIN");
    // Who gets a lock sees what the holder before has written, also in a handle that was open and had read.
    for (round, line) in ["wait w 0 5", "flockwait w"].into_iter().enumerate() {
        here.does("lock u 0 0", "ok");
        here.does("flock u", "ok");
        there.does("lock u 0 0", "ok");
        there.does("flock u", "ok");
        here.does(line, "ok");
        there.waits(line);
        here.does(&format!("write round{round}"), "ok");
        let unlock = if round == 0 { "lock u 0 5" } else { "flock u" };
        here.does(unlock, "ok");
        assert_eq!(there.said(), "ok");
        there.does("read", &format!("round{round}"));
        there.does(&format!("write after{round}"), "ok");
        there.does(unlock, "ok");
        here.does(line, "ok");
        here.does("read", &format!("after{round}"));
    }
    drop((here, there));
    assert_eq!(
        setting.first.log() + &setting.second.log(),
        "",
        "nothing went wrong"
    );
    setting.first.unmount();
    setting.second.unmount();
}

#[test]
fn whoever_dies_lets_go() {
    let Some(mut setting) = setting() else {
        return;
    };
    let (first, second) = (
        setting.first.path().join("file"),
        setting.second.path().join("file"),
    );
    for (line, unlock) in [("wait w 0 0", "lock u 0 0"), ("flockwait w", "flock u")] {
        let mut holder = Locker::on(&first);
        let mut waiter = Locker::on(&second);
        holder.does(line, "ok");
        // A signal ends the wait, and leaves nothing behind.
        waiter.waits(line);
        signal("USR1", waiter.process.id());
        assert_eq!(waiter.said(), "interrupted");
        // So does the end of the one who waits, through either mount.
        for file in [&first, &second] {
            let mut dying = Locker::on(file);
            dying.waits(line);
            dying.kill();
        }
        // The end of the holder lets the next one in, and closing does.
        waiter.waits(line);
        holder.kill();
        assert_eq!(waiter.said(), "ok");
        let mut holder = Locker::on(&first);
        holder.waits(line);
        waiter.does("reopen", "ok");
        assert_eq!(holder.said(), "ok");
        holder.does(unlock, "ok");
        waiter.does(line, "ok");
    }
    // The whole mount: its session ends, and what was synced is there.
    let mut holder = Locker::on(&first);
    holder.does("lock w 100 10", "ok");
    let mut waiter = Locker::on(&second);
    waiter.waits("wait w 100 10");
    setting.first.kill();
    assert_eq!(waiter.said(), "ok");
    drop((holder, waiter));
    setting.second.unmount();
}
