//! Whether there is room for more metadata. When the disks of so many members are almost full that the others are no majority, the
//! leader marks its entries ([`Batch::no_growth`]), and what would need more room is refused: a group whose disks are full cannot even
//! write down that something was removed.
//!
//! [`Batch::no_growth`]: crate::namespace::command::Batch

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cairn_daemon::blocking;
use cairn_daemon::disk::Disk;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::types::NodeId;

/// Time between looks. In it a disk takes in less than the reserve, by far.
const INTERVAL: Duration = Duration::from_secs(1);

/// The disks of one namenode and what must stay free on each.
pub struct RoomOptions {
    /// Directories, each with the disk it is on.
    pub directories: Vec<(Arc<dyn Disk>, PathBuf)>,
    /// Bytes.
    pub reserve_bytes: u64,
}

/// What this member knows of the members' disks.
pub(super) struct Room {
    own: AtomicBool,
    /// What the others said last, to the leader that sent them entries.
    others: Mutex<BTreeMap<NodeId, bool>>,
    short: AtomicBool,
}

impl Room {
    pub fn new() -> Self {
        Self {
            own: AtomicBool::new(false),
            others: Mutex::default(),
            short: AtomicBool::new(false),
        }
    }

    /// Whether less than the reserve is free on this member's disks.
    pub fn is_low(&self) -> bool {
        self.own.load(Ordering::Relaxed)
    }

    /// Another member said so of its own.
    pub fn heard(&self, member: NodeId, is_low: bool) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.insert(member, is_low);
    }

    /// Whether another member said so last.
    pub fn is_low_at(&self, member: NodeId) -> bool {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.get(&member).copied().unwrap_or(false)
    }

    /// Whether what needs room is to be refused.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Looks at the disks until `stop`. `voters` tells who they are, without this member.
    pub async fn watch(
        self: Arc<Self>,
        options: RoomOptions,
        others: impl Fn() -> Vec<NodeId>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let options = Arc::new(options);
        loop {
            let look = Arc::clone(&options);
            let was = self.is_low();
            match blocking(move || free_bytes(&look)).await {
                Ok(free) => self.own.store(
                    is_below(free, options.reserve_bytes, was),
                    Ordering::Relaxed,
                ),
                // The log's next write tells what is wrong with the disk.
                Err(error) => warn!(%error, "free space is not known"),
            }
            self.judge(&others());
            if self.is_low() != was {
                let reserve = options.reserve_bytes;
                match was {
                    false => warn!(
                        reserve,
                        "less than the reserve is free on this namenode's disk"
                    ),
                    true => info!("there is room on this namenode's disk again"),
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// A full minority is not waited for: its members end when they cannot write, and the others go on.
    fn judge(&self, others: &[NodeId]) {
        let low = others
            .iter()
            .filter(|member| self.is_low_at(**member))
            .count()
            + usize::from(self.is_low());
        let voters = others.len() + 1;
        let is_short = voters - low < voters / 2 + 1;
        self.short.store(is_short, Ordering::Relaxed);
    }
}

fn free_bytes(options: &RoomOptions) -> std::io::Result<u64> {
    let mut least = u64::MAX;
    for (disk, path) in &options.directories {
        least = least.min(disk.space(path)?.available_bytes);
    }
    Ok(least)
}

/// A disk that was low has room only when there is an eighth more than the reserve, so that it does not change with each file.
fn is_below(free: u64, reserve: u64, was: bool) -> bool {
    free < if was {
        reserve.saturating_add(reserve / 8)
    } else {
        reserve
    }
}

#[cfg(test)]
mod tests {
    use super::{Room, is_below};

    fn short(own: bool, others: &[bool]) -> bool {
        let room = Room::new();
        room.own.store(own, std::sync::atomic::Ordering::Relaxed);
        let ids: Vec<u64> = (1..).take(others.len()).collect();
        for (id, is_low) in ids.iter().zip(others) {
            room.heard(*id, *is_low);
        }
        room.judge(&ids);
        room.is_short()
    }

    #[test]
    fn growth_stops_when_the_members_with_room_are_no_majority() {
        assert!(!short(false, &[]));
        assert!(short(true, &[]));
        assert!(!short(true, &[false, false]));
        assert!(!short(false, &[true, false]));
        assert!(short(true, &[true, false]));
        assert!(short(false, &[true, true]));
        assert!(!short(true, &[true, false, false, false]));
        assert!(short(true, &[true, false, false, true]));
    }

    #[test]
    fn who_left_does_not_count() {
        let room = Room::new();
        for member in [7, 8, 9] {
            room.heard(member, true);
        }
        room.judge(&[1, 2]);
        assert!(!room.is_short());
    }

    #[test]
    fn a_disk_at_the_limit_does_not_change_its_mind_with_each_file() {
        assert!(is_below(799, 800, false));
        assert!(!is_below(800, 800, false));
        assert!(is_below(899, 800, true));
        assert!(!is_below(900, 800, true));
        assert!(is_below(u64::MAX - 1, u64::MAX, true));
    }
}
