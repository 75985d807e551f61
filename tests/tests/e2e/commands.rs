//! A new user's first hour: start a cluster, store things, get them back, read what goes wrong.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::tempdir;

use super::program::{Cluster, Running, content, dfs, finish};

#[test]
fn up_is_ready_and_usable_with_nothing_but_its_address() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let home = work.path().join("home");
    let by_option = |arguments: &[&str]| {
        finish(
            dfs(&home)
                .args(["--cluster", &cluster.address])
                .args(arguments),
            b"",
        )
    };
    assert_eq!(by_option(&["ls", "/"]).text(), "");
    by_option(&["mkdir", "-p", "/a/b"]).ok();
    assert_eq!(cluster.run(["ls", "/"]).text().trim(), "a");

    // The third way to say where it is.
    let config = home.join("config/cairn");
    fs::create_dir_all(&config).unwrap();
    fs::write(
        config.join("cluster.toml"),
        format!("namenodes = [\"{}\"]\n", cluster.address),
    )
    .unwrap();
    let by_file = finish(
        dfs(&home)
            .env("XDG_CONFIG_HOME", home.join("config"))
            .args(["ls", "/a"]),
        b"",
    );
    assert_eq!(by_file.text().trim(), "b");

    let status = cluster.status();
    assert_eq!(status["safe"], true, "{status:#}");
    assert_eq!(status["datanodes"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_cluster_that_was_stopped_starts_again_with_its_files() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let bytes = content(1, 3_000_000);
    cluster.run_with(["put", "-", "/kept"], &bytes).ok();
    let address = cluster.address.clone();
    assert_eq!(cluster.stop(), Some(0));
    let cluster = Cluster::up(&work, &[]);
    assert_eq!(cluster.address, address);
    assert!(cluster.run(["cat", "/kept"]).ok() == bytes);
}

#[test]
fn a_tree_comes_back_as_it_went() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let tree = work.path().join("tree");
    make_tree(&tree).unwrap();
    cluster
        .run([
            OsStr::new("put"),
            OsStr::new("-p"),
            tree.as_os_str(),
            OsStr::new("/tree"),
        ])
        .ok();
    let back = work.path().join("back");
    cluster
        .run([
            OsStr::new("get"),
            OsStr::new("-p"),
            OsStr::new("/tree"),
            back.as_os_str(),
        ])
        .ok();
    let same = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([&tree, &back])
        .output()
        .unwrap();
    assert!(
        same.status.success(),
        "{}",
        String::from_utf8_lossy(&same.stdout)
    );
    for name in ["script", "sub", "sub/large", "empty"] {
        let (before, after) = (
            fs::metadata(tree.join(name)).unwrap(),
            fs::metadata(back.join(name)).unwrap(),
        );
        assert_eq!(before.mode(), after.mode(), "mode of {name}");
        assert_eq!(
            (before.mtime(), before.mtime_nsec()),
            (after.mtime(), after.mtime_nsec()),
            "time of {name}"
        );
    }
    assert_eq!(
        fs::read_link(back.join("link")).unwrap(),
        Path::new("sub/large")
    );

    // A second time there is something in the way; -f replaces it.
    let again = [
        OsStr::new("put"),
        tree.join("script").into_os_string().leak(),
        OsStr::new("/tree/script"),
    ];
    cluster
        .run(again)
        .fails(1, "dfs: /tree/script: File exists");
    fs::write(tree.join("script"), "changed").unwrap();
    cluster
        .run([OsStr::new("put"), OsStr::new("-f"), again[1], again[2]])
        .ok();
    assert_eq!(cluster.run(["cat", "/tree/script"]).text(), "changed");

    cluster.run(["rm", "-r", "/tree"]).ok();
    assert_eq!(cluster.run(["ls", "/"]).text(), "");
}

/// Small, large, empty, executable, linked, nested, and named in bytes that are no text.
fn make_tree(tree: &Path) -> io::Result<()> {
    fs::create_dir_all(tree.join("sub/deep/deeper"))?;
    fs::write(tree.join("empty"), "")?;
    fs::write(tree.join("script"), "#!/bin/sh\n")?;
    fs::set_permissions(tree.join("script"), fs::Permissions::from_mode(0o750))?;
    fs::write(tree.join("sub/large"), content(2, 20_000_001))?;
    for number in 0..200_u32 {
        let bytes = content(number.into(), (number * number) as usize);
        fs::write(tree.join(format!("sub/deep/{number}")), bytes)?;
    }
    fs::write(
        tree.join(OsStr::from_bytes(b"sub/deep/deeper/\xff\xfe name\n")),
        "bytes",
    )?;
    symlink("sub/large", tree.join("link"))?;
    symlink("nowhere", tree.join("dangling"))?;
    let long_ago = fs::File::open(tree.join("sub/large"))?;
    long_ago.set_modified(
        std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789),
    )?;
    fs::set_permissions(tree.join("sub"), fs::Permissions::from_mode(0o711))
}

