//! What people's fingers know from coreutils and `hdfs dfs`: names that would destroy, targets that are no files, pipes
//! that close, sizes and lines as `tail` counts them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use tempfile::tempdir;

use super::program::{Cluster, eventually, finish};

fn words(line: &str) -> Vec<OsString> {
    // A word that is written '' is empty.
    let word = |word: &str| OsString::from(if word == "''" { "" } else { word });
    line.split(' ').map(word).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("tests name their files in UTF-8")
}

#[test]
fn an_empty_name_is_nobodys() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let local = work.path().join("local");
    fs::write(&local, "x").unwrap();
    cluster.run(["mkdir", "-p", "/user/root", "/d"]).ok();
    cluster.run_with(["put", "-", "/user/root/kept"], b"x").ok();
    let local = path(&local);
    for line in [
        "rm -r ''",
        "rm -rf ''",
        "rmdir ''",
        "ls ''",
        "cat ''",
        "mkdir ''",
        "mkdir -p ''",
        "touch ''",
        "stat ''",
        "append - ''",
        "put - ''",
        &format!("put {local} ''"),
        "put '' /d",
        "get '' .",
        "get /user/root/kept ''",
        "cp /user/root/kept ''",
        "cp '' /d",
        "mv /user/root/kept ''",
        "mv '' /d",
        "ln '' /d/x",
        "ln /user/root/kept ''",
        "truncate -s 0 ''",
        "concat '' /user/root/kept",
    ] {
        let status = cluster.run(words(line));
        assert_eq!(status.status, Some(1), "{line}: {}", status.err);
        assert_eq!(status.err, "dfs: '': No such file or directory\n", "{line}");
    }
    assert_eq!(cluster.run(["ls", "/user/root"]).text(), "kept\n");
    assert_eq!(cluster.run(["ls", "/d"]).text(), "");
}

#[test]
fn a_dot_is_not_removed() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "-p", "/user/root", "/z/y"]).ok();
    for line in [
        "rm -r .",
        "rm -rf ..",
        "rm -r /z/y/..",
        "rm -r /z/y/./",
        "rmdir /z/y/.",
    ] {
        cluster
            .run(words(line))
            .fails(1, "refusing to remove '.' or '..'");
    }
    assert_eq!(
        cluster.run(["find", "/"]).text(),
        "/\n/user\n/user/root\n/z\n/z/y\n"
    );
}

#[test]
fn a_slash_at_the_end_asks_for_a_directory() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/f"], b"f").ok();
    cluster.run(["mkdir", "/d"]).ok();
    for line in [
        "mv /f /new/",
        "mv -T /f /new/",
        "cp /f /new/",
        "cp -r /f /new/",
        "touch /new/",
        "ln /f /new/",
        "ln -s /f /new/",
        "put - /new/",
        "append - /new/",
        "truncate -s 5 /new/",
    ] {
        cluster
            .run(words(line))
            .fails(1, "dfs: /new/: No such file or directory");
    }
    for line in [
        "touch /f/",
        "append - /f/",
        "truncate -s 5 /f/",
        "put -f - /f/",
        "rm /f/",
    ] {
        cluster
            .run(words(line))
            .fails(1, "dfs: /f/: Not a directory");
    }
    // A directory's own new name may have one.
    cluster.run(["mv", "/d", "/e/"]).ok();
    cluster.run(["cp", "-r", "/e/", "/g/"]).ok();
    cluster.run(["mkdir", "/h/"]).ok();
    assert_eq!(cluster.run(["ls", "/"]).text(), "e\nf\ng\nh\n");
}

#[test]
fn get_writes_into_what_is_no_file_and_through_links() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let bytes = vec![7; 3_000_000];
    cluster.run_with(["put", "-", "/large"], &bytes).ok();
    cluster.run_with(["put", "-", "/small"], b"small").ok();

    let fifo = work.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    for (name, expected) in [("/large", bytes.as_slice()), ("/small", b"small")] {
        let from = fifo.clone();
        let reader = thread::spawn(move || fs::read(from).unwrap());
        cluster
            .run([OsStr::new("get"), OsStr::new(name), fifo.as_os_str()])
            .ok();
        assert!(reader.join().unwrap() == expected);
        assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    }
    for line in ["get /small /dev/stdout", "get -f /small /dev/stdout"] {
        assert_eq!(cluster.run(words(line)).text(), "small");
    }
    for line in ["get /large /dev/null", "get -fp /small /dev/null"] {
        cluster.run(words(line)).ok();
    }
    assert!(
        fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    );

    let (file, link, dangling) = (
        work.path().join("file"),
        work.path().join("link"),
        work.path().join("dangling"),
    );
    fs::write(&file, "old").unwrap();
    symlink("file", &link).unwrap();
    symlink("nowhere", &dangling).unwrap();
    cluster
        .run(["get", "/small", path(&link)])
        .fails(1, "link: File exists");
    cluster.run(["get", "-f", "/small", path(&link)]).ok();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&file).unwrap(), b"small");
    cluster
        .run(["get", "-f", "/small", path(&dangling)])
        .fails(1, "dangling: a symbolic link to nowhere");
    assert!(!work.path().join("nowhere").exists());
}

