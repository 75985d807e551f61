//! Options that fingers know from coreutils and findutils.

use tempfile::tempdir;

use super::program::{Cluster, finish};

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

#[test]
fn find_joins_conditions_and_deletes() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster
        .run(["mkdir", "-p", "/t/a/deep", "/t/skip/x", "/kept"])
        .ok();
    for file in [
        "/t/1.log",
        "/t/a/2.log",
        "/t/a/deep/3.txt",
        "/t/skip/4.log",
        "/kept/5",
    ] {
        cluster.run_with(["put", "-", file], b"x").ok();
    }
    cluster.run(["chown", "4321:4322", "/t/a/2.log"]).ok();
    cluster.run(["ln", "-s", "/kept", "/t/a/link"]).ok();
    let find = |line: &str| cluster.run(words(line)).text();
    assert_eq!(
        find("find /t ! -name *.log -not -type d"),
        "/t/a/deep/3.txt\n/t/a/link\n"
    );
    assert_eq!(
        find("find /t -type f ( -name 1* -o -name 3* )"),
        "/t/1.log\n/t/a/deep/3.txt\n"
    );
    assert_eq!(find("find /t -user 4321 -group 4322"), "/t/a/2.log\n");
    assert_eq!(
        find("find /t -name skip -prune -o -name *.log -print"),
        "/t/1.log\n/t/a/2.log\n"
    );
    assert_eq!(
        find("find /t/skip -depth"),
        "/t/skip/4.log\n/t/skip/x\n/t/skip\n"
    );
    assert_eq!(find("find /t -name *.log -type f -delete"), "");
    assert_eq!(find("find /t -type f"), "/t/a/deep/3.txt\n");
    cluster
        .run(words("find /t -name deep -delete"))
        .fails(1, "dfs: /t/a/deep: Directory not empty\n");
    // A link goes, and what it leads to stays.
    assert_eq!(find("find /t -delete"), "");
    cluster.run(["ls", "/t"]).fails(1, "No such file");
    assert_eq!(cluster.run(["ls", "/kept"]).text(), "5\n");
    // Nobody loses the place where they are.
    cluster.run(["mkdir", "-p", "/user/root/x"]).ok();
    assert_eq!(find("find -delete"), "");
    assert_eq!(cluster.run(["ls", "/user"]).text(), "root\n");
    assert_eq!(cluster.run(["ls"]).text(), "");
}

#[test]
fn nothing_is_replaced_where_one_is_asked_first() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    for file in ["/a", "/b"] {
        cluster.run_with(["put", "-", file], file.as_bytes()).ok();
    }
    let ask = |line: &str, answer: &[u8]| {
        let done = finish(&mut cluster.command(words(line)), answer);
        assert_eq!(done.status, Some(0), "{line}: {}", done.err);
        assert_eq!(done.err, "dfs: replace /b? ", "{line}");
    };
    ask("cp -i /a /b", b"n\n");
    ask("mv -i /a /b", b"");
    assert_eq!(cluster.run(["cat", "/b"]).ok(), b"/b");
    ask("cp -i /a /b", b"y\n");
    assert_eq!(cluster.run(["cat", "/b"]).ok(), b"/a");
    cluster.run(["cp", "-i", "/a", "/free"]).ok();
    // The last of them counts.
    cluster.run(["cp", "-i", "-f", "/a", "/b"]).ok();
    cluster
        .run(["mv", "-f", "-n", "/a", "/b"])
        .fails(1, "/b: File exists");
    ask("mv -n -i /a /b", b"yes\n");
    assert_eq!(cluster.run(["ls", "/"]).text(), "b\nfree\n");
}

#[test]
fn times_marks_and_quotas_are_told_as_elsewhere() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "/d"]).ok();
    let seconds = |path: &str| cluster.run(["stat", "--format", "%X %Y", path]).text();
    let touch = |line: &str| {
        let mut command = cluster.command(words(line));
        finish(command.env("TZ", "UTC"), b"").ok()
    };
    touch("touch -t 202601010000.01 /d/f");
    assert_eq!(seconds("/d/f"), "1767225601 1767225601\n");
    touch("touch -a -d @5 /d/f");
    touch("touch -r /d/f /d/g");
    assert_eq!(seconds("/d/g"), "5 1767225601\n");
    touch("touch -m -r /d/f /d");
    assert!(seconds("/d").ends_with(" 1767225601\n"));
    cluster
        .run(["touch", "-t", "13", "/d/f"])
        .fails(2, "`13` is not a time");
    cluster
        .run(["touch", "-r", "/nope", "/d/f"])
        .fails(1, "/nope: No such file");

    cluster.run(["chmod", "755", "/d/f"]).ok();
    cluster.run(["ln", "-s", "f", "/d/l"]).ok();
    assert_eq!(cluster.run(["ls", "-F", "/d"]).text(), "f*\ng\nl@\n");
    assert_eq!(cluster.run(["ls", "-F", "/"]).text(), "d/\n");

    let counted = cluster.run(["count", "-q", "-v", "/d"]).text();
    let columns: Vec<Vec<&str>> = counted
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let titles = [
        "QUOTA",
        "REM_QUOTA",
        "SPACE_QUOTA",
        "REM_SPACE_QUOTA",
        "DIR_COUNT",
        "FILE_COUNT",
        "CONTENT_SIZE",
        "PATHNAME",
    ];
    assert_eq!(columns[0], titles);
    assert_eq!(
        columns[1],
        ["none", "inf", "none", "inf", "1", "3", "1", "/d"]
    );
    assert_eq!(columns.len(), 2);
}

#[test]
fn variables_that_are_empty_are_not_set_and_usage_is_about_the_command() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    let mut command = cluster.command(["ls", "/"]);
    for name in [
        "CAIRN_CA",
        "CAIRN_CERTIFICATE",
        "CAIRN_KEY",
        "CAIRN_TOKEN",
        "CAIRN_TOKEN_FILE",
        "CAIRN_USER",
    ] {
        command.env(name, "");
    }
    finish(&mut command, b"").ok();
    let usage = cluster.run(["concat"]);
    assert!(
        usage.status == Some(2)
            && usage
                .err
                .contains("Usage: dfs concat <TARGET> <SOURCES>..."),
        "{}",
        usage.err
    );
    for line in ["put -h", "up -h", "namenode list -h"] {
        assert!(
            cluster.run(words(line)).text().contains("Usage: dfs "),
            "{line}"
        );
    }
    let mut command = cluster.command(["ls", "/"]);
    command.env("CAIRN_CERTIFICATE", "x");
    finish(&mut command, b"").fails(2, "--certificate needs --key (or CAIRN_KEY)");
}