#[test]
fn standard_input_and_output_are_files_too() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let bytes = content(3, 5_000_000);
    cluster.run_with(["put", "-", "/x"], &bytes).ok();
    assert!(cluster.run(["cat", "/x"]).ok() == bytes);
    assert!(cluster.run(["get", "/x", "-"]).ok() == bytes);
    cluster.run_with(["append", "-", "/x"], b"and the end").ok();
    assert_eq!(
        cluster.run(["tail", "-c", "11", "/x"]).text(),
        "and the end"
    );
}

#[test]
fn patterns_stand_for_names_in_the_cluster() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "/g"]).ok();
    for (name, text) in [("one.txt", "1"), ("two.txt", "2"), ("three.log", "3")] {
        cluster
            .run_with(["put", "-", &format!("/g/{name}")], text.as_bytes())
            .ok();
    }
    assert_eq!(cluster.run(["cat", "/g/*.txt"]).text(), "12");
    assert_eq!(cluster.run(["cat", "/g/{three,one}.*"]).text().len(), 2);
    cluster
        .run(["cat", "/g/*.none"])
        .fails(1, "dfs: /g/*.none: No such file or directory");
    cluster.run(["rm", "/g/*.txt"]).ok();
    assert_eq!(cluster.run(["ls", "/g"]).text().trim(), "three.log");
    let listing = cluster.run(["ls", "-l", "--json", "/g"]).ok();
    let listing: serde_json::Value = serde_json::from_slice(&listing).unwrap();
    assert!(listing.to_string().contains("three.log"), "{listing}");
}

#[test]
fn errors_name_the_thing_and_exit_codes_are_those_of_coreutils() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "/d"]).ok();
    cluster.run_with(["put", "-", "/f"], b"x").ok();
    cluster
        .run(["cat", "/a/b"])
        .fails(1, "dfs: /a/b: No such file or directory");
    cluster
        .run(["cat", "/d"])
        .fails(1, "dfs: /d: Is a directory");
    cluster
        .run(["ls", "/f/below"])
        .fails(1, "dfs: /f/below: Not a directory");
    cluster
        .run(["mkdir", "/d"])
        .fails(1, "dfs: /d: File exists");
    cluster
        .run(["rm", "/d"])
        .fails(1, "dfs: /d: Is a directory");
    cluster
        .run(["rmdir", "/none"])
        .fails(1, "dfs: /none: No such file or directory");
    cluster
        .run(["--user", "0", "fsck", "/none"])
        .fails(1, "dfs: /none: No such file or directory");
    let long = format!("/{}", "n".repeat(256));
    cluster.run(["mkdir", &long]).fails(1, "File name too long");
    // What can be done is done, and the rest is told.
    let some = cluster.run(["cat", "/none", "/f"]);
    assert_eq!(
        (some.status, some.out.as_slice()),
        (Some(1), b"x".as_slice())
    );
    cluster.run(["frobnicate"]).fails(2, "frobnicate");
    cluster.run(["put"]).fails(2, "Usage");
    cluster.run(["test", "-e", "/none"]).fails(1, "");
    assert_eq!(cluster.run(["test", "-d", "/d"]).status, Some(0));
}

#[test]
fn a_put_that_is_cut_off_leaves_nothing_under_its_name() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let mut put = Running::start(&mut cluster.command(["put", "-", "/half"]));
    put.feed(&content(4, 12 << 20));
    put.kill();
    assert_eq!(cluster.run(["ls", "/"]).text(), "");
    cluster
        .run(["cat", "/half"])
        .fails(1, "No such file or directory");
}

#[test]
fn nobody_there_is_said_with_a_way_out() {
    let work = tempdir().unwrap();
    let asked = finish(
        dfs(work.path()).args(["--cluster", "127.0.0.1:1", "--timeout", "1s", "ls", "/"]),
        b"",
    );
    asked.fails(1, "no namenode answers at 127.0.0.1:1");
}
