//! For tests: how much memory a piece of work takes at its peak. Counts what this thread allocates through Rust's allocator.
#![expect(unsafe_code, reason = "only an allocator sees every allocation")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    // A thread that ends frees its last memory when its counters are gone.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

fn size(layout: Layout) -> i64 {
    i64::try_from(layout.size()).expect("a layout is below isize::MAX")
}

// SAFETY: all memory is the system allocator's; counting allocates none.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout));
        // SAFETY: the caller's promises are the system allocator's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-size(layout));
        // SAFETY: it came from the system allocator, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Does the work and tells how many bytes it held at once, at most.
pub(crate) fn peak_of<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = NOW.get();
    PEAK.set(before);
    let done = work();
    let peak = PEAK.get() - before;
    (done, u64::try_from(peak).unwrap_or(0))
}

#[test]
fn the_peak_counts_not_the_end() {
    let ((), bytes) = peak_of(|| drop(std::hint::black_box(vec![1_u8; 100_000])));
    assert!((100_000..110_000).contains(&bytes), "{bytes}");
}
