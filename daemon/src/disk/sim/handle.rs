//! An open simulated file. It is stale after the next crash: a process that is dead cannot write any more.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::tree::NodeId;
use super::{State, guard, is_under, os_error};
use crate::disk::real::check_aligned;
use crate::disk::{DiskFile, context};

/// Files cannot be longer, so that a wild offset in a test fails instead of taking the machine's memory.
const FILE_BYTES_MAX: u64 = 1 << 32;

pub(super) struct SimFileHandle {
    pub(super) shared: Arc<Mutex<State>>,
    pub(super) incarnation: u64,
    pub(super) node: NodeId,
    pub(super) path: PathBuf,
    pub(super) normal: String,
    pub(super) writable: bool,
    pub(super) direct: bool,
}

impl SimFileHandle {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = guard(&self.shared);
        if self.incarnation != state.incarnation {
            return Err(os_error(libc::ESTALE));
        }
        state.expect_power()?;
        Ok(state)
    }

    fn change(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state()?;
        if !self.writable {
            return Err(os_error(libc::EBADF));
        }
        state.begin_change()?;
        self.expect_writable(&state)?;
        Ok(state)
    }

    fn expect_writable(&self, state: &State) -> io::Result<()> {
        match is_under(&state.failing_writes, &self.normal) {
            true => Err(os_error(libc::EIO)),
            false => Ok(()),
        }
    }

    fn set_len_to(&self, len: u64) -> io::Result<()> {
        let mut state = self.change()?;
        let wanted = file_len(len)?;
        let old = state.tree.file(self.node)?.file.len() as u64;
        state.expect_room(len.saturating_sub(old))?;
        state.tree.file_mut(self.node)?.file.set_len(wanted);
        Ok(())
    }

    fn write(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if self.direct {
            check_aligned(buf, offset)?;
        }
        let mut state = self.change()?;
        let end = offset.saturating_add(buf.len() as u64);
        file_len(end)?;
        let old = state.tree.file(self.node)?.file.len() as u64;
        state.expect_room(end.saturating_sub(old))?;
        state
            .tree
            .file_mut(self.node)?
            .file
            .write(buf, file_len(offset)?);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.begin_change()?;
        let fails =
            state.failing_syncs.remove(&self.normal) || self.expect_writable(&state).is_err();
        let file = &mut state.tree.file_mut(self.node)?.file;
        if fails {
            file.fail_sync();
            return Err(os_error(libc::EIO));
        }
        file.sync();
        Ok(())
    }
}

fn file_len(len: u64) -> io::Result<usize> {
    if len > FILE_BYTES_MAX {
        return Err(os_error(libc::EFBIG));
    }
    usize::try_from(len).map_err(|_| os_error(libc::EFBIG))
}

impl DiskFile for SimFileHandle {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = |buf: &mut [u8]| {
            if self.direct {
                check_aligned(buf, offset)?;
            }
            let state = self.state()?;
            if is_under(&state.failing_reads, &self.normal) {
                return Err(os_error(libc::EIO));
            }
            let file = &state.tree.file(self.node)?.file;
            Ok(usize::try_from(offset).map_or(0, |offset| file.read(buf, offset)))
        };
        read(buf).map_err(context("read", &self.path))
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write(buf, offset)
            .map_err(context("write", &self.path))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync().map_err(context("sync", &self.path))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.set_len_to(len)
            .map_err(context("set length of", &self.path))
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.state().map_err(context("stat", &self.path))?;
        Ok(state.tree.file(self.node)?.file.len() as u64)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        let reserve = || {
            let state = self.state()?;
            let old = state.tree.file(self.node)?.file.len() as u64;
            state.expect_room(offset.saturating_add(len).saturating_sub(old))
        };
        reserve().map_err(context("reserve space for", &self.path))
    }

    fn drop_cache(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.state()
            .map(drop)
            .map_err(context("drop cache of", &self.path))
    }

    fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

impl Drop for SimFileHandle {
    fn drop(&mut self) {
        let mut state = guard(&self.shared);
        if state.incarnation != self.incarnation {
            return;
        }
        if let Ok(file) = state.tree.file_mut(self.node) {
            file.handle_count = file.handle_count.saturating_sub(1);
        }
        state.tree.forget_if_unused(self.node);
    }
}
