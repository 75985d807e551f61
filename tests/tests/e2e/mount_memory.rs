//! What a mount holds in memory does not grow with what goes through it.

use std::fs;

use crate::mounted::{Mounted, can_mount, shell};
use crate::program::Cluster;

/// MiB that go through it. `CAIRN_MOUNT_MIB` asks for more.
const MIB: &str = "256";
/// Most memory that the process may ever have had, in KiB: what is in flight (64 MiB) and read ahead (64 MiB), with what the allocator keeps, and
/// the program itself.
const PEAK_KIB: u64 = 256 << 10;

/// The largest resident set of a process, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.expect("a peak").parse().expect("a number")
}

#[test]
fn memory_stays_what_it_is_however_much_is_written_and_read() {
    if !can_mount() {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let mounted = Mounted::on(&cluster, work.path().join("mnt"), &[]);
    let mib = std::env::var("CAIRN_MOUNT_MIB").unwrap_or_else(|_| MIB.to_owned());
    let mut peaks = vec![("at first", peak_kib(mounted.pid()))];
    for (what, line) in [
        ("written", format!("head -c {mib}M /dev/zero > large && sync large")),
        ("read", "dd of=large oflag=nocache conv=notrunc,fdatasync count=0 status=none; cat large | wc -c".to_owned()),
        ("written over by four", format!(
            "for i in 0 1 2 3; do dd if=/dev/zero of=large conv=notrunc bs=64k count=$(({mib} * 4)) seek=$(({mib} * 4 * i)) \
             status=none & done; wait; sync large"
        )),
        ("small files", "mkdir small && for i in $(seq 300); do head -c 20000 large > small/$i; done; cat small/* | wc -c".to_owned()),
    ] {
        shell(mounted.path(), &line);
        peaks.push((what, peak_kib(mounted.pid())));
    }
    eprintln!("largest memory of the mount with {mib} MiB, in KiB: {peaks:?}");
    let (_, peak) = peaks.last().expect("some");
    assert!(*peak < PEAK_KIB, "{peaks:?}");
    assert_eq!(mounted.log(), "");
    mounted.unmount();
}
