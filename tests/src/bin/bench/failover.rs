//! How long callers wait when the leader dies.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cairn_client::FileSystem;

use crate::report::Report;

/// Changes go on for so long before and after.
const AROUND: Duration = Duration::from_secs(3);

/// Kills the leader, one of `pids`, with signal 9 under a caller that makes one directory after the other: the longest wait for one.
pub(crate) async fn measure(
    fs: &FileSystem,
    pids: &[u32],
    report: &mut Report,
) -> anyhow::Result<()> {
    let status = fs.status().await?;
    let leader = status.namenodes.iter().find(|one| one.role == "leader");
    let leader = leader.context("nobody leads")?.address.clone();
    let serves = |pid: &&u32| listens(**pid).is_some_and(|address| address == leader);
    let pid = pids.iter().find(serves);
    let pid = pid.with_context(|| format!("no process of {pids:?} listens on {leader}"))?;
    fs.mkdir_all("/bench/failover", 0o755).await?;
    let stop = AtomicBool::new(false);
    let changes = async {
        let (mut count, mut longest) = (0, Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            fs.mkdir(format!("/bench/failover/{count}"), 0o755).await?;
            longest = longest.max(begin.elapsed());
            count += 1;
        }
        anyhow::Ok((count, longest))
    };
    let kill = async {
        tokio::time::sleep(AROUND).await;
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
        tokio::time::sleep(AROUND * 2).await;
        stop.store(true, Ordering::Relaxed);
        killed
    };
    let (changed, killed) = tokio::join!(changes, kill);
    ensure!(killed?.success(), "kill -9 {pid} failed");
    let (count, longest) = changed?;
    ensure!(
        fs.list_all("/bench/failover").await?.len() == count,
        "directories that were acknowledged are missing"
    );
    let name = "longest wait for a change when the leader is killed";
    report.add(name, longest.as_secs_f64() * 1e3, "ms", None, None);
    Ok(())
}

/// Where a namenode listens, by the configuration file on its command line.
fn listens(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = line.split(|byte| *byte == 0);
    let words: Vec<&str> = words
        .filter_map(|word| std::str::from_utf8(word).ok())
        .collect();
    if !words.contains(&"namenode") {
        return None;
    }
    let at = words.iter().position(|word| *word == "--config")?;
    let file: toml::Table = fs::read_to_string(words.get(at + 1)?).ok()?.parse().ok()?;
    Some(file.get("listen")?.as_str()?.to_owned())
}
