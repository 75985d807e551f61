//! Where a file's bytes are, as blocks: what schedulers use to run work close to its data. A block here is as many bytes of the
//! file as a chunk has; its locations are those of the chunk that holds most of them.

use std::collections::BTreeMap;

use cairn_protocol::messages::common::{Attributes, DatanodeAddress};
use cairn_protocol::messages::query::LocatedExtents;
use serde_json::{Value, json};

use super::call::json_answer;
use super::{Answer, Call, Exception, Refusal};
use crate::status::hex;

/// Most blocks in one answer: 8 TiB of 128 MiB each.
const BLOCKS_MAX: u64 = 65_536;

/// Hadoop clients parse it, and need nothing in it: nobody asks our datanodes for HDFS blocks.
const EMPTY_TOKEN: &str = "AAAAAA";

struct Block {
    start: u64,
    length: u64,
    /// Bytes of each chunk in it.
    chunks: BTreeMap<u64, u64>,
}

struct Blocks {
    attributes: Attributes,
    blocks: Vec<Block>,
    epochs: BTreeMap<u64, u64>,
    datanodes: BTreeMap<u64, Vec<DatanodeAddress>>,
}

/// Blocks of the range that is asked for.
async fn blocks(call: &Call) -> Result<Blocks, Refusal> {
    let offset = call.params.number("offset")?.unwrap_or(0);
    let length = call.params.number_unless_minus_one("length")?;
    let end = offset.saturating_add(length.unwrap_or(u64::MAX));
    let block_bytes = call.fs.settings().chunk_size.max(1);
    let mut at = offset / block_bytes * block_bytes;
    let mut found: Option<Blocks> = None;
    loop {
        let wanted = end.min(i64::MAX as u64).saturating_sub(at);
        let page = call.fs.extents(call.place(), at, wanted).await;
        let page = page.map_err(|error| call.fail(error))?;
        let size = page.attributes.size;
        if found.is_none() {
            let until = end.min(size);
            if until.saturating_sub(at) / block_bytes >= BLOCKS_MAX {
                let message = format!("more than {BLOCKS_MAX} blocks: ask for a shorter range");
                return Err(Refusal::new(Exception::Io, message));
            }
            found = Some(Blocks::empty(
                page.attributes.clone(),
                at,
                until,
                block_bytes,
            ));
        }
        let Some(all) = found.as_mut() else { continue };
        all.add(&page, block_bytes);
        let last = page.extents.last().map(|last| &last.extent);
        match last.map(|last| last.offset_in_file.saturating_add(last.length)) {
            Some(next) if page.more && next > at => at = next,
            _ => break,
        }
    }
    found.ok_or_else(|| Refusal::new(Exception::Runtime, "no page of extents"))
}

impl Blocks {
    fn empty(attributes: Attributes, from: u64, until: u64, block_bytes: u64) -> Self {
        let size = attributes.size;
        let mut blocks = Vec::new();
        let mut start = from;
        while start < until {
            let length = block_bytes.min(size - start);
            let chunks = BTreeMap::new();
            blocks.push(Block {
                start,
                length,
                chunks,
            });
            start = start.saturating_add(block_bytes);
        }
        Self {
            attributes,
            blocks,
            epochs: BTreeMap::new(),
            datanodes: BTreeMap::new(),
        }
    }

    fn add(&mut self, page: &LocatedExtents, block_bytes: u64) {
        for chunk in &page.chunks {
            self.epochs.insert(chunk.chunk, chunk.epoch);
            let known = chunk
                .datanodes
                .iter()
                .filter_map(|id| page.datanodes.iter().find(|known| known.datanode == *id));
            self.datanodes.insert(chunk.chunk, known.cloned().collect());
        }
        let Some(first) = self.blocks.first().map(|first| first.start) else {
            return;
        };
        for located in &page.extents {
            let extent = &located.extent;
            let mut at = extent.offset_in_file;
            let end = at.saturating_add(extent.length);
            while at < end {
                let next = (at / block_bytes + 1).saturating_mul(block_bytes).min(end);
                let index = at.checked_sub(first).map(|distance| distance / block_bytes);
                let index = index.and_then(|index| usize::try_from(index).ok());
                if let Some(block) = index.and_then(|index| self.blocks.get_mut(index)) {
                    *block.chunks.entry(extent.chunk).or_default() += next - at;
                }
                at = next;
            }
        }
    }

