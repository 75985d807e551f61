//! Which datanode's gateway carries a transfer: one that holds the data, or any healthy one for writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cairn_client::{FileSystem, Result};
use cairn_protocol::ids::DatanodeId;
use cairn_protocol::messages::admin::{DatanodeAdminState, DatanodeStatus};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// What is known of the datanodes is asked again after this long.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// Without an answer, what was known is used for this long.
const KNOWN_AT_MOST: Duration = Duration::from_secs(60);

/// If there is something that is known, an answer is waited for no longer than this.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// A datanode that has been silent for longer is left to those who have no other: it may be gone, long before the cluster calls it dead.
const SILENT_AT_MOST: Duration = Duration::from_secs(5);

/// A datanode that has less than this left is no place to write to.
const ROOM_MIN: u64 = 256 << 20;

/// The datanodes as last heard, so that not each redirect asks the leader.
#[derive(Default)]
pub(crate) struct Datanodes {
    /// Held while asking, so that all who need an answer share it.
    known: Mutex<Option<Known>>,
    turn: AtomicUsize,
}

struct Known {
    /// When it was heard.
    at: Instant,
    /// When it was asked for last, with or without an answer.
    asked: Instant,
    datanodes: Arc<Vec<DatanodeStatus>>,
}

/// Which one.
pub(crate) struct Wish<'a> {
    /// Datanodes that hold the data, best first; empty for writes.
    pub(crate) holders: &'a [DatanodeId],
    /// `host:port` or hosts that failed the client.
    pub(crate) excluded: &'a [String],
    /// The client's machine, preferred where that is possible.
    pub(crate) client: std::net::IpAddr,
}

impl Datanodes {
    /// Where to send a client: `host:port` of a gateway, if any datanode has one.
    pub(crate) async fn choose(&self, fs: &FileSystem, wish: &Wish<'_>) -> Result<Option<String>> {
        let known = self.known(fs).await?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Ok(choose(&known, wish, turn).map(|chosen| chosen.address.http_address.clone()))
    }

    async fn known(&self, fs: &FileSystem) -> Result<Arc<Vec<DatanodeStatus>>> {
        let mut known = self.known.lock().await;
        let usable = known
            .as_mut()
            .filter(|known| known.at.elapsed() < KNOWN_AT_MOST);
        let Some(usable) = usable else {
            let datanodes = Arc::new(fs.status().await?.datanodes);
            *known = Some(Known::now(datanodes.clone()));
            return Ok(datanodes);
        };
        if usable.asked.elapsed() < KNOWN_FOR {
            return Ok(usable.datanodes.clone());
        }
        // Whoever waits for the lock waits for this answer. During an election it does not come soon, and what is known is good enough.
        usable.asked = Instant::now();
        if let Ok(Ok(status)) = timeout(ANSWER_WITHIN, fs.status()).await {
            *usable = Known::now(Arc::new(status.datanodes));
        } else {
            usable.asked = Instant::now();
        }
        Ok(usable.datanodes.clone())
    }
}

impl Known {
    fn now(datanodes: Arc<Vec<DatanodeStatus>>) -> Self {
        let now = Instant::now();
        Self {
            at: now,
            asked: now,
            datanodes,
        }
    }
}

fn choose<'a>(
    known: &'a [DatanodeStatus],
    wish: &Wish<'_>,
    turn: usize,
) -> Option<&'a DatanodeStatus> {
    let serves = |datanode: &&DatanodeStatus| {
        let address = &datanode.address;
        let host = address.http_address.rsplit_once(':').map(|(host, _)| host);
        let named = |text: &String| *text == address.http_address || Some(text.as_str()) == host;
        datanode.alive && !address.http_address.is_empty() && !wish.excluded.iter().any(named)
    };
    let speaks =
        |datanode: &&DatanodeStatus| Duration::from_millis(datanode.silent_ms) <= SILENT_AT_MOST;
    let holders: Vec<&DatanodeStatus> = wish
        .holders
        .iter()
        .filter_map(|id| known.iter().find(|one| one.address.datanode == id.0))
        .filter(serves)
        .filter(speaks)
        .collect();
    if !holders.is_empty() {
        return Some(one_of(&holders, wish, turn));
    }
    let all: Vec<&DatanodeStatus> = known.iter().filter(serves).collect();
    let heard: Vec<&DatanodeStatus> = all.iter().copied().filter(speaks).collect();
    let all = if heard.is_empty() { all } else { heard };
    let roomy: Vec<&DatanodeStatus> = all.iter().copied().filter(takes_writes).collect();
    let candidates = if roomy.is_empty() { &all } else { &roomy };
    (!candidates.is_empty()).then(|| one_of(candidates, wish, turn))
}

