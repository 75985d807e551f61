//! The arrows between crates, as `docs/ARCHITECTURE.md` draws them: they never point up or sideways.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each crate's folder with all of ours that it may depend on, those of its tests included.
const ARROWS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("daemon", &[]),
    ("client", &["protocol"]),
    ("namenode", &["protocol", "daemon"]),
    ("datanode", &["protocol", "daemon"]),
    ("fuse-mount", &["client", "daemon", "protocol"]),
    ("gateway", &["client", "daemon", "protocol"]),
    ("cli", ALL),
    ("tests", ALL),
];

const ALL: &[&str] = &[
    "protocol",
    "daemon",
    "client",
    "namenode",
    "datanode",
    "fuse-mount",
    "gateway",
];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace").to_owned()
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().expect("a manifest")
}

/// Folders of ours that a manifest names, wherever in it dependencies are named.
fn ours(table: &toml::Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (key, value) in table {
        let Some(inner) = value.as_table() else {
            continue;
        };
        if key.ends_with("dependencies") {
            let names = inner.keys().filter_map(|name| name.strip_prefix("cairn-"));
            found.extend(names.map(str::to_owned));
        } else {
            found.append(&mut ours(inner));
        }
    }
    found
}

#[test]
fn arrows_between_crates_never_point_up_or_sideways() {
    for (folder, may) in ARROWS {
        for needs in ours(&manifest(folder)) {
            assert!(
                may.contains(&needs.as_str()),
                "{folder} depends on {needs}, and may depend on {may:?} only"
            );
        }
    }
}

#[test]
fn every_crate_of_the_workspace_has_its_arrows() {
    let workspace = manifest(".");
    let members = workspace["workspace"]["members"].as_array();
    let members = members.expect("members").iter();
    let members: BTreeSet<&str> = members.map(|name| name.as_str().expect("a name")).collect();
    let drawn: BTreeSet<&str> = ARROWS.iter().map(|(folder, _)| *folder).collect();
    assert_eq!(members, drawn);
    let architecture = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("read");
    for folder in drawn {
        let line = |line: &str| line.starts_with(&format!("{folder} "));
        assert!(architecture.lines().any(line), "{folder} is not drawn");
    }
}

#[test]
fn dependencies_are_found_wherever_they_are_named() {
    let text = "
        [dependencies]\ncairn-a.workspace = true\nserde = '1'
        [target.'cfg(unix)'.dependencies]\ncairn-b = { path = 'b' }
        [dev-dependencies]\ncairn-c.workspace = true";
    let table: toml::Table = text.parse().expect("a manifest");
    let found = ["a", "b", "c"].map(str::to_owned);
    assert_eq!(ours(&table), BTreeSet::from(found));
}
