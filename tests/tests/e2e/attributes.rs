//! What files have besides bytes: checksums, attributes, replicas, owners, sizes as they are told, and ends that grow.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use cairn_protocol::checksum::crc32c;
use tempfile::tempdir;

use super::program::{Cluster, content, eventually};

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// The columns of each line.
fn columns(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines();
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}

#[test]
fn checksums_are_those_of_the_bytes() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "/d"]).ok();
    let large = content(1, 5_000_001);
    cluster.run_with(["put", "-", "/d/large"], &large).ok();
    cluster
        .run_with(["put", "-", "/d/check"], b"123456789")
        .ok();
    cluster.run_with(["put", "-", "/d/empty"], b"").ok();
    // The second is the check value that CRC-32C is defined by.
    let expected = format!(
        "e3069283  9  /d/check\n00000000  0  /d/empty\n{:08x}  5000001  /d/large\n",
        crc32c(&large)
    );
    assert_eq!(cluster.run(["checksum", "/d/*"]).text(), expected);
    // What a file is made of does not matter.
    let (first, rest) = large.split_at(1_234_567);
    cluster.run_with(["put", "-", "/pieces"], first).ok();
    cluster.run_with(["append", "-", "/pieces"], rest).ok();
    cluster.run(["cp", "/pieces", "/copy"]).ok();
    for path in ["/pieces", "/copy"] {
        let line = format!("{:08x}  5000001  {path}\n", crc32c(&large));
        assert_eq!(cluster.run(["checksum", path]).text(), line);
    }
    let json = cluster.run(["checksum", "--json", "/d/check"]).ok();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let expected = serde_json::json!([{"path": "/d/check", "crc32c": "e3069283", "length": 9}]);
    assert_eq!(json, expected);
    cluster
        .run(["checksum", "/d"])
        .fails(1, "dfs: /d: Is a directory");
}

#[test]
fn attributes_are_set_told_and_removed() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/f"], b"f").ok();
    let run = |line: &str| cluster.run(words(line));
    assert_eq!(run("getfattr /f").text(), "");
    run("setfattr -n user.origin -v cairn /f").ok();
    run("setfattr -n user.bytes -v 0x00ff /f").ok();
    run("setfattr -n user.none /f").ok();
    let names = "# file: /f\nuser.bytes\nuser.none\nuser.origin\n";
    assert_eq!(run("getfattr /f").text(), names);
    let dump = "# file: /f\nuser.bytes=0x00ff\nuser.none=\"\"\nuser.origin=\"cairn\"\n";
    assert_eq!(run("getfattr -d /f").text(), dump);
    let one = "# file: /f\nuser.origin=\"cairn\"\n";
    assert_eq!(run("getfattr -n user.origin /f").text(), one);
    assert_eq!(
        run("getfattr -n user.bytes --only-values /f").ok(),
        b"\x00\xff"
    );
    run("setfattr -n user.origin -v elsewhere /f").ok();
    let one = "# file: /f\nuser.origin=\"elsewhere\"\n";
    assert_eq!(run("getfattr -n user.origin /f").text(), one);
    run("setfattr -x user.origin /f").ok();
    run("getfattr -n user.origin /f").fails(1, "dfs: /f: user.origin: No such attribute");
    run("setfattr -x user.origin /f").fails(1, "dfs: /f: user.origin: No such attribute");
    run("setfattr -n colour -v red /f").fails(1, "begins with user., trusted. or security.");
    run("setfattr -n user.x -v 0x0 /f").fails(2, "an even number of hexadecimal digits");
    assert_eq!(
        run("getfattr /f").text(),
        "# file: /f\nuser.bytes\nuser.none\n"
    );
}

