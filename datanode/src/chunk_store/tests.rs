//! Behaviour of one volume and of the store, one promise per test. Random histories with crashes: `crash_tests`.
#![expect(
    clippy::single_range_in_vec_init,
    reason = "one range of bytes is meant"
)]

use std::path::PathBuf;
use std::sync::Arc;

use cairn_daemon::disk::sim::SimDisk;
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};

use super::testing::{VOLUME, append, blocks, bytes, open, options, read};
use super::{
    Append, Appender, BlockChecksum, ChunkStore, ReplicaState, SealOutcome, StoreError, Volume,
    VolumeState,
};

const CHUNK: ChunkId = ChunkId(0x1234);
const INCARNATION: Incarnation = Incarnation(7);
const ONE: Epoch = Epoch(1);
const TWO: Epoch = Epoch(2);
const GOOD: SealOutcome = SealOutcome { bad: false };

fn create(volume: &Volume) -> Appender {
    volume.create(CHUNK, INCARNATION, ONE).unwrap()
}

fn code<T: std::fmt::Debug>(result: Result<T, StoreError>) -> ErrorCode {
    result.unwrap_err().code()
}

fn data_path() -> PathBuf {
    PathBuf::from(VOLUME).join("chunks/34/0000000000001234.data")
}

fn sum_path() -> PathBuf {
    data_path().with_extension("sum")
}

#[test]
fn appended_bytes_are_read_with_the_blocks_around_them() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let stream = create(&volume);
    let data = bytes(1, 100_000);
    assert_eq!(append(&stream, &data, 30_000).unwrap(), 100_000);
    assert_eq!(
        read(&volume, CHUNK, 29_999, 2).unwrap(),
        &data[29_999..30_001]
    );

    let mut buffer = bytes(0, 200_000);
    let found = volume
        .read(CHUNK, 30_000, 40_000, &mut buffer, false)
        .unwrap();
    assert_eq!(found.offset, 30_000);
    assert_eq!(found.blocks, blocks(0, &data, 30_000)[1..3]);
    assert_eq!(buffer[found.buffer], data[30_000..90_000]);
    assert_eq!(
        code(volume.read(CHUNK, 99_999, 2, &mut buffer, false)),
        ErrorCode::WrongLength
    );
}

#[test]
fn many_small_appends_in_one_call_are_as_good_as_one_by_one() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let stream = create(&volume);
    let pieces: Vec<_> = [4096, 10, 70_000, 4096, 1, 90_000]
        .iter()
        .map(|len| bytes(*len, *len as usize))
        .collect();
    let mut offset = 0;
    let mut sums = Vec::new();
    for piece in &pieces {
        sums.push((offset, blocks(offset, piece, 65_536)));
        offset += piece.len() as u64;
    }
    let part = |((offset, blocks), data)| Append {
        offset,
        data,
        blocks,
        verified: false,
    };
    let both = sums
        .iter()
        .map(|(offset, blocks)| (*offset, blocks.as_slice()));
    let parts: Vec<Append<'_>> = both
        .zip(pieces.iter().map(|piece| &piece[..]))
        .map(part)
        .collect();
    assert_eq!(stream.append_many(&parts).unwrap(), offset);
    let whole: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| piece.iter().copied())
        .collect();
    assert_eq!(read(&volume, CHUNK, 0, offset).unwrap(), whole);
    let gap = [parts[0], parts[2]];
    assert_eq!(code(stream.append_many(&gap)), ErrorCode::InvalidArgument);
}

#[test]
fn blocks_that_lie_about_the_data_are_refused() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let stream = create(&volume);
    let data = bytes(1, 1000);
    let good = blocks(0, &data, 500);
    let wrong_sum = BlockChecksum {
        crc32c: 1,
        ..good[0]
    };
    assert_eq!(
        code(stream.append(0, &data, &[wrong_sum, good[1]])),
        ErrorCode::ChecksumMismatch
    );
    for lie in [&good[..1], &good[1..], &[good[1], good[0]], &[]] {
        assert_eq!(
            code(stream.append(0, &data, lie)),
            ErrorCode::InvalidArgument
        );
    }
    let endless = BlockChecksum {
        offset: u64::MAX,
        length: 1,
        crc32c: 0,
    };
    assert_eq!(
        code(stream.append(u64::MAX, &data, &[endless])),
        ErrorCode::InvalidArgument
    );
    assert_eq!(stream.length(), 0);
    assert_eq!(stream.append(0, &data, &good).unwrap(), 1000);
}

