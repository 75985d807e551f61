//! Access control lists on the command line, in the words of `hdfs dfs`.

use tempfile::tempdir;

use super::program::{Cluster, finish};

#[test]
fn lists_are_set_shown_obeyed_and_removed() {
    let work = tempdir().unwrap();
    let cluster = Cluster::up(&work, &[]);
    cluster.run(["mkdir", "-p", "/d/sub"]).ok();
    cluster.run_with(["put", "-", "/d/f"], b"secret").ok();
    cluster.run(["chmod", "-R", "o=,g=rX", "/d"]).ok();
    let plain = "# file: /d/f\n# owner: root\n# group: root\nuser::rw-\ngroup::r--\nother::---\n\n";
    assert_eq!(cluster.run(["getfacl", "/d/f"]).text(), plain);
    let as_ada = |words: &[&str]| {
        let mut command = cluster.command(words);
        finish(command.env("CAIRN_USER", "4321"), b"")
    };
    as_ada(&["cat", "/d/f"]).fails(1, "Permission denied");

    let spec = "user:4321:r-x,default:user:4321:r-x";
    cluster.run(["-setfacl", "-R", "-m", spec, "/d"]).ok();
    assert_eq!(as_ada(&["cat", "/d/f"]).ok(), b"secret");
    let of_sub = "# file: /d/sub\n# owner: root\n# group: root\nuser::rwx\nuser:4321:r-x\ngroup::r-x\n\
        mask::r-x\nother::---\ndefault:user::rwx\ndefault:user:4321:r-x\ndefault:group::r-x\n\
        default:mask::r-x\ndefault:other::---\n\n";
    assert_eq!(cluster.run(["-getfacl", "/d/sub"]).text(), of_sub);
    let all = cluster.run(["getfacl", "-R", "/d"]).text();
    assert_eq!(all.matches("# file: ").count(), 3, "{all}");
    let long = cluster.run(["ls", "-l", "/d"]).text();
    assert!(long.starts_with("-rw-r-x---+ "), "{long}");
    // What is made in it gets its list.
    cluster.run_with(["put", "-", "/d/new"], b"new").ok();
    assert_eq!(as_ada(&["cat", "/d/new"]).ok(), b"new");
    // chmod takes from the mask, and the entry stays.
    cluster.run(["chmod", "g=", "/d/f"]).ok();
    let masked = cluster.run(["getfacl", "/d/f"]).text();
    assert!(
        masked.contains("user:4321:r-x\t#effective:---\n"),
        "{masked}"
    );
    as_ada(&["cat", "/d/f"]).fails(1, "Permission denied");

    cluster.run(["setfacl", "-x", "user:4321", "/d/new"]).ok();
    as_ada(&["cat", "/d/new"]).fails(1, "Permission denied");
    cluster.run(["setfacl", "-k", "/d"]).ok();
    cluster.run(["setfacl", "-b", "/d/sub", "/d/f"]).ok();
    let set = "user::rw-,group::---,other::r--";
    cluster.run(["setfacl", "--set", set, "/d/f"]).ok();
    let mode = cluster.run(["stat", "--format", "%a", "/d/f"]).text();
    assert_eq!(mode, "604\n");
    assert!(
        cluster
            .run(["ls", "-l", "/d"])
            .text()
            .starts_with("-rw----r-- ")
    );

    for (line, status, told) in [
        (
            ["-m", "user:4321:rwz", "/d"],
            2,
            "`rwz` is none of --- to rwx",
        ),
        (
            ["-m", "default:user:4321:r--", "/d/f"],
            1,
            "/d/f: invalid access control list: only directories",
        ),
        (
            ["--set", "user:4321:r--", "/d/f"],
            1,
            "the user, group and other entries are required",
        ),
        (
            ["-m", "user:nobody-here:r--", "/d"],
            2,
            "no user `nobody-here`",
        ),
        (
            ["-m", "user:4321:r--", "/nope"],
            1,
            "/nope: No such file or directory",
        ),
    ] {
        let words = ["setfacl"].iter().chain(&line);
        cluster.run(words).fails(status, told);
    }
    as_ada(&["setfacl", "-b", "/d"]).fails(1, "/d: Operation not permitted");
}
