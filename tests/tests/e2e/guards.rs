//! What commands must not do: put one source over another, remove what they did not store, follow links that appear while they
//! walk, and say nothing of what they could not see.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use tempfile::tempdir;

use super::program::{Cluster, signal};

fn text(path: &Path) -> &str {
    path.to_str().expect("tests name their files in UTF-8")
}

#[test]
fn two_sources_of_one_name_do_not_become_one() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "/a", "/b", "/d", "/e", "/f"]).ok();
    cluster.run_with(["put", "-", "/a/x"], b"first").ok();
    cluster.run_with(["put", "-", "/b/x"], b"second").ok();
    let local = |name: &str| work.path().join(name);
    for directory in ["a", "b", "out"] {
        fs::create_dir(local(directory)).unwrap();
    }
    fs::write(local("a/x"), "first").unwrap();
    fs::write(local("b/x"), "second").unwrap();
    let (a, b, out) = (local("a/x"), local("b/x"), local("out"));
    let (a, b, out) = (text(&a), text(&b), text(&out));
    for (command, refused) in [
        (vec!["cp", "/a/x", "/b/x", "/d"], "/b/x"),
        (vec!["cp", "/{a,b}/x", "/d"], "/b/x"),
        (vec!["put", "-f", "--remove-source", a, b, "/e"], b),
        (vec!["get", "-f", "/a/x", "/b/x", out], "/b/x"),
        (vec!["mv", "/a/x", "/b/x", "/f"], "/b/x"),
    ] {
        let text = format!("dfs: {refused}: left out, because an earlier source");
        cluster.run(&command).fails(1, &text);
    }
    for place in ["/d/x", "/e/x", "/f/x"] {
        assert_eq!(cluster.run(["cat", place]).text(), "first", "{place}");
    }
    assert_eq!(cluster.run(["cat", "/b/x"]).text(), "second");
    assert_eq!(fs::read(local("out/x")).unwrap(), b"first");
    for (path, content) in [(a, "first"), (b, "second")] {
        assert_eq!(fs::read_to_string(path).unwrap(), content);
    }
}

#[test]
fn what_was_uploaded_is_removed_and_nothing_else() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let tree = work.path().join("tree");
    fs::create_dir_all(tree.join("deep/empty")).unwrap();
    fs::write(tree.join("deep/small"), "small").unwrap();
    fs::write(tree.join("large"), vec![7; 3 << 20]).unwrap();
    let put = ["put", "--remove-source", text(&tree), "/moved"];
    cluster.run(put).ok();
    assert!(!tree.exists());
    assert_eq!(cluster.run(["cat", "/moved/deep/small"]).text(), "small");
    // Where something fails, everything stays.
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("large"), "other").unwrap();
    fs::write(tree.join("new"), "new").unwrap();
    cluster
        .run(["put", "--remove-source", text(&tree), "/moved"])
        .ok();
    assert_eq!(cluster.run(["cat", "/moved/tree/new"]).text(), "new");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("large"), "again").unwrap();
    fs::write(tree.join("newer"), "newer").unwrap();
    cluster
        .run(["put", "--remove-source", text(&tree), "/moved"])
        .fails(1, "/moved/tree/large: File exists");
    assert_eq!(fs::read(tree.join("large")).unwrap(), b"again");
    assert_eq!(fs::read(tree.join("newer")).unwrap(), b"newer");
    assert_eq!(cluster.run(["cat", "/moved/tree/large"]).text(), "other");
}

#[test]
fn a_link_that_takes_a_directory_s_place_leads_nowhere() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster
        .run(["mkdir", "-p", "/tree/a/below", "/secret/inner"])
        .ok();
    // What `find` runs for the directory is done before it looks into it.
    let script = work.path().join("swap");
    let dfs = cluster.command(["--version"]);
    let dfs = text(Path::new(dfs.get_program())).to_owned();
    let swap = format!(
        "#!/bin/sh\necho \"$1\"\nif [ \"$1\" = /tree/a ]; then\n{dfs} mv /tree/a /elsewhere && {dfs} ln -s /secret /tree/a\nfi\n"
    );
    fs::write(&script, swap).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let found = cluster.run(["find", "/tree", "-exec", text(&script), "{}", ";"]);
    assert_eq!(found.text(), "/tree\n/tree/a\n/tree/a/below\n");
    assert!(
        cluster
            .run(["readlink", "/tree/a"])
            .text()
            .contains("/secret")
    );
}