#[test]
fn more_replicas_than_datanodes_are_a_wish_and_said_to_be_one() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "/r"]).ok();
    cluster.run_with(["put", "-", "/r/f"], b"f").ok();
    let set = cluster.run(["setrep", "3", "/r/f"]);
    assert_eq!((set.status, set.err.as_str()), (Some(0), ""));
    let set = cluster.run(["setrep", "-R", "9", "/r"]);
    assert_eq!(set.status, Some(0), "{}", set.err);
    for part in [
        "dfs: 9 replicas are asked for, and 3 datanodes are in service",
        "`dfs setrep -R 3 /r` asks for as many as there can be",
    ] {
        assert!(set.err.contains(part), "{}", set.err);
    }
    let wish = cluster.run(["stat", "--format", "%r", "/r/f"]).text();
    assert_eq!(wish, "9\n");
    // What it says of new files is so.
    for put in [
        &["put", "-", "/r/new"][..],
        &["put", "--replication", "9", "-", "/new"],
    ] {
        cluster.run_with(put, b"new").fails(
            1,
            "there are 3 of 9; start datanodes, or ask for fewer replicas",
        );
    }
    let nothing = cluster.run(["setrep", "9", "/none"]);
    assert!(!nothing.err.contains("are asked for"), "{}", nothing.err);
    nothing.fails(1, "/none: No such file or directory");
    cluster.run(["setrep", "-R", "3", "/r"]).ok();
    cluster.run_with(["put", "-", "/r/new"], b"new").ok();
    eventually("all is safe", || cluster.status()["safe"] == true);
}

#[test]
fn replicas_are_as_many_as_were_asked_for() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "-p", "/r/below"]).ok();
    for (number, path) in ["/r/a", "/r/below/b"].into_iter().enumerate() {
        let bytes = content(number as u64, 1_500_000);
        let put = ["put", "--replication", "1", "-", path];
        cluster.run_with(put, &bytes).ok();
    }
    let replication = |path: &str| cluster.run(["stat", "--format", "%r", path]).text();
    assert_eq!(replication("/r/below/b"), "1\n");
    // Without -R only what is named, and the files that come later.
    cluster.run(["setrep", "2", "/r"]).ok();
    assert_eq!(
        (replication("/r/a").as_str(), replication("/r").as_str()),
        ("1\n", "2\n")
    );
    cluster.run_with(["put", "-", "/r/later"], b"later").ok();
    assert_eq!(replication("/r/later"), "2\n");

    // When -w returns, the replicas are there.
    let waited = cluster.run(["setrep", "-R", "-w", "3", "/r"]);
    assert_eq!(waited.status, Some(0), "{}", waited.err);
    for path in ["/r", "/r/a", "/r/below", "/r/below/b", "/r/later"] {
        assert_eq!(replication(path), "3\n", "{path}");
    }
    // Datanodes tell how many they hold with their next heartbeats.
    eventually("every chunk has three replicas", || {
        let status = cluster.status();
        let datanodes = status["datanodes"].as_array().expect("datanodes");
        let replicas = datanodes.iter().filter_map(|one| one["replicas"].as_u64());
        let chunks = status["counts"]["chunks"].as_u64().expect("a number");
        status["safe"] == true && chunks > 0 && replicas.sum::<u64>() == 3 * chunks
    });
    let checked = cluster.run(["--user", "0", "fsck"]).text();
    assert!(checked.contains(": healthy"), "{checked}");
    cluster.run(["setrep", "17", "/r/a"]).fails(2, "1..=16");
}

