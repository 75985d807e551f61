//! Errors name what is wrong: of two paths the one to blame, a file where a directory should be, a member of the cluster.

use std::fs::File;
use std::process::Stdio;

use tempfile::tempdir;

use super::program::Cluster;

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

#[test]
fn a_file_with_a_slash_at_its_end_is_no_directory() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/f"], b"f").ok();
    cluster.run(["mkdir", "/d"]).ok();
    cluster.run(["ln", "-s", "/d", "/to-d"]).ok();
    let local = work.path().join("x");
    let get = format!("get /f/ {}", local.display());
    for line in [
        "ls /f/",
        "ls -d /f/",
        "cat /f/",
        "head /f/",
        "tail /f/",
        "stat /f/",
        "du /f/",
        "df /f/",
        "count /f/",
        "find /f/",
        "tree /f/",
        "checksum /f/",
        "chmod 600 /f/",
        "chown 0 /f/",
        "chgrp 0 /f/",
        "setrep 2 /f/",
        "setfattr -n user.a -v b /f/",
        "getfattr /f/",
        "getfacl /f/",
        "setfacl -b /f/",
        "locks /f/",
        "watch /f/",
        "cp /f/ /g",
        "mv /f/ /g",
        "mv -T /f/ /g",
        "ln /f/ /g",
        "rm /f/",
        "rm -rf /f/",
        "rmdir /f/",
        "concat /f/ /f",
        "concat /f /f/",
        "cat /{f,f}/",
        &get,
    ] {
        let done = cluster.run(words(line));
        assert_eq!(done.status, Some(1), "{line}: {}", done.err);
        assert!(
            done.err.contains("dfs: /f/: Not a directory\n"),
            "{line}: {}",
            done.err
        );
    }
    assert_eq!(cluster.run(["test", "-e", "/f/"]).status, Some(1));
    assert_eq!(cluster.run(["test", "-d", "/to-d/"]).status, Some(0));
    cluster.run(["rm", "/to-d/"]).fails(1, "Not a directory");
    assert_eq!(
        cluster.run(["ls", "/to-d/", "/d/"]).text(),
        "/to-d/:\n\n/d/:\n"
    );
    assert_eq!(cluster.run(["ls", "/"]).text(), "d\nf\nto-d\n");
}

#[test]
fn of_two_paths_the_one_to_blame_is_named() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    for file in ["/f", "/g"] {
        cluster.run_with(["put", "-", file], b"f").ok();
    }
    cluster.run(["mkdir", "-p", "/d/e"]).ok();
    for (line, told) in [
        ("concat /f /nope", "/nope: No such file or directory"),
        ("concat /nope /f", "/nope: No such file or directory"),
        ("concat /f /d", "/d: Is a directory"),
        ("concat /d /f", "/d: Is a directory"),
        ("ln /nope /y", "/nope: No such file or directory"),
        ("ln /f /nope/y", "/nope/y: No such file or directory"),
        ("ln /f /g", "/g: File exists"),
        (
            "ln /d /y",
            "/d: Is a directory (only files get further names; ln -s makes a symbolic link)",
        ),
        ("ln -s x /g", "/g: File exists"),
        ("mv / /d", "/: the root is always there"),
        ("mv -T /d /", "/: the root is always there"),
        ("rmdir /", "/: the root is always there"),
        ("mv /f /nope/x", "/nope/x: No such file or directory"),
        ("mv /nope /x", "/nope: No such file or directory"),
        ("mv -T /f /d", "/d: Is a directory\n"),
        ("mv -T /d /f", "/f: Not a directory\n"),
        ("mv -n /f /g", "/g: File exists\n"),
        ("cp /f /nope/x", "/nope/x: No such file or directory\n"),
        (
            "datanode forget 99",
            "datanode 99: there is none with this number; see `dfs datanode list`",
        ),
        ("datanode forget 1", "datanode 1 "),
        (
            "datanode decommission 99",
            "datanode 99: there is none with this number",
        ),
        (
            "namenode remove 99",
            "namenode 99: there is none with this number; see `dfs namenode list`",
        ),
        (
            "namenode transfer 99",
            "namenode 99: no such voting namenode",
        ),
        (
            "namenode transfer",
            "leadership stays where it is: no such voting namenode",
        ),
    ] {
        let done = cluster.run(words(line));
        assert_eq!(done.status, Some(1), "{line}: {}", done.err);
        let told = format!("dfs: {told}");
        assert!(done.err.starts_with(&told), "{line}: {}", done.err);
    }
}

#[test]
fn a_standard_output_that_takes_no_more_is_named() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/f"], &[b'x'; 200_000]).ok();
    for line in ["cat /f", "tail -c 5 /f", "ls -l /", "get /f -"] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = cluster.command(words(line));
        let done = command
            .stdout(full)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(
            (
                done.status.code(),
                String::from_utf8_lossy(&done.stderr).as_ref()
            ),
            (Some(1), "dfs: standard output: No space left on device\n"),
            "{line}"
        );
    }
}
