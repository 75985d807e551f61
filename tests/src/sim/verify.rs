//! After healing: everything acknowledged is there with the right bytes, nothing else is, and the cluster becomes whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{Error, FileSystem, WriteOptions};
use cairn_protocol::ErrorCode;
use tokio::time::{Instant, sleep};

use super::model::{ClientModel, FileModel, Models};
use super::trace::Trace;
use super::workload::{RECORD_BYTES, RECORDS, difference, is_explained};

/// How long the cluster may take to serve everything, and to have all replicas, once nothing goes wrong any more.
const HEALED_WITHIN: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(100);

/// A healthy client that knows what must be there.
pub(crate) struct Verifier {
    pub(crate) fs: FileSystem,
    pub(crate) models: Models,
    pub(crate) trace: Trace,
}

impl Verifier {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        self.serves().await?;
        let clients = self.models.clients.borrow().clone();
        for client in &clients {
            self.check_client(client).await?;
        }
        self.check_records().await?;
        self.becomes_whole().await?;
        // Once more: copies that were made meanwhile hold the same bytes.
        for client in &clients {
            self.check_client(client).await?;
        }
        self.check_records().await
    }

    /// Repeats what fails for reasons that pass.
    pub(crate) async fn patiently<T, F>(
        &self,
        what: &str,
        mut ask: impl FnMut() -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + HEALED_WITHIN;
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !is_explained(error.code()) || Instant::now() > deadline {
                anyhow::bail!("after healing: {what}: {error}");
            }
            sleep(PAUSE).await;
        }
    }

    async fn serves(&self) -> anyhow::Result<()> {
        let content = Bytes::from_static(b"healed");
        let options = WriteOptions::default();
        let mut attempt = 0;
        self.patiently("write", || {
            attempt += 1;
            let (path, content, options) =
                (format!("/healed-{attempt}"), content.clone(), &options);
            async move { self.fs.write_file(path.as_str(), content, options).await }
        })
        .await?;
        self.trace.event("the cluster serves again");
        Ok(())
    }

    async fn check_client(&self, client: &ClientModel) -> anyhow::Result<()> {
        for directory in client.directories.iter().chain([&client.root]) {
            let entries = self
                .patiently(directory, || self.fs.list_all(directory.as_str()))
                .await?;
            let names = entries
                .iter()
                .map(|entry| String::from_utf8_lossy(&entry.name).into_owned());
            let found: BTreeSet<String> = names.map(|name| format!("{directory}/{name}")).collect();
            let expected = client.children(directory);
            if let Some(missing) = expected.difference(&found).next() {
                anyhow::bail!("I6: {missing} was acknowledged and is not there");
            }
            if let Some(surplus) = found
                .difference(&expected)
                .find(|path| !client.tainted.contains(*path))
            {
                anyhow::bail!("I6: {surplus} is there and should not be");
            }
        }
        for (path, file) in &client.files {
            self.check_file(path, file).await?;
        }
        Ok(())
    }

    async fn check_file(&self, path: &str, file: &FileModel) -> anyhow::Result<()> {
        let doubtful = file.doubtful(&self.models.power_losses.borrow());
        if !doubtful.is_empty() {
            return self.check_rest(path, file, &doubtful).await;
        }
        let bytes = self.patiently(path, || self.fs.read_file(path)).await?;
        anyhow::ensure!(
            bytes == file.content,
            "I1: {path}: {}",
            difference(&bytes, &file.content)
        );
        Ok(())
    }

    /// Bytes whose loss is allowed read as an error or as they were; all others as they were.
    async fn check_rest(
        &self,
        path: &str,
        file: &FileModel,
        doubtful: &[std::ops::Range<usize>],
    ) -> anyhow::Result<()> {
        let reader = self.patiently(path, || self.fs.open(path)).await?;
        let size = reader.attributes().size;
        anyhow::ensure!(
            size == file.content.len() as u64,
            "I1: {path} has {size} bytes"
        );
        let mut edges: BTreeSet<usize> = BTreeSet::from([0, file.content.len()]);
        edges.extend(doubtful.iter().flat_map(|range| [range.start, range.end]));
        let edges: Vec<usize> = edges.into_iter().collect();
        for pair in edges.windows(2) {
            let (start, end) = (pair[0], pair[1]);
            let expected = &file.content[start..end];
            let lossy = doubtful
                .iter()
                .any(|range| range.start < end && start < range.end);
            let bytes = if lossy {
                match reader.read_at(start as u64, end - start).await {
                    Err(error) if error.code() == ErrorCode::DataLost => continue,
                    answer => answer?,
                }
            } else {
                self.patiently(path, || reader.read_at(start as u64, end - start))
                    .await?
            };
            anyhow::ensure!(
                bytes == expected,
                "I1: {path} at {start}: {}",
                difference(&bytes, expected)
            );
        }
        Ok(())
    }

    /// Every acknowledged record once, where the answer said; unknown ones at most once; nothing else.
    async fn check_records(&self) -> anyhow::Result<()> {
        let losses = self
            .models
            .power_losses
            .borrow()
            .iter()
            .collect::<BTreeSet<_>>()
            .len();
        let bytes = match self.fs.read_file(RECORDS).await {
            Err(error) if losses >= 2 && error.code() == ErrorCode::DataLost => return Ok(()),
            Err(_) => {
                self.patiently(RECORDS, || self.fs.read_file(RECORDS))
                    .await?
            }
            Ok(bytes) => bytes,
        };
        anyhow::ensure!(
            bytes.len() % RECORD_BYTES == 0,
            "I6: half a record in {RECORDS}"
        );
        let mut found: BTreeMap<&[u8], u64> = BTreeMap::new();
        for (index, record) in bytes.chunks(RECORD_BYTES).enumerate() {
            let twice = found.insert(record, (index * RECORD_BYTES) as u64);
            anyhow::ensure!(twice.is_none(), "I6: record {index} is there twice");
        }
        let shared = self.models.shared.borrow();
        for (record, acknowledged) in &shared.records {
            let at = found.remove(record.as_slice());
            if let Some(offset) = acknowledged {
                anyhow::ensure!(
                    at == Some(*offset),
                    "I6: record of offset {offset} is at {at:?}"
                );
            }
        }
        anyhow::ensure!(
            found.is_empty(),
            "I6: {} records that nobody wrote",
            found.len()
        );
        Ok(())
    }

    /// All chunks get all their replicas, surplus ones go, and the cluster's own check finds nothing.
    async fn becomes_whole(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + HEALED_WITHIN;
        // What power losses destroyed stays destroyed.
        let losses = self
            .models
            .power_losses
            .borrow()
            .iter()
            .collect::<BTreeSet<_>>()
            .len();
        loop {
            let problem = self.problem(losses >= 2).await?;
            let Some(problem) = problem else { break };
            anyhow::ensure!(Instant::now() < deadline, "not whole again: {problem}");
            sleep(PAUSE).await;
        }
        self.trace.event("all replicas are there");
        Ok(())
    }

    /// What keeps the cluster from being whole, by its own account. With `losses_allowed`, lost bytes do not.
    async fn problem(&self, losses_allowed: bool) -> anyhow::Result<Option<String>> {
        let counts = self.patiently("status", || self.fs.status()).await?.counts;
        let whole = counts.chunks_under_replicated == 0
            && counts.chunks_over_replicated == 0
            && counts.copies_running == 0
            && (counts.chunks_unavailable == 0 || losses_allowed);
        if !whole {
            return Ok(Some(format!("{counts:?}")));
        }
        let mut cursor = Vec::new();
        loop {
            let page = self
                .patiently("fsck", || self.fs.fsck_page(cursor.clone(), 0))
                .await?;
            if let Some(problem) = page.problems.first()
                && !losses_allowed
            {
                return Ok(Some(format!("fsck: {}: {}", problem.kind, problem.message)));
            }
            if page.cursor.is_empty() {
                return Ok(None);
            }
            cursor = page.cursor;
        }
    }
}
