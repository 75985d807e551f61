//! Lines of `dfs find`, and what they mean.

use cairn_protocol::messages::common::{Attributes, InodeKind};

use super::{Action, Search};
use crate::commands::find::condition::Facts;
use crate::walk::Found;

fn search(line: &str) -> anyhow::Result<Search> {
    Search::parse(line.split_whitespace().map(Into::into).collect())
}

const DAY: u64 = 86_400_000_000_000;

fn found(path: &str, size: u64, age_days: u64) -> Found {
    let attributes = Attributes {
        kind: InodeKind::File as i32,
        size,
        mtime_ns: 1000 * DAY - age_days * DAY,
        atime_ns: 1000 * DAY,
        uid: 7,
        gid: 8,
        nlink: 2,
        mode: 0o640,
        ..Attributes::default()
    };
    Found {
        path: path.into(),
        attributes,
        depth: 1,
    }
}

fn actions(line: &str, found: &Found) -> Vec<Action> {
    let facts = Facts {
        now_ns: 1000 * DAY + 5,
        newer_than: vec![999 * DAY],
    };
    search(line).unwrap().actions(found, &facts)
}

fn matches(line: &str, path: &str, size: u64, age_days: u64) -> bool {
    !actions(line, &found(path, size, age_days)).is_empty()
}

#[test]
fn conditions_mean_what_find_means() {
    assert!(matches("/ -name *.log", "/a/b.log", 0, 0));
    assert!(!matches("/ -name *.log", "/a.log/b", 0, 0));
    assert!(matches("/ -iname *.LOG", "/a.log", 0, 0) && !matches("/ -iname *.LOG", "/x", 0, 0));
    assert!(matches("/ -path */x/*", "/a/x/b/c", 0, 0));
    assert!(matches("/ -type f -size 1", "/a", 512, 0) && !matches("/ -size 1", "/a", 513, 0));
    assert!(
        matches("/ -size +1M", "/a", (1 << 20) + 1, 0) && !matches("/ -size +1M", "/a", 1 << 20, 0)
    );
    assert!(matches("/ -size +10K", "/a", 10_241, 0) && matches("/ -size 1kB", "/a", 9, 0));
    assert!(matches("/ -size 3w", "/a", 5, 0) && matches("/ -size -2MiB", "/a", 99, 0));
    assert!(matches("/ -size -1k -empty", "/a", 0, 0) && matches("/ -size 5c", "/a", 5, 0));
    assert!(matches("/ -mtime +2", "/a", 0, 3) && !matches("/ -mtime +3", "/a", 0, 3));
    assert!(matches("/ -mtime -1", "/a", 0, 0) && matches("/ -mtime 3", "/a", 0, 3));
    assert!(matches("/ -atime 0", "/a", 0, 3) && !matches("/ -amin +5", "/a", 0, 3));
    assert!(!matches("/ -mindepth 2", "/a", 0, 0) && !matches("/ -type d", "/a", 0, 0));
    assert!(matches("/ -newer x", "/a", 0, 0) && !matches("/ -newer x", "/a", 0, 1));
    assert!(matches("/ -user 7 -group 8", "/a", 0, 0) && !matches("/ -user 8", "/a", 0, 0));
    assert!(matches("/ -links 2", "/a", 0, 0) && !matches("/ -links +2", "/a", 0, 0));
    for (mode, fits) in [
        ("640", true),
        ("644", false),
        ("-600", true),
        ("-u+rx", false),
        ("/022", false),
        ("/244", true),
        ("-000", true),
        ("/000", true),
    ] {
        let line = format!("/ -perm {mode}");
        assert_eq!(matches(&line, "/a", 0, 0), fits, "{mode}");
    }
}

#[test]
fn conditions_are_joined_as_in_find() {
    let fits = |line: &str, path: &str| matches(line, path, 0, 0);
    for not in ["!", "-not"] {
        let line = format!("/ {not} -name *.x");
        assert!(fits(&line, "/a") && !fits(&line, "/a.x"));
    }
    assert!(fits("/ ! ! -name a", "/a") && !fits("/ ! ( -name a )", "/a"));
    let either = "/ -name a -o -name b -type d";
    assert!(fits(either, "/a") && !fits(either, "/b"), "and binds more");
    let grouped = "/ ( -name a -or -name b ) -a -type f";
    assert!(fits(grouped, "/a") && fits(grouped, "/b") && !fits(grouped, "/c"));
    assert!(fits("/ -true", "/a") && !fits("/ -false", "/a"));
}

#[test]
fn what_is_done_stands_where_it_holds() {
    let (a, b) = (found("/a", 0, 0), found("/b", 0, 0));
    let line = "/ -name a -print0 -o -print";
    assert_eq!(actions(line, &a), [Action::Print0]);
    assert_eq!(actions(line, &b), [Action::Print]);
    // Leaving something out is the only thing that is done; the rest is printed.
    let line = "/ -name a -prune -o -name b";
    assert_eq!(actions(line, &a), [Action::Prune, Action::Print]);
    let line = "/ -name a -prune -o -print";
    assert_eq!(actions(line, &a), [Action::Prune]);
    let line = "/ -name a -exec x ; -exec y {} + -delete";
    assert_eq!(
        actions(line, &a),
        [Action::Run(0), Action::Run(1), Action::Delete]
    );
    assert!(actions(line, &b).is_empty() && search(line).unwrap().depth_first);
    let mut directory = found("/d", 0, 0);
    directory.attributes.kind = InodeKind::Directory as i32;
    assert!(search("/ -depth").unwrap().is_later(&directory));
    assert!(!search("/ -depth").unwrap().is_later(&a));
    assert!(
        !search("/ -delete -maxdepth 1")
            .unwrap()
            .is_later(&directory)
    );
}

#[test]
fn lines_are_taken_apart() {
    let parsed = search("/a /b -maxdepth 3 -print0").unwrap();
    assert_eq!((parsed.paths.len(), parsed.depth_max), (2, 3));
    assert_eq!(search("-name x").unwrap().paths, ["."]);
    assert_eq!(search("").unwrap().paths, ["."]);
    let paths = [b"/a b".to_vec(), b"/c".to_vec()];
    let run = |line| search(line).unwrap().runs[0].words_for(&paths);
    assert_eq!(run("-exec ls x{}{}y -l ;"), ["ls", "x/a b/a by", "-l"]);
    assert_eq!(run("-exec ls -l {} +"), ["ls", "-l", "/a b", "/c"]);
    assert_eq!(search("-newer /x -empty").unwrap().newer, ["/x"]);
    let deep = "( ".repeat(200) + "-empty" + &" )".repeat(200);
    for bad in [
        "/ -frob x",
        "/ -name",
        "/ -type x",
        "/ -size k",
        "/ -mtime x",
        "/ -maxdepth -1",
        "/ -name [a",
        "/ -exec",
        "/ -exec ;",
        "/ -exec ls {}",
        "/ -newer",
        "/ -user nobody-of-this-name",
        "/ -perm u",
        "/ -perm 9",
        "/ -o -empty",
        "/ -empty -o",
        "/ !",
        "/ ( -empty",
        "/ -empty )",
        "/ ( )",
        &deep,
    ] {
        assert!(search(bad).is_err(), "{bad}");
    }
}
