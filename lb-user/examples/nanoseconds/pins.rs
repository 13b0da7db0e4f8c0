//! The maps are pinned by name: they get a directory of their own.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Goes with everything in it when it is dropped.
pub struct PinDirectory(PathBuf);

impl PinDirectory {
    /// # Errors
    /// Not root, or no BPF file system.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let path = Path::new("/sys/fs/bpf").join(format!("mqlb-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| {
            format!(
                "create {} (root? a BPF file system on /sys/fs/bpf?)",
                path.display()
            )
        })?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}