#[test]
fn tail_counts_as_in_coreutils() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let lines: String = (1..=100).map(|line| format!("line {line}\n")).collect();
    cluster
        .run_with(["put", "-", "/lines"], lines.as_bytes())
        .ok();
    let local = work.path().join("lines");
    fs::write(&local, &lines).unwrap();
    for options in [
        "",
        "-n 3",
        "-n +28",
        "-n -3",
        "-3",
        "-n +0",
        "-n +1",
        "-n +101",
        "-n 0",
        "-n +500",
        "-c 5",
        "-c +5",
        "-c +0",
        "-c 1K",
        "-c 2b",
        "-c +99999",
        "-n 1k",
    ] {
        for program in ["tail", "head"] {
            if program == "head" && (options.contains('+') || options.contains("-n -")) {
                continue;
            }
            let options = options.split(' ').filter(|word| !word.is_empty());
            let expected = Command::new(program)
                .args(options.clone())
                .arg(&local)
                .output()
                .unwrap();
            assert!(expected.status.success());
            let found = cluster.run(
                [program]
                    .into_iter()
                    .chain(options.clone())
                    .chain(["/lines"]),
            );
            assert!(
                found.ok() == expected.stdout,
                "{program} {:?}",
                options.collect::<Vec<_>>()
            );
        }
    }
    let expected = Command::new("head")
        .args(["-n", "-98"])
        .arg(&local)
        .output()
        .unwrap();
    assert!(cluster.run(["head", "-n", "-98", "/lines"]).ok() == expected.stdout);
}

#[test]
fn a_reader_that_is_gone_ends_tail_f() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/f"], b"one\ntwo\n").ok();
    let mut tail = cluster
        .command(["tail", "-f", "--interval", "20ms", "/f"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = tail.stdout.take().unwrap();
    let mut first = [0; 4];
    out.read_exact(&mut first).unwrap();
    drop(out);
    eventually("tail has noticed", || tail.try_wait().unwrap().is_some());
    let mut errors = String::new();
    tail.stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert_eq!(errors, "");
}

#[test]
fn work_goes_on_when_nobody_reads_what_went_wrong() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/f"], b"x").ok();
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = cluster.command(["rm", "/none", "/f"]);
    let status = command
        .stdout(Stdio::null())
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(cluster.run(["ls", "/"]).text(), "");
    for arguments in [["cat", "/none"], ["frobnicate", ""]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let status = cluster.command(arguments).stderr(writer).status().unwrap();
        assert!(matches!(status.code(), Some(1 | 2)), "{status}");
    }
}

#[test]
fn who_has_no_home_is_told_how_to_get_one() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let local = work.path().join("local");
    fs::write(&local, "x").unwrap();
    for line in [
        "ls",
        "ls .",
        "mkdir foo",
        "touch ./foo",
        &format!("put {} .", path(&local)),
    ] {
        let found = finish(cluster.command(words(line)).env("CAIRN_USER", "0"), b"");
        assert!(!found.err.contains("/."), "{}", found.err);
        found.fails(1, "dfs: /user/root, your home directory and where relative paths begin, does not exist: make it with `dfs mkdir -p /user/root`");
    }
    cluster.run(["mkdir", "-p", "/user/root"]).ok();
    cluster.run(["put", path(&local)]).ok();
    assert_eq!(cluster.run(["ls"]).text(), "local\n");
    // Another thing that is missing is no reason to speak of the home.
    let missing = cluster.run(["cat", "none"]);
    assert_eq!(
        missing.err,
        "dfs: /user/root/none: No such file or directory\n"
    );
}

