//! The full report: every replica, in pages that together cover all chunk ids, so that what is missing is known too.

use cairn_protocol::Failure;
use cairn_protocol::Method;
use cairn_protocol::messages::datanode::{ReplicaReportReply, ReplicaReportRequest, ReplicaState};

use super::Leader;
use crate::cluster::Identity;
use crate::replicas::Replicas;

/// Replicas in one page.
const PAGE_MAX: usize = 10_000;

/// Sends all pages. If one fails, the leader asks again.
pub(super) async fn report_replicas(
    leader: &mut Leader,
    identity: Identity,
    boot_nonce: &[u8],
    replicas: &Replicas,
) -> Result<(), Failure> {
    let all = replicas.list().await;
    for (first_chunk, last_chunk, page) in pages(&all, PAGE_MAX) {
        let request = ReplicaReportRequest {
            datanode: identity.datanode.0,
            boot_nonce: boot_nonce.to_vec(),
            first_chunk,
            last_chunk,
            replicas: page.to_vec(),
        };
        let _: ReplicaReportReply = leader
            .call(Method::ReplicaReport, &request)
            .await
            .map_err(|error| error.failure)?;
    }
    Ok(())
}

/// Cuts the list, which is in order of chunks, into pages `(first, last, replicas)` that leave no chunk id out.
fn pages(all: &[ReplicaState], page_max: usize) -> Vec<(u64, u64, &[ReplicaState])> {
    let mut pages = Vec::new();
    let mut first = 0;
    let mut rest = all;
    loop {
        if rest.len() <= page_max {
            pages.push((first, u64::MAX, rest));
            return pages;
        }
        let (page, later) = rest.split_at(page_max);
        let last = page[page.len() - 1].chunk;
        pages.push((first, last, page));
        first = last + 1;
        rest = later;
    }
}

#[cfg(test)]
mod tests {
    use super::pages;
    use cairn_protocol::messages::datanode::ReplicaState;
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn pages_cover_every_chunk_id_once(
            chunks in prop::collection::btree_set(0u64..1000, 0..40),
            page_max in 1usize..10,
        ) {
            let all: Vec<_> =
                chunks.iter().map(|chunk| ReplicaState { chunk: *chunk, ..Default::default() }).collect();
            let pages = pages(&all, page_max);
            let mut next = 0;
            for (index, (first, last, page)) in pages.iter().enumerate() {
                prop_assert_eq!(*first, next);
                prop_assert!(page.len() <= page_max);
                prop_assert!(page.iter().all(|replica| (*first..=*last).contains(&replica.chunk)));
                prop_assert_eq!(*last == u64::MAX, index + 1 == pages.len());
                next = last.wrapping_add(1);
            }
            let told: usize = pages.iter().map(|(_, _, page)| page.len()).sum();
            prop_assert_eq!(told, all.len());
        }
    }
}
