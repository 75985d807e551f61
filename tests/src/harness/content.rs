//! File contents that anybody can make again from a seed, so that tests keep no copies.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// `len` bytes that depend on the seed alone.
pub fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    Bytes::from(bytes)
}
