//! Tests of the simulated disk: what a crash may keep, must keep and must lose; and that without one it behaves as the
//! real disk does.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use proptest::prelude::{Strategy, any, prop_oneof};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::disk::{RealDisk, raw_os_error, read_file, rename_synced};

const LIMIT: u64 = 1 << 20;

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn create(disk: &SimDisk, name: &str, content: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk
        .open(path(name), OpenMode::CreateOrOpen, Caching::Buffered)
        .unwrap();
    file.write_all_at(content, 0).unwrap();
    file
}

/// A file that survives everything.
fn create_synced(disk: &SimDisk, name: &str, content: &[u8]) -> Arc<dyn DiskFile> {
    let file = create(disk, name, content);
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    file
}

fn content(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    match read_file(disk, path(name), LIMIT) {
        Ok(content) => Some(content),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

fn crash(disk: &SimDisk, seed: u64) {
    disk.crash(&mut StdRng::seed_from_u64(seed));
}

#[test]
fn what_was_synced_survives_and_what_was_not_may_be_lost() {
    let disk = SimDisk::new();
    let file = create_synced(&disk, "/a", b"old");
    file.write_all_at(b"new and longer", 0).unwrap();
    create(&disk, "/b", b"unsynced name").sync_data().unwrap();
    disk.crash_losing_everything_unsynced();
    assert_eq!(content(&disk, "/a").unwrap(), b"old");
    assert_eq!(
        content(&disk, "/b"),
        None,
        "a synced file under an unsynced name is lost"
    );
}

#[test]
fn a_synced_name_of_an_unsynced_file_is_an_empty_file() {
    let disk = SimDisk::new();
    create(&disk, "/a", b"unsynced");
    disk.sync_dir(path("/")).unwrap();
    disk.crash_losing_everything_unsynced();
    assert_eq!(content(&disk, "/a").unwrap(), b"");
}

#[test]
fn a_directory_needs_the_sync_of_its_parent() {
    let disk = SimDisk::new();
    disk.create_dir_all(path("/x/y")).unwrap();
    create(&disk, "/x/y/a", b"1").sync_data().unwrap();
    disk.sync_dir(path("/x/y")).unwrap();
    disk.crash_losing_everything_unsynced();
    assert!(!disk.exists(path("/x")).unwrap());

    crate::disk::create_dir_all_synced(&disk, path("/x/y")).unwrap();
    create(&disk, "/x/y/a", b"1").sync_data().unwrap();
    disk.sync_dir(path("/x/y")).unwrap();
    disk.crash_losing_everything_unsynced();
    assert_eq!(content(&disk, "/x/y/a").unwrap(), b"1");
}

#[test]
fn directories_whose_creation_was_cut_short_are_made_durable_by_the_next_try() {
    for calls in 0..8 {
        let disk = SimDisk::new();
        disk.stop_after(calls);
        let first = crate::disk::create_dir_all_synced(&disk, path("/x/y/z"));
        disk.kill();
        if first.is_err() {
            crate::disk::create_dir_all_synced(&disk, path("/x/y/z")).unwrap();
        }
        disk.crash_losing_everything_unsynced();
        assert!(disk.exists(path("/x/y/z")).unwrap(), "after {calls} calls");
    }
}

#[test]
fn unsynced_writes_are_kept_lost_and_torn_but_never_invented() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let disk = SimDisk::new();
        let file = create_synced(&disk, "/a", &[1; 2 * 512]);
        file.write_all_at(&[2; 2 * 512], 0).unwrap();
        crash(&disk, seed);
        let content = content(&disk, "/a").unwrap();
        assert_eq!(content.len(), 2 * 512);
        assert!(
            content[..512].iter().all(|byte| *byte == content[0]),
            "a sector is atomic"
        );
        assert!(
            content[512..].iter().all(|byte| *byte == content[512]),
            "a sector is atomic"
        );
        seen.insert((content[0], content[512]));
    }
    assert_eq!(seen, BTreeSet::from([(1, 1), (1, 2), (2, 1), (2, 2)]));
}

