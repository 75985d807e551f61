//! Changing a file's replication changes what its chunks ask for.

use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{CommitPlace, OperationKind, SetAttributes};

use super::cluster::{Cluster, piece};
use crate::namespace::command::{
    AdvanceSynced, AllocateCompactionChunk, CommandKind, Repoint, SealOpenChunk,
};

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
    assert_eq!(wish(&cluster), 3, "the other file wants three");
    cluster.check();
    ask(&mut cluster, first, 5);
    cluster.seal(1, grant.chunk, grant.epoch).unwrap();
    ask(&mut cluster, first, 2);
    assert_eq!(wish(&cluster), 3, "of what is sealed, too");
    ask(&mut cluster, second, 1);
    assert_eq!(wish(&cluster), 2);
    cluster.check();
}

#[test]
fn a_wish_for_more_that_comes_while_a_chunk_is_compacted_reaches_the_copy() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    let grant = cluster.allocate(1, 0).unwrap();
    let bytes = vec![piece(&grant, 0, 0, b"one")];
    cluster.commit(1, file, bytes, CommitPlace::At).unwrap();
    cluster.seal(1, grant.chunk, grant.epoch).unwrap();
    let make = AllocateCompactionChunk {
        replication: 3,
        datanodes: vec![1, 2, 3],
    };
    let make = CommandKind::AllocateCompactionChunk(make);
    let target = cluster.world.command(make).id;
    let replicas = cluster.chunk(target).unwrap().replicas;
    ask(&mut cluster, file, 5);
    let advance = AdvanceSynced {
        chunk: target,
        synced_length: 3,
        confirmed_incarnations: replicas
            .iter()
            .flat_map(|replica| [replica.datanode, replica.incarnation])
            .collect(),
    };
    let repoint = Repoint {
        source_chunk: grant.chunk,
        source_offset: 0,
        length: 3,
        target_chunk: target,
        target_offset: 0,
        limit: 10,
    };
    let seal = SealOpenChunk {
        chunk: target,
        epoch: 1,
    };
    for command in [
        CommandKind::AdvanceSynced(advance),
        CommandKind::SealOpenChunk(seal),
        CommandKind::Repoint(repoint),
    ] {
        assert_eq!(cluster.world.command(command).code, 0);
    }
    cluster.check();
    assert_eq!(cluster.extents(file).1[0].chunk, target);
    assert_eq!(cluster.chunk(target).unwrap().replication, 5);
    // What nobody asks for any more is forgotten as for any other chunk.
    ask(&mut cluster, file, 2);
    assert_eq!(cluster.chunk(target).unwrap().replication, 2);
}
