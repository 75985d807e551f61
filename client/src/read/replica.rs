//! A range of one chunk, from whichever replica serves it. Every byte that leaves this file has passed its CRC.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::checksum::crc32c;
use cairn_protocol::messages::common::DatanodeAddress;
use cairn_protocol::messages::session::{
    FailedReplica, ReportReplicasReply, ReportReplicasRequest,
};
use cairn_protocol::messages::transfer::{ReadReplica, ReadReply};
use cairn_protocol::{ErrorCode, Failure, Method};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::extents::PageExtent;
use crate::datanodes::ReadKind;
use crate::file_system::Core;

/// Most bytes of one request.
pub(crate) const READ_BYTES: u64 = 1 << 20;

/// Reads from this size on travel on bulk connections.
const BULK_BYTES: u64 = 128 << 10;

/// Reads `range` of an extent, at most [`READ_BYTES`], from the nearest replica that has it right. Replicas that failed are
/// reported. Fails with the last one's answer. Cancel-safe.
pub(crate) async fn read(
    core: &Core,
    page_extent: &PageExtent,
    range: Range<u64>,
    sequential: bool,
) -> Result<Bytes, Failure> {
    let length = range.end - range.start;
    let kind = match length {
        _ if sequential => ReadKind::Sequential,
        ..BULK_BYTES => ReadKind::Small,
        BULK_BYTES.. => ReadKind::Bulk,
    };
    let extent = &page_extent.extent;
    let request = ReadReplica {
        chunk: extent.chunk,
        offset: extent.offset_in_chunk + range.start,
        length: length as u32,
        token: page_extent.token.to_vec(),
        sequential,
    };
    let replicas = by_distance(core, &page_extent.replicas);
    let mut asked = Asked::new(core, &replicas, &request, kind);
    let answer = asked.first_good().await;
    report(core, asked.failed);
    answer
}

/// Which replica answered, after how long, and what.
type Answer = (usize, Duration, Result<Bytes, Failure>);

/// One read at the replicas of its chunk: the first is asked, the next ones when one fails or is late.
struct Asked<'a> {
    core: &'a Core,
    replicas: &'a [&'a DatanodeAddress],
    request: &'a ReadReplica,
    kind: ReadKind,
    /// How many of `replicas` were asked.
    count: usize,
    waiting: FuturesUnordered<BoxFuture<'a, Answer>>,
    /// Indices of those that have neither answered nor failed.
    silent: BTreeSet<usize>,
    failed: Vec<FailedReplica>,
}

impl<'a> Asked<'a> {
    fn new(
        core: &'a Core,
        replicas: &'a [&'a DatanodeAddress],
        request: &'a ReadReplica,
        kind: ReadKind,
    ) -> Self {
        Self {
            core,
            replicas,
            request,
            kind,
            count: 0,
            waiting: FuturesUnordered::new(),
            silent: BTreeSet::new(),
            failed: Vec::new(),
        }
    }

    fn ask_next(&mut self) {
        let index = self.count;
        let datanode = self.replicas[index];
        let (core, request, kind) = (self.core, self.request, self.kind);
        self.count += 1;
        self.silent.insert(index);
        self.waiting.push(Box::pin(async move {
            let begun = Instant::now();
            let answer = ask(core, datanode, request, kind).await;
            (index, begun.elapsed(), answer)
        }));
    }

    async fn first_good(&mut self) -> Result<Bytes, Failure> {
        let mut last = Failure::new(ErrorCode::NoReplica, "no replica is known");
        let mut may_hedge = true;
        loop {
            if self.waiting.is_empty() {
                if self.count == self.replicas.len() {
                    return Err(last);
                }
                self.ask_next();
            }
            let hedge = may_hedge && self.count < self.replicas.len();
            tokio::select! {
                biased;
                Some((index, took, answer)) = self.waiting.next() => match answer {
                    Ok(bytes) => {
                        self.answered(index, took);
                        return Ok(bytes);
                    }
                    Err(failure) => {
                        self.note_failure(index, &failure);
                        // One that may come back is what counts: the caller then waits for it.
                        if !last.code.is_retryable() {
                            last = failure;
                        }
                    }
                },
                () = tokio::time::sleep(self.core.hedging.delay(self.kind)), if hedge => {
                    may_hedge = self.core.hedging.spend();
                    if may_hedge {
                        self.ask_next();
                    }
                }
            }
        }
    }

    /// Who was asked earlier and is still silent is asked last for a moment.
    fn answered(&mut self, index: usize, took: Duration) {
        self.core.hedging.note(self.kind, took);
        for slow in self.silent.range(..index) {
            self.core
                .datanodes
                .avoid_slow(&self.replicas[*slow].address);
        }
    }

    fn note_failure(&mut self, index: usize, failure: &Failure) {
        let (chunk, datanode) = (self.request.chunk, self.replicas[index]);
        self.silent.remove(&index);
        tracing::debug!(
            chunk, datanode = datanode.datanode, error = %failure,
            "replica did not serve"
        );
        self.core.datanodes.avoid(&datanode.address, failure.code);
        // An expired token says nothing about the replica.
        if failure.code != ErrorCode::BadToken {
            self.failed.push(FailedReplica {
                chunk,
                datanode: datanode.datanode,
                code: failure.code as u32,
            });
        }
    }
}