    /// The chunk that holds most of a block, and who has it. A hole has neither.
    fn main_chunk(&self, block: &Block) -> (u64, &[DatanodeAddress]) {
        let most = block.chunks.iter().max_by_key(|(_, bytes)| **bytes);
        let Some((chunk, _)) = most else {
            return (0, &[]);
        };
        let datanodes = self.datanodes.get(chunk).map(Vec::as_slice);
        (*chunk, datanodes.unwrap_or_default())
    }
}

fn host_and_port(address: &str) -> (&str, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    (host, port.parse().unwrap_or(0))
}

pub(super) async fn block_locations(call: &Call) -> Answer {
    let blocks = blocks(call).await?;
    let described: Vec<Value> = blocks
        .blocks
        .iter()
        .map(|block| {
            let (_, datanodes) = blocks.main_chunk(block);
            let all = |text: fn(&DatanodeAddress) -> String| -> Vec<String> {
                datanodes.iter().map(text).collect()
            };
            json!({
                "cachedHosts": [],
                "corrupt": false,
                "hosts": all(|datanode| datanode.host.clone()),
                "length": block.length,
                "names": all(|datanode| datanode.address.clone()),
                "offset": block.start,
                "storageTypes": all(|_| "DISK".to_owned()),
                "topologyPaths": all(|datanode| format!("{}/{}", datanode.rack, datanode.address)),
            })
        })
        .collect();
    Ok(json_answer(
        json!({ "BlockLocations": { "BlockLocation": described } }),
    ))
}

fn datanode_info(datanode: &DatanodeAddress) -> Value {
    let (host, port) = host_and_port(&datanode.address);
    let (_, http_port) = host_and_port(&datanode.http_address);
    json!({
        "adminState": "NORMAL",
        "blockPoolUsed": 0,
        "cacheCapacity": 0,
        "cacheUsed": 0,
        "capacity": 0,
        "dfsUsed": 0,
        "hostName": datanode.host,
        "infoPort": http_port,
        "infoSecurePort": 0,
        "ipAddr": host,
        "ipcPort": port,
        "lastUpdate": 0,
        "lastUpdateMonotonic": 0,
        "name": datanode.address,
        "networkLocation": datanode.rack,
        "remaining": 0,
        "storageID": format!("datanode-{}", datanode.datanode),
        "xceiverCount": 0,
        "xferPort": port,
    })
}

fn located_block(blocks: &Blocks, block: &Block, pool: &str) -> Value {
    let (chunk, datanodes) = blocks.main_chunk(block);
    let kinds: Vec<&str> = datanodes.iter().map(|_| "DISK").collect();
    json!({
        "block": {
            "blockId": chunk,
            "blockPoolId": pool,
            "generationStamp": blocks.epochs.get(&chunk).copied().unwrap_or(0),
            "numBytes": block.length,
        },
        "blockToken": { "urlString": EMPTY_TOKEN },
        "cachedLocations": [],
        "isCorrupt": false,
        "locations": datanodes.iter().map(datanode_info).collect::<Vec<_>>(),
        "startOffset": block.start,
        "storageTypes": kinds,
    })
}

pub(super) async fn located_blocks(call: &Call) -> Answer {
    let blocks = blocks(call).await?;
    let pool = format!("BP-{}", hex(&call.fs.cluster_id()));
    let located: Vec<Value> = blocks
        .blocks
        .iter()
        .map(|block| located_block(&blocks, block, &pool))
        .collect();
    let last = located.last().cloned().unwrap_or(Value::Null);
    Ok(json_answer(json!({ "LocatedBlocks": {
        "fileLength": blocks.attributes.size,
        "isLastBlockComplete": true,
        "isUnderConstruction": false,
        "lastLocatedBlock": last,
        "locatedBlocks": located,
    }})))
}
