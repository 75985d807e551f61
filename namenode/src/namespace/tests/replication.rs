//! Changing a file's replication changes what its chunks ask for.

use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{CommitPlace, OperationKind, SetAttributes};

use super::cluster::{Cluster, piece};

fn ask(cluster: &mut Cluster, file: InodeId, replication: u32) {
    let set = SetAttributes {
        location: Location::inode(file),
        replication: Some(replication),
        ..SetAttributes::default()
    };
    let outcome = cluster
        .change(1, OperationKind::SetAttributes(set))
        .unwrap();
    assert_eq!(outcome.attributes.replication, replication);
}

#[test]
fn a_chunk_has_as_many_replicas_as_its_most_demanding_file_asks_for() {
    let mut cluster = Cluster::new();
    let (first, second) = (cluster.create("/first"), cluster.create("/second"));
    let grant = cluster.allocate(1, 0).unwrap();
    let at = CommitPlace::At;
    let bytes = [piece(&grant, 0, 0, b"one"), piece(&grant, 3, 0, b"two")];
    cluster.commit(1, first, vec![bytes[0]], at).unwrap();
    cluster.commit(1, second, vec![bytes[1]], at).unwrap();
    let wish = |cluster: &Cluster| cluster.chunk(grant.chunk).unwrap().replication;
    ask(&mut cluster, first, 5);
    assert_eq!(wish(&cluster), 5, "more counts at once");
    ask(&mut cluster, first, 2);
    assert_eq!(wish(&cluster), 5, "less waits for the seal");
    cluster.seal(1, grant.chunk, grant.epoch).unwrap();
    ask(&mut cluster, first, 2);
    assert_eq!(wish(&cluster), 3, "the other file wants three");
    ask(&mut cluster, second, 1);
    assert_eq!(wish(&cluster), 2);
    cluster.check();
}
