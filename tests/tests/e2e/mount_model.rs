//! Random operations through two mounts by turns, each done to a local directory as well: results, names, attributes and
//! contents are the same.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, XattrFlags};

use crate::mounted::{Mounted, can_mount, shell};
use crate::program::{Cluster, content, eventually};

/// Operations of a test run. `CAIRN_FSX_OPERATIONS` asks for more.
const OPERATIONS: u32 = 1200;
/// Few, so that operations meet.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const OFFSET_MAX: u64 = 300_000;

/// Paths are relative to a tree.
#[derive(Clone, Debug)]
enum Operation {
    Write(PathBuf, u64, usize),
    Append(PathBuf, usize),
    Replace(PathBuf, usize),
    Truncate(PathBuf, u64),
    Punch(PathBuf, u64, u64),
    Copy(PathBuf, PathBuf, u64, u64, usize),
    Rename(PathBuf, PathBuf),
    NoReplace(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Symlink(&'static str, PathBuf),
    Unlink(PathBuf),
    Mkdir(PathBuf),
    Rmdir(PathBuf),
    Chmod(PathBuf, u32),
    Attribute(PathBuf, u8),
}

fn path(rng: &mut StdRng) -> PathBuf {
    let mut name = || NAMES[rng.random_range(0..NAMES.len())];
    let (first, second, third) = (name(), name(), name());
    match rng.random_range(0..10) {
        0..4 => first.into(),
        4..8 => Path::new(first).join(second),
        _ => Path::new(first).join(second).join(third),
    }
}

fn operation(rng: &mut StdRng) -> Operation {
    let (one, other) = (path(rng), path(rng));
    let offset = rng.random_range(0..OFFSET_MAX);
    let length = match rng.random_range(0..3) {
        0 => rng.random_range(1..100),
        1 => rng.random_range(1..10_000),
        _ => rng.random_range(1..100_000),
    };
    match rng.random_range(0..34) {
        0..5 => Operation::Write(one, offset, length),
        5..8 => Operation::Append(one, length),
        8..10 => Operation::Replace(one, length),
        10..12 => Operation::Truncate(one, offset),
        12..14 => Operation::Punch(one, offset, length as u64),
        14..16 => Operation::Copy(one, other, offset, rng.random_range(0..OFFSET_MAX), length),
        16..19 => Operation::Rename(one, other),
        19 => Operation::NoReplace(one, other),
        20 => Operation::Exchange(one, other),
        21..23 => Operation::Link(one, other),
        23 => Operation::Symlink(NAMES[rng.random_range(0..NAMES.len())], one),
        24..26 => Operation::Unlink(one),
        26..30 => Operation::Mkdir(one),
        30 => Operation::Rmdir(one),
        31..33 => Operation::Chmod(one, rng.random_range(0o600..=0o777)),
        _ => Operation::Attribute(one, rng.random_range(0..=255)),
    }
}

impl Operation {
    /// Does it below `root`. `number` makes bytes that no other operation writes.
    fn apply(&self, root: &Path, number: u64) -> Result<(), i32> {
        let done = self.try_apply(root, number);
        done.map_err(|error| error.raw_os_error().expect("the kernel's number"))
    }

    fn try_apply(&self, root: &Path, number: u64) -> io::Result<()> {
        let at = |path: &Path| root.join(path);
        let rename = |from: &Path, to: &Path, flags| {
            rustix::fs::renameat_with(CWD, at(from), CWD, at(to), flags)
        };
        match self {
            Self::Write(path, offset, length) => {
                let file = open(&at(path), true)?;
                file.write_all_at(&content(number, *length), *offset)
            }
            Self::Append(path, length) => {
                let file = OpenOptions::new().append(true).open(at(path))?;
                io::Write::write_all(&mut &file, &content(number, *length))
            }
            Self::Replace(path, length) => fs::write(at(path), content(number, *length)),
            Self::Truncate(path, size) => open(&at(path), false)?.set_len(*size),
            Self::Punch(path, offset, length) => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let file = open(&at(path), false)?;
                Ok(rustix::fs::fallocate(file, flags, *offset, *length)?)
            }
            Self::Copy(from, to, from_offset, to_offset, length) => {
                copy((&at(from), *from_offset), (&at(to), *to_offset), *length)
            }
            Self::Rename(from, to) => fs::rename(at(from), at(to)),
            Self::NoReplace(from, to) => Ok(rename(from, to, RenameFlags::NOREPLACE)?),
            Self::Exchange(one, other) => Ok(rename(one, other, RenameFlags::EXCHANGE)?),
            Self::Link(from, to) => fs::hard_link(at(from), at(to)),
            Self::Symlink(target, path) => symlink(target, at(path)),
            Self::Unlink(path) => fs::remove_file(at(path)),
            Self::Mkdir(path) => fs::create_dir(at(path)),
            Self::Rmdir(path) => fs::remove_dir(at(path)),
            Self::Chmod(path, mode) => {
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
            }
            Self::Attribute(path, value) => {
                let value = [*value; 5];
                let flags = XattrFlags::empty();
                Ok(rustix::fs::setxattr(at(path), "user.model", &value, flags)?)
            }
        }
    }

    /// What it may have changed.
    fn touched(&self) -> Vec<&Path> {
        match self {
            Self::Copy(one, other, ..)
            | Self::Rename(one, other)
            | Self::NoReplace(one, other)
            | Self::Exchange(one, other)
            | Self::Link(one, other) => vec![one, other],
            Self::Write(path, ..)
            | Self::Append(path, ..)
            | Self::Replace(path, ..)
            | Self::Truncate(path, ..)
            | Self::Punch(path, ..)
            | Self::Symlink(_, path)
            | Self::Unlink(path)
            | Self::Mkdir(path)
            | Self::Rmdir(path)
            | Self::Chmod(path, ..)
            | Self::Attribute(path, ..) => vec![path],
        }
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).open(path)
}

fn copy(from: (&Path, u64), to: (&Path, u64), length: usize) -> io::Result<()> {
    let (source, target) = (open(from.0, false)?, open(to.0, false)?);
    let (mut from, mut to, mut left) = (from.1, to.1, length);
    while left > 0 {
        let (source, target) = (source.as_fd(), target.as_fd());
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), left)? {
            0 => return Ok(()),
            copied => left -= copied,
        }
    }
    Ok(())
}

