//! GETFILECHECKSUM, both kinds that HDFS has.
//!
//! - `MD5-of-…MD5-of-512CRC32C`, what HDFS tells unless told otherwise: the CRC32C of each 512 bytes, the MD5 of those of a block, the
//!   MD5 of those of all blocks, filled up with zeros to a power of two of at least 32 bytes: HDFS takes all of a buffer that grows so.
//!   The file is read for it. Equal to HDFS's where its block size is the chunk size here.
//! - `COMPOSITE-CRC32C` (with `combinemode=COMPOSITE_CRC`, HDFS's `dfs.checksum.combine.mode`): the CRC32C of the whole, whatever the
//!   blocks. Nothing is read for it.

use cairn_client::{FileChecksum, Reader};
use cairn_protocol::checksum::crc32c;
use md5::{Digest, Md5};
use serde_json::json;

use super::call::json_answer;
use super::download::holders;
use super::redirect::{is_second_step, to_gateway};
use super::{Answer, Call, Exception, Refusal};
use crate::status::hex;

/// Bytes under one CRC, as HDFS has them.
const BYTES_PER_CRC: usize = 512;

/// A file that changes is read so often before we give up.
const ATTEMPTS_MAX: u32 = 4;

pub(super) async fn file_checksum(call: &Call) -> Answer {
    let mode = call.params.text("combinemode").unwrap_or_default();
    match mode.to_uppercase().as_str() {
        "COMPOSITE_CRC" => {
            let checksum = call.fs.checksum(call.place()).await;
            let FileChecksum { crc32c, .. } = checksum.map_err(|error| call.fail(error))?;
            Ok(answer("COMPOSITE-CRC32C", &crc32c.to_be_bytes()))
        }
        "" | "MD5MD5CRC" if !is_second_step(call) => {
            let holders = holders(call, 0).await?;
            to_gateway(call, &holders).await
        }
        "" | "MD5MD5CRC" => md5_of_md5s(call).await,
        other => Err(Refusal::parameter(
            "combinemode",
            format!("{other} is neither MD5MD5CRC nor COMPOSITE_CRC"),
        )),
    }
}

fn answer(algorithm: &str, bytes: &[u8]) -> axum::response::Response {
    json_answer(json!({ "FileChecksum": {
        "algorithm": algorithm,
        "bytes": hex(bytes),
        "length": bytes.len(),
    }}))
}

async fn md5_of_md5s(call: &Call) -> Answer {
    let block_bytes = call.fs.settings().chunk_size;
    for _ in 0..ATTEMPTS_MAX {
        let reader = call.fs.open(call.place()).await;
        let reader = reader.map_err(|error| call.fail(error))?;
        if let Some(sums) = read_sums(call, &reader, block_bytes).await? {
            let (algorithm, bytes) = sums.finish();
            return Ok(answer(&algorithm, &bytes));
        }
    }
    let message = format!("{} changes while it is read", call.path_text());
    Err(Refusal::new(Exception::Io, message))
}

/// `None` if the file changed meanwhile.
async fn read_sums(
    call: &Call,
    reader: &Reader,
    block_bytes: u64,
) -> Result<Option<Sums>, Refusal> {
    let before = reader.attributes();
    let mut sums = Sums::new(block_bytes);
    let mut stream = reader.stream(0);
    while sums.length < before.size {
        match stream.next().await.map_err(|error| call.fail(error))? {
            Some(bytes) => sums.add(&bytes),
            None => break,
        }
    }
    let after = reader.refresh().await.map_err(|error| call.fail(error))?;
    let same = after.version == before.version && sums.length == before.size;
    Ok(same.then_some(sums))
}

/// The checksum of HDFS, as far as it has come.
struct Sums {
    block_bytes: u64,
    length: u64,
    /// The first bytes of a group of 512.
    rest: Vec<u8>,
    block: Md5,
    file: Md5,
    /// Bytes of MD5s of blocks in `file`.
    file_bytes: u64,
}

/// The buffer in which HDFS gathers the MD5s of blocks is at least so long.
const BUFFER_MIN: u64 = 32;

