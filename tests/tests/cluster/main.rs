//! Whole clusters in one process: one file per behaviour.

mod corruption;
mod datanode_loss;
mod files;
mod leader;
mod members;
mod restart;
mod sharing;
mod space;
mod sync;
mod transactions;
