//! Whole clusters in one process: one file per behaviour.

mod files;