#[test]
fn sizes_are_for_people_where_people_ask() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "-p", "/s/below/deep"]).ok();
    for (path, length) in [
        ("/s/small", 700),
        ("/s/below/middle", 12_288),
        ("/s/below/deep/large", 3 << 20),
    ] {
        cluster
            .run_with(["put", "-", path], &content(1, length))
            .ok();
    }
    let run = |line: &str| cluster.run(words(line)).text();
    let tree = "/s:\nbelow\nsmall\n\n/s/below:\ndeep\nmiddle\n\n/s/below/deep:\nlarge\n";
    assert_eq!(run("ls -R /s"), tree);
    let long = run("ls -lhR /s");
    let sizes = |text: &str| -> Vec<(String, String)> {
        let files = columns(text).into_iter().filter(|line| line.len() == 8);
        let files = files.filter(|line| line[0].starts_with('-'));
        files
            .map(|line| (line[7].to_owned(), line[4].to_owned()))
            .collect()
    };
    let pairs = |list: [(&str, &str); 3]| list.map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(
        sizes(&long),
        pairs([("small", "700"), ("middle", "12K"), ("large", "3.0M")])
    );
    assert_eq!(
        sizes(&run("ls -lR /s")),
        pairs([("small", "700"), ("middle", "12288"), ("large", "3145728")])
    );
    assert_eq!(run("du -s /s"), "3158716\t9476148\t/s\n");
    assert_eq!(run("du -sh /s"), "3.1M\t9.1M\t/s\n");
    assert_eq!(
        run("du -sh /s/small /s/below"),
        "700\t2.1K\t/s/small\n3.1M\t9.1M\t/s/below\n"
    );

    let df = run("df -h /s");
    let lines = columns(&df);
    assert_eq!(lines[0], ["SIZE", "USED", "AVAILABLE", "USE%", "INODES"]);
    for (place, size) in lines[1][..3].iter().enumerate() {
        let unit = size.trim_start_matches(|it: char| it.is_ascii_digit() || it == '.');
        let known = ["K", "M", "G", "T", "P"].contains(&unit) || (place == 1 && unit.is_empty());
        assert!(known, "{df}");
    }
    assert!(lines[1][3].ends_with('%'), "{df}");
    assert!(df.contains(" of files with 3 replicas each"), "{df}");
    // The same in bytes.
    let bytes = run("df");
    let capacity = columns(&bytes)[1][0].parse::<u64>();
    let json: serde_json::Value = serde_json::from_str(&run("df --json")).unwrap();
    assert_eq!(json["capacity_bytes"].as_u64(), capacity.ok());
}

#[test]
fn owners_change_and_are_kept() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "-p", "/o/below"]).ok();
    cluster.run_with(["put", "-", "/o/below/f"], b"f").ok();
    cluster.run(["ln", "-s", "f", "/o/below/l"]).ok();
    let owner = |path: &str| cluster.run(["stat", "--format", "%u:%g", path]).text();
    let before = owner("/o/below/f");
    cluster
        .run(["--user", "0", "chown", "4321:4322", "/o"])
        .ok();
    assert_eq!(
        [owner("/o"), owner("/o/below/f")],
        ["4321:4322\n".into(), before]
    );
    cluster
        .run(["--user", "0", "chown", "-R", "4323:4324", "/o"])
        .ok();
    for path in ["/o", "/o/below", "/o/below/f"] {
        assert_eq!(owner(path), "4323:4324\n", "{path}");
    }
    cluster
        .run(["--user", "0", "chown", "-R", ":4325", "/o"])
        .ok();
    assert_eq!(owner("/o/below/f"), "4323:4325\n");
    cluster
        .run(["--user", "4326", "chown", "-R", "4326", "/o/below"])
        .fails(1, "not permitted");

    if !rustix::process::geteuid().is_root() {
        eprintln!("not tested: only root gives local files away");
        return;
    }
    let local = work.path().join("tree");
    fs::create_dir(&local).unwrap();
    fs::write(local.join("f"), "mine").unwrap();
    chown(local.join("f"), Some(4327), Some(4328)).unwrap();
    chown(&local, Some(4329), Some(4330)).unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    cluster.run(["put", "-p", &text(&local), "/kept"]).ok();
    cluster.run(["put", &text(&local), "/own"]).ok();
    assert_eq!(
        ["/kept", "/kept/f", "/own", "/own/f"].map(owner),
        ["4329:4330\n", "4327:4328\n", "0:0\n", "0:0\n"]
    );
    let back = work.path().join("back");
    cluster.run(["get", "-p", "/kept", &text(&back)]).ok();
    let local_owner = |path| fs::metadata(path).map(|it| (it.uid(), it.gid())).unwrap();
    assert_eq!(local_owner(back.clone()), (4329, 4330));
    assert_eq!(local_owner(back.join("f")), (4327, 4328));
    let plain = work.path().join("plain");
    cluster.run(["get", "/kept", &text(&plain)]).ok();
    assert_eq!(local_owner(plain.join("f")), (0, 0));
}

/// Modes in octal, and of links the time of the last change.
fn kept(tree: &Path, names: &[&str]) -> Vec<String> {
    let told = |name: &&str| {
        let found = fs::symlink_metadata(tree.join(name)).expect("a file of the tree");
        if found.is_symlink() {
            return found.mtime().to_string();
        }
        format!("{:o}", found.mode() & 0o7777)
    };
    names.iter().map(told).collect()
}

