//! The real program, as people use it: one scenario per promise of the README, with real processes, `kill -9` and exit codes.
//!
//! `make test` builds `dfs` before it runs these tests, which look for it beside their own target directory.

mod access_lists;
mod administration;
mod attributes;
mod blame;
mod commands;
mod console;
mod failures;
mod fingers;
mod guards;
mod habits;
mod leaving;
mod manuals;
mod mount_build;
mod mount_failures;
mod mount_files;
mod mount_fio;
mod mount_fstab;
mod mount_life;
mod mount_locks;
mod mount_memory;
mod mount_model;
mod mount_posix;
mod mount_shared;
mod mount_times;
mod mount_work;
mod mounted;
mod program;
mod readme;
mod security;
mod settings;
mod terminal;
mod tools;
mod traces;
mod waits;
mod watch;
mod webhdfs;
