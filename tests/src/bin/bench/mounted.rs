//! `make bench-mount`: what programs do in a directory, first on the local disk and then in the mount, in one run.
//!
//! Cold means that the page cache of the machine was dropped, which is the clients' and the servers' alike.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::cpu::Cpu;
use crate::report::Report;
use crate::work::drop_caches;

/// Bytes of the stream figures, and of the file that is read at random.
const STREAM_BYTES: u64 = 2 << 30;
/// Bytes of the file that is written at random.
const RANDOM_WRITE_BYTES: u64 = 512 << 20;
/// Files of the small-file figures.
const FILES: u64 = 10_000;
/// Threads of the random figures.
const JOBS: u64 = 16;
/// Operations of each of them.
const READS_PER_JOB: u64 = 4096;
const WRITES_PER_JOB: u64 = 1024;
/// The tree: files in so many directories, about 200 MB in all.
const TREE_FILES: u64 = 9_000;
const TREE_DIRECTORIES: u64 = 600;
const PAGE: usize = 4096;
const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

/// One figure of one directory.
struct Taken {
    work: String,
    value: f64,
    unit: &'static str,
    cpu: Option<f64>,
}

/// What is measured where.
struct Place<'a> {
    directory: PathBuf,
    cpu: &'a Cpu,
    taken: Vec<Taken>,
}

/// Measures both directories. `scratch` is on the local disk, and holds what is copied into them.
pub(crate) fn measure(
    cpu: &Cpu,
    local: &Path,
    mounted: &Path,
    parts: &[String],
    report: &mut Report,
) -> anyhow::Result<()> {
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let sources = Sources::make(&local.join("sources"))?;
    let mut taken = Vec::new();
    for root in [local, mounted] {
        let directory = root.join("bench");
        fs::create_dir_all(&directory)?;
        let mut place = Place {
            directory,
            cpu,
            taken: Vec::new(),
        };
        if wanted("stream") {
            place.stream()?;
        }
        if wanted("small") {
            place.small(1)?;
            place.small(8)?;
        }
        if wanted("random") {
            place.random()?;
        }
        if wanted("work") {
            place.work(&sources)?;
        }
        fs::remove_dir_all(&place.directory)?;
        taken.push(place.taken);
    }
    let (Some(mounted), Some(local)) = (taken.pop(), taken.pop()) else {
        return Ok(());
    };
    for (ours, theirs) in mounted.into_iter().zip(local) {
        report.add(
            &ours.work,
            ours.value,
            ours.unit,
            ours.cpu,
            Some(theirs.value),
        );
    }
    Ok(())
}

