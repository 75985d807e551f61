//! Datanodes in one process, on real sockets and disks, with a namenode that only says yes.

mod harness;
mod instructions;
mod namenode;
mod pipeline;
mod reads;
mod restart;
mod throughput;
mod volumes;