#[test]
fn only_the_newest_stream_of_the_current_epoch_appends() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let first = create(&volume);
    append(&first, &bytes(1, 10), 10).unwrap();
    assert_eq!(
        code(volume.open_append(CHUNK, TWO, 9)),
        ErrorCode::WrongLength
    );
    assert_eq!(
        code(volume.open_append(CHUNK, TWO, 11)),
        ErrorCode::WrongLength
    );
    let second = volume.open_append(CHUNK, TWO, 10).unwrap();
    assert_eq!(
        code(append(&first, &bytes(2, 10), 10)),
        ErrorCode::StaleEpoch
    );
    assert_eq!(
        code(volume.open_append(CHUNK, ONE, 10)),
        ErrorCode::StaleEpoch
    );
    append(&second, &bytes(3, 10), 10).unwrap();
    let third = volume.open_append(CHUNK, TWO, 20).unwrap();
    assert_eq!(
        code(append(&second, &bytes(4, 10), 10)),
        ErrorCode::StaleEpoch
    );
    append(&third, &bytes(5, 10), 10).unwrap();
    assert_eq!(code(volume.seal(CHUNK, ONE, 10)), ErrorCode::StaleEpoch);
}

#[test]
fn a_raised_epoch_survives_power_loss_though_no_byte_was_synced() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let stream = create(&volume);
    append(&stream, &bytes(1, 10), 10).unwrap();
    volume.sync(CHUNK, 10).unwrap();
    volume.open_append(CHUNK, Epoch(9), 10).unwrap();
    disk.crash_losing_everything_unsynced();
    let volume = open(&disk);
    assert_eq!(
        code(volume.open_append(CHUNK, Epoch(8), 10)),
        ErrorCode::StaleEpoch
    );
}

#[test]
fn a_seal_cuts_what_lies_beyond_and_repeats() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let stream = create(&volume);
    let data = bytes(1, 50_000);
    append(&stream, &data, 10_000).unwrap();
    assert_eq!(
        code(volume.seal(CHUNK, TWO, 50_001)),
        ErrorCode::WrongLength
    );
    // In the middle of a block, as a lying client may have committed it.
    assert_eq!(volume.seal(CHUNK, TWO, 12_345).unwrap(), GOOD);
    assert_eq!(volume.seal(CHUNK, TWO, 12_345).unwrap(), GOOD);
    assert_eq!(code(volume.seal(CHUNK, TWO, 10_000)), ErrorCode::Sealed);
    assert_eq!(
        code(volume.seal(CHUNK, Epoch(3), 12_345)),
        ErrorCode::Sealed
    );
    assert_eq!(code(append(&stream, &data, 10_000)), ErrorCode::Sealed);
    assert_eq!(
        code(volume.open_append(CHUNK, Epoch(3), 12_345)),
        ErrorCode::Sealed
    );
    disk.crash_losing_everything_unsynced();
    let volume = open(&disk);
    let info = volume.find(CHUNK).unwrap();
    assert_eq!(
        (info.state, info.epoch, info.length),
        (ReplicaState::Sealed, TWO, 12_345)
    );
    assert_eq!(info.incarnation, INCARNATION);
    assert_eq!(read(&volume, CHUNK, 0, 12_345).unwrap(), &data[..12_345]);
    assert_eq!(
        code(read(&volume, CHUNK, 12_345, 1)),
        ErrorCode::WrongLength
    );
    assert_eq!(
        volume.verify(CHUNK, 0, u64::MAX).unwrap().checked_bytes,
        12_345
    );
}

