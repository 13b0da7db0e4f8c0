//! What the kernel says of a process's open descriptors: /proc/PID/fdinfo, of BPF maps and programs.

use anyhow::Result;

/// One of them.
pub struct Info(pub String);

/// All of a process.
///
/// # Errors
/// It is gone.
pub fn of(pid: u32) -> Result<Vec<Info>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed meanwhile.
        if let Ok(text) = std::fs::read_to_string(entry?.path()) {
            all.push(Info(text));
        }
    }
    Ok(all)
}

impl Info {
    /// A field; `None` if there is none, or if it is no number.
    pub fn number(&self, key: &str) -> Option<u64> {
        let mut lines = self.0.lines();
        let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"))?;
        value.parse().ok()
    }
}
