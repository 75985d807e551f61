//! A look into a state that no process has open: a checkpoint.

use std::path::Path;

use rocksdb::{DB, Options};

use super::error::StoreError;
use super::records::AppliedState;
use super::{Store, applied_key, key};

impl Store {
    /// What the state in `dir` reflects; `None` before the first entry. Changes nothing there. Blocks.
    pub fn applied_of(dir: &Path) -> Result<Option<AppliedState>, StoreError> {
        let object = || format!("state in {}", dir.display());
        let db = DB::open_for_read_only(&Options::default(), dir, false)
            .map_err(StoreError::rocks("open", object))?;
        let bytes = db
            .get(applied_key())
            .map_err(StoreError::rocks("read", object))?;
        bytes
            .map(|bytes| key::decode_record(&bytes, || "applied state".into()))
            .transpose()
    }
}
