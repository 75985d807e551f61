//! One caller who writes 4 KiB at random places of a file and has each of them on disk before the next.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cairn_client::FileSystem;
use cairn_protocol::messages::operation::IfExists;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::local;
use crate::report::Report;
use crate::work::{percentile, pseudo_random};

const COUNT: usize = 3000;
const FILE_BYTES: usize = 64 << 20;
const PAGE: usize = 4096;

pub(crate) async fn fsync(
    fs: &FileSystem,
    local: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    let content = pseudo_random(FILE_BYTES);
    let (attributes, _) = fs.create("/bench/fsync", 0o644, IfExists::Fail).await?;
    let file = fs.open_file(attributes.inode.into()).await?;
    for (index, piece) in content.chunks(1 << 20).enumerate() {
        let piece = content.slice_ref(piece);
        file.write((index as u64) << 20, piece).await?;
    }
    file.sync().await?;
    let mut rng = StdRng::seed_from_u64(1);
    let mut page = || rng.random_range(0..FILE_BYTES / PAGE) * PAGE;
    let mut ours = Vec::with_capacity(COUNT);
    for _ in 0..COUNT {
        let at = page();
        let begin = Instant::now();
        file.write(at as u64, content.slice(at..at + PAGE)).await?;
        file.sync().await?;
        ours.push(begin.elapsed());
    }
    drop(file);
    fs.unlink("/bench/fsync").await?;

    let directory = local::fresh(local, "fsync")?;
    let file = std::fs::File::create(directory.join("file"))?;
    file.write_all_at(&content, 0)?;
    file.sync_all()?;
    let mut theirs = Vec::with_capacity(COUNT);
    for _ in 0..COUNT {
        let at = page();
        let begin = Instant::now();
        file.write_all_at(&content[at..at + PAGE], at as u64)?;
        file.sync_data()?;
        theirs.push(begin.elapsed());
    }
    std::fs::remove_dir_all(directory)?;

    let rate = |taken: &[Duration]| {
        let all: Duration = taken.iter().sum();
        taken.len() as f64 / all.as_secs_f64()
    };
    let name = "one caller: 4 KiB write and sync";
    report.add(name, rate(&ours), "ops/s", None, Some(rate(&theirs)));
    for (label, part) in [("p50", 0.5), ("p99", 0.99)] {
        let beside = Some(percentile(&mut theirs, part));
        let name = format!("{name}, {label}");
        report.add(&name, percentile(&mut ours, part), "us", None, beside);
    }
    Ok(())
}
