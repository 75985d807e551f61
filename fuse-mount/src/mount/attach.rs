//! Attaching to a directory: what is checked before, mount(2) itself, and its options.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

use crate::config::MountConfig;
use crate::fuse::Adapter;

/// Threads that take requests from the kernel. Two are never kept waiting, see [`DISK_READS_MAX`].
const THREADS: usize = DISK_READS_MAX + 2;

/// Threads that may wait for a disk: as many small reads of replicas on this machine are on their way at once.
pub(super) const DISK_READS_MAX: usize = 16;

/// What the table of mounts says of ours.
const KIND: &str = "fuse.cairn";

/// Checks that something can be mounted there, and clears away what a killed mount process left behind.
///
/// # Errors
/// A sentence that says what to do.
pub fn check_mountpoint(mountpoint: &Path) -> anyhow::Result<()> {
    let shown = mountpoint.display();
    if !Path::new("/dev/fuse").exists() {
        bail!(
            "this machine has no /dev/fuse: load the kernel's module with `modprobe fuse`, or in a container pass `--device /dev/fuse`"
        );
    }
    // The kernel answers for a while with the attributes that it has, but nobody else knows of the space.
    if rustix::fs::statfs(mountpoint).is_err_and(|error| error == Errno::NOTCONN) {
        if let Some(kind) = kind_of_mount(mountpoint)
            && kind.strip_prefix("fuse.").is_some()
            && kind != KIND
        {
            bail!(
                "{shown} is a {kind} mount whose process is gone; clear it with `umount -l {shown}` as root"
            );
        }
        unmount(mountpoint, UnmountFlags::DETACH).with_context(|| {
            format!("{shown} is the mount of a process that is gone; clear it with `umount -l {shown}` as root")
        })?;
    }
    let metadata = match std::fs::metadata(mountpoint) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{shown} does not exist; make it with `mkdir -p {shown}`")
        }
        Err(error) => return Err(error).with_context(|| format!("look at {shown}")),
    };
    if !metadata.is_dir() {
        bail!("{shown} is not a directory; name an empty directory to mount on");
    }
    let path = std::fs::canonicalize(mountpoint).with_context(|| format!("look at {shown}"))?;
    let above = path.parent().map(std::fs::metadata).transpose();
    let above = above.with_context(|| format!("look above {shown}"))?;
    if above.is_none_or(|above| above.dev() != metadata.dev()) {
        bail!(
            "{shown} is mounted already; unmount it with `umount {shown}`, or name another directory"
        );
    }
    let mut entries = std::fs::read_dir(&path).with_context(|| format!("look into {shown}"))?;
    if entries.next().is_some() {
        bail!(
            "{shown} is not empty, and a mount would hide what is in it; name an empty directory"
        );
    }
    Ok(())
}

/// What the table of mounts says is mounted there, if anything is.
fn kind_of_mount(mountpoint: &Path) -> Option<String> {
    // A dead mount cannot be asked for its real path, the directory above can.
    let above = std::fs::canonicalize(mountpoint.parent()?).ok()?;
    let path = above.join(mountpoint.file_name()?);
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_kind(&table, path.to_str()?)
}

/// The last mount on a path hides those before it.
fn find_kind(table: &str, path: &str) -> Option<String> {
    let kind = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let shown = mount.split(' ').nth(4)?;
        let path = path.replace(' ', "\\040");
        (shown == path).then(|| source.split(' ').next().map(str::to_owned))?
    };
    table.lines().filter_map(kind).next_back()
}

/// Mounts, and greets the kernel. Who may not mount asks `fusermount3`, which may.
///
/// # Errors
/// A sentence that says what to do.
pub(super) fn mount(adapter: Adapter, config: &MountConfig) -> anyhow::Result<Session<Adapter>> {
    let shown = config.mountpoint.display();
    let session = match mount_directly(config) {
        Ok(Some(device)) => {
            let options = session_options(config);
            Session::from_fd(adapter, device, options.acl, options)
        }
        Ok(None) => Session::new(adapter, &config.mountpoint, &session_options(config)),
        Err(error) => Err(error),
    };
    session.map_err(|error| {
        let way_out = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                ": only root may mount; run it as root, or install fuse3 for `fusermount3`"
            }
            _ => "",
        };
        anyhow::Error::new(error).context(format!("mount on {shown}{way_out}"))
    })
}