impl Place<'_> {
    fn take(&mut self, work: &str, value: f64, unit: &'static str, cpu: Option<f64>) {
        eprintln!("{}: {work}: {value:.1} {unit}", self.directory.display());
        self.taken.push(Taken {
            work: work.to_owned(),
            value,
            unit,
            cpu,
        });
    }

    /// Runs something that moves so many bytes: MiB/s and CPU seconds per GiB.
    fn bytes(
        &mut self,
        work: &str,
        bytes: u64,
        run: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let before = self.cpu.seconds();
        let begin = Instant::now();
        run(&self.directory).context(work.to_owned())?;
        let seconds = begin.elapsed().as_secs_f64();
        let cpu = (self.cpu.seconds() - before) / (bytes as f64 / GIB);
        self.take(work, bytes as f64 / MIB / seconds, "MiB/s", Some(cpu));
        Ok(())
    }

    /// Runs `operation` for 0..count on threads: operations per second and CPU seconds per million.
    fn rate(
        &mut self,
        work: &str,
        threads: u64,
        count: u64,
        operation: impl Fn(&Path, u64) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<()> {
        let before = self.cpu.seconds();
        let begin = Instant::now();
        let next = AtomicU64::new(0);
        let directory = self.directory.as_path();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            let index = next.fetch_add(1, Ordering::Relaxed);
                            if index >= count {
                                return anyhow::Ok(());
                            }
                            operation(directory, index)?;
                        }
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("a worker panicked")))
            })
        })
        .context(work.to_owned())?;
        let seconds = begin.elapsed().as_secs_f64();
        let cpu = (self.cpu.seconds() - before) * 1e6 / count as f64;
        self.take(work, count as f64 / seconds, "ops/s", Some(cpu));
        Ok(())
    }

    fn seconds(
        &mut self,
        work: &str,
        run: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        run(&self.directory).context(work.to_owned())?;
        let seconds = begin.elapsed().as_secs_f64();
        self.take(work, seconds, "s", None);
        Ok(())
    }

    fn stream(&mut self) -> anyhow::Result<()> {
        let piece = random_bytes(1, 1 << 20);
        // The first round warms memory up that was never touched; the second one counts.
        for work in ["stream write, first round", "stream write 2 GiB, fsync"] {
            self.bytes(work, STREAM_BYTES, |directory| {
                let mut file = File::create(directory.join("stream"))?;
                for _ in 0..STREAM_BYTES >> 20 {
                    file.write_all(&piece)?;
                }
                file.sync_all()?;
                Ok(())
            })?;
        }
        self.taken.remove(self.taken.len() - 2);
        drop_caches();
        self.bytes("stream read 2 GiB, cold", STREAM_BYTES, |directory| {
            read_all(&directory.join("stream"), STREAM_BYTES)
        })?;
        self.bytes("stream read 2 GiB, warm", STREAM_BYTES, |directory| {
            read_all(&directory.join("stream"), STREAM_BYTES)
        })?;
        fs::remove_file(self.directory.join("stream"))?;
        Ok(())
    }

    fn small(&mut self, threads: u64) -> anyhow::Result<()> {
        let content = random_bytes(2, PAGE);
        let files = format!("small-{threads}");
        fs::create_dir(self.directory.join(&files))?;
        let path = |directory: &Path, index: u64| directory.join(&files).join(index.to_string());
        let name = |what: &str| format!("{what}, {threads} threads");
        self.rate(
            &name("create 4 KiB files"),
            threads,
            FILES,
            |directory, index| {
                let mut file = File::create_new(path(directory, index))?;
                file.write_all(&content)?;
                Ok(())
            },
        )?;
        let stat = |directory: &Path, index| {
            let length = fs::symlink_metadata(path(directory, index))?.len();
            ensure!(length == PAGE as u64, "file {index} has {length} bytes");
            Ok(())
        };
        drop_caches();
        self.rate(&name("stat cold"), threads, FILES, stat)?;
        self.rate(&name("stat warm"), threads, FILES, stat)?;
        drop_caches();
        let read = |directory: &Path, index| {
            ensure!(fs::read(path(directory, index))? == content, "file {index}");
            Ok(())
        };
        self.rate(&name("read 4 KiB files cold"), threads, FILES, read)?;
        self.rate(&name("read 4 KiB files warm"), threads, FILES, read)?;
        self.rate(&name("unlink"), threads, FILES, |directory, index| {
            Ok(fs::remove_file(path(directory, index))?)
        })
    }

    fn random(&mut self) -> anyhow::Result<()> {
        let piece = random_bytes(3, 1 << 20);
        for (name, bytes) in [("reads", STREAM_BYTES), ("writes", RANDOM_WRITE_BYTES)] {
            let mut file = File::create(self.directory.join(name))?;
            for _ in 0..bytes >> 20 {
                file.write_all(&piece)?;
            }
            file.sync_all()?;
        }
        drop_caches();
        self.jobs(
            "random 4 KiB reads, cold, 16 jobs",
            READS_PER_JOB,
            |directory| Ok(File::open(directory.join("reads"))?),
            |file, rng| {
                let mut page = [0; PAGE];
                let offset = rng.random_range(0..STREAM_BYTES / PAGE as u64) * PAGE as u64;
                file.read_exact_at(&mut page, offset)?;
                Ok(())
            },
        )?;
        self.jobs(
            "random 4 KiB writes with fsync, 16 jobs",
            WRITES_PER_JOB,
            |directory| {
                let mut options = OpenOptions::new();
                Ok(options.write(true).open(directory.join("writes"))?)
            },
            |file, rng| {
                let mut page = [0; PAGE];
                rng.fill_bytes(&mut page);
                let offset = rng.random_range(0..RANDOM_WRITE_BYTES / PAGE as u64) * PAGE as u64;
                file.write_all_at(&page, offset)?;
                file.sync_data()?;
                Ok(())
            },
        )?;
        for name in ["reads", "writes"] {
            fs::remove_file(self.directory.join(name))?;
        }
        Ok(())
    }

    /// Each job has a handle and random numbers of its own.
    fn jobs(
        &mut self,
        work: &str,
        per_job: u64,
        open: impl Fn(&Path) -> anyhow::Result<File> + Sync,
        operation: impl Fn(&File, &mut StdRng) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<()> {
        self.rate(work, JOBS, JOBS, |directory, job| {
            let file = open(directory)?;
            let mut rng = StdRng::seed_from_u64(job);
            (0..per_job).try_for_each(|_| operation(&file, &mut rng))
        })?;
        if let Some(taken) = self.taken.last_mut() {
            taken.value *= per_job as f64;
            taken.cpu = taken.cpu.map(|cpu| cpu / per_job as f64);
        }
        Ok(())
    }

    fn work(&mut self, sources: &Sources) -> anyhow::Result<()> {
        self.seconds("untar 9,000 files, 200 MB", |directory| {
            let arguments = [
                "xf".as_ref(),
                sources.tar.as_os_str(),
                "-C".as_ref(),
                directory.as_os_str(),
            ];
            run("tar", &arguments)
        })?;
        self.seconds("git clone of the same size", |directory| {
            let target = directory.join("clone");
            let arguments = [
                "clone".as_ref(),
                "-q".as_ref(),
                "--no-hardlinks".as_ref(),
                sources.repository.as_os_str(),
                target.as_os_str(),
            ];
            run("git", &arguments)
        })?;
        drop_caches();
        self.seconds("git status, cold", |directory| {
            let clone = directory.join("clone");
            let arguments = [
                "-C".as_ref(),
                clone.as_os_str(),
                "status".as_ref(),
                "--porcelain".as_ref(),
            ];
            run("git", &arguments)
        })?;
        self.seconds("rm -rf of the tree", |directory| {
            run("rm", &["-rf".as_ref(), directory.join("tree").as_os_str()])
        })
    }
}

