//! The list of figures: `bench-results/core.json` and the table that people read.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What was done.
    pub work: String,
    /// How much, in `unit`.
    pub value: f64,
    /// `MiB/s`, `ops/s`, `us`, `s`, `MiB`, `B/file`.
    pub unit: String,
    /// CPU seconds per GiB, or per million operations where the unit is ops/s; of all processes together.
    pub cpu_s_per_gib: Option<f64>,
    /// The same work on the local disk, in the same unit.
    pub local: Option<f64>,
}

/// All figures so far.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Figure>);

impl Report {
    /// The figures of an earlier part, if there are any.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Self(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Adds a figure, in place of an older one of the same work.
    pub(crate) fn add(
        &mut self,
        work: &str,
        value: f64,
        unit: &str,
        cpu: Option<f64>,
        local: Option<f64>,
    ) {
        eprintln!("{work}: {value:.1} {unit}");
        self.0.retain(|figure| figure.work != work);
        self.0.push(Figure {
            work: work.into(),
            value,
            unit: unit.into(),
            cpu_s_per_gib: cpu,
            local,
        });
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, serde_json::to_vec_pretty(&self.0)?)?;
        Ok(())
    }

    pub(crate) fn print(&self) {
        println!(
            "{:<44} {:>12} {:<7} {:>14} {:>12}",
            "work", "cairn", "unit", "CPU-s/GiB|Mop", "local"
        );
        for figure in &self.0 {
            let optional = |value: Option<f64>| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
            };
            println!(
                "{:<44} {:>12.1} {:<7} {:>14} {:>12}",
                figure.work,
                figure.value,
                figure.unit,
                optional(figure.cpu_s_per_gib),
                optional(figure.local)
            );
        }
    }
}
