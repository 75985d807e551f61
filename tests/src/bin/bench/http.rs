//! `make bench-http`: WebHDFS of a cluster whose gateways are in the daemons' processes, by a client that does as little as possible itself.
//!
//! All but the transfers' first step is HTTP/1.1 on connections that are kept. Memory is what the cluster's processes have resident above what
//! they had before, after they have moved as much without HTTP: their own buffers are not the gateway's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use cairn_client::{FileSystem, WriteOptions};
use cairn_protocol::messages::operation::IfExists;
use cairn_protocol::net::{self, TcpStream};
use futures::future::try_join_all;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::cpu::Cpu;
use crate::report::Report;
use crate::work::{drop_caches, pseudo_random};

/// Connections of the figures about requests.
const CONNECTIONS: usize = 64;
/// Transfers at once of the figure about memory: half of them up, half of them down.
const TRANSFERS: usize = 16;
/// What the small files are read from.
const FILES: u64 = 1000;
const FILE_BYTES: usize = 4096;
/// Longest head of an answer.
const HEAD_LINES_MAX: usize = 100;
const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

/// What is asked and how much of it.
pub(crate) struct Load<'a> {
    pub(crate) cpu: &'a Cpu,
    /// Gateways of the namenodes.
    pub(crate) gateways: &'a [String],
    /// The cluster's processes.
    pub(crate) pids: &'a [u32],
    /// Percent of the sizes and counts that the figures are about.
    pub(crate) percent: u64,
}

/// A connection that is kept.
struct Connection {
    stream: BufReader<TcpStream>,
    authority: String,
}

/// The head of an answer.
struct Head {
    status: u16,
    length: u64,
}

impl Connection {
    async fn to(authority: &str) -> anyhow::Result<Self> {
        let stream = net::connect(authority).await;
        let stream = stream.with_context(|| format!("connect to {authority}"))?;
        Ok(Self {
            stream: BufReader::with_capacity(256 << 10, stream),
            authority: authority.to_owned(),
        })
    }

    async fn send(&mut self, method: &str, target: &str, length: u64) -> anyhow::Result<()> {
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\r\n",
            self.authority
        );
        self.stream.write_all(head.as_bytes()).await?;
        Ok(())
    }

    async fn head(&mut self) -> anyhow::Result<Head> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut head = Head {
            status: status.with_context(|| format!("an answer that begins with {line:?}"))?,
            length: 0,
        };
        for _ in 0..HEAD_LINES_MAX {
            line.clear();
            self.stream.read_line(&mut line).await?;
            match line.trim_end().split_once(": ") {
                None => return Ok(head),
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    head.length = value.parse()?;
                }
                Some(_) => {}
            }
        }
        bail!("more than {HEAD_LINES_MAX} header lines");
    }

    /// A request without a body, and the body of its answer.
    async fn ask(&mut self, method: &str, target: &str, status: u16) -> anyhow::Result<Vec<u8>> {
        self.send(method, target, 0).await?;
        let head = self.head().await?;
        let mut body = vec![0; usize::try_from(head.length)?];
        self.stream.read_exact(&mut body).await?;
        let text = || String::from_utf8_lossy(&body).into_owned();
        ensure!(
            head.status == status,
            "{target}: {} {}",
            head.status,
            text()
        );
        Ok(body)
    }

    /// The second step of a transfer: the authority and the target of its location.
    async fn location(
        &mut self,
        method: &str,
        path: &str,
        op: &str,
    ) -> anyhow::Result<(String, String)> {
        let target = format!("/webhdfs/v1{path}?op={op}&user.name=root&noredirect=true");
        let body = self.ask(method, &target, 200).await?;
        let json: serde_json::Value = serde_json::from_slice(&body)?;
        let location = json["Location"].as_str().context("no location")?;
        let rest = location.strip_prefix("http://").context("not http")?;
        let (authority, target) = rest.split_once('/').context("no path")?;
        Ok((authority.to_owned(), format!("/{target}")))
    }
}

