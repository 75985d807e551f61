//! What clients do: random operations, whose outcomes go into the model.

mod sharing;
mod syncing;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{ClusterConfig, Error, FileSystem, WriteOptions};
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{
    IfExists, OperationKind, Precondition, Rename, RenameMode,
};
use rand::rngs::StdRng;
use rand::{Rng, RngCore};
use tokio::time::sleep;

use super::cluster::connect;
use super::model::{FileModel, Models};
use super::trace::Trace;

/// Bytes of one appended record.
pub(crate) const RECORD_BYTES: usize = 32;
/// Where all clients append.
pub(crate) const RECORDS: &str = "/shared/records";
/// Files that a client keeps at most.
const FILES_MAX: usize = 24;
/// Large files that a client writes at most: they cost the most time.
const LARGE_MAX: u32 = 3;
/// Names that clients race for.
const CLAIMS: u32 = 12;

/// What became of an operation.
enum Outcome<T> {
    Done(T),
    /// It did not happen, for a reason that faults explain.
    Refused,
    /// It may or may not have happened, or happen later.
    Unknown,
}

/// One client's program.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) config: ClusterConfig,
    pub(crate) models: Models,
    pub(crate) trace: Trace,
    pub(crate) rng: StdRng,
    /// Set when no more operations are to be begun.
    pub(crate) stop: Rc<Cell<bool>>,
    pub(crate) next_name: u32,
    pub(crate) large_count: u32,
}