/// The kernel's end of the new mount; `None` if this process may not mount.
fn mount_directly(config: &MountConfig) -> io::Result<Option<OwnedFd>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let device: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")?;
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        libc::S_IFDIR,
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if config.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(io::Error::other)?;
    let flags = flags(config.read_only, &config.kernel_options);
    let mounted = rustix::mount::mount(
        config.source.as_str(),
        &config.mountpoint,
        KIND,
        flags,
        data.as_c_str(),
    );
    match mounted {
        Ok(()) => Ok(Some(device.into())),
        // Root of a container, say.
        Err(Errno::PERM) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Files of a cluster may have been made by anybody who reaches it: set-user-id and devices count only if that is asked for.
fn flags(read_only: bool, options: &[String]) -> MountFlags {
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, read_only);
    for option in options {
        match option.as_str() {
            "nosuid" => flags.insert(MountFlags::NOSUID),
            "suid" => flags.remove(MountFlags::NOSUID),
            "nodev" => flags.insert(MountFlags::NODEV),
            "dev" => flags.remove(MountFlags::NODEV),
            "noexec" => flags.insert(MountFlags::NOEXEC),
            "exec" => flags.remove(MountFlags::NOEXEC),
            "noatime" => flags.insert(MountFlags::NOATIME),
            "dirsync" => flags.insert(MountFlags::DIRSYNC),
            "sync" => flags.insert(MountFlags::SYNCHRONOUS),
            // The caller knows only these.
            _ => {}
        }
    }
    flags
}

/// Changes whether a mount is read-only, and what the kernel checks there.
///
/// # Errors
/// The system's reason.
pub fn remount(mountpoint: &Path, read_only: bool, options: &[String]) -> anyhow::Result<()> {
    mount_remount(mountpoint, flags(read_only, options), "")
        .with_context(|| format!("change how {} is mounted", mountpoint.display()))
}

fn session_options(config: &MountConfig) -> Config {
    let mut mount_options = vec![
        MountOption::FSName(config.source.clone()),
        MountOption::Subtype("cairn".to_owned()),
        MountOption::DefaultPermissions,
    ];
    if config.read_only {
        mount_options.push(MountOption::RO);
    }
    for option in &config.kernel_options {
        mount_options.push(match option.as_str() {
            "nosuid" => MountOption::NoSuid,
            "suid" => MountOption::Suid,
            "nodev" => MountOption::NoDev,
            "dev" => MountOption::Dev,
            "noexec" => MountOption::NoExec,
            "exec" => MountOption::Exec,
            "noatime" => MountOption::NoAtime,
            "dirsync" => MountOption::DirSync,
            "sync" => MountOption::Sync,
            other => MountOption::CUSTOM(other.to_owned()),
        });
    }
    let mut options = Config::default();
    options.mount_options = mount_options;
    options.n_threads = Some(THREADS);
    options.clone_fd = true;
    if config.allow_other {
        options.acl = SessionACL::All;
    }
    options
}

#[cfg(test)]
mod tests {
    use rustix::mount::MountFlags;

    use super::{find_kind, flags};

    #[test]
    fn the_table_of_mounts_tells_ours_from_others() {
        let table = "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            90 25 0:50 / /mnt/a rw - fuse.sshfs host:/ rw\n\
            91 25 0:51 / /mnt/a rw,nosuid - fuse.cairn host:9000 rw,user_id=0\n\
            92 25 0:52 / /mnt/with\\040space rw - fuse x rw\n";
        assert_eq!(find_kind(table, "/mnt/a").unwrap(), "fuse.cairn");
        assert_eq!(find_kind(table, "/mnt/with space").unwrap(), "fuse");
        assert_eq!(find_kind(table, "/mnt"), None);
        assert_eq!(find_kind("nonsense - \n - ", "/mnt"), None);
    }

    #[test]
    fn set_ids_and_devices_count_only_if_asked_for() {
        let words = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
        let safe = MountFlags::NOSUID | MountFlags::NODEV;
        assert_eq!(flags(false, &[]), safe);
        assert_eq!(
            flags(true, &words("noexec")),
            safe | MountFlags::RDONLY | MountFlags::NOEXEC
        );
        assert_eq!(flags(false, &words("suid,dev")), MountFlags::empty());
    }
}