#[test]
fn sizes_and_times_are_those_of_coreutils() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    for (size, bytes) in [
        ("10T", 10_u64 << 40),
        ("1K", 1024),
        ("+1M", 1024 + (1 << 20)),
        ("-1k", 1 << 20),
        ("2kB", 2000),
        ("3MiB", 3 << 20),
        ("4 KiB", 4096),
        ("7", 7),
        ("<5", 5),
        (">6", 6),
        ("%4", 8),
        ("/5", 5),
    ] {
        cluster.run(["truncate", "-s", size, "/f"]).ok();
        assert_eq!(
            cluster.run(["stat", "-c", "%s", "/f"]).text(),
            format!("{bytes}\n"),
            "{size}"
        );
    }
    cluster.run(["truncate", "-s", "20K", "/f"]).ok();
    assert_eq!(cluster.run(["find", "/", "-size", "+10k"]).text(), "/f\n");
    assert_eq!(
        cluster
            .run(["find", "/", "-type", "f", "-size", "-10K"])
            .text(),
        ""
    );
    cluster.run(["--timeout", "5", "ls", "/"]).ok();
    cluster.run(["truncate", "-s", "1X", "/f"]).fails(2, "1X");
}

#[test]
fn the_words_of_hdfs_are_understood() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let local = |name: &str| work.path().join(name).to_str().unwrap().to_owned();
    for (name, text) in [("a", "1\n"), ("b", "2\n"), ("empty", "")] {
        fs::write(local(name), text).unwrap();
    }
    cluster.run(["-mkdir", "-p", "/in"]).ok();
    cluster
        .run([
            "-copyFromLocal",
            &local("a"),
            &local("b"),
            &local("empty"),
            "/in",
        ])
        .ok();
    assert_eq!(cluster.run(["-ls", "/in"]).text(), "a\nb\nempty\n");
    assert_eq!(cluster.run(["-text", "/in/a"]).text(), "1\n");
    cluster.run(["-appendToFile", &local("b"), "/in/a"]).ok();
    assert_eq!(cluster.run(["-cat", "/in/a"]).text(), "1\n2\n");
    cluster.run(["-getmerge", "/in", &local("merged")]).ok();
    assert_eq!(fs::read_to_string(local("merged")).unwrap(), "1\n2\n2\n");
    cluster
        .run([
            "-getmerge",
            "-nl",
            "-skip-empty-file",
            "/in",
            &local("merged"),
        ])
        .ok();
    assert_eq!(
        fs::read_to_string(local("merged")).unwrap(),
        "1\n2\n\n2\n\n"
    );
    cluster
        .run(["getmerge", "/in/a", "/none", &local("merged")])
        .fails(1, "/none: No such file");
    assert_eq!(
        fs::read_to_string(local("merged")).unwrap(),
        "1\n2\n\n2\n\n"
    );
    cluster.run(["-copyToLocal", "/in/a", &local("copy")]).ok();
    cluster
        .run(["-moveFromLocal", &local("copy"), "/in/moved"])
        .ok();
    assert!(!Path::new(&local("copy")).exists());
    assert_eq!(cluster.run(["cat", "/in/moved"]).text(), "1\n2\n");
    cluster.run(["-setrep", "-w", "2", "/in/a"]).ok();
    cluster.run(["-touchz", "/in/z"]).ok();
    cluster.run(["-rm", "-r", "-skipTrash", "/in"]).ok();
    cluster.run(["-frob"]).fails(2, "frob");
    cluster
        .run(["ls", "hdfs://localhost:9000/docs"])
        .fails(1, "paths here have no scheme and no host: write /docs");
}