#[test]
fn a_directory_that_may_not_be_searched_is_not_taken_for_empty() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "-p", "/tree/closed", "/open"]).ok();
    cluster.run(["chmod", "777", "/open"]).ok();
    cluster.run_with(["put", "-", "/tree/closed/x"], b"x").ok();
    cluster.run(["chmod", "744", "/tree/closed"]).ok();
    let (got, joined) = (work.path().join("got"), work.path().join("joined"));
    for command in [
        vec!["ls", "/tree/closed"],
        vec!["ls", "-R", "/tree"],
        vec!["get", "/tree", text(&got)],
        vec!["getmerge", "/tree/closed", text(&joined)],
        vec!["cp", "-r", "/tree", "/open/copy"],
        vec!["du", "/tree"],
        vec!["count", "/tree"],
        vec!["find", "/tree"],
        vec!["tree", "/tree"],
    ] {
        let told = cluster.run([&["--user", "7"], command.as_slice()].concat());
        assert_eq!(
            told.err, "dfs: /tree/closed: Permission denied\n",
            "{command:?}"
        );
        assert_eq!(told.status, Some(1), "{command:?}");
    }
    assert!(!joined.exists());
}

#[test]
fn braces_do_not_hide_a_directory_that_nobody_named() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "-p", "/user/root/x", "/a/b/x"]).ok();
    let before = cluster.run(["find", "/"]).text();
    for line in [
        "rm -rf /a/b/{..,x}",
        "rm -r {,x}",
        "rm -r {./,x}",
        "rm -r {..,x}",
        "rmdir {,x}",
        "mv {,x} /a",
        "mv /a/b/{../../a,..} /user",
    ] {
        let refused = cluster.run(line.split(' '));
        refused.fails(1, "which an alternative in braces comes to");
    }
    assert_eq!(cluster.run(["find", "/"]).text(), before);
    cluster.run(["rm", "-r", "/a/{b,none}/x", "-f"]).ok();
    cluster.run(["rm", "-r", "{x,y}", "-f"]).ok();
    assert_eq!(
        cluster.run(["find", "/"]).text(),
        "/\n/a\n/a/b\n/user\n/user/root\n"
    );
}

#[test]
fn who_does_not_keep_the_owner_does_not_keep_what_acts_as_it() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "/open", "/shared"]).ok();
    cluster.run(["chmod", "777", "/open"]).ok();
    cluster.run(["chown", "0:9", "/shared"]).ok();
    cluster.run(["chmod", "2777", "/shared"]).ok();
    let program = work.path().join("program");
    fs::write(&program, "x").unwrap();
    // Owned by whoever runs the tests, which is not 7.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    let mode = |path: &str| cluster.run(["stat", "--format", "%a", path]).text();
    let program = text(&program);
    cluster
        .run(["--user", "0", "put", "-p", program, "/open/kept"])
        .ok();
    assert_eq!(mode("/open/kept"), "6755\n");
    cluster
        .run(["--user", "0", "cp", "-p", "/open/kept", "/open/same"])
        .ok();
    assert_eq!(mode("/open/same"), "6755\n");
    cluster
        .run(["--user", "7", "put", "-p", program, "/open/put"])
        .ok();
    cluster
        .run(["--user", "7", "cp", "-p", "/open/kept", "/open/copied"])
        .ok();
    for path in ["/open/put", "/open/copied"] {
        assert_eq!(mode(path), "755\n", "{path}");
    }
}

#[test]
fn a_copy_is_as_long_as_its_source() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/sparse"], b"begin").ok();
    cluster.run(["truncate", "-s", "3M", "/sparse"]).ok();
    cluster.run(["ln", "-s", "sparse", "/link"]).ok();
    for _ in 0..2 {
        // The second time over the first.
        cluster.run(["cp", "/sparse", "/copy"]).ok();
        cluster.run(["cp", "-r", "/link", "/copied-link"]).ok();
    }
    cluster
        .run(["cp", "-n", "/sparse", "/copy"])
        .fails(1, "/copy: File exists");
    assert!(cluster.run(["cat", "/copy"]).ok() == cluster.run(["cat", "/sparse"]).ok());
    assert_eq!(
        cluster.run(["stat", "--format", "%s", "/copy"]).text(),
        "3145728\n"
    );
    assert_eq!(
        cluster.run(["ls", "/"]).text(),
        "copied-link\ncopy\nlink\nsparse\n"
    );
}

