//! Reads: only what a token covers, and never a byte that does not match its checksum unnoticed.

use std::os::unix::fs::FileExt;

use super::harness::{Cluster, data, verify};
use cairn_protocol::ErrorCode;
use cairn_protocol::checksum::crc32c;
use cairn_protocol::ids::ChunkId;
use cairn_protocol::messages::transfer::LocateReplica;
use cairn_protocol::token::GrantKind;

#[tokio::test]
async fn a_token_is_good_for_its_range_alone() {
    let cluster = Cluster::start(1).await;
    cluster.write(1, &[0], &data(100_000, 1)).await;
    let grant = GrantKind::Read {
        offset: 1000,
        len: 2000,
    };
    let good = cluster.token(1, grant);
    let mut forged = good.clone();
    forged[45] ^= 1;
    let refused = [
        (1, 999, 2, good.clone()),
        (1, 2999, 2, good.clone()),
        (2, 1000, 1, good.clone()),
        (1, 1000, 1, forged),
        (1, 1000, 1, cluster.expired_token(1, grant)),
        (1, 1000, 1, Vec::new()),
    ];
    for (chunk, offset, length, token) in refused {
        let error = cluster
            .read_with(0, chunk, offset, length, token)
            .await
            .unwrap_err();
        assert_eq!(error, ErrorCode::BadToken);
    }
    assert!(cluster.read_with(0, 1, 1000, 2000, good).await.is_ok());
    let missing = cluster.token(9, grant);
    assert_eq!(
        cluster.read_with(0, 9, 1000, 1, missing).await.unwrap_err(),
        ErrorCode::NoReplica
    );
}

#[tokio::test]
async fn files_that_share_a_block_stay_private_from_each_other() {
    let cluster = Cluster::start(1).await;
    let written = data(100_000, 2);
    cluster.write(1, &[0], &written).await;
    let token = cluster.token(
        1,
        GrantKind::Read {
            offset: 70_000,
            len: 500,
        },
    );
    let (reply, bytes) = cluster.read_with(0, 1, 70_100, 10, token).await.unwrap();
    verify(&reply, &bytes);
    assert!(reply.recomputed);
    assert_eq!(reply.offset, 70_000);
    assert!(bytes == written[70_000..70_500]);
    // A token for the whole block gives the block as it is stored.
    let token = cluster.token(
        1,
        GrantKind::Read {
            offset: 0,
            len: 100_000,
        },
    );
    let (reply, bytes) = cluster.read_with(0, 1, 70_100, 10, token).await.unwrap();
    verify(&reply, &bytes);
    assert!(!reply.recomputed);
    assert!((reply.offset, bytes.as_ref()) == (65_536, &written[65_536..]));
}

#[tokio::test]
async fn a_read_beyond_the_replica_or_the_limit_is_refused() {
    let cluster = Cluster::start(1).await;
    cluster.write(1, &[0], b"short").await;
    let token = || {
        cluster.token(
            1,
            GrantKind::Read {
                offset: 0,
                len: 1 << 30,
            },
        )
    };
    assert_eq!(
        cluster.read_with(0, 1, 3, 3, token()).await.unwrap_err(),
        ErrorCode::WrongLength
    );
    let too_long = cluster
        .read_with(0, 1, 0, (1 << 20) + 1, token())
        .await
        .unwrap_err();
    assert_eq!(too_long, ErrorCode::InvalidArgument);
    assert_eq!(
        cluster.read_with(0, 1, 0, 0, token()).await.unwrap_err(),
        ErrorCode::InvalidArgument
    );
}

#[tokio::test]
async fn bytes_that_changed_on_disk_are_never_served_as_good_and_are_reported() {
    let cluster = Cluster::start(1).await;
    cluster.write(1, &[0], &data(200_000, 3)).await;
    cluster.seal(0, 1, 200_000).await;
    let store = cluster.nodes[0].datanode.store();
    let (path, _) = store.volume_of(ChunkId(1)).unwrap().files_of(ChunkId(1));
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(b"rot", 100_000)
        .unwrap();
    // A cut block would get a new CRC: so it is verified first.
    let token = cluster.token(
        1,
        GrantKind::Read {
            offset: 100_000,
            len: 100,
        },
    );
    let error = cluster
        .read_with(0, 1, 100_000, 100, token)
        .await
        .unwrap_err();
    assert_eq!(error, ErrorCode::ChecksumMismatch);
    let id = cluster.nodes[0].id;
    cluster
        .namenode
        .until(|heard| heard.changed.get(&(id, 1)).is_some_and(|state| state.bad))
        .await;
    assert!(cluster.read(0, 1, 0, 65_536).await == data(200_000, 3)[..65_536]);
}

#[tokio::test]
async fn a_sealed_replica_is_located_with_the_checksums_that_the_token_covers() {
    let cluster = Cluster::start(1).await;
    let written = data(200_000, 4);
    cluster.write(1, &[0], &written).await;
    let locate = |offset, length, granted| {
        let (offset_granted, len) = granted;
        let offset_granted: u64 = offset_granted;
        let kind = GrantKind::Read {
            offset: offset_granted,
            len,
        };
        let token = cluster.token(1, kind);
        cluster.locate_with(
            0,
            LocateReplica {
                chunk: 1,
                offset,
                length,
                token,
            },
        )
    };
    let open = locate(0, 200_000, (0, 200_000)).await.unwrap_err();
    assert_eq!(open, ErrorCode::InvalidArgument);
    cluster.seal(0, 1, 200_000).await;
    for (offset, length) in [(100, 200_000), (0, 0), (99, 1), (199_000, u64::MAX)] {
        let refused = locate(offset, length, (100, 190_000)).await.unwrap_err();
        assert_eq!(refused, ErrorCode::BadToken, "{length} bytes at {offset}");
    }
    // Nothing of a block that reaches into a neighbour's bytes, not even its CRC.
    let reply = locate(100, 190_000, (100, 190_000)).await.unwrap();
    assert_eq!(
        (reply.offset, &reply.block_lengths[..]),
        (65_536, &[65_536; 1][..])
    );
    let file = std::fs::File::open(std::path::Path::new(
        std::str::from_utf8(&reply.path).unwrap(),
    ));
    let mut bytes = vec![0; 65_536];
    file.unwrap()
        .read_exact_at(&mut bytes, reply.offset)
        .unwrap();
    assert!(bytes == written[65_536..131_072]);
    assert_eq!(reply.block_crcs, [crc32c(&bytes)]);
    let whole = locate(0, 200_000, (0, 200_000)).await.unwrap();
    assert_eq!((whole.offset, whole.block_crcs.len()), (0, 4));
}