/// Same machine first, then as the namenode ordered them; those that just failed us at the end.
fn by_distance<'a>(core: &Core, replicas: &'a [DatanodeAddress]) -> Vec<&'a DatanodeAddress> {
    let host = core.datanodes.host();
    let mut ordered: Vec<&DatanodeAddress> = replicas.iter().collect();
    ordered.sort_by_cached_key(|datanode| {
        let elsewhere = host.is_empty() || datanode.host != host;
        (core.datanodes.is_avoided(&datanode.address), elsewhere)
    });
    ordered
}

async fn ask(
    core: &Core,
    datanode: &DatanodeAddress,
    request: &ReadReplica,
    kind: ReadKind,
) -> Result<Bytes, Failure> {
    let connection = core.datanodes.connection(&datanode.address, kind).await?;
    let limit = core.config.timeouts.read;
    let reply = connection
        .call(Method::ReadReplica as u16, request, Bytes::new(), limit)
        .await
        .map_err(|error| error.failure)?;
    let header: ReadReply = reply.decode()?;
    verify(request, &header, &reply.payload)
}

/// The bytes that were asked for, cut out of the checksum blocks that cover them, all of which are right.
fn verify(request: &ReadReplica, header: &ReadReply, payload: &Bytes) -> Result<Bytes, Failure> {
    let malformed = |message: &str| Failure::new(ErrorCode::Malformed, message);
    if header.block_lengths.len() != header.block_crcs.len() {
        return Err(malformed("as many lengths as CRCs"));
    }
    let mut start = 0;
    for (&length, &crc) in header.block_lengths.iter().zip(&header.block_crcs) {
        let block = payload
            .get(start..start + length as usize)
            .ok_or_else(|| malformed("blocks longer than the payload"))?;
        if crc32c(block) != crc {
            let at = header.offset.saturating_add(start as u64);
            let message = format!("checksum block at {at} of chunk {:016x}", request.chunk);
            return Err(Failure::new(ErrorCode::ChecksumMismatch, message));
        }
        start += length as usize;
    }
    if start != payload.len() {
        return Err(malformed("payload longer than its blocks"));
    }
    let skip = request
        .offset
        .checked_sub(header.offset)
        .and_then(|n| usize::try_from(n).ok());
    let skip = skip.filter(|&skip| skip <= payload.len());
    let skip = skip.ok_or_else(|| malformed("bytes from behind the offset"))?;
    let length = request.length as usize;
    if payload.len() - skip < length {
        return Err(malformed("fewer bytes than asked for"));
    }
    Ok(payload.slice(skip..skip + length))
}

/// Tells the namenode, in the background, which replicas failed. It checks for itself.
pub(super) fn report(core: &Core, replicas: Vec<FailedReplica>) {
    if replicas.is_empty() {
        return;
    }
    let namenode = core.namenode.clone();
    core.background.spawn(async move {
        let patience = namenode.timeouts().request;
        let request = ReportReplicasRequest { replicas };
        let reply: Result<ReportReplicasReply, _> = namenode
            .call(Method::ReportReplicas, &request, patience)
            .await;
        if let Err(error) = reply {
            tracing::debug!(error = %error.failure, "replicas not reported");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::verify;
    use bytes::Bytes;
    use cairn_protocol::ErrorCode;
    use cairn_protocol::checksum::crc32c;
    use cairn_protocol::messages::transfer::{ReadReplica, ReadReply};

    fn reply() -> (ReadReply, Bytes) {
        let payload = Bytes::from_static(b"aaaabbbbcc");
        let header = ReadReply {
            offset: 100,
            block_lengths: vec![4, 4, 2],
            block_crcs: vec![crc32c(b"aaaa"), crc32c(b"bbbb"), crc32c(b"cc")],
            recomputed: false,
        };
        (header, payload)
    }

    fn request(offset: u64, length: u32) -> ReadReplica {
        ReadReplica {
            chunk: 1,
            offset,
            length,
            ..ReadReplica::default()
        }
    }

    #[test]
    fn wider_replies_are_cut() {
        let (header, payload) = reply();
        assert_eq!(verify(&request(103, 3), &header, &payload).unwrap(), "abb");
        assert_eq!(
            verify(&request(100, 10), &header, &payload).unwrap(),
            "aaaabbbbcc"
        );
    }

    #[test]
    fn any_wrong_byte_is_noticed_also_outside_the_range() {
        let (header, payload) = reply();
        for index in 0..payload.len() {
            let mut bad = payload.to_vec();
            bad[index] ^= 1;
            let error = verify(&request(103, 3), &header, &bad.into()).unwrap_err();
            assert_eq!(error.code, ErrorCode::ChecksumMismatch);
        }
    }

    #[test]
    fn replies_that_do_not_cover_the_range_are_refused() {
        let (header, payload) = reply();
        for request in [
            request(99, 2),
            request(109, 2),
            request(111, 1),
            request(0, 1),
        ] {
            assert!(verify(&request, &header, &payload).is_err());
        }
        let short = payload.slice(..9);
        assert!(verify(&request(103, 3), &header, &short).is_err());
        let long = Bytes::from_static(b"aaaabbbbccx");
        assert!(verify(&request(103, 3), &header, &long).is_err());
    }
}
