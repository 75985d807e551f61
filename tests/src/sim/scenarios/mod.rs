//! Named histories that random seeds may take long to find. Each is a test of its own.

use super::run::Report;

/// All scenarios.
pub const NAMES: &[&str] = &[];

/// Runs one; `None` if there is none of that name.
pub fn run_scenario(_name: &str) -> Option<Report> {
    None
}
