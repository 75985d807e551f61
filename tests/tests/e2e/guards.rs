//! What commands must not do: put one source over another, remove what they did not store, follow links that appear while they
//! walk, and say nothing of what they could not see.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::tempdir;

use super::program::Cluster;

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
