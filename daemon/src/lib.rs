//! What every process needs: config, tasks, clock, disk, durable files, telemetry. Depends on nothing of ours.

pub mod disk;
