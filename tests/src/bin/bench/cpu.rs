//! CPU time of this process and of the cluster's, from /proc.

/// Ticks of /proc/PID/stat per second; fixed at 100 for user space on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Whose CPU time counts.
pub(crate) struct Cpu {
    pids: Vec<u32>,
}

impl Cpu {
    pub(crate) fn new(mut pids: Vec<u32>) -> Self {
        pids.push(std::process::id());
        Self { pids }
    }

    /// User and system seconds so far. A process that has ended counts nothing.
    pub(crate) fn seconds(&self) -> f64 {
        self.pids
            .iter()
            .map(|pid| ticks(*pid).unwrap_or(0) as f64 / TICKS_PER_SECOND)
            .sum()
    }
}

fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain spaces: fields are counted after its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some(user + system)
}
