//! Every test that needs more than one crate, and what those tests share. Nothing depends on it.
//!
//! `harness` starts clusters inside the process; `tests/cluster` uses it. `tests/e2e` runs the real binary. The deterministic
//! simulation is the module and binary `sim`, built with `cfg(cairn_sim)`.

pub mod harness;
#[cfg(cairn_sim)]
pub mod sim;