#[test]
fn the_end_of_a_rotated_file_is_not_lost() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/log"], b"one\n").ok();
    let mut tail = cluster
        .command(["tail", "-F", "--interval", "2s", "/log"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = tail.stdout.take().unwrap();
    let mut read = |count: usize| {
        let mut bytes = vec![0; count];
        out.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(read(4), "one\n");
    // All before it looks again, unless this machine is very slow.
    cluster.run_with(["append", "-", "/log"], b"two\n").ok();
    cluster.run(["mv", "/log", "/log.1"]).ok();
    cluster.run_with(["put", "-", "/log"], b"three\n").ok();
    assert_eq!(read(10), "two\nthree\n");
    cluster.run(["rm", "/log"]).ok();
    cluster.run_with(["put", "-", "/log"], b"four\n").ok();
    assert_eq!(read(5), "four\n");
    signal("KILL", tail.id());
    tail.wait().unwrap();
}

#[test]
fn a_file_that_is_cut_while_it_is_followed_loses_no_line() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/log"], b"one\ntwo\n").ok();
    for option in ["-f", "-F"] {
        let mut tail = cluster
            .command(["tail", option, "--interval", "20ms", "/log"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(tail.stdout.take().unwrap()).lines();
        let mut expect = |lines: &[&str]| {
            for line in lines {
                assert_eq!(out.next().unwrap().unwrap(), *line);
            }
        };
        expect(&["one", "two"]);
        // Longer than before, shorter than before, and as long. Between two looks, for it does nothing meanwhile.
        for lines in [
            &["three", "four", "five"][..],
            &["6"],
            &["7"],
            &["one", "two"],
        ] {
            let text = format!("{}\n", lines.join("\n"));
            signal("STOP", tail.id());
            cluster.run(["truncate", "-s", "0", "/log"]).ok();
            cluster
                .run_with(["append", "-", "/log"], text.as_bytes())
                .ok();
            signal("CONT", tail.id());
            expect(lines);
        }
        cluster.run_with(["append", "-", "/log"], b"more\n").ok();
        expect(&["more"]);
        cluster.run(["truncate", "-s", "8", "/log"]).ok();
        expect(&["one", "two"]);
        signal("KILL", tail.id());
        let said = tail.wait_with_output().unwrap().stderr;
        let said = String::from_utf8(said).unwrap();
        assert_eq!(said, "dfs: /log: file truncated\n".repeat(5));
    }
}

#[test]
fn a_file_that_is_cut_while_its_end_is_printed_is_printed_anew() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    // More than a pipe holds, so that it is cut before all of it is printed.
    let old = "old line\n".repeat(300_000);
    let new: String = (0..400_000).map(|n| format!("{n:08}\n")).collect();
    cluster.run_with(["put", "-", "/log"], old.as_bytes()).ok();
    let mut tail = cluster
        .command(["tail", "-f", "-n", "+1", "--interval", "20ms", "/log"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = tail.stdout.take().unwrap();
    let mut first = [0];
    out.read_exact(&mut first).unwrap();
    cluster.run(["truncate", "-s", "0", "/log"]).ok();
    cluster
        .run_with(["append", "-", "/log"], new.as_bytes())
        .ok();
    let mut lines = BufReader::new(out).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "ld line");
    let mut lines = lines.skip_while(|line| line == "old line");
    for line in new.lines() {
        assert_eq!(lines.next().unwrap(), line);
    }
    signal("KILL", tail.id());
    let said = tail.wait_with_output().unwrap().stderr;
    let said = String::from_utf8(said).unwrap();
    assert_eq!(said, "dfs: /log: file truncated\n");
}

#[test]
fn a_file_that_is_not_there_yet_is_waited_for() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster
        .run(["tail", "-f", "/dir/log"])
        .fails(1, "/dir/log: No such file or directory");
    let mut tail = cluster
        .command(["tail", "-F", "--interval", "20ms", "/dir/log"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(tail.stderr.take().unwrap()).lines();
    assert_eq!(
        said.next().unwrap().unwrap(),
        "dfs: /dir/log: No such file or directory; waiting for it"
    );
    cluster.run(["mkdir", "/dir"]).ok();
    let many: String = (0..20).map(|number| format!("line {number}\n")).collect();
    cluster
        .run_with(["put", "-", "/dir/log"], many.as_bytes())
        .ok();
    let mut out = BufReader::new(tail.stdout.take().unwrap()).lines();
    for line in many.lines() {
        assert_eq!(out.next().unwrap().unwrap(), line);
    }
    assert_eq!(said.next().unwrap().unwrap(), "dfs: /dir/log: has appeared");
    cluster
        .run_with(["append", "-", "/dir/log"], b"more\n")
        .ok();
    assert_eq!(out.next().unwrap().unwrap(), "more");
    signal("KILL", tail.id());
    tail.wait().unwrap();
}

#[test]
fn what_a_cluster_keeps_is_its_user_s_alone() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let mode = fs::metadata(cluster.directory())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o700);
}
