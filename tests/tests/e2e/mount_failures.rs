//! Programs on a mount while parts of the cluster die, and then all of it: they wait and go on, and what was synced is there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::mounted::{Mounted, can_mount, has, shell};
use crate::program::{Cluster, eventually};

const PROCESSES: [&str; 5] = ["--processes", "--namenodes", "3", "--datanodes", "3"];

/// Makes files, syncs them, gives them their names, adds a line to a log in the same way, and says which of them it has done.
const WRITER: &str = "
import os, sys
log = open('log', 'a')
number = 0
while True:
    number += 1
    with open('next', 'wb') as file:
        file.write(b'%d\\n' % number * (number * 997 % 40000))
        file.flush()
        os.fsync(file.fileno())
    os.rename('next', 'file-%d' % number)
    log.write('%d\\n' % number)
    log.flush()
    os.fsync(log.fileno())
    print(number, flush=True)
";

struct Writer {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    said: u64,
}

impl Writer {
    fn start(folder: &Path) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", WRITER])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the writer");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        Self {
            process,
            lines,
            said: 0,
        }
    }

    fn goes_on(&mut self, files: u64) {
        for _ in 0..files {
            let line = self.lines.next().expect("it goes on").expect("text");
            self.said += 1;
            assert_eq!(line, self.said.to_string());
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn check(folder: &Path, files: u64) {
    for number in 1..=files {
        let text = fs::read_to_string(folder.join(format!("file-{number}")));
        let expected = format!("{number}\n").repeat(number as usize * 997 % 40_000);
        assert!(text.expect("it is there") == expected, "file {number}");
    }
    let log = fs::read_to_string(folder.join("log")).expect("it is there");
    let expected: String = (1..=files).map(|number| format!("{number}\n")).collect();
    assert!(log.starts_with(&expected), "{log}");
}

#[test]
fn programs_go_on_when_parts_of_the_cluster_die_and_find_what_they_synced_when_all_of_it_did() {
    if !can_mount() || !has("python3") {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &PROCESSES);
    let mounted = Mounted::on(&cluster, work.path().join("mnt"), &["--hard"]);
    let folder = mounted.path().join("work");
    fs::create_dir(&folder).expect("make a directory");
    let mut writer = Writer::start(&folder);
    writer.goes_on(20);
    let leader = cluster.leader();
    cluster.kill(&leader);
    writer.goes_on(20);
    cluster.kill("datanode-2");
    writer.goes_on(20);
    check(&folder, writer.said);
    // Trees, too, with those that are left.
    shell(
        &folder,
        "mkdir tree && (cd tree && seq -f 'f%g' 200 | xargs touch && mkdir d && mv f1* d && tar c .) | tar t | wc -l",
    );
    assert_ne!(cluster.leader(), leader);

    cluster.kill_all();
    let cluster = Cluster::up(&work, &PROCESSES);
    // It waits for the cluster like every program.
    writer.goes_on(5);
    let said = writer.said;
    drop(writer);
    check(&folder, said);
    assert_eq!(shell(&folder, "ls tree tree/d | wc -l"), "204\n");
    mounted.unmount();
    let again = Mounted::on(&cluster, work.path().join("mnt"), &[]);
    check(&folder, said);
    eventually("it is healthy", || {
        cluster.run(["--user", "0", "fsck"]).status == Some(0)
    });
    again.unmount();
}
