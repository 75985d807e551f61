//! Tests of data directories: joining, refusing, and first starts that are cut short.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::disk::RealDisk;
use crate::disk::sim::SimDisk;

const DIR: &str = "/srv/volume";
const CLUSTER: Uuid = Uuid([1; 16]);

fn open_as(disk: &SimDisk, kind: &'static str, layout: u32) -> Result<DataDir, DataDirError> {
    let mut rng = StdRng::seed_from_u64(7);
    DataDir::open(
        Arc::new(disk.mount()),
        Path::new(DIR),
        kind,
        layout,
        &mut rng,
    )
}

fn refusal(disk: &SimDisk, kind: &'static str, layout: u32) -> String {
    open_as(disk, kind, layout).unwrap_err().to_string()
}

#[test]
fn an_identity_is_chosen_once_and_survives_power_loss() {
    let disk = SimDisk::new();
    let mut dir = open_as(&disk, "volume", 1).unwrap();
    assert!(dir.is_new());
    let uuid = dir.identity().uuid;
    dir.join_cluster(CLUSTER).unwrap();
    dir.join_node(3).unwrap();
    dir.join_node(3).unwrap();
    disk.crash_losing_everything_unsynced();
    let mut dir = open_as(&disk, "volume", 2).unwrap();
    let kind = "volume".to_owned();
    let cluster = Some(CLUSTER);
    let expected = Identity {
        kind,
        layout: 1,
        uuid,
        cluster,
        node: Some(3),
    };
    assert_eq!(dir.identity(), &expected);
    assert!(!dir.is_new());
    dir.join_cluster(CLUSTER).unwrap();
    let error = dir.join_cluster(Uuid([2; 16])).unwrap_err().to_string();
    assert!(error.contains(&CLUSTER.to_string()), "{error}");
    assert!(error.contains(&Uuid([2; 16]).to_string()), "{error}");
    let error = dir.join_node(4).unwrap_err().to_string();
    assert_eq!(error, "/srv/volume belongs to node 3, this is node 4");
}

#[test]
fn a_second_process_is_told_who_has_it() {
    let expected = format!("is in use by another process (pid {})", std::process::id());
    let disk = SimDisk::new();
    let dir = open_as(&disk, "volume", 1).unwrap();
    assert!(refusal(&disk, "volume", 1).ends_with(&expected));
    drop(dir);
    open_as(&disk, "volume", 1).unwrap();

    let temporary = tempfile::tempdir().unwrap();
    let open = || {
        let mut rng = StdRng::seed_from_u64(7);
        DataDir::open(Arc::new(RealDisk), temporary.path(), "volume", 1, &mut rng)
    };
    let dir = open().unwrap();
    assert!(open().unwrap_err().to_string().ends_with(&expected));
    drop(dir);
    open().unwrap();
}

#[test]
fn foreign_newer_and_damaged_directories_are_refused() {
    let disk = SimDisk::new();
    open_as(&disk, "volume", 2).unwrap();
    let text = refusal(&disk, "namenode", 2);
    assert_eq!(text, "/srv/volume holds a volume's data, not a namenode's");
    let text = refusal(&disk, "volume", 1);
    assert!(
        text.contains("layout 2, this software understands up to 1"),
        "{text}"
    );
    disk.flip_bit(Path::new("/srv/volume/VERSION"), 20).unwrap();
    let text = refusal(&disk, "volume", 2);
    assert_eq!(text, "/srv/volume/VERSION: damaged: checksum mismatch");
    let path = Path::new("/srv/volume/VERSION");
    durable::write(&disk, path, &MAGIC, FORMAT_VERSION, b"kind = 3").unwrap();
    assert!(refusal(&disk, "volume", 2).contains("VERSION: not understood"));
    durable::write(&disk, path, &MAGIC, FORMAT_VERSION, b"\xff").unwrap();
    assert!(refusal(&disk, "volume", 2).contains("VERSION: not understood"));
}

#[test]
fn a_directory_with_files_but_no_identity_is_refused_and_left_alone() {
    let disk = SimDisk::new();
    drop(open_as(&disk, "volume", 1).unwrap());
    disk.create_dir_all(Path::new("/srv/volume/chunks"))
        .unwrap();
    disk.remove_file(Path::new("/srv/volume/VERSION")).unwrap();
    let text = refusal(&disk, "volume", 1);
    assert!(
        text.contains("has files (chunks, …) but no VERSION"),
        "{text}"
    );
    assert!(!disk.exists(Path::new("/srv/volume/VERSION")).unwrap());
}

#[test]
fn a_first_start_that_lost_power_anywhere_can_be_repeated() {
    for seed in 0..300 {
        let disk = SimDisk::new();
        disk.stop_after(seed % 14);
        let mut seen = None;
        if let Ok(mut dir) = open_as(&disk, "volume", 1) {
            seen = Some(dir.identity().uuid);
            // May fail: the power may go here, too.
            let _ = dir.join_cluster(CLUSTER);
        }
        disk.crash(&mut StdRng::seed_from_u64(seed));
        let dir = open_as(&disk, "volume", 1).unwrap();
        if let Some(uuid) = seen {
            assert_eq!(dir.identity().uuid, uuid);
            assert!(!dir.is_new());
        }
    }
}

#[test]
fn the_file_is_frozen() {
    let identity = Identity {
        kind: "volume".to_owned(),
        layout: 1,
        uuid: Uuid([0xab; 16]),
        cluster: Some(CLUSTER),
        node: Some(3),
    };
    let golden = "kind = \"volume\"\nlayout = 1\nuuid = \"abababababababababababababababab\"\n\
        cluster = \"01010101010101010101010101010101\"\nnode = 3\n";
    assert_eq!(toml::to_string(&identity).unwrap(), golden);
    assert_eq!(toml::from_str::<Identity>(golden).unwrap(), identity);
}
