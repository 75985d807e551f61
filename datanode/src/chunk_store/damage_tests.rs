//! What the store does about files that vanished, cannot be read, were written by newer software or were left by a first start that
//! did not end.

use std::path::{Path, PathBuf};

use cairn_daemon::disk::sim::SimDisk;
use cairn_daemon::disk::{Caching, Disk, OpenMode};
use cairn_protocol::ErrorCode;
use cairn_protocol::checksum::crc32c;
use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::testing::{VOLUME, append, blocks, bytes, open, options, read};
use super::{Appender, ReplicaState, StoreError, Volume};

const CHUNK: ChunkId = ChunkId(0x1234);
const OTHER: ChunkId = ChunkId(0x1235);
const INCARNATION: Incarnation = Incarnation(7);
const ONE: Epoch = Epoch(1);

fn create(volume: &Volume, chunk: ChunkId) -> Appender {
    volume.create(chunk, INCARNATION, ONE).unwrap()
}

fn create_sealed(volume: &Volume, chunk: ChunkId) {
    append(&create(volume, chunk), &bytes(1, 10_000), 10_000).unwrap();
    volume.seal(chunk, ONE, 10_000).unwrap();
}

fn code<T: std::fmt::Debug>(result: Result<T, StoreError>) -> ErrorCode {
    result.unwrap_err().code()
}

fn sum_path(chunk: ChunkId) -> PathBuf {
    let hex = chunk.hex();
    Path::new(VOLUME).join(format!("chunks/{}/{hex}.sum", &hex[14..]))
}

#[test]
fn a_first_start_that_was_killed_leaves_folders_that_survive_power_loss() {
    for calls in (0..250).step_by(31).chain(250..270) {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new(VOLUME)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.stop_after(calls);
        let volume = Path::new(VOLUME);
        let _ = Volume::open(std::sync::Arc::new(disk.mount()), volume, options());
        disk.kill();
        let data = bytes(1, 10_000);
        {
            let volume = open(&disk);
            append(&create(&volume, CHUNK), &data, 10_000).unwrap();
            assert_eq!(volume.sync(CHUNK, 10_000).unwrap(), 10_000);
        }
        disk.crash_losing_everything_unsynced();
        let volume = open(&disk);
        assert_eq!(
            read(&volume, CHUNK, 0, 10_000).unwrap(),
            &data[..],
            "{calls}"
        );
    }
}

#[test]
fn a_first_start_that_lost_the_power_can_be_repeated() {
    for seed in 0..50 {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new(VOLUME)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.stop_after(256);
        let volume = Path::new(VOLUME);
        let _ = Volume::open(std::sync::Arc::new(disk.mount()), volume, options());
        disk.crash(&mut StdRng::seed_from_u64(seed));
        let volume = open(&disk);
        create_sealed(&volume, ChunkId(seed));
    }
}

#[test]
fn a_sealed_replica_whose_files_vanish_is_reported_as_bad() {
    for lost in ["data", "sum"] {
        let disk = SimDisk::new();
        let volume = open(&disk);
        create_sealed(&volume, CHUNK);
        create_sealed(&volume, OTHER);
        disk.remove_file(&sum_path(CHUNK).with_extension(lost))
            .unwrap();
        assert!(!volume.find(CHUNK).unwrap().bad);
        assert_eq!(
            code(volume.verify(CHUNK, 0, 1)),
            ErrorCode::ChecksumMismatch
        );
        assert!(volume.find(CHUNK).unwrap().bad, "{lost}");
        assert_eq!(
            code(read(&volume, CHUNK, 0, 1)),
            ErrorCode::ChecksumMismatch
        );
        assert!(volume.verify(OTHER, 0, 1 << 20).unwrap().bad.is_empty());
        // One that was deleted is not bad but gone.
        volume.delete(CHUNK, INCARNATION).unwrap();
        assert_eq!(code(volume.verify(CHUNK, 0, 1)), ErrorCode::NoReplica);
    }
}

#[test]
fn a_sealed_replica_whose_records_cannot_be_read_is_reported_as_bad() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    create_sealed(&volume, CHUNK);
    disk.fail_reads(&sum_path(CHUNK));
    assert_eq!(
        code(read(&volume, CHUNK, 0, 1)),
        ErrorCode::ChecksumMismatch
    );
    assert!(volume.find(CHUNK).unwrap().bad);
}

