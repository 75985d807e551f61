//! Chunks that are sealed while somebody still wants to commit, and reclaimed while somebody still reads.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::replicas::write;
use super::stage::Stage;
use crate::harness::content;

/// A writer has bytes in its chunk, acknowledged by all replicas and not committed, when it loses the namenodes for longer
/// than its session lives. The chunk is sealed without these bytes, the other file in it is removed, and the chunk
/// is compacted or dropped. Then the writer is back and wants to commit.
pub(super) fn seal_against_commit_against_reclaim(stage: &mut Stage) -> anyhow::Result<()> {
    for (round, away_ms) in [500, 2_500, 3_500, 6_000].into_iter().enumerate() {
        one_round(stage, round as u64, away_ms)?;
    }
    stage.finish()
}

fn one_round(stage: &mut Stage, round: u64, away_ms: u64) -> anyhow::Result<()> {
    let neighbour = format!("/c0/neighbour-{round}");
    write(stage, &neighbour, 100 + round, 20_000)?;
    let path = format!("/c0/appended-{round}");
    let (head, tail) = (content(200 + round, 5_000), content(300 + round, 6_000));
    let acknowledged: Rc<RefCell<Option<bool>>> = Rc::default();
    let told = acknowledged.clone();
    let (target, first, second) = (path.clone(), head.clone(), tail.clone());
    let writer = stage.begin(move |fs| async move {
        fs.create(target.as_str(), 0o644, Default::default())
            .await?;
        let mut writer = fs.open_append(target.as_str()).await?;
        writer.write(&first).await?;
        writer.flush().await?;
        sleep(Duration::from_millis(500)).await;
        writer.write(&second).await?;
        *told.borrow_mut() = Some(writer.flush().await.is_ok());
        Ok(())
    });
    stage.pass(400)?;
    set_namenodes(stage, &writer, false);
    stage.pass(away_ms / 2)?;
    let removed = neighbour.clone();
    stage.act(move |fs| async move {
        fs.unlink(removed.as_str()).await?;
        Ok(())
    })?;
    stage.models.clients.borrow_mut()[0]
        .files
        .remove(&neighbour);
    stage.pass(away_ms / 2)?;
    set_namenodes(stage, &writer, true);
    stage.end()?;
    let both = Bytes::from([head.as_ref(), tail.as_ref()].concat());
    match *acknowledged.borrow() {
        Some(true) => stage.expect(&path, &both, false),
        // The second half may be there or not; the first was acknowledged.
        _ => {
            let (path, head, both) = (path.clone(), head.clone(), both.clone());
            stage.taint(&path);
            stage.act(move |fs| async move {
                let read = fs.read_file(path.as_str()).await?;
                anyhow::ensure!(read == head || read == both, "{path} has other bytes");
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn set_namenodes(stage: &mut Stage, client: &str, reachable: bool) {
    stage
        .cluster
        .trace
        .event(format!("{client} reaches the namenodes: {reachable}"));
    for namenode in 0..stage.cluster.namenodes.len() {
        let namenode = stage.cluster.namenodes[namenode].name.clone();
        if reachable {
            stage.cluster.sim.repair(client, namenode);
        } else {
            stage.cluster.sim.partition(client, namenode);
        }
    }
}