#[test]
fn a_seal_inside_a_rotten_block_keeps_the_rest_and_says_so() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let stream = create(&volume);
    let data = bytes(1, 30_000);
    append(&stream, &data, 10_000).unwrap();
    disk.flip_bit(&data_path(), 19_000).unwrap();
    assert_eq!(
        volume.seal(CHUNK, ONE, 15_000).unwrap(),
        SealOutcome { bad: true }
    );
    let check = |volume: &Volume| {
        assert_eq!(read(volume, CHUNK, 0, 10_000).unwrap(), &data[..10_000]);
        assert_eq!(
            code(read(volume, CHUNK, 9_000, 2_000)),
            ErrorCode::ChecksumMismatch
        );
        assert!(volume.find(CHUNK).unwrap().bad);
    };
    check(&volume);
    disk.kill();
    let volume = open(&disk);
    check(&volume);
    assert_eq!(
        volume.verify(CHUNK, 0, u64::MAX).unwrap().bad,
        [10_000..15_000]
    );
}

#[test]
fn bit_rot_is_reported_and_not_repaired() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let stream = create(&volume);
    let data = bytes(1, 3_000_000);
    append(&stream, &data, 65_536).unwrap();
    volume.seal(CHUNK, ONE, 3_000_000).unwrap();
    disk.flip_bit(&data_path(), 200_000).unwrap();
    disk.flip_bit(&data_path(), 2_999_999).unwrap();
    let bad = vec![196_608..262_144, 2_949_120..3_000_000];
    let step = volume.verify(CHUNK, 0, u64::MAX).unwrap();
    assert_eq!((step.bad, step.next), (bad.clone(), None));
    assert!(volume.find(CHUNK).unwrap().bad);
    assert_eq!(
        code(read(&volume, CHUNK, 200_000, 1)),
        ErrorCode::ChecksumMismatch
    );
    assert_eq!(
        read(&volume, CHUNK, 262_144, 100_000).unwrap(),
        &data[262_144..362_144]
    );

    disk.kill();
    let volume = open(&disk);
    let mut from = Some(0);
    let mut found = Vec::new();
    let mut steps = 0;
    while let Some(offset) = from {
        let step = volume.verify(CHUNK, offset, 1 << 20).unwrap();
        found.extend(step.bad);
        from = step.next;
        steps += 1;
    }
    assert_eq!((found, steps), (bad, 2));
}

#[test]
fn bit_rot_in_an_open_replica_is_found_before_it_is_synced() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let stream = create(&volume);
    append(&stream, &bytes(1, 40_000), 10_000).unwrap();
    volume.sync(CHUNK, 20_000).unwrap();
    append(&stream, &bytes(2, 20_000), 10_000).unwrap();
    disk.flip_bit(&data_path(), 5_000).unwrap();
    disk.flip_bit(&data_path(), 45_000).unwrap();
    let step = volume.verify(CHUNK, 0, u64::MAX).unwrap();
    assert_eq!(step.bad, [0..10_000, 40_000..50_000]);
    assert!(volume.find(CHUNK).unwrap().bad);
}

#[test]
fn a_torn_tail_is_cut_only_above_the_synced_length() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let stream = create(&volume);
    let data = bytes(1, 40_000);
    append(&stream, &data[..20_000], 10_000).unwrap();
    volume.sync(CHUNK, 20_000).unwrap();
    append(&stream, &data[20_000..], 10_000).unwrap();
    // Rot below the synced length, and a tear above it.
    disk.flip_bit(&data_path(), 5_000).unwrap();
    disk.flip_bit(&data_path(), 35_000).unwrap();
    disk.kill();
    let volume = open(&disk);
    let info = volume.find(CHUNK).unwrap();
    assert_eq!((info.length, info.synced_length), (30_000, 20_000));
    assert_eq!(volume.verify(CHUNK, 0, u64::MAX).unwrap().bad, [0..10_000]);
    assert_eq!(
        read(&volume, CHUNK, 10_000, 20_000).unwrap(),
        &data[10_000..30_000]
    );

    // What was cut may come anew, with other bytes.
    let stream = volume.open_append(CHUNK, TWO, 30_000).unwrap();
    let other = bytes(2, 10_000);
    append(&stream, &other, 10_000).unwrap();
    disk.kill();
    let volume = open(&disk);
    assert_eq!(read(&volume, CHUNK, 30_000, 10_000).unwrap(), &other[..]);
}

