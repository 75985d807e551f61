//! The engines of `put` and `get`: many small files and a few large ones at once, in bounded memory.

pub(crate) mod download;
pub(crate) mod local_remove;
pub(crate) mod local_walk;
pub(crate) mod local_write;
pub(crate) mod upload;

/// Files up to this size travel whole.
pub(crate) const SMALL_BYTES: u64 = 1 << 20;

/// Larger files at once: enough to keep disks and pipelines busy.
pub(crate) const LARGE_AT_ONCE: usize = 4;

/// Pieces of 1 MiB between the local disk and the cluster, for each large file.
pub(crate) const PIECES_BETWEEN: usize = 4;

/// What the owner of a directory needs to fill it.
const FILLING: u32 = 0o700;

/// The mode in which a copy of a directory is made, to be filled. Where many may write, each keeps what is theirs.
pub(crate) fn mode_to_fill(mode: u32, umask: u32) -> u32 {
    (mode & 0o1777 & !umask) | FILLING
}

/// The bits of that which the copy is to lose again when it is full.
pub(crate) fn lent_mode(mode: u32) -> u32 {
    FILLING & !mode
}

#[cfg(test)]
mod tests {
    use super::{lent_mode, mode_to_fill};

    #[test]
    fn a_copy_of_a_directory_has_what_mkdir_gives_and_can_be_filled() {
        for (mode, umask, made, lent) in [
            (0o40_755, 0o022, 0o755, 0),
            (0o40_777, 0o022, 0o755, 0),
            (0o41_777, 0o000, 0o1777, 0),
            (0o42_775, 0o002, 0o775, 0),
            (0o40_555, 0o022, 0o755, 0o200),
            (0o40_000, 0o077, 0o700, 0o700),
        ] {
            assert_eq!(
                (mode_to_fill(mode, umask), lent_mode(mode)),
                (made, lent),
                "{mode:o}"
            );
        }
    }
}
