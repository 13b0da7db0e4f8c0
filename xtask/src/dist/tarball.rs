//! The tarball: what the Debian package holds, for other systems.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::files::Tree;
use super::{Release, UNITS};
use crate::workspace::run;

/// Packs `mqlb-VERSION/` into `output` and returns the tarball's name.
pub fn pack(release: &Release, work: &Path, output: &Path) -> Result<String> {
    let directory = format!("mqlb-{}", release.version);
    let tree = Tree(work.join(&directory));
    tree.copy(&release.program, "mqlb", 0o755)?;
    for (from, to) in [
        ("packaging/mqlb.toml", "mqlb.toml"),
        ("CHANGELOG.md", "CHANGELOG.md"),
        ("docs/operating.md", "docs/operating.md"),
        ("docs/configuration.md", "docs/configuration.md"),
        ("LICENSE-MIT", "LICENSE-MIT"),
        ("LICENSE-APACHE", "LICENSE-APACHE"),
        ("LICENSE-GPL-2.0", "LICENSE-GPL-2.0"),
    ] {
        tree.copy(from, to, 0o644)?;
    }
    for unit in UNITS {
        tree.copy(format!("packaging/{unit}"), unit, 0o644)?;
    }
    tree.write("THIRD-PARTY", &release.third_party, 0o644)?;
    for part in ["man1", "completions"] {
        for file in std::fs::read_dir(release.documents.join(part))? {
            let file = file?;
            let to = format!("{part}/{}", file.file_name().display());
            tree.copy(file.path(), &to, 0o644)?;
        }
    }
    let name = format!("{directory}-{}-linux.tar.gz", std::env::consts::ARCH);
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .arg(format!("--mtime=@{}", release.time))
        .args(["--use-compress-program=gzip -9 --no-name", "--create"])
        .arg("--file")
        .arg(output.join(&name))
        .arg("--directory")
        .arg(work)
        .arg(&directory);
    run(&mut tar)?;
    Ok(name)
}
