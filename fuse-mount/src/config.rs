//! How a mount behaves. Values only.

use std::path::PathBuf;
use std::time::Duration;

use crate::reads::AccessTimes;

/// Settings of one mount.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// The empty directory to mount on.
    pub mountpoint: PathBuf,
    /// What `mount` and `df` show as the source.
    pub source: String,
    /// Nothing can be changed through it.
    pub read_only: bool,
    /// Other users than the one who mounts may use it: needs root, or `user_allow_other` in /etc/fuse.conf.
    pub allow_other: bool,
    /// How long the kernel may answer from names, attributes and pages that it knows, while it would be told if others changed
    /// them. An open always asks. Default 1 h.
    pub cache: Duration,
    /// Directories are delegated to this mount, so that what it does in them is told to the cluster later, many things at once.
    pub delegations: bool,
    /// Which reads are noted.
    pub access_times: AccessTimes,
    /// Options that the kernel understands by itself: `nosuid`, `nodev`, `noexec`, `noatime` …
    pub kernel_options: Vec<String>,
}

impl MountConfig {
    /// The defaults.
    pub fn new(mountpoint: PathBuf, source: String) -> Self {
        Self {
            mountpoint,
            source,
            read_only: false,
            allow_other: false,
            cache: Duration::from_secs(3600),
            delegations: true,
            access_times: AccessTimes::On,
            kernel_options: Vec::new(),
        }
    }
}