#[test]
fn missing_bytes_below_the_synced_length_are_a_bad_range_not_a_short_replica() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let stream = create(&volume);
    let data = bytes(1, 30_000);
    append(&stream, &data, 10_000).unwrap();
    volume.sync(CHUNK, 30_000).unwrap();
    disk.kill();
    cut(&disk, &data_path(), 15_000);
    let volume = open(&disk);
    let info = volume.find(CHUNK).unwrap();
    assert_eq!((info.length, info.bad), (30_000, true));
    assert_eq!(read(&volume, CHUNK, 0, 10_000).unwrap(), &data[..10_000]);
    assert_eq!(
        code(read(&volume, CHUNK, 10_000, 1)),
        ErrorCode::ChecksumMismatch
    );
    assert_eq!(
        code(volume.open_append(CHUNK, TWO, 30_000)),
        ErrorCode::ChecksumMismatch
    );
    // Sealed it still serves what it has.
    assert_eq!(
        volume.seal(CHUNK, TWO, 30_000).unwrap(),
        SealOutcome { bad: true }
    );
    disk.kill();
    let volume = open(&disk);
    assert!(volume.find(CHUNK).unwrap().bad);
    assert_eq!(read(&volume, CHUNK, 0, 10_000).unwrap(), &data[..10_000]);
}

fn cut(disk: &SimDisk, path: &std::path::Path, length: u64) {
    use cairn_daemon::disk::{Caching, Disk, OpenMode};
    disk.open(path, OpenMode::ReadWrite, Caching::Buffered)
        .unwrap()
        .set_len(length)
        .unwrap();
}

#[test]
fn a_lost_file_is_reported_and_the_other_left_until_deleted() {
    use cairn_daemon::disk::Disk;
    for (lost, incarnation) in [(data_path(), INCARNATION), (sum_path(), Incarnation(0))] {
        for seal in [false, true] {
            let disk = SimDisk::new();
            let volume = open(&disk);
            append(&create(&volume), &bytes(1, 10_000), 10_000).unwrap();
            volume.sync(CHUNK, 10_000).unwrap();
            if seal {
                volume.seal(CHUNK, ONE, 10_000).unwrap();
            }
            disk.kill();
            disk.remove_file(&lost).unwrap();
            let volume = open(&disk);
            let info = volume.find(CHUNK).unwrap();
            assert_eq!(
                (info.state, info.bad, info.incarnation),
                (ReplicaState::Damaged, true, incarnation)
            );
            assert_eq!(
                code(read(&volume, CHUNK, 0, 1)),
                ErrorCode::ChecksumMismatch
            );
            assert_eq!(
                code(volume.create(CHUNK, INCARNATION, TWO)),
                ErrorCode::AlreadyExists
            );
            volume.delete(CHUNK, incarnation).unwrap();
            volume.create(CHUNK, INCARNATION, TWO).unwrap();
        }
    }
}

#[test]
fn a_rotten_seal_never_loses_bytes() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let data = bytes(1, 30_000);
    append(&create(&volume), &data, 10_000).unwrap();
    volume.seal(CHUNK, ONE, 30_000).unwrap();
    disk.kill();
    // Header, three blocks and the synced record come before the seal.
    disk.flip_bit(&sum_path(), 64 + 4 * 16 + 20).unwrap();
    disk.flip_bit(&data_path(), 25_000).unwrap();
    let volume = open(&disk);
    let info = volume.find(CHUNK).unwrap();
    assert_eq!(
        (info.state, info.length, info.synced_length),
        (ReplicaState::Open, 30_000, 30_000)
    );
    assert_eq!(read(&volume, CHUNK, 0, 20_000).unwrap(), &data[..20_000]);
    assert_eq!(
        volume.verify(CHUNK, 0, u64::MAX).unwrap().bad,
        [20_000..30_000]
    );
}

