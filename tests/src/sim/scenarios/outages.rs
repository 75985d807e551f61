//! How long people wait: when the leader dies, and when everything has been off. Nothing else goes wrong here, and time is virtual, so
//! the limits are those of the product.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use cairn_client::WriteOptions;
use tokio::time::{Instant, sleep};

use super::super::cluster::Stop;
use super::replicas::write;
use super::stage::Stage;
use crate::harness::content;

/// After the death of a leader, and after the last start.
const SERVED_WITHIN: Duration = Duration::from_secs(2);
const ROUNDS: u64 = 5;
const CLIENTS: usize = 3;

/// Clients that change names all the time, while one leader after the other dies.
pub(super) fn leader_dies(stage: &mut Stage) -> anyhow::Result<()> {
    let over = Rc::new(Cell::new(false));
    let stalls: Rc<RefCell<Vec<Duration>>> = Rc::default();
    stage.act(|fs| async move {
        fs.mkdir("/names", 0o755).await?;
        Ok(())
    })?;
    for client in 0..CLIENTS {
        let (over, stalls) = (over.clone(), stalls.clone());
        stage.begin(move |fs| async move {
            let mut number = 0;
            while !over.get() {
                let path = format!("/names/{client}-{number}");
                let began = Instant::now();
                fs.mkdir(path.as_str(), 0o755).await?;
                stalls.borrow_mut().push(began.elapsed());
                number += 1;
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        });
    }
    for round in 0..ROUNDS {
        stage.pass(1_500)?;
        let leader = stage.leader()?;
        let stop = if round % 2 == 0 {
            Stop::Kill
        } else {
            Stop::PowerLoss
        };
        stage.cluster.stop_namenode(leader, stop);
        stage.pass(4_000)?;
        stage.cluster.start_all();
    }
    over.set(true);
    stage.end()?;
    let longest = stalls.borrow().iter().max().copied().unwrap_or_default();
    let event = format!(
        "of {} changes the longest took {longest:?}",
        stalls.borrow().len()
    );
    stage.cluster.trace.event(event);
    ensure!(
        longest > Duration::from_millis(300),
        "no client met an election"
    );
    ensure!(
        longest <= SERVED_WITHIN,
        "a change of a name took {longest:?}"
    );
    stage.finish()
}

/// All processes end at once and start again at once: what was there is read, and something new is written.
pub(super) fn all_restart(stage: &mut Stage) -> anyhow::Result<()> {
    write(stage, "/c0/before", 1, 30_000)?;
    stage.act(|fs| async move {
        fs.sync("/c0/before").await?;
        Ok(())
    })?;
    for round in 0..ROUNDS {
        let stop = if round % 2 == 0 {
            Stop::Kill
        } else {
            Stop::PowerLoss
        };
        stage.cluster.stop_all(stop);
        stage.pass(500)?;
        stage.cluster.start_all();
        let started = stage.cluster.now();
        let path = format!("/c0/after-{round}");
        let bytes = content(round, 10_000);
        let (target, written) = (path.clone(), bytes.clone());
        stage.act(move |fs| async move {
            let before = fs.read_file("/c0/before").await?;
            ensure!(before == content(1, 30_000), "other bytes are read");
            let options = WriteOptions {
                sync: true,
                ..WriteOptions::default()
            };
            fs.write_file(target.as_str(), written, &options).await?;
            Ok(())
        })?;
        stage.expect(&path, &bytes, true);
        let took = stage.cluster.now().saturating_sub(started);
        let event = format!("served {took:?} after the last start");
        stage.cluster.trace.event(event);
        ensure!(took <= SERVED_WITHIN, "it took {took:?} to serve again");
    }
    stage.finish()
}
