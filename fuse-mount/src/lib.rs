//! A mount: a folder of this machine over the cluster.
//!
//! | module | what |
//! |---|---|
//! | `fuse` | the kernel's requests and replies; only here: fuser |
//! | `fs` | what they mean, over `cairn_client::FileSystem`; knows no kernel |
//! | `inodes`, `handles` | files and directories that are open |
//! | `unsettled` | closed files whose bytes are still on their way |
//! | `caches` | what the kernel keeps and must drop |
//! | `feed`, `told` | what others change; how long the kernel may keep an answer |
//! | `identity` | in whose name things are made |
//! | `process` | what only `/proc` tells of the thread behind a request |
//! | `errno` | failures as the kernel's numbers |
//! | `mount`, `mount::attach`, `config` | the life of a mount, mount(2), its settings |

mod behind;
mod caches;
mod config;
mod errno;
mod feed;
mod fs;
mod fuse;
mod handles;
mod identity;
mod inodes;
mod mount;
mod process;
mod reads;
mod recent;
mod told;
mod unsettled;

pub use caches::{Forget, Forgets, Forgotten, KernelCaches};
pub use config::MountConfig;
pub use fs::{LockCall, MountedFs, NewAttributes, Outcome, Requester};
pub use mount::{Mount, check_mountpoint, remount};
pub use process::Thread;
pub use reads::AccessTimes;