#[test]
fn a_copy_counts_only_once_it_is_sealed() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let data = bytes(1, 30_000);
    let stream = volume.create_copy(CHUNK, INCARNATION, TWO).unwrap();
    append(&stream, &data, 10_000).unwrap();
    assert_eq!(volume.list(), []);
    assert_eq!(code(read(&volume, CHUNK, 0, 1)), ErrorCode::NoReplica);
    disk.kill();
    let volume = open(&disk);
    assert_eq!(
        code(volume.open_append(CHUNK, TWO, 30_000)),
        ErrorCode::NoReplica
    );
    let stream = volume.create_copy(CHUNK, Incarnation(8), TWO).unwrap();
    append(&stream, &data, 10_000).unwrap();
    volume.seal(CHUNK, TWO, 30_000).unwrap();
    disk.crash_losing_everything_unsynced();
    let volume = open(&disk);
    assert_eq!(volume.find(CHUNK).unwrap().incarnation, Incarnation(8));
    assert_eq!(read(&volume, CHUNK, 0, 30_000).unwrap(), &data[..]);
}

#[test]
fn bytes_of_open_replicas_and_unfinished_copies_are_used_too() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    append(&create(&volume), &bytes(1, 1000), 500).unwrap();
    let copy = volume.create_copy(ChunkId(5), INCARNATION, ONE).unwrap();
    append(&copy, &bytes(1, 300), 300).unwrap();
    assert_eq!(volume.status().used_bytes, 1300);
    volume.seal(CHUNK, ONE, 700).unwrap();
    assert_eq!(volume.status().used_bytes, 1000);
}

#[test]
fn deletion_names_the_incarnation_and_ends_streams() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let stream = create(&volume);
    append(&stream, &bytes(1, 10), 10).unwrap();
    assert_eq!(
        code(volume.delete(CHUNK, Incarnation(6))),
        ErrorCode::PreconditionFailed
    );
    volume.delete(CHUNK, INCARNATION).unwrap();
    assert_eq!(
        code(append(&stream, &bytes(1, 10), 10)),
        ErrorCode::NoReplica
    );
    assert_eq!(
        code(volume.delete(CHUNK, INCARNATION)),
        ErrorCode::NoReplica
    );
    assert_eq!(code(volume.seal(CHUNK, ONE, 10)), ErrorCode::NoReplica);
    disk.kill();
    assert_eq!(open(&disk).list(), []);
}

#[test]
fn a_failed_sync_ends_the_volume_but_sealed_replicas_can_be_read() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let data = bytes(1, 10_000);
    append(&create(&volume), &data, 10_000).unwrap();
    volume.seal(CHUNK, ONE, 10_000).unwrap();
    let other = ChunkId(0x34);
    let stream = volume.create(other, INCARNATION, ONE).unwrap();
    append(&stream, &data, 10_000).unwrap();
    disk.fail_next_sync(&volume.files_of(other).0);
    assert_eq!(code(volume.sync_all_open()), ErrorCode::DiskFailed);
    // Asking again must not turn into a false "fine".
    assert_eq!(code(volume.sync(other, 10_000)), ErrorCode::DiskFailed);
    assert_eq!(code(append(&stream, &data, 10_000)), ErrorCode::DiskFailed);
    assert_eq!(code(volume.seal(other, ONE, 10_000)), ErrorCode::DiskFailed);
    assert_eq!(
        code(volume.create(ChunkId(5), INCARNATION, ONE)),
        ErrorCode::DiskFailed
    );
    assert_eq!(code(read(&volume, other, 0, 1)), ErrorCode::NoReplica);
    assert_eq!(read(&volume, CHUNK, 0, 10_000).unwrap(), &data[..]);
    assert!(matches!(volume.state(), VolumeState::Failed(_)));
}

