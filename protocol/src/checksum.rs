//! CRC32C (Castagnoli, CRC-32/ISCSI): the one checksum of frames, chunks, metadata files and logs.

use crc_fast::{CrcAlgorithm, Digest};

/// Why the narrowing casts below lose nothing: the library keeps 32-bit CRCs in the low half of a `u64`.
const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;

/// The CRC32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The CRC32C of `a ++ b`, given those of `a` and of `b`, and how long `b` is. No data is read.
pub fn combine(crc_a: u32, crc_b: u32, len_b: u64) -> u32 {
    if len_b == 0 {
        return crc_a;
    }
    crc_fast::checksum_combine(ALGORITHM, crc_a.into(), crc_b.into(), len_b) as u32
}

/// A CRC32C over bytes that arrive in pieces.
#[derive(Clone, Debug)]
pub struct Crc32c(Digest);

impl Crc32c {
    /// The checksum of nothing yet.
    pub fn new() -> Self {
        Self(Digest::new(ALGORITHM))
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of everything added so far; more may be added afterwards.
    pub fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::{Crc32c, combine, crc32c};

    #[test]
    fn known_vectors_hold() {
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&ascending), 0x46DD_794E);
    }

    proptest! {
        #[test]
        fn pieces_and_combination_equal_the_whole(
            a in prop::collection::vec(any::<u8>(), 0..5000),
            b in prop::collection::vec(any::<u8>(), 0..5000),
        ) {
            let whole = [a.as_slice(), b.as_slice()].concat();
            let mut pieces = Crc32c::new();
            pieces.update(&a);
            pieces.update(&b);
            assert_eq!(pieces.value(), crc32c(&whole));
            assert_eq!(combine(crc32c(&a), crc32c(&b), b.len() as u64), crc32c(&whole));
        }
    }
}
