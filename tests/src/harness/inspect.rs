//! What tests ask of a whole cluster: its state, its files on disk, its own opinion of its health.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cairn_client::FileSystem;
use cairn_namenode::store::records::{ChunkRecord, ChunkState};
use cairn_namenode::store::{KeyKind, Read, chunk};
use cairn_protocol::ids::{ChunkId, DatanodeId};

use super::cluster::{MiniCluster, PATIENCE};

/// Every key and value of a state, in order of keys.
pub type Dump = Vec<(Vec<u8>, Vec<u8>)>;

impl MiniCluster {
    /// Asks again and again until the answer is yes. The last no is in the error.
    pub async fn until(
        &self,
        what: &str,
        mut ask: impl AsyncFnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = ask().await;
            if answer.is_ok() || tokio::time::Instant::now() > deadline {
                return answer.with_context(|| what.to_owned());
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Waits until the cluster's own status says that nothing is at risk, with all replicas verified.
    pub async fn wait_healthy(&self, client: &FileSystem) -> anyhow::Result<()> {
        self.until("the cluster becomes healthy", async || {
            let counts = client.status().await?.counts;
            let healthy = counts.chunks_under_replicated == 0
                && counts.chunks_unavailable == 0
                && counts.chunks_lossy == 0
                && counts.chunks_over_replicated == 0
                && counts.copies_running == 0;
            ensure!(healthy, "{counts:?}");
            Ok(())
        })
        .await
    }

    /// Runs all pages of fsck and returns what it found.
    pub async fn fsck(&self, client: &FileSystem) -> anyhow::Result<Vec<String>> {
        let mut problems = Vec::new();
        let mut cursor = Vec::new();
        loop {
            let page = client.fsck_page(cursor, 0).await?;
            problems.extend(
                page.problems
                    .into_iter()
                    .map(|problem| format!("{}: {}", problem.kind, problem.message)),
            );
            if page.cursor.is_empty() {
                return Ok(problems);
            }
            cursor = page.cursor;
        }
    }

    /// Fails if a process ended by itself, or fsck finds anything that does not heal: a replica that its datanode has not
    /// confirmed to a new leader yet is no finding.
    pub async fn check(&self, client: &FileSystem) -> anyhow::Result<()> {
        for (index, running) in &self.namenodes {
            ensure!(
                !running.tasks.shutdown_token().is_cancelled(),
                "namenode {index} ended by itself"
            );
        }
        for (index, running) in &self.datanodes {
            ensure!(
                !running.tasks.shutdown_token().is_cancelled(),
                "datanode {index} ended by itself"
            );
        }
        let mut broken = None;
        self.until("fsck finds nothing", async || {
            let problems = self.fsck(client).await?;
            let heals = |problem: &String| {
                problem.starts_with("under-replicated") || problem.starts_with("unavailable")
            };
            if !problems.iter().all(heals) {
                broken = Some(problems);
                return Ok(());
            }
            ensure!(problems.is_empty(), "fsck: {problems:?}");
            Ok(())
        })
        .await?;
        match broken {
            Some(problems) => bail!("fsck: {problems:?}"),
            None => Ok(()),
        }
    }

    /// Every key and value of a namenode's state, from one snapshot.
    pub fn dump(&self, index: usize) -> anyhow::Result<Dump> {
        let running = self
            .namenodes
            .get(&index)
            .context("namenode is not running")?;
        let store = running.node.group().state().store();
        let mut pairs = Vec::new();
        store.snapshot().scan(&[], &[u8::MAX], &mut |key, value| {
            pairs.push((key.to_vec(), value.to_vec()));
            Ok(true)
        })?;
        Ok(pairs)
    }

    /// Waits until all running namenodes have applied the same entries, and checks that their states are then the same, byte for byte
    /// (I7).
    pub async fn wait_equal_states(&self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut dumps = BTreeMap::new();
            for index in self.namenodes.keys() {
                dumps.insert(*index, self.dump(*index)?);
            }
            let mut applied: BTreeSet<Vec<u8>> = BTreeSet::new();
            for dump in dumps.values() {
                let value = dump
                    .iter()
                    .find(|(key, _)| key.first() == Some(&(KeyKind::Applied as u8)));
                applied.insert(value.map(|(_, value)| value.clone()).unwrap_or_default());
            }
            if applied.len() == 1 {
                return same(&dumps);
            }
            if tokio::time::Instant::now() > deadline {
                bail!("namenodes do not reach the same index: {applied:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All chunks, as the leader has them.
    pub async fn chunks(&self) -> anyhow::Result<BTreeMap<ChunkId, ChunkRecord>> {
        let leader = self.leader().await?;
        let running = self.namenodes.get(&leader).context("leader was killed")?;
        let store = running.node.group().state().store();
        let mut chunks = BTreeMap::new();
        chunk::scan(&store.snapshot(), ChunkId(0), &mut |id, record| {
            chunks.insert(id, record);
            Ok(true)
        })?;
        Ok(chunks)
    }

    /// Chunks that can be written to.
    pub async fn open_chunks(&self) -> anyhow::Result<BTreeMap<ChunkId, ChunkRecord>> {
        let mut chunks = self.chunks().await?;
        chunks.retain(|_, record| record.state == ChunkState::Open as i32);
        Ok(chunks)
    }

    /// Chunks that a file uses.
    pub async fn chunks_of(
        &self,
        client: &FileSystem,
        path: &str,
    ) -> anyhow::Result<BTreeSet<ChunkId>> {
        let located = client.extents(path, 0, u64::MAX / 2).await?;
        Ok(located
            .extents
            .iter()
            .map(|located| ChunkId(located.extent.chunk))
            .collect())
    }

    /// Paths of the data of all replicas on a datanode's disk, running or not.
    pub fn data_files(&self, index: usize) -> anyhow::Result<BTreeMap<ChunkId, PathBuf>> {
        let mut files = BTreeMap::new();
        let mut directories = vec![self.volume(index)];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory)? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                if path.extension().is_none_or(|extension| extension != "data") {
                    continue;
                }
                let name = path
                    .file_stem()
                    .and_then(|name| name.to_str())
                    .context("name of a data file")?;
                files.insert(ChunkId(u64::from_str_radix(name, 16)?), path);
            }
        }
        Ok(files)
    }

    /// Waits until exactly the replicas of the committed state are on the disks, each chunk as often as it should be.
    pub async fn wait_files_match(&self) -> anyhow::Result<()> {
        self.until("disks hold what the committed state says", async || {
            let mut expected: BTreeMap<usize, BTreeSet<ChunkId>> = BTreeMap::new();
            for (id, record) in self.chunks().await? {
                ensure!(
                    record.replicas.len() == record.replication as usize,
                    "chunk {id} has {} replicas of {}",
                    record.replicas.len(),
                    record.replication
                );
                for replica in &record.replicas {
                    let index = self
                        .datanode_index(DatanodeId(replica.datanode))
                        .context("unknown datanode")?;
                    expected.entry(index).or_default().insert(id);
                }
            }
            for index in self.datanodes.keys() {
                let found: BTreeSet<ChunkId> = self.data_files(*index)?.into_keys().collect();
                let wanted = expected.remove(index).unwrap_or_default();
                ensure!(
                    found == wanted,
                    "datanode {index} has {found:?}, should have {wanted:?}"
                );
            }
            ensure!(
                expected.is_empty(),
                "replicas on datanodes that do not run: {expected:?}"
            );
            Ok(())
        })
        .await
    }
}

fn same(dumps: &BTreeMap<usize, Dump>) -> anyhow::Result<()> {
    let Some((first, reference)) = dumps.first_key_value() else {
        return Ok(());
    };
    for (index, dump) in dumps {
        if let Some((ours, theirs)) = reference
            .iter()
            .zip(dump)
            .find(|(ours, theirs)| ours != theirs)
        {
            bail!("namenodes {first} and {index} differ: {ours:?} and {theirs:?}");
        }
        ensure!(
            reference.len() == dump.len(),
            "namenodes {first} and {index} have states of different sizes"
        );
    }
    Ok(())
}