/// All of a file through HTTP.
async fn upload(gateway: &str, path: &str, piece: &Bytes, bytes: u64) -> anyhow::Result<()> {
    let mut first = Connection::to(gateway).await?;
    let (authority, target) = first.location("PUT", path, "CREATE&overwrite=true").await?;
    let mut second = Connection::to(&authority).await?;
    second.send("PUT", &target, bytes).await?;
    let mut left = bytes;
    while left > 0 {
        let now = left.min(piece.len() as u64);
        second
            .stream
            .write_all(&piece[..usize::try_from(now)?])
            .await?;
        left -= now;
    }
    let head = second.head().await?;
    ensure!(head.status == 201, "upload of {path}: {}", head.status);
    Ok(())
}

async fn download(gateway: &str, path: &str, bytes: u64) -> anyhow::Result<()> {
    let mut first = Connection::to(gateway).await?;
    let (authority, target) = first.location("GET", path, "OPEN").await?;
    let mut second = Connection::to(&authority).await?;
    second.send("GET", &target, 0).await?;
    let head = second.head().await?;
    ensure!(
        head.status == 200 && head.length == bytes,
        "download of {path}: {}",
        head.status
    );
    let mut buffer = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left)?.min(buffer.len());
        let count = second.stream.read(&mut buffer[..now]).await?;
        ensure!(count > 0, "download of {path}: ended early");
        left -= count as u64;
    }
    Ok(())
}

