//! What scenarios are told with: a founded cluster, actors that do something and leave, files that must be as they were.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use cairn_client::FileSystem;

use super::super::checks::Checks;
use super::super::cluster::{Cluster, connect};
use super::super::faults::data_files;
use super::super::model::{ClientModel, FileModel, Models};
use super::super::options::Options;
use super::super::run::verify;
use super::super::trace::Trace;

/// How long an actor may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster and what must be in it in the end.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) models: Models,
    actors: u32,
}

impl Stage {
    /// A founded cluster; `/c0` is where files are kept.
    pub(super) fn new(seed: u64, options: Options, trace: Trace) -> anyhow::Result<Self> {
        let mut cluster = Cluster::new(seed, options, trace)?;
        cluster.found()?;
        let models = Models {
            power_losses: cluster.power_losses.clone(),
            ..Models::default()
        };
        let root = ClientModel {
            root: "/c0".to_owned(),
            ..ClientModel::default()
        };
        models.clients.borrow_mut().push(root);
        let mut stage = Self {
            cluster,
            models,
            actors: 0,
        };
        stage.act(|fs| async move {
            fs.mkdir("/c0", 0o755).await?;
            fs.mkdir("/shared", 0o755).await?;
            fs.create(super::super::workload::RECORDS, 0o644, Default::default())
                .await?;
            Ok(())
        })?;
        Ok(stage)
    }

    /// A client that does something, to its end.
    pub(super) fn act<F, Done>(&mut self, act: F) -> anyhow::Result<()>
    where
        F: FnOnce(FileSystem) -> Done + 'static,
        Done: Future<Output = anyhow::Result<()>> + 'static,
    {
        let done = Rc::new(Cell::new(false));
        let told = done.clone();
        self.begin(|fs| async move {
            act(fs).await?;
            told.set(true);
            Ok(())
        });
        // Others may still be at work.
        self.cluster
            .run_until(PATIENCE, "an actor", |_, _| done.get())
    }

    /// A client that does something while other things happen; the name of its machine.
    pub(super) fn begin<F, Done>(&mut self, act: F) -> String
    where
        F: FnOnce(FileSystem) -> Done + 'static,
        Done: Future<Output = anyhow::Result<()>> + 'static,
    {
        let name = format!("actor-{}", self.actors);
        self.actors += 1;
        let mut config = self.cluster.client_config(&name);
        config.timeouts.patience = PATIENCE / 2;
        self.cluster.client(&name, async move {
            let fs = connect(&config, 10).await?;
            act(fs.clone()).await?;
            fs.close().await?;
            Ok(())
        });
        name
    }

    /// Waits until all actors are done.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        self.cluster.run_clients(PATIENCE, "actors")
    }

    /// From now on this file must have this content, whatever happens.
    pub(super) fn expect(&mut self, path: &str, content: &[u8], synced: bool) {
        let since = self.models.power_loss_count();
        let mut file = FileModel::new(content.to_vec(), since);
        if synced {
            file.synced(&self.models.power_losses.borrow());
        }
        self.models.clients.borrow_mut()[0]
            .files
            .insert(path.to_owned(), file);
    }

    /// Nothing is known of this name.
    pub(super) fn taint(&mut self, path: &str) {
        self.models.clients.borrow_mut()[0].taint(path);
    }

    pub(super) fn pass(&mut self, millis: u64) -> anyhow::Result<()> {
        self.cluster.run_for(Duration::from_millis(millis))
    }

    /// Datanodes that have data of some chunk.
    pub(super) fn holders(&self) -> Vec<usize> {
        let datanodes = self.cluster.datanodes.iter().enumerate();
        datanodes
            .filter(|(_, machine)| !data_files(&machine.disk).is_empty())
            .map(|(index, _)| index)
            .collect()
    }

    /// Waits until somebody leads.
    pub(super) fn leader(&mut self) -> anyhow::Result<usize> {
        self.cluster.run_until(PATIENCE, "a leader", |cluster, _| {
            cluster.leader().is_some()
        })?;
        self.cluster
            .leader()
            .ok_or_else(|| anyhow::anyhow!("no leader"))
    }

    /// The term that a namenode believes in; 0 if it does not run.
    pub(super) fn term(&self, namenode: usize) -> u64 {
        let running = self.cluster.namenodes[namenode].running.borrow();
        running
            .as_ref()
            .map_or(0, |running| running.node.group().leadership().borrow().term)
    }

    /// Cuts a machine off from all others but `friends`, or lets it back.
    pub(super) fn cut_off(&mut self, name: &str, friends: &[&str], cut: bool) {
        let doing = if cut { "is cut off" } else { "is back" };
        self.cluster.trace.event(format!("{name} {doing}"));
        for other in self.cluster.machine_names() {
            if other == name || friends.contains(&other.as_str()) {
                continue;
            }
            if cut {
                self.cluster.sim.partition(name, other);
            } else {
                self.cluster.sim.repair(name, other);
            }
        }
    }

    /// Heals everything; all that was promised must hold.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        self.cluster.heal(&[]);
        self.end()?;
        verify(&mut self.cluster, &self.models)?;
        let mut checks = Checks::default();
        checks.check(&self.cluster);
        match self.cluster.trace.violations().into_iter().next() {
            Some(violation) => anyhow::bail!(violation),
            None => Ok(()),
        }
    }
}