impl Worker {
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let fs = connect(&self.config, 10).await?;
        while !self.stop.get() {
            let pause = self.rng.random_range(0..60);
            sleep(Duration::from_millis(pause)).await;
            self.operation(&fs).await;
        }
        let closed = fs.close().await;
        self.say("close", &format!("{:?}", closed.is_ok()));
        Ok(())
    }

    async fn operation(&mut self, fs: &FileSystem) {
        let files = self.models.clients.borrow()[self.index].files.len();
        let choice = self.rng.random_range(0..100);
        tracing::debug!(target: "sim", client = self.index, choice, "begins");
        match choice {
            0..20 if files < FILES_MAX => self.create(fs).await,
            20..28 => self.replace(fs).await,
            28..38 => self.append(fs).await,
            38..41 => self.write_at(fs).await,
            41..44 => self.write_and_sync(fs).await,
            44..54 => self.record(fs).await,
            54..60 => self.rename(fs).await,
            60..64 => self.swap(fs).await,
            64..70 => self.unlink(fs).await,
            70..74 => self.truncate(fs).await,
            74..80 => self.sync(fs).await,
            80..84 => self.make_directory(fs).await,
            84..86 => self.remove_tree(fs).await,
            86..89 => self.claim(fs).await,
            89..91 => self.share(fs).await,
            91..92 => self.concat(fs).await,
            92..96 => {
                let history = self.models.history.clone();
                history.act(fs, &mut self.rng, &self.trace).await;
            }
            _ => self.read(fs).await,
        }
    }

    fn say(&self, what: &str, outcome: &str) {
        self.trace
            .event(format!("client-{} {what}: {outcome}", self.index));
    }

    /// Judges an answer. An error that faults cannot explain is a violation: the model knows what is there.
    fn judge<T>(&self, what: &str, result: Result<T, Error>) -> Outcome<T> {
        let error = match result {
            Ok(value) => {
                self.say(what, "done");
                return Outcome::Done(value);
            }
            Err(error) => error,
        };
        self.say(what, &error.to_string());
        match &error {
            Error::OutcomeUnknown { .. } => Outcome::Unknown,
            Error::Unreachable { .. } | Error::DataLost { .. } => Outcome::Refused,
            Error::Refused { failure, .. } if is_explained(failure.code) => Outcome::Refused,
            Error::Refused { .. } => {
                self.trace
                    .violation(format!("client-{} {what}: {error}", self.index));
                Outcome::Unknown
            }
        }
    }

    fn new_path(&mut self) -> String {
        self.next_name += 1;
        let models = self.models.clients.borrow();
        let model = &models[self.index];
        let directories: Vec<&String> = model.directories.iter().collect();
        let directory = match self.rng.random_range(0..=directories.len()) {
            0 => &model.root,
            chosen => directories[chosen - 1],
        };
        format!("{directory}/f{}", self.next_name)
    }

    /// A file that the model knows.
    fn some_file(&mut self) -> Option<(String, FileModel)> {
        let models = self.models.clients.borrow();
        let files = &models[self.index].files;
        if files.is_empty() {
            return None;
        }
        let chosen = self.rng.random_range(0..files.len());
        files
            .iter()
            .nth(chosen)
            .map(|(path, file)| (path.clone(), file.clone()))
    }

    fn content(&mut self) -> Bytes {
        let len = match self.rng.random_range(0..20) {
            0 => 0,
            1..14 => self.rng.random_range(1..6_000),
            14..18 => self.rng.random_range(60_000..200_000),
            _ if self.large_count < LARGE_MAX => {
                self.large_count += 1;
                self.rng.random_range(1 << 20..3 << 20)
            }
            _ => 4096,
        };
        self.bytes(len)
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        let mut bytes = vec![0; len];
        self.rng.fill_bytes(&mut bytes);
        Bytes::from(bytes)
    }

    fn put(&self, path: &str, file: FileModel) {
        self.models.clients.borrow_mut()[self.index]
            .files
            .insert(path.to_owned(), file);
    }

    fn taint(&self, path: &str) {
        self.models.clients.borrow_mut()[self.index].taint(path);
    }

    async fn create(&mut self, fs: &FileSystem) {
        let (path, content, since) = (
            self.new_path(),
            self.content(),
            self.models.power_loss_count(),
        );
        let options = WriteOptions {
            sync: self.rng.random_bool(0.2),
            ..WriteOptions::default()
        };
        let what = format!("create {path} of {} bytes", content.len());
        let result = fs
            .write_file(path.as_str(), content.clone(), &options)
            .await;
        match self.judge(&what, result) {
            Outcome::Done(_) => {
                let mut file = FileModel::new(content.to_vec(), since);
                if options.sync {
                    file.synced(&self.models.power_losses.borrow());
                }
                self.put(&path, file);
            }
            // Several steps: the file may be there although the last of them failed.
            Outcome::Refused | Outcome::Unknown => self.taint(&path),
        }
    }

    async fn replace(&mut self, fs: &FileSystem) {
        let Some((path, _)) = self.some_file() else {
            return;
        };
        let (content, since) = (self.content(), self.models.power_loss_count());
        let options = WriteOptions {
            if_exists: IfExists::Replace,
            ..WriteOptions::default()
        };
        let what = format!("replace {path} by {} bytes", content.len());
        let result = fs
            .write_file(path.as_str(), content.clone(), &options)
            .await;
        match self.judge(&what, result) {
            Outcome::Done(_) => self.put(&path, FileModel::new(content.to_vec(), since)),
            Outcome::Refused | Outcome::Unknown => self.taint(&path),
        }
    }

    async fn append(&mut self, fs: &FileSystem) {
        let Some((path, mut file)) = self.some_file() else {
            return;
        };
        let (content, since) = (self.content(), self.models.power_loss_count());
        let sync = self.rng.random_bool(0.3);
        let flush_last = self.rng.random_bool(0.5);
        let what = format!("append {} bytes to {path}, sync {sync}", content.len());
        let writing = async {
            let mut writer = fs.open_append(path.as_str()).await?;
            for piece in content.chunks(content.len() / 3 + 1) {
                writer.flush().await?;
                writer.write(piece).await?;
            }
            if flush_last {
                writer.flush().await?;
            }
            if sync {
                writer.sync().await?;
            }
            writer.close().await
        };
        match self.judge(&what, writing.await) {
            Outcome::Done(attributes) => {
                let offset = file.content.len();
                file.write(offset, &content, since);
                if sync {
                    file.synced(&self.models.power_losses.borrow());
                }
                if attributes.size != file.content.len() as u64 {
                    let size = attributes.size;
                    self.trace
                        .violation(format!("{what}: size {size} is not {}", file.content.len()));
                }
                self.put(&path, file);
            }
            Outcome::Refused | Outcome::Unknown => self.taint(&path),
        }
    }

    async fn write_at(&mut self, fs: &FileSystem) {
        let Some((path, mut file)) = self.some_file() else {
            return;
        };
        let offset = self.rng.random_range(0..=file.content.len() + 100);
        let len = self.rng.random_range(1..8_000);
        let (content, since) = (self.bytes(len), self.models.power_loss_count());
        let what = format!("write {len} bytes at {offset} of {path}");
        let result = fs
            .write_at(path.as_str(), offset as u64, content.clone())
            .await;
        match self.judge(&what, result) {
            Outcome::Done(_) => {
                file.write(offset, &content, since);
                self.put(&path, file);
            }
            Outcome::Refused | Outcome::Unknown => self.taint(&path),
        }
    }

    async fn record(&mut self, fs: &FileSystem) {
        let mut record = vec![0; RECORD_BYTES];
        self.rng.fill_bytes(&mut record);
        let result = fs.record_append(RECORDS, Bytes::from(record.clone())).await;
        let offset = match self.judge("record append", result) {
            Outcome::Done(offset) => Some(offset),
            Outcome::Refused | Outcome::Unknown => None,
        };
        self.models
            .shared
            .borrow_mut()
            .records
            .insert(record, offset);
    }

    async fn rename(&mut self, fs: &FileSystem) {
        let Some((source, file)) = self.some_file() else {
            return;
        };
        let target = self.new_path();
        let what = format!("rename {source} to {target}");
        let result = fs
            .rename(source.as_str(), target.as_str(), RenameMode::NoReplace)
            .await;
        match self.judge(&what, result) {
            Outcome::Done(_) => {
                self.models.clients.borrow_mut()[self.index]
                    .files
                    .remove(&source);
                self.put(&target, file);
            }
            Outcome::Refused => {}
            Outcome::Unknown => {
                self.taint(&source);
                self.taint(&target);
            }
        }
    }

    /// Two renames in one transaction.
    async fn swap(&mut self, fs: &FileSystem) {
        let (Some((first, one)), Some((second, two))) = (self.some_file(), self.some_file()) else {
            return;
        };
        if first == second {
            return;
        }
        let (first_target, second_target) = (self.new_path(), self.new_path());
        let location = |path: &str| Location {
            path: path.as_bytes().to_vec(),
            ..Location::default()
        };
        let must_exist = |path: &str| Precondition {
            location: location(path),
            exists: Some(true),
            ..Precondition::default()
        };
        let rename = |source: &str, target: &str| {
            OperationKind::Rename(Rename {
                source: location(source),
                target: location(target),
                mode: RenameMode::NoReplace as i32,
            })
        };
        let what = format!("transaction: {first} to {first_target}, {second} to {second_target}");
        let preconditions = vec![must_exist(&first), must_exist(&second)];
        let operations = vec![
            rename(&first, &first_target),
            rename(&second, &second_target),
        ];
        let result = fs.transaction(preconditions, operations).await;
        match self.judge(&what, result) {
            Outcome::Done(_) => {
                let mut models = self.models.clients.borrow_mut();
                let files = &mut models[self.index].files;
                files.remove(&first);
                files.remove(&second);
                files.insert(first_target, one);
                files.insert(second_target, two);
            }
            Outcome::Refused => {}
            Outcome::Unknown => [first, second, first_target, second_target]
                .iter()
                .for_each(|path| self.taint(path)),
        }
    }

    async fn unlink(&mut self, fs: &FileSystem) {
        let Some((path, _)) = self.some_file() else {
            return;
        };
        let result = fs.unlink(path.as_str()).await;
        match self.judge(&format!("unlink {path}"), result) {
            Outcome::Done(_) => {
                self.models.clients.borrow_mut()[self.index]
                    .files
                    .remove(&path);
            }
            Outcome::Refused => {}
            Outcome::Unknown => self.taint(&path),
        }
    }

    async fn truncate(&mut self, fs: &FileSystem) {
        let Some((path, mut file)) = self.some_file() else {
            return;
        };
        let len = self.rng.random_range(0..=file.content.len() + 50);
        let result = fs.truncate(path.as_str(), len as u64).await;
        match self.judge(&format!("truncate {path} to {len}"), result) {
            Outcome::Done(_) => {
                file.truncate(len);
                self.put(&path, file);
            }
            Outcome::Refused | Outcome::Unknown => self.taint(&path),
        }
    }

    async fn sync(&mut self, fs: &FileSystem) {
        let Some((path, mut file)) = self.some_file() else {
            return;
        };
        let result = fs.sync(path.as_str()).await;
        if let Outcome::Done(()) = self.judge(&format!("sync {path}"), result) {
            file.synced(&self.models.power_losses.borrow());
            self.put(&path, file);
        }
    }

    async fn make_directory(&mut self, fs: &FileSystem) {
        self.next_name += 1;
        let path = format!(
            "{}/d{}",
            self.models.clients.borrow()[self.index].root,
            self.next_name
        );
        let result = fs.mkdir(path.as_str(), 0o755).await;
        let outcome = self.judge(&format!("mkdir {path}"), result);
        let model = &mut self.models.clients.borrow_mut()[self.index];
        match outcome {
            Outcome::Done(_) => {
                model.directories.insert(path);
            }
            Outcome::Refused => {}
            Outcome::Unknown => model.taint(&path),
        }
    }

    async fn remove_tree(&mut self, fs: &FileSystem) {
        let path = self.models.clients.borrow()[self.index]
            .directories
            .first()
            .cloned();
        let Some(path) = path else { return };
        let result = fs.remove_tree(path.as_str()).await;
        let outcome = self.judge(&format!("remove tree {path}"), result);
        let model = &mut self.models.clients.borrow_mut()[self.index];
        match outcome {
            Outcome::Done(_) => model.remove_tree(&path),
            Outcome::Refused => {}
            Outcome::Unknown => model.taint_tree(&path),
        }
    }

    /// A name that all clients try to make: one may succeed.
    async fn claim(&mut self, fs: &FileSystem) {
        let name = format!("/shared/claim-{}", self.rng.random_range(0..CLAIMS));
        let result = fs.create(name.as_str(), 0o644, IfExists::Fail).await;
        let what = format!("claim {name}");
        let lost = matches!(&result, Err(error) if error.code() == ErrorCode::AlreadyExists);
        let winner = match result {
            Err(_) if lost => {
                self.say(&what, "lost");
                return;
            }
            result => match self.judge(&what, result) {
                Outcome::Done(_) => Some(self.index),
                Outcome::Unknown => None,
                Outcome::Refused => return,
            },
        };
        let mut shared = self.models.shared.borrow_mut();
        let winners = shared.claims.entry(name.clone()).or_default();
        winners.push(winner);
        if winners.iter().flatten().count() > 1 {
            self.trace
                .violation(format!("I6: {name} was made twice: {winners:?}"));
        }
    }

    async fn read(&mut self, fs: &FileSystem) {
        let Some((path, file)) = self.some_file() else {
            return;
        };
        let what = format!("read {path}");
        if let Outcome::Done(bytes) = self.judge(&what, fs.read_file(path.as_str()).await)
            && bytes != file.content
        {
            self.trace
                .violation(format!("I1: {what}: {}", difference(&bytes, &file.content)));
        }
    }
}

/// Where two contents differ.
pub(crate) fn difference(read: &[u8], expected: &[u8]) -> String {
    let at = read.iter().zip(expected).position(|(a, b)| a != b);
    format!(
        "{} bytes of {} expected, differ at {at:?}",
        read.len(),
        expected.len()
    )
}

/// Whether faults alone can lead to this answer.
pub(crate) fn is_explained(code: ErrorCode) -> bool {
    code.is_retryable()
        || matches!(
            code,
            ErrorCode::SessionExpired | ErrorCode::DataLost | ErrorCode::NotEnoughDatanodes
        )
}