/// Turns a `.sum` file into one of a format that this software does not know.
fn make_newer(disk: &SimDisk, chunk: ChunkId) {
    let path = sum_path(chunk);
    let file = disk
        .open(&path, OpenMode::ReadWrite, Caching::Buffered)
        .unwrap();
    let mut header = [0; 64];
    file.read_at(&mut header, 0).unwrap();
    header[8] = 9;
    let mut seeded = Vec::new();
    for word in [chunk.0, INCARNATION.0, 0] {
        seeded.extend_from_slice(&word.to_le_bytes());
    }
    seeded.extend_from_slice(&header[..60]);
    header[60..].copy_from_slice(&crc32c(&seeded).to_le_bytes());
    file.write_all_at(&header, 0).unwrap();
}

#[test]
fn a_replica_in_a_newer_format_does_not_take_the_others_with_it() {
    let disk = SimDisk::new();
    {
        let volume = open(&disk);
        append(&create(&volume, CHUNK), &bytes(1, 10_000), 10_000).unwrap();
        create_sealed(&volume, OTHER);
    }
    disk.kill();
    make_newer(&disk, CHUNK);
    let volume = open(&disk);
    let info = volume.find(CHUNK).unwrap();
    assert_eq!((info.state, info.bad), (ReplicaState::Damaged, true));
    // Named as what it is, so that the leader knows which of the set cannot be used here.
    assert_eq!(info.incarnation, INCARNATION);
    assert_eq!(
        code(read(&volume, CHUNK, 0, 1)),
        ErrorCode::ChecksumMismatch
    );
    assert!(read(&volume, OTHER, 0, 10_000).is_ok());
    // Its files are left as they are, for the software that understands them.
    assert!(disk.exists(&sum_path(CHUNK)).unwrap());
    assert!(
        disk.exists(&sum_path(CHUNK).with_extension("data"))
            .unwrap()
    );
}

#[test]
fn tiny_appends_end_before_there_are_more_records_than_a_start_reads() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let stream = create(&volume, CHUNK);
    let data = bytes(1, 1 << 16);
    let mut length = 0;
    let refused = loop {
        match stream.append(length, &data, &blocks(length, &data, 1)) {
            Ok(longer) => length = longer,
            Err(error) => break error,
        }
        assert!(length < 16 << 20, "16 million records of 16 bytes");
    };
    assert_eq!(refused.code(), ErrorCode::NoSpace);
    volume.seal(CHUNK, ONE, length).unwrap();
    disk.kill();
    let volume = open(&disk);
    assert_eq!(
        read(&volume, CHUNK, length - 1, 1).unwrap(),
        &data[data.len() - 1..]
    );
}

#[test]
fn a_stream_is_told_when_it_is_over_and_only_then() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let first = create(&volume, CHUNK);
    assert_eq!(
        code(volume.open_append(CHUNK, ONE, 5)),
        ErrorCode::WrongLength
    );
    assert!(
        !first.ended().is_cancelled(),
        "whoever was refused ends nobody"
    );
    let second = volume.open_append(CHUNK, Epoch(2), 0).unwrap();
    assert!(first.ended().is_cancelled() && !second.ended().is_cancelled());
    volume.seal(CHUNK, Epoch(2), 0).unwrap();
    assert!(second.ended().is_cancelled());
    let other = create(&volume, OTHER);
    volume.delete(OTHER, INCARNATION).unwrap();
    assert!(other.ended().is_cancelled());
}

#[test]
fn bytes_that_cannot_be_opened_are_one_bad_replica_and_not_the_end_of_the_volume() {
    let disk = SimDisk::new();
    {
        let volume = open(&disk);
        append(&create(&volume, CHUNK), &bytes(1, 10_000), 10_000).unwrap();
        create_sealed(&volume, OTHER);
        create_sealed(&volume, ChunkId(3));
    }
    disk.kill();
    for (chunk, seal_cut) in [(CHUNK, false), (OTHER, true)] {
        let path = sum_path(chunk).with_extension("data");
        if seal_cut {
            // The cut that followed the seal was lost, so that a start has to open it.
            let file = disk.open(&path, OpenMode::ReadWrite, Caching::Buffered);
            file.unwrap().write_all_at(&[0], 10_000).unwrap();
        }
        disk.fail_opens(&path, libc::EIO);
    }
    let volume = open(&disk);
    for chunk in [CHUNK, OTHER] {
        let info = volume.find(chunk).unwrap();
        assert_eq!((info.incarnation, info.bad), (INCARNATION, true));
    }
    assert!(read(&volume, ChunkId(3), 0, 10_000).is_ok());
    create_sealed(&volume, ChunkId(4));
}
