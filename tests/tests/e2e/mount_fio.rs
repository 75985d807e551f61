//! fio writes in every way that programs write and verifies each block: at once, on another mount, on a fresh one, and in a copy.
//!
//! `scripts/test-tools` installs it where that is possible.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::mounted::{Mounted, can_mount, has, shell};
use crate::program::{Cluster, finish};

/// Each job has a file of its own. Where blocks overlap, fio verifies what was written last.
const JOBS: &str = "[global]
verify=crc32c
verify_fatal=1
verify_state_save=0
do_verify=1
fallocate=none
randrepeat=1
group_reporting=1
[sequential]
filename=sequential
rw=write
bs=256k
size=16m
[overlapping]
filename=overlapping
rw=randwrite
norandommap=1
bs=12k
size=3m
io_size=9m
[direct]
filename=direct
ioengine=libaio
iodepth=8
direct=1
rw=randwrite
bs=4k
size=2m
[mapped]
filename=mapped
ioengine=mmap
rw=randwrite
bs=4k
size=4m
[synchronous]
filename=synchronous
sync=1
rw=randwrite
bsrange=1k-32k
size=1m
[fsynced]
filename=fsynced
rw=randwrite
bs=8k
size=2m
fsync=16
fdatasync=5
[mixed]
filename=mixed
rw=randrw
bs=16k
size=4m
";

/// More, which fio can verify only when it has just written them: blocks that overlap in part, and holes between them.
const MORE_JOBS: &str = "[in-part]
filename=in-part
rw=randwrite
norandommap=1
bsrange=512-96k
bs_unaligned=1
size=4m
io_size=12m
[holes]
filename=holes
rw=write:24k
bs=8k
size=3m
";

/// Runs the jobs of a file in a folder; false if fio found something wrong.
fn fio(jobs: &Path, folder: &Path, more: &[&str]) -> bool {
    let mut command = Command::new("fio");
    command
        .args(["--minimal", "--output=/dev/null"])
        .args(more)
        .arg(jobs)
        .current_dir(folder);
    let done = finish(&mut command, b"");
    if done.status != Some(0) {
        eprintln!("fio in {}: {}", folder.display(), done.err);
    }
    done.status == Some(0)
}

#[test]
fn every_block_that_fio_writes_is_verified_here_there_and_later() {
    if !can_mount() || !has("fio") {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let folder = work.path().join("mnt");
    let mounted = Mounted::on(&cluster, folder.clone(), &[]);
    let other = Mounted::on(&cluster, work.path().join("other"), &[]);
    let jobs = |name: &str, text: &str| {
        let path = work.path().join(name);
        fs::write(&path, text).expect("write the jobs");
        path
    };
    let (global, _) = JOBS.split_once("[sequential]").expect("it is there");
    let first = jobs("first.fio", JOBS);
    let once = jobs("once.fio", &format!("{global}{MORE_JOBS}"));
    let second = jobs("second.fio", &JOBS.replace("randrepeat=1", "randseed=77"));
    let again = ["--verify_only"];
    // On the local disk they mean the same.
    let local = work.path().join("local");
    fs::create_dir(&local).expect("make a directory");
    for jobs in [&first, &once] {
        assert!(fio(jobs, &local, &[]));
        assert!(fio(jobs, mounted.path(), &[]));
    }
    assert!(fio(&first, &local, &again));
    let sizes = "stat -c '%n %s' *";
    let sums = "sha256sum *";
    assert_eq!(shell(mounted.path(), sizes), shell(&local, sizes));
    assert!(fio(&first, other.path(), &again), "on another mount");
    let here = shell(mounted.path(), sums);
    assert_eq!(shell(other.path(), sums), here);
    mounted.unmount();
    let mounted = Mounted::on(&cluster, folder, &[]);
    assert!(fio(&first, mounted.path(), &again), "on a fresh mount");
    assert_eq!(shell(mounted.path(), sums), here);
    // Written over by the other one, it is something else here, too.
    assert!(fio(&second, other.path(), &[]));
    assert!(fio(&second, mounted.path(), &again));
    assert!(!fio(&first, mounted.path(), &again), "fio looks");
    shell(work.path(), "rm local/* && cp mnt/* local/");
    assert!(fio(&second, &local, &again), "in a copy");
    for mounted in [mounted, other] {
        assert_eq!(mounted.log(), "");
        mounted.unmount();
    }
}