impl Sums {
    fn new(block_bytes: u64) -> Self {
        Self {
            // A multiple of 512 always: chunks have at least 1 MiB.
            block_bytes: block_bytes.max(BYTES_PER_CRC as u64),
            length: 0,
            rest: Vec::with_capacity(BYTES_PER_CRC),
            block: Md5::new(),
            file: Md5::new(),
            file_bytes: 0,
        }
    }

    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let in_block = self.length % self.block_bytes;
            if in_block == 0 && self.length > 0 {
                self.end_block();
            }
            let in_group = BYTES_PER_CRC - self.rest.len();
            let (group, others) = bytes.split_at(bytes.len().min(in_group));
            self.length += group.len() as u64;
            if self.rest.is_empty() && group.len() == BYTES_PER_CRC {
                self.block.update(crc32c(group).to_be_bytes());
            } else {
                self.rest.extend_from_slice(group);
                if self.rest.len() == BYTES_PER_CRC {
                    self.end_group();
                }
            }
            bytes = others;
        }
    }

    fn end_group(&mut self) {
        self.block.update(crc32c(&self.rest).to_be_bytes());
        self.rest.clear();
    }

    fn end_block(&mut self) {
        if !self.rest.is_empty() {
            self.end_group();
        }
        let block = self.block.finalize_reset();
        self.file.update(block);
        self.file_bytes += block.len() as u64;
    }

    /// The rest of the buffer. A zero at a time: it is as long as the MD5s at most, and nobody has that many.
    fn fill(&mut self) {
        let buffer = self.file_bytes.next_power_of_two().max(BUFFER_MIN);
        for _ in self.file_bytes..buffer {
            self.file.update([0]);
        }
    }

    /// Name and bytes: how many bytes per CRC, how many CRCs per block (0 if there is one block only), the MD5.
    fn finish(mut self) -> (String, Vec<u8>) {
        if self.length == 0 {
            // What HDFS tells of an empty file, ever since.
            let mut bytes = vec![0; 12];
            bytes.extend_from_slice(&Md5::digest([0; 32]));
            return ("MD5-of-0MD5-of-0CRC32".to_owned(), bytes);
        }
        let crcs = if self.length > self.block_bytes {
            self.block_bytes / BYTES_PER_CRC as u64
        } else {
            0
        };
        self.end_block();
        self.fill();
        let mut bytes = (BYTES_PER_CRC as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(&crcs.to_be_bytes());
        bytes.extend_from_slice(&self.file.finalize());
        (format!("MD5-of-{crcs}MD5-of-{BYTES_PER_CRC}CRC32C"), bytes)
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::checksum::crc32c;
    use md5::{Digest, Md5};

    use super::Sums;
    use crate::status::hex;

    fn of(content: &[u8], piece: usize, block: u64) -> (String, String) {
        let mut sums = Sums::new(block);
        for piece in content.chunks(piece) {
            sums.add(piece);
        }
        let (algorithm, bytes) = sums.finish();
        assert_eq!(bytes.len(), 28);
        (algorithm, hex(&bytes))
    }

    #[test]
    fn an_empty_file_has_the_sum_that_hdfs_gives_it() {
        let (algorithm, bytes) = of(b"", 1, 1 << 20);
        assert_eq!(algorithm, "MD5-of-0MD5-of-0CRC32");
        assert_eq!(
            bytes,
            "00000000000000000000000070bc8f4b72a86921468bf8e8441dce51"
        );
    }

    #[test]
    fn sums_are_those_of_the_definition_however_the_bytes_come() {
        let content: Vec<u8> = (0..5_000_u32).map(|index| (index % 251) as u8).collect();
        let block = |bytes: &[u8]| {
            let crcs = bytes
                .chunks(512)
                .flat_map(|group| crc32c(group).to_be_bytes());
            Md5::digest(crcs.collect::<Vec<u8>>()).to_vec()
        };
        let of_all = |blocks: usize| {
            let mut all: Vec<u8> = content.chunks(blocks).flat_map(block).collect();
            // One MD5 in a buffer for two, three in one for four.
            all.resize(if all.len() == 16 { 32 } else { 64 }, 0);
            hex(&Md5::digest(all))
        };
        let (one, many) = (of_all(5_000), of_all(2_048));
        for piece in [1, 511, 512, 513, 1000, 2048, 5000] {
            let (algorithm, bytes) = of(&content, piece, 1 << 20);
            assert_eq!(algorithm, "MD5-of-0MD5-of-512CRC32C");
            assert_eq!(bytes, format!("000002000000000000000000{one}"), "{piece}");
            let (algorithm, bytes) = of(&content, piece, 2048);
            assert_eq!(algorithm, "MD5-of-4MD5-of-512CRC32C");
            assert_eq!(bytes, format!("000002000000000000000004{many}"), "{piece}");
        }
        // Exactly one block is one block.
        let (algorithm, _) = of(&content[..2048], 100, 2048);
        assert_eq!(algorithm, "MD5-of-0MD5-of-512CRC32C");
    }
}