#[test]
fn growth_may_be_lost_partial_or_zero_but_synced_bytes_stay() {
    let mut lengths = BTreeSet::new();
    let mut zeros_seen = false;
    for seed in 0..200 {
        let disk = SimDisk::new();
        let file = create_synced(&disk, "/a", &[1; 600]);
        file.write_all_at(&[2; 3000], 600).unwrap();
        crash(&disk, seed);
        let content = content(&disk, "/a").unwrap();
        assert!((600..=3600).contains(&content.len()));
        assert!(content[..600].iter().all(|byte| *byte == 1));
        assert!(content[600..].iter().all(|byte| *byte == 2 || *byte == 0));
        zeros_seen |= content.len() > 600 && content[600..].contains(&0);
        lengths.insert(content.len());
    }
    assert!(zeros_seen);
    assert!(lengths.contains(&600) && lengths.contains(&3600) && lengths.len() > 10);
}

#[test]
fn a_lost_cut_brings_the_old_bytes_back() {
    let disk = SimDisk::new();
    let file = create_synced(&disk, "/a", &[1; 2000]);
    file.set_len(100).unwrap();
    file.set_len(2000).unwrap();
    let mut expected = vec![1; 100];
    expected.resize(2000, 0);
    assert_eq!(content(&disk, "/a").unwrap(), expected);
    disk.crash_losing_everything_unsynced();
    assert_eq!(content(&disk, "/a").unwrap(), [1; 2000]);
}

#[test]
fn a_rename_is_kept_or_lost_whole() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let disk = SimDisk::new();
        create_synced(&disk, "/a", b"old");
        create(&disk, "/a.tmp", b"new").sync_data().unwrap();
        disk.rename(path("/a.tmp"), path("/a")).unwrap();
        crash(&disk, seed);
        let (target, temporary) = (content(&disk, "/a").unwrap(), content(&disk, "/a.tmp"));
        match (&target[..], temporary.as_deref()) {
            (b"old", None | Some(b"new")) | (b"new", None) => {}
            other => panic!("neither before nor after: {other:?}"),
        }
        seen.insert((target, temporary));
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_synced_rename_is_durable() {
    let disk = SimDisk::new();
    create_synced(&disk, "/a", b"old");
    create(&disk, "/a.tmp", b"new").sync_data().unwrap();
    rename_synced(&disk, path("/a.tmp"), path("/a")).unwrap();
    disk.crash_losing_everything_unsynced();
    assert_eq!(content(&disk, "/a").unwrap(), b"new");
    assert_eq!(content(&disk, "/a.tmp"), None);
}

#[test]
fn a_removal_without_sync_may_come_back() {
    let disk = SimDisk::new();
    create_synced(&disk, "/a", b"1");
    disk.remove_file(path("/a")).unwrap();
    disk.crash_losing_everything_unsynced();
    assert_eq!(content(&disk, "/a").unwrap(), b"1");
    disk.remove_file(path("/a")).unwrap();
    disk.sync_dir(path("/")).unwrap();
    disk.crash_losing_everything_unsynced();
    assert_eq!(content(&disk, "/a"), None);
}

#[test]
fn a_removed_file_lives_until_its_last_handle_closes() {
    let disk = SimDisk::new();
    let file = create_synced(&disk, "/a", b"123");
    disk.set_capacity(3);
    disk.remove_file(path("/a")).unwrap();
    disk.sync_dir(path("/")).unwrap();
    assert_eq!(file.len().unwrap(), 3);
    assert_eq!(disk.space(path("/")).unwrap().available_bytes, 0);
    drop(file);
    assert_eq!(disk.space(path("/")).unwrap().available_bytes, 3);
}

