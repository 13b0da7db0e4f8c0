//! The Debian package. Its maintainer scripts are in `packaging/debian`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::files::Tree;
use super::{Release, UNITS, stdout};
use crate::workspace::run;

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Kept as the administrator has changed it.
const CONFIGURATION: &str = "etc/mqlb/mqlb.toml";

/// Lays the package out in `root`, packs it into `output` and returns its name.
pub fn package(release: &Release, root: &Path, output: &Path) -> Result<String> {
    let tree = Tree(root.to_owned());
    lay_out(release, &tree)?;
    control(release, &tree)?;
    let version = version(&release.version, release.revision);
    let name = format!("mqlb_{version}_{}.deb", architecture()?);
    let mut deb = Command::new("dpkg-deb");
    deb.args(["--root-owner-group", "--build"])
        .arg(format!("-Z{}", release.compression))
        .args([root, &output.join(&name)])
        .env("SOURCE_DATE_EPOCH", release.time.to_string());
    run(&mut deb)?;
    Ok(name)
}

fn lay_out(release: &Release, tree: &Tree) -> Result<()> {
    tree.copy(&release.program, "usr/bin/mqlb", 0o755)?;
    for unit in UNITS {
        let to = format!("usr/lib/systemd/system/{unit}");
        tree.copy(format!("packaging/{unit}"), &to, 0o644)?;
    }
    tree.copy("packaging/mqlb.toml", CONFIGURATION, 0o644)?;
    tree.compress_all(&release.documents.join("man1"), "usr/share/man/man1")?;
    for (from, to) in [
        ("mqlb.bash", "bash-completion/completions/mqlb"),
        ("_mqlb", "zsh/vendor-completions/_mqlb"),
        ("mqlb.fish", "fish/vendor_completions.d/mqlb.fish"),
    ] {
        let from = release.documents.join("completions").join(from);
        tree.copy(from, &format!("usr/share/{to}"), 0o644)?;
    }
    let doc = "usr/share/doc/mqlb";
    let copyright = format!("{doc}/copyright");
    tree.copy("packaging/debian/copyright", &copyright, 0o644)?;
    tree.compress("CHANGELOG.md", &format!("{doc}/changelog"))?;
    for page in ["operating.md", "configuration.md"] {
        tree.compress(format!("docs/{page}"), &format!("{doc}/{page}"))?;
    }
    for (file, text) in [
        ("changelog.Debian", changelog(release)?),
        ("third-party", release.third_party.clone()),
    ] {
        let path = format!("{doc}/{file}");
        tree.write(&path, text, 0o644)?;
        tree.gzip(&path)?;
    }
    let overrides = "usr/share/lintian/overrides/mqlb";
    tree.copy("packaging/debian/lintian-overrides", overrides, 0o644)
}

/// The files that dpkg reads. The list of sums is of all others.
fn control(release: &Release, tree: &Tree) -> Result<()> {
    let mut find = Command::new("find");
    let files = ["usr", "-type", "f", "-printf", "%P\\0"];
    let found = stdout(find.args(files).current_dir(&tree.0))?;
    let mut files: Vec<_> = found.split_terminator('\0').collect();
    files.sort_unstable();
    let mut md5sum = Command::new("md5sum");
    md5sum.args(files.iter().map(|file| format!("usr/{file}")));
    let sums = stdout(md5sum.current_dir(&tree.0))?;
    let size = files.iter().map(|file| {
        fs::metadata(tree.0.join("usr").join(file)).map(|file| file.len().div_ceil(1024))
    });
    let size = size.sum::<std::io::Result<u64>>()?;

    tree.write("DEBIAN/md5sums", sums, 0o644)?;
    tree.write("DEBIAN/conffiles", format!("/{CONFIGURATION}\n"), 0o644)?;
    for script in SCRIPTS {
        let from = format!("packaging/debian/{script}");
        tree.copy(from, &format!("DEBIAN/{script}"), 0o755)?;
    }
    let text = format!(
        "Package: mqlb\nVersion: {}\nArchitecture: {}\nMaintainer: {}\nInstalled-Size: {size}\n\
         Depends: adduser\nSection: net\nPriority: optional\n\
         Description: MQTT load balancer in XDP\n \
         Reads the client identifier from each CONNECT, sends the client to the broker\n \
         that it belongs to, and gets out of the way: an XDP program forwards the\n \
         connection, which outlives restarts and upgrades of this package's agent.\n",
        version(&release.version, release.revision),
        architecture()?,
        maintainer(),
    );
    tree.write("DEBIAN/control", text, 0o644)
}

/// Debian's name for this machine's kind.
fn architecture() -> Result<String> {
    let mut dpkg = Command::new("dpkg");
    let name = stdout(dpkg.arg("--print-architecture"))?;
    Ok(name.trim().to_owned())
}

/// A pre-release sorts before the release, which Debian writes with `~`.
fn version(cargo: &str, revision: u32) -> String {
    format!("{}-{revision}", cargo.replacen('-', "~", 1))
}

/// As Debian's own tools take it from the environment.
fn maintainer() -> String {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let name = set("DEBFULLNAME").unwrap_or_else(|| "The mqlb authors".to_owned());
    let email = set("DEBEMAIL").unwrap_or_else(|| "mqlb@localhost".to_owned());
    format!("{name} <{email}>")
}

fn changelog(release: &Release) -> Result<String> {
    let mut date = Command::new("date");
    let at = format!("@{}", release.time);
    let date = stdout(date.args(["-u", "-R", "-d", &at]).env("LC_ALL", "C"))
        .context("write the time as RFC 5322 has it")?;
    Ok(format!(
        "mqlb ({}) unstable; urgency=medium\n\n  * changelog.gz says what is new.\n\n -- {}  {}\n",
        version(&release.version, release.revision),
        maintainer(),
        date.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prerelease_sorts_before_its_release() {
        assert_eq!(version("0.1.0", 1), "0.1.0-1");
        assert_eq!(version("0.2.0-rc.1", 3), "0.2.0~rc.1-3");
    }
}