/// What is seen of a name, but for its content: kind, mode, size, links, target, attribute, names in it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    kind_and_mode: u32,
    size: u64,
    links: u64,
    target: Option<PathBuf>,
    attribute: Vec<u8>,
    names: Vec<std::ffi::OsString>,
}

fn look(path: &Path) -> Result<Seen, i32> {
    try_look(path).map_err(|error| error.raw_os_error().expect("the kernel's number"))
}

fn try_look(path: &Path) -> io::Result<Seen> {
    let metadata = fs::symlink_metadata(path)?;
    let mut seen = Seen {
        kind_and_mode: metadata.mode(),
        links: metadata.nlink(),
        ..Seen::default()
    };
    if metadata.is_symlink() {
        seen.target = Some(fs::read_link(path)?);
        return Ok(seen);
    }
    let mut value = [0; 16];
    if let Ok(length) = rustix::fs::getxattr(path, "user.model", &mut value) {
        seen.attribute = value[..length].to_vec();
    }
    if metadata.is_dir() {
        let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name()));
        seen.names = names.collect::<io::Result<_>>()?;
        seen.names.sort();
        // Local file systems count links of directories in their own ways.
        seen.links = 0;
    } else {
        seen.size = metadata.size();
    }
    Ok(seen)
}

fn read(path: &Path) -> Result<Vec<u8>, i32> {
    fs::read(path).map_err(|error| error.raw_os_error().expect("the kernel's number"))
}

struct Trees {
    reference: PathBuf,
    mounts: [PathBuf; 2],
}

impl Trees {
    fn step(&self, rng: &mut StdRng, number: u64) -> Operation {
        let operation = operation(rng);
        let expected = operation.apply(&self.reference, number);
        let (turn, first) = (rng.random_range(0..2), rng.random_range(0..2));
        let found = operation.apply(&self.mounts[turn], number);
        assert_eq!(found, expected, "{operation:?} through mount {turn}");
        for place in [first, 1 - first] {
            for path in operation.touched() {
                self.compare(&self.mounts[place], path, place == turn);
            }
        }
        operation
    }

    /// The mount that did it sees it at once, the other a moment later. Content is right as soon as the name is.
    fn compare(&self, mount: &Path, path: &Path, at_once: bool) {
        let above = path.parent().unwrap_or(Path::new(""));
        for path in [above, path] {
            let expected = look(&self.reference.join(path));
            let mine = mount.join(path);
            if at_once {
                assert_eq!(look(&mine), expected, "{}", mine.display());
            } else {
                let what = format!("{} is {expected:?}", mine.display());
                eventually(&what, || look(&mine) == expected);
            }
        }
        let expected = read(&self.reference.join(path));
        let found = read(&mount.join(path));
        assert!(
            found == expected,
            "{}: {}",
            mount.join(path).display(),
            difference(&found, &expected)
        );
    }
}

fn difference(found: &Result<Vec<u8>, i32>, expected: &Result<Vec<u8>, i32>) -> String {
    match (found, expected) {
        (Ok(found), Ok(expected)) => {
            let place = found.iter().zip(expected).position(|(a, b)| a != b);
            format!(
                "{} bytes instead of {}, first difference at {place:?}",
                found.len(),
                expected.len()
            )
        }
        (found, expected) => format!("{:?}, not {:?}", code(found), code(expected)),
    }
}

fn code<T: Debug>(result: &Result<T, i32>) -> Option<i32> {
    result.as_ref().err().copied()
}

#[test]
fn two_mounts_and_a_local_directory_are_the_same() {
    if !can_mount() {
        return;
    }
    let seed = std::env::var("DFS_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let operations = std::env::var("CAIRN_FSX_OPERATIONS");
    let operations = operations.map_or(OPERATIONS, |count| count.parse().expect("a number"));
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let mounts = ["first", "second"].map(|name| Mounted::on(&cluster, work.path().join(name), &[]));
    let trees = Trees {
        reference: work.path().join("reference"),
        mounts: mounts.each_ref().map(|mounted| mounted.path().to_owned()),
    };
    fs::create_dir(&trees.reference).expect("make the reference");
    let root = fs::metadata(&trees.mounts[0]).expect("stat").permissions();
    fs::set_permissions(&trees.reference, root).expect("chmod");
    let mut rng = StdRng::seed_from_u64(seed);
    eprintln!("DFS_SEED={seed}");
    for number in 0..u64::from(operations) {
        trees.step(&mut rng, number);
    }
    let listing = "find . -mindepth 1 -printf '%P %y %m %l\\n' | sort; \
        find . -type f -exec sha256sum {} + | sort -k 2";
    let expected = shell(&trees.reference, listing);
    for mount in &trees.mounts {
        assert_eq!(shell(mount, listing), expected);
    }
    for mounted in mounts {
        assert_eq!(mounted.log(), "");
        mounted.unmount();
    }
    cluster.run(["fsck"]).text();
}