fn takes_writes(datanode: &&DatanodeStatus) -> bool {
    let room: u64 = datanode
        .volumes
        .iter()
        .filter(|volume| !volume.failed)
        .map(|volume| volume.available_bytes)
        .sum();
    datanode.state == DatanodeAdminState::InService as i32 && room >= ROOM_MIN
}

/// The client's own machine, else the less busy of two whose turn it is.
fn one_of<'a>(
    candidates: &[&'a DatanodeStatus],
    wish: &Wish<'_>,
    turn: usize,
) -> &'a DatanodeStatus {
    let client = wish.client.to_string();
    let own = |datanode: &&&DatanodeStatus| {
        let address = &datanode.address.http_address;
        address
            .rsplit_once(':')
            .is_some_and(|(host, _)| host.trim_matches(['[', ']']) == client)
    };
    let here: Vec<&DatanodeStatus> = candidates.iter().filter(own).copied().collect();
    let from = if here.is_empty() { candidates } else { &here };
    let first = from[turn % from.len()];
    let second = from[(turn + 1) % from.len()];
    if second.write_streams < first.write_streams {
        second
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cairn_protocol::ids::DatanodeId;
    use cairn_protocol::messages::admin::{DatanodeAdminState, DatanodeStatus};
    use cairn_protocol::messages::common::DatanodeAddress;
    use cairn_protocol::messages::datanode::VolumeReport;

    use super::{Wish, choose};

    fn datanode(id: u64) -> DatanodeStatus {
        DatanodeStatus {
            address: DatanodeAddress {
                datanode: id,
                http_address: format!("10.0.0.{id}:9864"),
                ..DatanodeAddress::default()
            },
            alive: true,
            volumes: vec![VolumeReport {
                available_bytes: 1 << 40,
                ..VolumeReport::default()
            }],
            ..DatanodeStatus::default()
        }
    }

    fn chosen(known: &[DatanodeStatus], holders: &[u64], excluded: &[&str]) -> BTreeSet<u64> {
        let holders: Vec<DatanodeId> = holders.iter().copied().map(DatanodeId).collect();
        let excluded: Vec<String> = excluded.iter().map(|&text| text.to_owned()).collect();
        let wish = Wish {
            holders: &holders,
            excluded: &excluded,
            client: "192.168.0.1".parse().unwrap(),
        };
        (0..20)
            .filter_map(|turn| choose(known, &wish, turn))
            .map(|datanode| datanode.address.datanode)
            .collect()
    }

    #[test]
    fn reads_go_to_those_that_hold_the_data() {
        let mut known = vec![datanode(1), datanode(2), datanode(3)];
        assert_eq!(chosen(&known, &[2, 3], &[]), [2, 3].into());
        assert_eq!(chosen(&known, &[2, 3], &["10.0.0.3:9864"]), [2].into());
        assert_eq!(chosen(&known, &[3], &["10.0.0.3"]), [1, 2].into());
        known[1].alive = false;
        assert_eq!(chosen(&known, &[2], &[]), [1, 3].into());
        // One that holds the data and says nothing is not as good as another that speaks.
        known[2].silent_ms = 20_000;
        assert_eq!(chosen(&known, &[3], &[]), [1].into());
        known[0].silent_ms = 20_000;
        assert_eq!(chosen(&known, &[3], &[]), [1, 3].into());
    }

    #[test]
    fn writes_go_to_those_that_take_them() {
        let mut known = vec![datanode(1), datanode(2), datanode(3), datanode(4)];
        assert_eq!(chosen(&known, &[], &[]).len(), 4);
        known[0].state = DatanodeAdminState::Decommissioning as i32;
        known[1].volumes[0].available_bytes = 1 << 20;
        known[2].address.http_address.clear();
        assert_eq!(chosen(&known, &[], &[]), [4].into());
        // Better one that is full than none: it passes the bytes on.
        assert_eq!(chosen(&known, &[], &["10.0.0.4"]), [1, 2].into());
        assert!(chosen(&known, &[], &["10.0.0.1", "10.0.0.2", "10.0.0.4"]).is_empty());
    }

    #[test]
    fn a_client_on_a_datanode_stays_there() {
        let known = vec![datanode(1), datanode(2)];
        let wish = Wish {
            holders: &[],
            excluded: &[],
            client: "10.0.0.2".parse().unwrap(),
        };
        for turn in 0..4 {
            let found = choose(&known, &wish, turn).unwrap();
            assert_eq!(found.address.datanode, 2);
        }
    }
}