/// What the work on trees begins with.
struct Sources {
    tar: PathBuf,
    repository: PathBuf,
}

impl Sources {
    fn make(directory: &Path) -> anyhow::Result<Self> {
        let sources = Self {
            tar: directory.join("tree.tar"),
            repository: directory.join("tree"),
        };
        if sources.tar.exists() {
            return Ok(sources);
        }
        let tree = &sources.repository;
        let mut rng = StdRng::seed_from_u64(4);
        for index in 0..TREE_FILES {
            let of = tree.join(format!("d{}", index % TREE_DIRECTORIES));
            fs::create_dir_all(&of)?;
            // Most are small and a few are large, as in a source tree: about 22 KiB on average.
            let length = match rng.random_range(0..100) {
                0..60 => rng.random_range(100..8_000),
                60..95 => rng.random_range(8_000..40_000),
                _ => rng.random_range(100_000..400_000),
            };
            fs::write(of.join(format!("f{index}")), random_bytes(index, length))?;
        }
        let tar = [
            "cf".as_ref(),
            sources.tar.as_os_str(),
            "-C".as_ref(),
            directory.as_os_str(),
            "tree".as_ref(),
        ];
        run("tar", &tar)?;
        for step in [
            &["init", "-q"][..],
            &["add", "."],
            &[
                "-c",
                "user.name=bench",
                "-c",
                "user.email=bench@localhost",
                "commit",
                "-qm",
                "tree",
            ],
        ] {
            let mut arguments: Vec<&OsStr> = vec!["-C".as_ref(), tree.as_os_str()];
            arguments.extend(step.iter().map(OsStr::new));
            run("git", &arguments)?;
        }
        Ok(sources)
    }
}

fn run(program: &str, arguments: &[impl AsRef<OsStr>]) -> anyhow::Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .with_context(|| program.to_owned())?;
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

fn read_all(path: &Path, length: u64) -> anyhow::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    ensure!(bytes == length, "{bytes} bytes were read");
    Ok(())
}

fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}
