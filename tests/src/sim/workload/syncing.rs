//! Small writes of an open file that are on disk when they are acknowledged, as databases make them.

use cairn_client::FileSystem;
use rand::Rng;

use super::{Outcome, Worker};

impl Worker {
    /// Each is on disk before the next one begins.
    pub(super) async fn write_and_sync(&mut self, fs: &FileSystem) {
        let Some((path, mut file)) = self.some_file() else {
            return;
        };
        // While one of them is kept, the next one knows what that one knew of the file.
        let mut kept = None;
        for round in 0..self.rng.random_range(1..6) {
            let offset = self.rng.random_range(0..=file.content.len() + 100);
            let len = self.rng.random_range(1..5_000);
            let (content, since) = (self.bytes(len), self.models.power_loss_count());
            let what = format!("write {len} bytes at {offset} of {path} and sync, {round}");
            let writing = async {
                let inode = fs.stat(path.as_str()).await?.inode;
                let opened = fs.open_file(inode.into()).await?;
                opened.write(offset as u64, content.clone()).await?;
                opened.sync().await?;
                Ok(opened)
            };
            match self.judge(&what, writing.await) {
                Outcome::Done(opened) => {
                    file.write(offset, &content, since);
                    file.synced(&self.models.power_losses.borrow());
                    self.put(&path, file.clone());
                    kept = Some(opened);
                }
                Outcome::Refused | Outcome::Unknown => return self.taint(&path),
            }
        }
        drop(kept);
    }
}
