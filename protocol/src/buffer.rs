//! Aligned, reusable buffers for bulk data. The bytes that came from a socket can go to an O_DIRECT file and to the next
//! socket without a copy, and without touching fresh memory, whose first touch costs several times the copy.
//!
//! Guarantees: a buffer starts at a multiple of 4,096, its memory is initialised and stays its owner's alone until
//! dropped; the pool keeps a bounded number of idle buffers. What a reused buffer holds is left over from its former
//! life: whoever takes one overwrites or truncates it before passing it on.
#![expect(
    unsafe_code,
    reason = "O_DIRECT wants memory aligned to 4,096 bytes, which Vec cannot promise"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use crate::limits::BUFFER_BYTES;

/// Every buffer starts at a multiple of this, as O_DIRECT asks of any disk that we know.
pub const ALIGNMENT: usize = 4096;

/// The capacities that are kept for reuse. Whatever is larger is allocated for one use.
const POOLED: [usize; 3] = [64 << 10, 256 << 10, BUFFER_BYTES];

/// Idle bytes that the process-wide pool keeps per capacity.
const IDLE_BYTES_MAX: usize = 64 << 20;

/// The pool that everything in this process shares.
pub fn pool() -> &'static BufferPool {
    static POOL: OnceLock<BufferPool> = OnceLock::new();
    POOL.get_or_init(|| BufferPool::new(IDLE_BYTES_MAX))
}

/// Keeps idle buffers for reuse. Cheap to clone: clones share the buffers.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    /// Idle memory per capacity of `POOLED`. The lock is held for a push or a pop.
    idle: [Mutex<Vec<Memory>>; POOLED.len()],
    idle_bytes_max: usize,
}

impl BufferPool {
    /// A pool that keeps at most `idle_bytes_max` idle bytes per capacity.
    pub fn new(idle_bytes_max: usize) -> Self {
        let idle = [const { Mutex::new(Vec::new()) }; POOLED.len()];
        Self {
            shared: Arc::new(Shared {
                idle,
                idle_bytes_max,
            }),
        }
    }

    /// A buffer of `len` bytes with arbitrary contents: reused if one is idle, else fresh.
    pub fn take(&self, len: usize) -> Buffer {
        let memory = match POOLED.iter().position(|&capacity| len <= capacity) {
            Some(class) => {
                let idle = lock(&self.shared.idle[class]).pop();
                idle.unwrap_or_else(|| Memory::allocate(POOLED[class]))
            }
            None => Memory::allocate(len),
        };
        Buffer {
            memory: Some(memory),
            len,
            pool: self.clone(),
        }
    }

    /// How many idle buffers the pool holds.
    pub fn idle_count(&self) -> usize {
        self.shared.idle.iter().map(|idle| lock(idle).len()).sum()
    }

    fn give_back(&self, memory: Memory) {
        let Some(class) = POOLED
            .iter()
            .position(|&capacity| capacity == memory.capacity())
        else {
            return;
        };
        let mut idle = lock(&self.shared.idle[class]);
        if (idle.len() + 1) * memory.capacity() <= self.shared.idle_bytes_max {
            idle.push(memory);
        }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("idle", &self.idle_count())
            .finish()
    }
}

/// A push or pop cannot leave the list broken, so a poisoned lock is as good as any.
fn lock(idle: &Mutex<Vec<Memory>>) -> std::sync::MutexGuard<'_, Vec<Memory>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Aligned bytes that one owner fills and then shares with [`Buffer::freeze`].
pub struct Buffer {
    /// Present until drop.
    memory: Option<Memory>,
    /// At most the memory's capacity.
    len: usize,
    pool: BufferPool,
}

impl Buffer {
    /// How many bytes it shows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if it shows none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes it could show.
    pub fn capacity(&self) -> usize {
        self.memory().capacity()
    }

    /// Shows only the first `len` bytes; longer than it is changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Shows `len` bytes, of which those that were hidden have arbitrary contents.
    ///
    /// # Panics
    /// If `len` is above [`Buffer::capacity`].
    pub fn resize(&mut self, len: usize) {
        assert!(
            len <= self.capacity(),
            "a buffer of {} bytes cannot show {len}",
            self.capacity()
        );
        self.len = len;
    }

    /// The bytes, shareable and immutable; the memory returns to its pool with the last of them.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    fn memory(&self) -> &Memory {
        self.memory
            .as_ref()
            .expect("memory leaves a buffer only in drop")
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory().bytes()[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let memory = self
            .memory
            .as_mut()
            .expect("memory leaves a buffer only in drop");
        &mut memory.bytes_mut()[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.give_back(memory);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish()
    }
}

/// One aligned allocation, initialised for its whole life.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Memory` owns its allocation alone, as a `Box<[u8]>` would, and bytes may move and be shared between threads.
unsafe impl Send for Memory {}
// SAFETY: as above; a shared reference gives only shared access to the bytes.
unsafe impl Sync for Memory {}

impl Memory {
    fn allocate(capacity: usize) -> Self {
        let layout =
            Layout::from_size_align(capacity.max(1).next_multiple_of(ALIGNMENT), ALIGNMENT)
                .expect("4,096 is a power of two and lengths are limited to far below isize::MAX");
        // SAFETY: the layout's size is at least 4,096, hence not zero.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => Self { start, layout },
            None => handle_alloc_error(layout),
        }
    }

    fn capacity(&self) -> usize {
        self.layout.size()
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `start` points to `size` bytes that we own and that `alloc_zeroed` initialised; writers need `&mut self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only access.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this very layout and is freed once, here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::{ALIGNMENT, BufferPool, POOLED};
    use crate::limits::BUFFER_BYTES;

    #[test]
    fn memory_is_aligned_and_returns_with_the_last_bytes() {
        let pool = BufferPool::new(2 * BUFFER_BYTES);
        let mut buffer = pool.take(BUFFER_BYTES);
        assert_eq!(buffer.as_ptr() as usize % ALIGNMENT, 0);
        buffer[..5].copy_from_slice(b"cairn");
        buffer.truncate(5);
        let address = buffer.as_ptr();
        let bytes = buffer.freeze();
        let tail = bytes.slice(2..);
        drop(bytes);
        assert_eq!(pool.idle_count(), 0);
        assert_eq!(&tail[..], b"irn");
        drop(tail);
        assert_eq!(pool.idle_count(), 1);
        assert_eq!(pool.take(BUFFER_BYTES).as_ptr(), address);
    }

    #[test]
    fn idle_memory_is_bounded() {
        let pool = BufferPool::new(2 * BUFFER_BYTES);
        let many: Vec<_> = (0..5).map(|_| pool.take(BUFFER_BYTES)).collect();
        drop(many);
        assert_eq!(pool.idle_count(), 2);
        drop(pool.take(BUFFER_BYTES + 1));
        assert_eq!(pool.idle_count(), 2);
    }

    #[test]
    fn any_length_fits_and_is_exact() {
        let pool = BufferPool::new(BUFFER_BYTES);
        for len in [
            0,
            1,
            ALIGNMENT,
            POOLED[0],
            POOLED[0] + 1,
            BUFFER_BYTES + 5,
            4 << 20,
        ] {
            let mut buffer = pool.take(len);
            assert_eq!(buffer.len(), len);
            buffer.fill(7);
            assert_eq!(buffer.capacity() % ALIGNMENT, 0);
            assert_eq!(buffer.freeze().len(), len);
        }
    }

    #[test]
    #[should_panic(expected = "cannot show")]
    fn showing_more_than_there_is_is_refused() {
        BufferPool::new(0).take(1).resize(BUFFER_BYTES);
    }
}