#[test]
fn copies_have_the_modes_and_times_that_cp_gives_them() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let place = |name: &str| work.path().join(name);
    let text = |name: &str| place(name).to_str().unwrap().to_owned();
    let names = [
        "",
        "closed",
        "closed/f",
        "read-only",
        "read-only/f",
        "open",
        "open/x",
        "shared",
        "link",
    ];
    for name in ["closed", "read-only", "open", "shared"] {
        fs::create_dir_all(place("tree").join(name)).unwrap();
    }
    for (name, mode) in [
        ("closed/f", 0o600),
        ("read-only/f", 0o444),
        ("open/x", 0o775),
    ] {
        fs::write(place("tree").join(name), name).unwrap();
        fs::set_permissions(place("tree").join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, mode) in [
        ("", 0o750),
        ("closed", 0o700),
        ("read-only", 0o555),
        ("open", 0o777),
        ("shared", 0o1777),
    ] {
        fs::set_permissions(place("tree").join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("closed/f", place("tree").join("link")).unwrap();
    let shell = |line: &str| {
        let status = Command::new("sh")
            .args(["-ec", line])
            .current_dir(work.path())
            .status();
        assert!(status.unwrap().success(), "{line}");
    };
    shell("touch -h -d @1000000000 tree/link; cp -r tree plain; cp -a tree same");
    let is_link = |name: &&str| *name == "link";
    let stored = |path: &str| -> Vec<String> {
        let told = |name: &&str| {
            let format = if is_link(name) { "%Y" } else { "%a" };
            let path = format!("{path}/{name}");
            let told = cluster.run(["stat", "--format", format, path.trim_end_matches('/')]);
            let told = told.text();
            // Seconds may come with their fractions.
            told.trim_end().split('.').next().unwrap().to_owned()
        };
        names.iter().map(told).collect()
    };
    // A link that was not to be kept as it was is as old as its copy.
    let modes = |of: Vec<String>| of[..names.len() - 1].to_vec();
    let (plain, same) = (kept(&place("plain"), &names), kept(&place("same"), &names));
    assert_eq!((plain[1].as_str(), same[8].as_str()), ("700", "1000000000"));

    cluster.run(["put", &text("tree"), "/plain"]).ok();
    assert_eq!(modes(stored("/plain")), modes(plain.clone()));
    cluster.run(["put", "-p", &text("tree"), "/same"]).ok();
    assert_eq!(stored("/same"), same);
    cluster.run(["cp", "-r", "/same", "/plain-copy"]).ok();
    assert_eq!(modes(stored("/plain-copy")), modes(plain.clone()));
    cluster.run(["cp", "-a", "/same", "/same-copy"]).ok();
    assert_eq!(stored("/same-copy"), same);
    // Over links that are there, too.
    cluster.run(["rm", "/same-copy/link"]).ok();
    cluster
        .run(["ln", "-s", "elsewhere", "/same-copy/link"])
        .ok();
    cluster
        .run(["cp", "-p", "-d", "/same/link", "/same-copy/link"])
        .ok();
    assert_eq!(stored("/same-copy"), same);
    cluster.run(["get", "/same", &text("plain-back")]).ok();
    assert_eq!(modes(kept(&place("plain-back"), &names)), modes(plain));
    cluster.run(["get", "-p", "/same", &text("same-back")]).ok();
    assert_eq!(kept(&place("same-back"), &names), same);
    // Otherwise nobody but root could remove them.
    shell("chmod -R u+w .");
}

#[test]
fn tail_f_prints_what_others_append() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run_with(["put", "-", "/log"], b"one\ntwo\n").ok();
    let mut command = cluster.command(["tail", "-n", "1", "-f", "--interval", "20ms", "/log"]);
    let mut tail = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "two");
    for number in 0..5 {
        let line = format!("line {number}");
        let append = ["append", "-", "/log"];
        cluster
            .run_with(append, format!("{line}\n").as_bytes())
            .ok();
        assert_eq!(next(), line);
    }
    tail.kill().unwrap();
    tail.wait().unwrap();
}
