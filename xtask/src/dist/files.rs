//! Laying out a package's files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{self, run};

/// A directory that stands for the package's root.
pub struct Tree(pub PathBuf);

impl Tree {
    /// Copies `from` (relative ones are the workspace's) to `to` in the package.
    pub fn copy(&self, from: impl AsRef<Path>, to: &str, mode: u32) -> Result<()> {
        let from = workspace::root().join(from);
        let content = fs::read(&from).with_context(|| format!("read {}", from.display()))?;
        self.write(to, content, mode)
    }

    /// Copies `from` to `to`, compressed; `to` gets the ending `.gz`.
    pub fn compress(&self, from: impl AsRef<Path>, to: &str) -> Result<()> {
        self.copy(from, to, 0o644)?;
        self.gzip(to)
    }

    /// Compresses a file of the package, without its name and time.
    pub fn gzip(&self, path: &str) -> Result<()> {
        let mut gzip = Command::new("gzip");
        run(gzip
            .args(["-9", "--no-name", "--force"])
            .arg(self.0.join(path)))
    }

    /// Copies every file in the directory `from` to `to`, compressed.
    pub fn compress_all(&self, from: &Path, to: &str) -> Result<()> {
        for file in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
            let file = file?;
            let name = file.file_name();
            self.compress(file.path(), &format!("{to}/{}", name.display()))?;
        }
        Ok(())
    }

    pub fn write(&self, to: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let path = self.0.join(to);
        let parent = path.parent().context("a path in the package")?;
        // Whatever the umask is: nobody else would find their way in.
        for directory in parent
            .ancestors()
            .take_while(|dir| dir.starts_with(&self.0))
        {
            fs::create_dir_all(directory)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(fs::set_permissions(
            &path,
            fs::Permissions::from_mode(mode),
        )?)
    }
}