#[test]
fn records_that_cannot_be_opened_are_one_bad_replica_and_not_the_end_of_the_volume() {
    let disk = SimDisk::new();
    let other = ChunkId(CHUNK.0 + 1);
    {
        let volume = open(&disk);
        append(&create(&volume), &bytes(1, 10_000), 5_000).unwrap();
        volume.seal(CHUNK, ONE, 10_000).unwrap();
        let appender = volume.create(other, Incarnation(2), ONE).unwrap();
        append(&appender, &bytes(2, 10_000), 5_000).unwrap();
        volume.seal(other, ONE, 10_000).unwrap();
    }
    disk.kill();
    disk.fail_opens(&sum_path(), libc::EIO);
    let volume = open(&disk);
    assert_eq!(volume.state(), VolumeState::Serving);
    assert!(volume.find(CHUNK).unwrap().bad);
    assert_eq!(
        read(&volume, other, 0, 10_000).unwrap(),
        &bytes(2, 10_000)[..]
    );
}

#[test]
fn too_many_open_files_are_nothing_that_a_disk_is_withdrawn_for() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    disk.fail_opens(&sum_path(), libc::EMFILE);
    let created = volume.create(CHUNK, INCARNATION, ONE).map(drop);
    assert_eq!(code(created), ErrorCode::Overloaded);
    assert_eq!(volume.state(), VolumeState::Serving);
}

#[test]
fn an_unreadable_replica_is_bad_and_many_of_them_end_the_volume() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    append(&create(&volume), &bytes(1, 100_000), 5_000).unwrap();
    volume.seal(CHUNK, ONE, 100_000).unwrap();
    disk.fail_reads(&data_path());
    assert_eq!(
        code(read(&volume, CHUNK, 0, 1)),
        ErrorCode::ChecksumMismatch
    );
    assert!(volume.find(CHUNK).unwrap().bad);
    assert_eq!(volume.state(), VolumeState::Serving);
    assert_eq!(
        code(volume.verify(CHUNK, 0, u64::MAX)),
        ErrorCode::DiskFailed
    );
}

#[test]
fn a_full_disk_refuses_appends_and_still_seals_and_deletes() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let data = bytes(1, 10_000);
    let stream = create(&volume);
    append(&stream, &data, 10_000).unwrap();
    // Below the reserve, and the volume knows.
    disk.set_full(20 << 20);
    volume.refresh_space().unwrap();
    assert_eq!(volume.state(), VolumeState::Full);
    assert_eq!(code(append(&stream, &data, 10_000)), ErrorCode::NoSpace);
    assert_eq!(
        code(volume.create(ChunkId(5), INCARNATION, ONE)),
        ErrorCode::NoSpace
    );
    volume.seal(CHUNK, ONE, 10_000).unwrap();
    assert_eq!(read(&volume, CHUNK, 0, 10_000).unwrap(), &data[..]);
    volume.delete(CHUNK, INCARNATION).unwrap();
    disk.set_capacity(1 << 40);
    let stream = volume.create(ChunkId(5), INCARNATION, ONE).unwrap();
    append(&stream, &data, 10_000).unwrap();
}

#[test]
fn an_append_that_fails_half_way_is_never_followed_by_another() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let data = bytes(1, 20_000);
    let stream = create(&volume);
    append(&stream, &data[..10_000], 10_000).unwrap();
    // Room for the bytes, not for the record; the volume believes in its last look.
    disk.set_full(10_000);
    assert_eq!(
        code(append(&stream, &data[10_000..], 10_000)),
        ErrorCode::NoSpace
    );
    disk.set_capacity(1 << 40);
    assert_eq!(
        code(append(&stream, &bytes(2, 10_000), 10_000)),
        ErrorCode::NoSpace
    );
    assert_eq!(
        code(volume.open_append(CHUNK, TWO, 10_000)),
        ErrorCode::NoSpace
    );
    assert_eq!(volume.sync(CHUNK, 10_000).unwrap(), 10_000);
    volume.seal(CHUNK, TWO, 10_000).unwrap();
    disk.kill();
    let volume = open(&disk);
    assert_eq!(read(&volume, CHUNK, 0, 10_000).unwrap(), &data[..10_000]);
    assert_eq!(volume.find(CHUNK).unwrap().state, ReplicaState::Sealed);
}