impl Load<'_> {
    fn scaled(&self, all: u64) -> u64 {
        (all * self.percent / 100).max(1)
    }

    fn gateway(&self, index: usize) -> &str {
        &self.gateways[index % self.gateways.len()]
    }

    /// One upload and one cold download, three rounds each: medians.
    pub(crate) async fn stream(&self, report: &mut Report) -> anyhow::Result<()> {
        let bytes = self.scaled(2 << 30);
        let piece = pseudo_random(1 << 20);
        let mut taken: [Vec<(f64, f64)>; 2] = Default::default();
        for round in 0..3 {
            let path = format!("/bench/http-stream-{round}");
            for (which, taken) in taken.iter_mut().enumerate() {
                if which == 1 {
                    drop_caches();
                }
                let (before, begin) = (self.cpu.seconds(), Instant::now());
                match which {
                    0 => upload(self.gateway(round), &path, &piece, bytes).await?,
                    _ => download(self.gateway(round), &path, bytes).await?,
                }
                let rate = bytes as f64 / MIB / begin.elapsed().as_secs_f64();
                let cpu = (self.cpu.seconds() - before) / (bytes as f64 / GIB);
                taken.push((rate, cpu));
            }
        }
        for (work, mut taken) in ["HTTP upload 2 GiB", "HTTP download 2 GiB, cold"]
            .into_iter()
            .zip(taken)
        {
            taken.sort_by(|one, other| one.0.total_cmp(&other.0));
            let (rate, cpu) = taken[taken.len() / 2];
            report.add(work, rate, "MiB/s", Some(cpu), None);
        }
        Ok(())
    }

    /// Small files and their status, on 64 connections that are kept.
    pub(crate) async fn requests(
        &self,
        fs: &FileSystem,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let content = pseudo_random(FILE_BYTES);
        fs.mkdir_all("/bench/http", 0o755).await?;
        let options = WriteOptions {
            if_exists: IfExists::Replace,
            ..WriteOptions::default()
        };
        for number in 0..FILES {
            let path = format!("/bench/http/{number}");
            fs.write_file(path.as_str(), content.clone(), &options)
                .await?;
        }
        let mut first = Connection::to(self.gateway(0)).await?;
        let mut datanodes = Vec::new();
        for _ in 0..12 {
            let (authority, _) = first.location("PUT", "/bench/http/new", "CREATE").await?;
            if !datanodes.contains(&authority) {
                datanodes.push(authority);
            }
        }
        let read = |number: u64| {
            format!("/webhdfs/v1/bench/http/{number}?op=OPEN&user.name=root&namenoderpcaddress=x")
        };
        self.rate(
            "HTTP GET of 4 KiB, 64 connections",
            &datanodes,
            200_000,
            read,
            report,
        )
        .await?;
        let status = |number: u64| {
            format!("/webhdfs/v1/bench/http/{number}?op=GETFILESTATUS&user.name=root")
        };
        self.rate(
            "HTTP GETFILESTATUS, 64 connections",
            self.gateways,
            500_000,
            status,
            report,
        )
        .await
    }

    async fn rate(
        &self,
        work: &str,
        servers: &[String],
        count: u64,
        target: impl Fn(u64) -> String,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let count = self.scaled(count);
        let mut connections = Vec::new();
        for index in 0..CONNECTIONS {
            connections.push(Connection::to(&servers[index % servers.len()]).await?);
        }
        let next = AtomicU64::new(0);
        let (before, begin) = (self.cpu.seconds(), Instant::now());
        let (next, target) = (&next, &target);
        try_join_all(connections.iter_mut().map(|connection| async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return anyhow::Ok(());
                }
                connection.ask("GET", &target(index % FILES), 200).await?;
            }
        }))
        .await?;
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        let cpu = (self.cpu.seconds() - before) * 1e6 / count as f64;
        report.add(work, rate, "ops/s", Some(cpu), None);
        Ok(())
    }

    /// 16 transfers at once. What they read is written before, without HTTP.
    pub(crate) async fn memory(&self, fs: &FileSystem, report: &mut Report) -> anyhow::Result<()> {
        let bytes = self.scaled(1 << 30);
        let piece = pseudo_random(1 << 20);
        let old = |index: usize| format!("/bench/http-old-{index}");
        try_join_all((0..TRANSFERS).map(|index| {
            let piece = &piece;
            async move { copy_without_http(fs, &old(index), piece, bytes).await }
        }))
        .await?;
        let idle: Vec<f64> = self.pids.iter().map(|pid| resident(*pid)).collect();
        let done = AtomicBool::new(false);
        let watching = async {
            let mut most = 0.0_f64;
            while !done.load(Ordering::Relaxed) {
                for (pid, idle) in self.pids.iter().zip(&idle) {
                    most = most.max(resident(*pid) - idle);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            most
        };
        let transfers = async {
            let all = (0..TRANSFERS).map(|index| {
                let (gateway, piece) = (self.gateway(index), &piece);
                async move {
                    if index % 2 == 0 {
                        upload(gateway, &format!("/bench/http-new-{index}"), piece, bytes).await
                    } else {
                        download(gateway, &old(index), bytes).await
                    }
                }
            });
            let moved = try_join_all(all).await;
            done.store(true, Ordering::Relaxed);
            moved
        };
        let (before, begin) = (self.cpu.seconds(), Instant::now());
        let (moved, most) = tokio::join!(transfers, watching);
        moved?;
        let all = bytes as f64 * TRANSFERS as f64;
        let rate = all / MIB / begin.elapsed().as_secs_f64();
        let cpu = (self.cpu.seconds() - before) / (all / GIB);
        report.add(
            "HTTP 8 uploads and 8 downloads of 1 GiB at once",
            rate,
            "MiB/s",
            Some(cpu),
            None,
        );
        report.add(
            "memory above idle meanwhile, of the process with most",
            most,
            "MiB",
            None,
            None,
        );
        Ok(())
    }
}

async fn copy_without_http(
    fs: &FileSystem,
    path: &str,
    piece: &Bytes,
    bytes: u64,
) -> anyhow::Result<()> {
    let options = WriteOptions {
        if_exists: IfExists::Replace,
        ..WriteOptions::default()
    };
    let mut writer = fs.create_writer(path, options)?;
    let mut left = bytes;
    while left > 0 {
        let now = left.min(piece.len() as u64);
        writer
            .write_bytes(piece.slice(..usize::try_from(now)?))
            .await?;
        left -= now;
    }
    writer.close().await?;
    let reader = fs.open(path).await?;
    let mut stream = reader.stream(0);
    while stream.next().await?.is_some() {}
    Ok(())
}

/// Resident memory of a process in MiB, that of files not counted; 0 if it is gone.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
