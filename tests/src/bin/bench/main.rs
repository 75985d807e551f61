//! `make bench`: the numbers of the core, each beside the same work on the local disk. See docs/PERFORMANCE.md.
//!
//! Works against a running cluster (scripts/bench starts one of separate processes) and charges the CPU time of all its
//! processes and of this one. Figures belong here and never into tests.

mod cpu;
mod durable;
mod failover;
mod http;
mod limits;
mod local;
mod mounted;
mod report;
mod work;

use std::path::PathBuf;

use anyhow::{Context, bail};

use cpu::Cpu;
use report::Report;

/// What the script passes.
struct Arguments {
    /// Namenodes' addresses.
    cluster: Vec<String>,
    /// Processes whose CPU time counts.
    pids: Vec<u32>,
    /// A directory on the local disk for the comparison.
    local: PathBuf,
    /// A mount of the cluster: then the work is done there, and not through the client library.
    mounted: Option<PathBuf>,
    /// Gateways of the namenodes: then the work is done over HTTP.
    http: Vec<String>,
    /// Percent of the work over HTTP; 100 for figures, less for a look whether it runs.
    percent: u64,
    /// Where the list of results goes.
    out: PathBuf,
    /// Which parts; empty for all.
    parts: Vec<String>,
    /// Files of the `fill` part.
    files: u64,
    /// Figures that the script took by itself, `WORK=VALUE UNIT`: then nothing else is done.
    figures: Vec<String>,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut found = Arguments {
        cluster: Vec::new(),
        pids: Vec::new(),
        local: PathBuf::new(),
        mounted: None,
        http: Vec::new(),
        percent: 100,
        out: PathBuf::new(),
        parts: Vec::new(),
        files: 5_000_000,
        figures: Vec::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--cluster" => found.cluster = value.split(',').map(str::to_owned).collect(),
            "--pids" => found.pids = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--local" => found.local = value.into(),
            "--mounted" => found.mounted = Some(value.into()),
            "--http" => found.http = value.split(',').map(str::to_owned).collect(),
            "--percent" => found.percent = value.parse()?,
            "--out" => found.out = value.into(),
            "--part" => found.parts.push(value),
            "--files" => found.files = value.parse()?,
            "--figure" => found.figures.push(value),
            other => bail!("unknown argument {other}"),
        }
    }
    let works = !found.local.as_os_str().is_empty()
        && (!found.cluster.is_empty() || found.mounted.is_some());
    if (!works && found.figures.is_empty()) || found.out.as_os_str().is_empty() {
        bail!(
            "usage: bench --cluster HOST:PORT,… | --mounted DIR [--http HOST:PORT,… [--percent N]] --pids PID,… --local DIR --out FILE [--part NAME]… [--files N]\n       bench --figure 'WORK=VALUE UNIT' --out FILE"
        );
    }
    Ok(found)
}

fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut report = Report::read(&arguments.out)?;
    if !arguments.figures.is_empty() {
        for figure in &arguments.figures {
            let parts = figure.split_once('=');
            let parts = parts.and_then(|(work, rest)| Some((work, rest.split_once(' ')?)));
            let (work, (value, unit)) =
                parts.with_context(|| format!("{figure}: WORK=VALUE UNIT"))?;
            report.add(work, value.parse()?, unit, None, None);
        }
        report.write(&arguments.out)?;
        report.print();
        return Ok(());
    }
    let cpu = Cpu::new(arguments.pids.clone());
    std::fs::create_dir_all(&arguments.local)?;
    if let Some(mounted) = &arguments.mounted {
        mounted::measure(
            &cpu,
            &arguments.local,
            mounted,
            &arguments.parts,
            &mut report,
        )?;
        report.write(&arguments.out)?;
        report.print();
        return Ok(());
    }
    runtime.block_on(async {
        let fs = work::connect(&arguments.cluster).await?;
        work::prepare(&fs).await?;
        let wanted = |part: &str| {
            arguments.parts.is_empty() || arguments.parts.iter().any(|wanted| wanted == part)
        };
        if !arguments.http.is_empty() {
            let load = http::Load {
                cpu: &cpu,
                gateways: &arguments.http,
                pids: &arguments.pids,
                percent: arguments.percent,
            };
            if wanted("requests") {
                load.requests(&fs, &mut report).await?;
            }
            if wanted("stream") {
                load.stream(&mut report).await?;
            }
            if wanted("memory") {
                load.memory(&fs, &mut report).await?;
            }
            work::clean(&fs).await?;
            fs.close().await?;
            return anyhow::Ok(());
        }
        if wanted("stream") {
            work::stream(&fs, &cpu, &arguments.local, &mut report).await?;
        }
        if wanted("small") {
            work::small(&fs, &cpu, &arguments.local, &mut report).await?;
        }
        if wanted("meta") {
            work::metadata(&fs, &cpu, &arguments.local, true, &mut report).await?;
        }
        if arguments.parts.iter().any(|part| part == "names") {
            work::metadata(&fs, &cpu, &arguments.local, false, &mut report).await?;
        }
        if wanted("latency") {
            work::latency(&fs, &arguments.local, &mut report).await?;
        }
        if wanted("fsync") {
            durable::fsync(&fs, &arguments.local, &mut report).await?;
        }
        if arguments.parts.iter().any(|part| part == "fill") {
            work::fill(&fs, &cpu, arguments.files, &mut report).await?;
        }
        if arguments.parts.iter().any(|part| part == "first-read") {
            work::first_read(&fs, &mut report).await?;
        }
        if arguments.parts.iter().any(|part| part == "failover") {
            failover::measure(&fs, &arguments.pids, &mut report).await?;
        }
        if arguments.parts.iter().any(|part| part == "limits") {
            limits::measure(&arguments.local, &mut report)?;
        }
        work::clean(&fs).await?;
        fs.close().await?;
        anyhow::Ok(())
    })?;
    report.write(&arguments.out)?;
    report.print();
    Ok(())
}
