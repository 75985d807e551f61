//! What tests run against and cannot be had is named by the scripts that install it; in CI it is a failure, so that no test vanishes unseen.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use tempfile::{TempDir, tempdir};

use super::program::finish;

/// All programs of this machine but these, and no way to install others: registries are out of reach.
fn programs_without(missing: &[&str]) -> TempDir {
    let programs = tempdir().expect("a directory");
    let place = |name: &str| programs.path().join(name);
    for (name, stands_for) in [
        ("python3", "/bin/false"),
        ("npm", "/bin/false"),
        ("cargo", "/bin/true"),
    ] {
        symlink(stands_for, place(name)).expect("a link");
    }
    let path = std::env::var_os("PATH").expect("a PATH");
    for directory in std::env::split_paths(&path) {
        for found in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = found.file_name().into_string().expect("text");
            if !missing.contains(&name.as_str()) && !["apt-get", "sudo"].contains(&name.as_str()) {
                // The first on the path is the one that counts.
                let _ = symlink(found.path(), place(&name));
            }
        }
    }
    programs
}

/// Status and words of a script.
fn run(script: &str, programs: &Path, required: bool) -> (Option<i32>, String) {
    let work = tempdir().expect("a directory");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(root.join("scripts").join(script));
    command
        .env("PATH", programs)
        .env("HOME", work.path())
        .env("CAIRN_CACHE", work.path())
        .env_remove("CAIRN_TOOLS");
    if required {
        command.env("CAIRN_TOOLS", "required");
    }
    let done = finish(&mut command, b"");
    (done.status, done.err)
}

#[test]
fn a_program_that_cannot_be_had_is_named_and_where_it_is_required_a_failure() {
    for (script, program, words) in [
        ("http-clients", "java", "no Java: "),
        ("http-clients", "node", "no Node.js: "),
        ("web-tools", "node", "no Node.js: "),
        ("web-tools", "chromium", "no Chromium: "),
        ("test-tools", "fio", "no fio: "),
    ] {
        // One that is not here anyway would be named before the one that this is about.
        let others = ["java", "node", "chromium", "fio"];
        let others = others.into_iter().filter(|other| *other != program);
        let programs = programs_without(&[program]);
        for other in others {
            let _ = symlink("/bin/true", programs.path().join(other));
        }
        let (status, said) = run(script, programs.path(), false);
        assert_eq!(status, Some(0), "{script}: {said}");
        assert!(said.contains(words), "{script}: {said}");
        let (status, said) = run(script, programs.path(), true);
        assert_eq!(status, Some(1), "{script}: {said}");
        assert!(
            said.trim_end()
                .lines()
                .last()
                .is_some_and(|last| last.contains(words)),
            "{script}: {said}"
        );
    }
}
