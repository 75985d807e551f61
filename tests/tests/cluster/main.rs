//! Whole clusters in one process: one file per behaviour.

mod datanode_loss;
mod files;
mod leader;
mod restart;