#[test]
fn options_of_coreutils_do_what_they_do_there() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let run = |line: &str| cluster.run(words(line)).text();
    assert_eq!(run("mkdir -pv /a/b/c"), "made /a/b/c\n");
    assert_eq!(run("mv -v /a/b/c /a/b/d"), "/a/b/c -> /a/b/d\n");
    assert_eq!(
        run("rmdir -pv /a/b/d"),
        "removed /a/b/d\nremoved /a/b\nremoved /a\n"
    );
    cluster.run_with(["put", "-", "/d.TXT"], b"12345").ok();
    run("chmod 640 /d.TXT");
    run("touch -d @5 /d.TXT");
    run("chgrp 7 /d.TXT");
    assert_eq!(run("stat -c %a:%g /d.TXT"), "640:7\n");
    run("mkdir -p /t/u");
    run("cp -a /d.TXT /t/u/copy");
    assert_eq!(run("stat -c %a:%g:%Y:%s /t/u/copy"), "640:7:5:5\n");
    assert_eq!(run("ls -1 /t"), "u\n");
    assert!(run("tree /t").ends_with("\n1 directory, 1 file\n"));
    assert_eq!(run("du -d 0 -c /t"), "5\t15\t/t\n5\t15\ttotal\n");
    assert_eq!(
        run("du -a /t"),
        "5\t15\t/t/u/copy\n5\t15\t/t/u\n5\t15\t/t\n"
    );
    assert!(run("df /t").contains("AVAILABLE"));
    cluster.run(["df", "/none"]).fails(1, "/none: No such file");
    assert_eq!(run("find / -iname *.txt"), "/d.TXT\n");
    assert_eq!(run("find / -newer /d.TXT -type f"), "");
    assert_eq!(
        run("find / -type f -exec echo found {} ;"),
        "found /d.TXT\nfound /t/u/copy\n"
    );
    assert_eq!(run("find / -type f -exec echo {} +"), "/d.TXT /t/u/copy\n");

    let asked = cluster.run_with(["rm", "-i", "/d.TXT"], b"n\n");
    assert_eq!(
        (asked.status, asked.err.as_str()),
        (Some(0), "dfs: remove /d.TXT? ")
    );
    run("test -e /d.TXT");
    let asked = cluster.run_with(["rm", "-iv", "/d.TXT"], b"y\n");
    assert_eq!(asked.out, b"removed /d.TXT\n");
    for verb in ["mv", "cp", "ln"] {
        let error = cluster.run([verb, "/t/u/copy", "/none/copy"]).err;
        assert_eq!(
            error, "dfs: /none/copy: No such file or directory\n",
            "{verb}"
        );
    }
}

#[test]
fn pipes_links_and_odd_names_are_taken_as_they_are() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let (dangling, link, file) = (
        work.path().join("dangling"),
        work.path().join("link"),
        work.path().join("file"),
    );
    fs::write(&file, "x").unwrap();
    symlink("nowhere", &dangling).unwrap();
    symlink("file", &link).unwrap();

    cluster
        .run_with(["put", "/dev/stdin", "/in"], b"piped")
        .ok();
    assert_eq!(cluster.run(["cat", "/in"]).text(), "piped");
    cluster
        .run(["append", "nosuch", "/app"])
        .fails(1, "dfs: nosuch: No such file or directory");
    cluster.run(["test", "-e", "/app"]).fails(1, "");

    cluster.run(["mkdir", "/d"]).ok();
    cluster
        .run(["put", path(&dangling), path(&link), "/d"])
        .ok();
    assert_eq!(cluster.run(["readlink", "/d/dangling"]).text(), "nowhere\n");
    assert_eq!(cluster.run(["cat", "/d/link"]).text(), "x");
    cluster.run(["put", "-rf", path(&link), "/d"]).ok();
    assert_eq!(cluster.run(["readlink", "/d/link"]).text(), "file\n");
    let back = work.path().join("back");
    fs::create_dir(&back).unwrap();
    cluster.run(["get", "/d/*", path(&back)]).ok();
    assert_eq!(
        fs::read_link(back.join("dangling")).unwrap(),
        Path::new("nowhere")
    );
    assert_eq!(fs::read_link(back.join("link")).unwrap(), Path::new("file"));

    for name in ["/a[1", "/{x}", "/new\nline", "/back\\nslash"] {
        cluster.run(["touch", name]).ok();
        cluster.run(["test", "-f", name]).ok();
    }
    let listed = cluster.run(["ls", "/"]).text();
    assert_eq!(listed, "a[1\nback\\\\nslash\nd\nin\nnew\\nline\n{x}\n");
}

#[test]
fn what_is_no_namenode_is_told_so() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let status = cluster.status();
    let datanode = status["datanodes"][0]["address"]
        .as_str()
        .unwrap()
        .to_owned();
    cluster.run(["--cluster", &datanode, "ls", "/"]).fails(
        1,
        "answers as datanodes do. The address of a cluster is that of its namenodes",
    );
    let lonely = finish(cluster.command(["ls", "/"]).env("CAIRN_CLUSTER", ""), b"");
    assert!(!lonely.err.contains("write host:port"), "{}", lonely.err);
    cluster
        .run(["--cluster", "", "ls", "/"])
        .fails(1, "write host:port");
    cluster
        .run(["--timeout", "1", "namenode", "add", "127.0.0.1:1"])
        .fails(
            1,
            "dfs: 127.0.0.1:1 cannot be reached from here (Connection refused)",
        );
    let none = work.path().join("none/below");
    cluster
        .run(["man", "--out", path(&none)])
        .fails(1, "below: No such file or directory");
    assert!(!none.parent().unwrap().exists());
    assert!(cluster.run(["man", "ls"]).text().contains(".TH dfs-ls 1"));
}
