use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use cairn_protocol::ErrorCode;
use cairn_protocol::checksum::crc32c;
use cairn_protocol::messages::transfer::{LocateReplica, LocateReply};
use proptest::prelude::{prop, prop_assert_eq, proptest};
use tokio::time::Instant;

use super::{
    FILES_MAX, LocalFile, LocalRange, RANGES_MAX, State, UNUSED_MIN, blocks, open_blocking,
};

/// A range from byte `offset` of a file on, in blocks of these lengths; and all of the file's bytes.
fn range(offset: u64, lengths: &[u32]) -> (LocalRange, Vec<u8>) {
    let total: u32 = lengths.iter().sum();
    let content: Vec<u8> = (0..offset + u64::from(total) + 10)
        .map(|index| (index * 7 % 251) as u8)
        .collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    let mut at = offset as usize;
    let block_crcs = lengths.iter().map(|&length| {
        at += length as usize;
        crc32c(&content[at - length as usize..at])
    });
    let reply = LocateReply {
        offset,
        block_crcs: block_crcs.collect(),
        block_lengths: lengths.to_vec(),
        ..LocateReply::default()
    };
    let request = LocateReplica {
        offset,
        length: total.into(),
        ..LocateReplica::default()
    };
    let range = LocalRange {
        file: Arc::new(LocalFile {
            file,
            datanode: 1,
            until: Instant::now(),
        }),
        offset,
        blocks: blocks(&request, &reply).unwrap(),
    };
    (range, content)
}

proptest! {
    #[test]
    fn any_part_of_the_blocks_is_read_and_nothing_beyond(
        offset in 0u64..50,
        lengths in prop::collection::vec(1u32..40, 1..8),
        start in 0u64..400,
        length in 1u64..100,
    ) {
        let (local, content) = range(offset, &lengths);
        let end = offset + u64::from(lengths.iter().sum::<u32>());
        let asked = start..start + length;
        let inside = asked.start >= offset && asked.end <= end;
        let expected = inside.then(|| &content[asked.start as usize..asked.end as usize]);
        let read = local.read(asked).unwrap();
        prop_assert_eq!(read.as_deref(), expected);
    }
}

#[test]
fn bytes_that_are_not_what_they_should_be_are_refused() {
    let (mut local, content) = range(5, &[10, 20, 30]);
    local.blocks[1].crc32c ^= 1;
    assert_eq!(local.read(5..15).unwrap().unwrap(), content[5..15]);
    assert_eq!(local.read(35..65).unwrap().unwrap(), content[35..65]);
    for part in [14..16, 15..16, 34..36, 5..65] {
        assert!(local.read(part).is_err());
    }
    // The file has become shorter, or is another one.
    let (mut local, _) = range(5, &[10, 20]);
    local.offset = 1000;
    assert!(local.read(1000..1001).is_err());
}

#[test]
fn answers_that_contradict_the_question_are_refused() {
    let request = LocateReplica {
        offset: 100,
        length: 50,
        ..LocateReplica::default()
    };
    let reply = |offset, block_lengths: &[u32], crcs: usize| LocateReply {
        offset,
        block_lengths: block_lengths.to_vec(),
        block_crcs: vec![0; crcs],
        ..LocateReply::default()
    };
    for wrong in [
        reply(99, &[10], 1),
        reply(141, &[10], 1),
        reply(u64::MAX, &[10], 1),
        reply(100, &[10, 10], 1),
        reply(100, &[0], 1),
        reply(100, &[65_537], 1),
    ] {
        assert_eq!(
            blocks(&request, &wrong).unwrap_err().code,
            ErrorCode::Malformed
        );
    }
    assert_eq!(blocks(&request, &reply(140, &[10], 1)).unwrap().len(), 1);
    assert!(blocks(&request, &reply(100, &[], 0)).unwrap().is_empty());
}

#[test]
fn only_regular_files_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    std::fs::write(&file, "bytes").unwrap();
    symlink(&file, &link).unwrap();
    assert!(open_blocking(&file).is_ok());
    assert!(open_blocking(&link).is_err());
    assert!(open_blocking(folder.path()).is_err());
    assert!(open_blocking(std::path::Path::new("/dev/null")).is_err());
}

#[test]
fn what_is_kept_is_bounded_and_only_what_is_unused_goes() {
    let begun = Instant::now();
    let mut state = State::default();
    let local = Arc::new(range(0, &[10, 20]).0);
    for chunk in 0..FILES_MAX as u64 {
        assert!(state.make_room(begun));
        state.put(
            (chunk, 0),
            Some(local.clone()),
            begun,
            begun + UNUSED_MIN * 3,
        );
    }
    assert!(!state.make_room(begun));
    let later = begun + UNUSED_MIN;
    assert!(state.make_room(later));
    assert_eq!(
        (state.ranges.len(), state.blocks),
        (FILES_MAX - 1, 2 * (FILES_MAX - 1))
    );
    for offset in 1..RANGES_MAX as u64 {
        state.make_room(later);
        state.put((1, offset), None, later, later + UNUSED_MIN);
    }
    assert!(state.ranges.len() <= RANGES_MAX);
    state.sweep(begun + UNUSED_MIN * 2);
    assert!(state.ranges.values().all(|known| known.range.is_some()));
    state.sweep(begun + UNUSED_MIN * 3);
    assert_eq!((state.ranges.len(), state.blocks), (0, 0));
}