#[test]
fn files_that_are_not_replicas_are_left_alone() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    drop(volume);
    let stranger = PathBuf::from(VOLUME).join("chunks/34/notes.txt");
    use cairn_daemon::disk::{Caching, Disk, OpenMode};
    disk.open(&stranger, OpenMode::CreateNew, Caching::Buffered)
        .unwrap();
    assert_eq!(open(&disk).list(), []);
    assert!(disk.exists(&stranger).unwrap());
}

fn two_volumes(disks: &[SimDisk; 2]) -> ChunkStore {
    ChunkStore::new(disks.iter().map(|disk| Arc::new(open(disk))).collect())
}

#[test]
fn new_replicas_go_where_most_room_is() {
    let disks = [SimDisk::new(), SimDisk::new()];
    let store = two_volumes(&disks);
    for chunk in 0..10 {
        store.create(ChunkId(chunk), INCARNATION, ONE).unwrap();
    }
    let counts: Vec<usize> = store
        .status()
        .iter()
        .map(|status| status.replica_count)
        .collect();
    assert_eq!(counts, [5, 5]);
    disks[0].set_full(0);
    store.volumes()[0].refresh_space().unwrap();
    for chunk in 10..14 {
        store.create(ChunkId(chunk), INCARNATION, ONE).unwrap();
    }
    assert_eq!(store.status()[1].replica_count, 9);
    assert_eq!(store.list().len(), 14);
    assert_eq!(
        code(store.create(ChunkId(3), Incarnation(8), ONE)),
        ErrorCode::AlreadyExists
    );
}

#[test]
fn a_failed_volume_is_left_out_and_its_chunks_may_come_anew() {
    let disks = [SimDisk::new(), SimDisk::new()];
    let store = two_volumes(&disks);
    let stream = store.create(CHUNK, INCARNATION, ONE).unwrap();
    append(&stream, &bytes(1, 10), 10).unwrap();
    disks[0].fail_next_sync(&data_path());
    let synced: Vec<bool> = store
        .volumes()
        .iter()
        .map(|it| it.sync_all_open().is_ok())
        .collect();
    assert_eq!(synced, [false, true]);
    assert_eq!(store.find(CHUNK), None);
    assert_eq!(store.list(), []);
    let stream = store.create_copy(CHUNK, Incarnation(8), ONE).unwrap();
    append(&stream, &bytes(1, 10), 10).unwrap();
    store.seal(CHUNK, ONE, 10).unwrap();
    assert_eq!(store.find(CHUNK).unwrap().incarnation, Incarnation(8));
    assert_eq!(
        store.volume_of(CHUNK).unwrap().path(),
        store.volumes()[1].path()
    );
}

#[test]
fn of_a_chunk_on_two_volumes_the_sealed_one_counts() {
    let disks = [SimDisk::new(), SimDisk::new()];
    for (disk, incarnation) in disks.iter().zip([1, 2]) {
        let volume = open(disk);
        let stream = volume.create(CHUNK, Incarnation(incarnation), ONE).unwrap();
        append(&stream, &bytes(1, 10), 10).unwrap();
        if incarnation == 2 {
            volume.seal(CHUNK, ONE, 10).unwrap();
        }
    }
    disks.iter().for_each(SimDisk::kill);
    let store = two_volumes(&disks);
    assert_eq!(store.list().len(), 1);
    assert_eq!(store.find(CHUNK).unwrap().incarnation, Incarnation(2));
}

#[test]
fn the_cache_of_indexes_is_bounded_and_changes_nothing() {
    let disk = SimDisk::new();
    let volume = open(&disk);
    let data = bytes(1, 50_000);
    assert!(options().index_cache_bytes < 20 * 50_000 / 500 * 8);
    for chunk in 0..20 {
        let stream = volume.create(ChunkId(chunk), INCARNATION, ONE).unwrap();
        append(&stream, &data, 500).unwrap();
        volume.seal(ChunkId(chunk), ONE, 50_000).unwrap();
    }
    for chunk in (0..20).chain([3, 3, 19, 0]) {
        assert_eq!(
            read(&volume, ChunkId(chunk), 777, 40_000).unwrap(),
            &data[777..40_777]
        );
    }
}
