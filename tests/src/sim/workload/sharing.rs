//! Operations by which files share bytes: clones and concatenations.

use cairn_client::{FileSystem, Place};
use cairn_protocol::messages::operation::IfExists;
use rand::Rng;

use super::{Outcome, Worker};
use crate::sim::model::FileModel;

impl Worker {
    /// A range of one file becomes part of another, or of a new one.
    pub(super) async fn share(&mut self, fs: &FileSystem) {
        let Some((source, from)) = self.some_file() else {
            return;
        };
        let start = self.rng.random_range(0..=from.content.len());
        let end = self.rng.random_range(start..=from.content.len());
        if start == end {
            return;
        }
        let is_new = self.rng.random_bool(0.5);
        let (target, mut file) = if is_new {
            (self.new_path(), FileModel::default())
        } else {
            match self.some_file() {
                Some(other) if other.0 != source => other,
                _ => return,
            }
        };
        let at = self.rng.random_range(0..=file.content.len());
        let what = format!("clone {start}..{end} of {source} to {at} of {target}");
        let length = (end - start) as u64;
        let sharing = async {
            if is_new {
                let target = target.as_str();
                fs.create(target, 0o644, IfExists::Fail).await?;
            }
            let (source, target) = (source.as_str(), target.as_str());
            fs.clone_range(source, start as u64, length, target, at as u64)
                .await
        };
        let result = sharing.await;
        match self.judge(&what, result) {
            Outcome::Done(shared) if shared == length => {
                file.share(at, &from, start..end);
                self.put(&target, file);
            }
            Outcome::Done(shared) => {
                self.trace
                    .violation(format!("{what}: {shared} bytes were shared"));
            }
            // Several steps: some of them may be done.
            Outcome::Refused | Outcome::Unknown => self.taint(&target),
        }
    }

    /// One file goes to the end of another.
    pub(super) async fn concat(&mut self, fs: &FileSystem) {
        let (Some((target, mut file)), Some((source, from))) = (self.some_file(), self.some_file())
        else {
            return;
        };
        if source == target {
            return;
        }
        let result = fs
            .concat(target.as_str(), [Place::from(source.as_str())])
            .await;
        match self.judge(&format!("concat {source} to {target}"), result) {
            Outcome::Done(_) => {
                let (at, whole) = (file.content.len(), 0..from.content.len());
                file.share(at, &from, whole);
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
}