#[test]
fn handles_mounts_and_locks_end_with_the_process() {
    for power_loss in [false, true] {
        let disk = SimDisk::new();
        let process = disk.mount();
        let file = create_synced(&process, "/a", b"1");
        file.write_all_at(b"2", 0).unwrap();
        let lock = process.lock(path("/lock")).unwrap();
        process.sync_dir(path("/")).unwrap();
        let Err(error) = disk.lock(path("/lock")) else {
            panic!("the lock is held")
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        if power_loss {
            disk.crash_losing_everything_unsynced();
        } else {
            disk.kill();
        }
        let stale = |error: io::Error| assert_eq!(raw_os_error(&error), Some(libc::ESTALE));
        stale(file.write_all_at(b"3", 0).unwrap_err());
        stale(file.sync_data().unwrap_err());
        stale(process.exists(path("/a")).unwrap_err());
        let expected: &[u8] = if power_loss { b"1" } else { b"2" };
        assert_eq!(content(&disk, "/a").unwrap(), expected);
        let next = disk.lock(path("/lock")).unwrap();
        drop(lock);
        assert!(
            disk.lock(path("/lock")).is_err(),
            "a dead process's guard releases nothing"
        );
        drop(next);
        disk.lock(path("/lock")).unwrap();
    }
}

#[test]
fn a_failed_sync_loses_its_writes_even_if_a_later_one_succeeds() {
    let disk = SimDisk::new();
    let file = create_synced(&disk, "/a", &[1; 1024]);
    file.write_all_at(&[2; 512], 0).unwrap();
    disk.fail_next_sync(path("/a"));
    assert_eq!(
        raw_os_error(&file.sync_data().unwrap_err()),
        Some(libc::EIO)
    );
    file.write_all_at(&[3; 512], 512).unwrap();
    file.sync_data().unwrap();
    disk.crash_losing_everything_unsynced();
    assert_eq!(content(&disk, "/a").unwrap(), [[1; 512], [3; 512]].concat());
}

#[test]
fn a_failed_directory_sync_makes_nothing_durable() {
    let disk = SimDisk::new();
    create(&disk, "/a", b"1").sync_data().unwrap();
    disk.fail_next_sync(path("/"));
    assert!(disk.sync_dir(path("/")).is_err());
    disk.crash_losing_everything_unsynced();
    assert_eq!(content(&disk, "/a"), None);
}

#[test]
fn faults_are_reported_and_end() {
    let disk = SimDisk::new();
    let file = create_synced(&disk, "/a", b"abc");
    disk.fail_reads(path("a"));
    let error = file.read_at(&mut [0; 3], 0).unwrap_err();
    assert_eq!(raw_os_error(&error), Some(libc::EIO));
    assert!(error.to_string().starts_with("read /a: "));
    disk.repair_reads(path("/a"));
    disk.flip_bit(path("/a"), 1).unwrap();
    assert_eq!(content(&disk, "/a").unwrap(), b"acc");
    disk.crash_losing_everything_unsynced();
    assert_eq!(content(&disk, "/a").unwrap(), b"acc");
    assert!(disk.flip_bit(path("/a"), 3).is_err());

    disk.set_read_only(true);
    let file = disk
        .open(path("/a"), OpenMode::Read, Caching::Buffered)
        .unwrap();
    assert_eq!(file.read_at(&mut [0; 3], 0).unwrap(), 3);
    assert!(file.write_all_at(b"x", 0).is_err(), "opened for reading");
    let error = disk.remove_file(path("/a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    let refused = disk.open(path("/a"), OpenMode::ReadWrite, Caching::Buffered);
    assert!(refused.is_err());
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let disk = SimDisk::new();
    let file = create_synced(&disk, "/a", b"abc");
    disk.set_full(2);
    file.write_all_at(b"defgh", 0).unwrap();
    let error = file.write_all_at(b"x", 5).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(file.set_len(6).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(
        file.reserve(5, 1).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    file.write_all_at(b"xy", 0).unwrap();
    file.set_len(1).unwrap();
    file.write_all_at(b"zz", 1).unwrap();
}

#[test]
fn power_goes_at_the_chosen_call_and_comes_back_with_the_crash() {
    let disk = SimDisk::new();
    let file = create_synced(&disk, "/a", b"1");
    disk.stop_after(2);
    file.write_all_at(b"2", 0).unwrap();
    file.sync_data().unwrap();
    assert!(file.write_all_at(b"3", 0).is_err());
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(disk.exists(path("/a")).is_err());
    disk.crash_losing_everything_unsynced();
    assert_eq!(content(&disk, "/a").unwrap(), b"2");
}

#[test]
fn direct_handles_refuse_what_is_not_aligned() {
    let disk = SimDisk::new();
    let file = disk
        .open(path("/a"), OpenMode::CreateNew, Caching::Direct)
        .unwrap();
    let error = file.write_all_at(b"abc", 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn the_same_seed_gives_the_same_crash() {
    let run = |seed| {
        let disk = SimDisk::new();
        for name in ["/a", "/b", "/c"] {
            let file = create(&disk, name, &[7; 5000]);
            file.set_len(3000).unwrap();
        }
        disk.rename(path("/a"), path("/d")).unwrap();
        crash(&disk, seed);
        ["/a", "/b", "/c", "/d"].map(|name| content(&disk, name))
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        name: u8,
        offset: u16,
        len: u16,
        byte: u8,
    },
    SetLen {
        name: u8,
        len: u16,
    },
    Sync {
        name: u8,
    },
    Rename {
        from: u8,
        to: u8,
    },
    Remove {
        name: u8,
    },
    SyncDir,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0u8..3;
    prop_oneof![
        4 => (name(), 0u16..2000, 0u16..2000, 1u8..)
            .prop_map(|(name, offset, len, byte)| Step::Write { name, offset, len, byte }),
        1 => (name(), 0u16..4000).prop_map(|(name, len)| Step::SetLen { name, len }),
        1 => name().prop_map(|name| Step::Sync { name }),
        1 => (name(), name()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => name().prop_map(|name| Step::Remove { name }),
        1 => proptest::strategy::Just(Step::SyncDir),
    ]
}

/// Runs a step and gives what it answered, in a form that can be compared between disks.
fn run_step(disk: &dyn Disk, dir: &Path, step: &Step) -> Result<(), ErrorKind> {
    let at = |name: &u8| dir.join(format!("file{name}"));
    let open = |name: &u8| disk.open(&at(name), OpenMode::CreateOrOpen, Caching::Buffered);
    let result = match step {
        Step::Write {
            name,
            offset,
            len,
            byte,
        } => open(name).and_then(|file| {
            file.write_all_at(&vec![*byte; usize::from(*len)], u64::from(*offset))
        }),
        Step::SetLen { name, len } => open(name).and_then(|file| file.set_len(u64::from(*len))),
        Step::Sync { name } => open(name).and_then(|file| file.sync_data()),
        Step::Rename { from, to } => disk.rename(&at(from), &at(to)),
        Step::Remove { name } => disk.remove_file(&at(name)),
        Step::SyncDir => disk.sync_dir(dir),
    };
    result.map_err(|error| error.kind())
}

fn everything(disk: &dyn Disk, dir: &Path) -> Vec<(DiskEntry, Vec<u8>)> {
    let entries = disk.list(dir).unwrap().into_iter();
    entries
        .map(|entry| {
            let content = read_file(disk, &dir.join(&entry.name), LIMIT).unwrap();
            (entry, content)
        })
        .collect()
}

proptest::proptest! {
    #[test]
    fn without_a_crash_it_behaves_as_the_real_disk(
        steps in proptest::collection::vec(step(), 0..30),
    ) {
        let real_dir = tempfile::tempdir().unwrap();
        let sim = SimDisk::new();
        for step in &steps {
            let expected = run_step(&RealDisk, real_dir.path(), step);
            proptest::prop_assert_eq!(run_step(&sim, path("/"), step), expected);
            proptest::prop_assert_eq!(
                everything(&sim, path("/")),
                everything(&RealDisk, real_dir.path())
            );
        }
    }

    #[test]
    fn after_everything_was_synced_a_crash_changes_nothing(
        steps in proptest::collection::vec(step(), 0..30),
        seed in any::<u64>(),
    ) {
        let disk = SimDisk::new();
        for step in &steps {
            // Failures are part of the game: the other test compares them.
            let _ = run_step(&disk, path("/"), step);
        }
        for name in 0..3 {
            run_step(&disk, path("/"), &Step::Sync { name }).unwrap();
        }
        run_step(&disk, path("/"), &Step::SyncDir).unwrap();
        let before = everything(&disk, path("/"));
        crash(&disk, seed);
        proptest::prop_assert_eq!(everything(&disk, path("/")), before);
    }

    #[test]
    fn losing_everything_unsynced_gives_the_state_of_the_last_full_sync(
        steps in proptest::collection::vec(step(), 0..20),
    ) {
        let disk = SimDisk::new();
        for name in 0..3 {
            let step = Step::Write { name, offset: 0, len: 1500, byte: name + 1 };
            run_step(&disk, path("/"), &step).unwrap();
            run_step(&disk, path("/"), &Step::Sync { name }).unwrap();
        }
        disk.sync_dir(path("/")).unwrap();
        let before = everything(&disk, path("/"));
        for step in &steps {
            if !matches!(step, Step::Sync { .. } | Step::SyncDir) {
                let _ = run_step(&disk, path("/"), step);
            }
        }
        disk.crash_losing_everything_unsynced();
        proptest::prop_assert_eq!(everything(&disk, path("/")), before);
    }
}
