//! A virtual machine that runs one program as all of its user space, under software emulation.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{root, workspace};

/// Marks our lines among the kernel's on the console.
const MARK: &str = "xtask-vm:";

/// Runs as process 1; the loader's lines and its exit code go to the console.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t bpf bpf /sys/fs/bpf
/bin/load >/out 2>&1
code=$?
while read -r line; do echo "xtask-vm:$line"; done </out
echo "xtask-vm:exit $code"
/bin/busybox poweroff -f
"#;

/// Boots `kernel` with nothing but `program` (and its libraries), which gets bpffs, /proc and
/// /sys, and returns what it printed. Scratch files go below `directory`.
///
/// # Errors
/// The machine did not come up within some minutes, or the program failed in it.
pub fn run(kernel: &Path, program: &Path, directory: &Path) -> Result<String> {
    let tree = Scratch::create(directory.join(format!("initramfs-{}", std::process::id())))?;
    fill(&tree.0, program).context("build the initramfs")?;
    let archive = tree.0.with_extension("cpio");
    pack(&tree.0, &archive)?;
    let output = boot(kernel, &archive);
    std::fs::remove_file(&archive).context("remove the initramfs")?;
    outcome(&output?)
}

/// A directory that goes when we are done with it.
struct Scratch(PathBuf);

impl Scratch {
    fn create(path: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("xtask: remove {}: {error}", self.0.display());
        }
    }
}

fn fill(tree: &Path, program: &Path) -> Result<()> {
    for directory in ["proc", "sys", "dev", "bin"] {
        std::fs::create_dir_all(tree.join(directory))?;
    }
    let busybox = root::find("busybox").context("there is no busybox")?;
    for (file, name) in [(program, "bin/load"), (&busybox, "bin/busybox")] {
        std::fs::copy(file, tree.join(name)).with_context(|| format!("copy {}", file.display()))?;
        for library in libraries(file)? {
            let to = tree.join(library.strip_prefix("/").unwrap_or(&library));
            std::fs::create_dir_all(to.parent().context("libraries are in directories")?)?;
            std::fs::copy(&library, &to).with_context(|| format!("copy {}", library.display()))?;
        }
    }
    let init = tree.join("init");
    std::fs::write(&init, INIT)?;
    std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The shared libraries that `program` loads, its interpreter included; none if it is static.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("start ldd")?;
    Ok(library_paths(&String::from_utf8_lossy(&output.stdout)))
}

/// `output` is ldd's: "name => path (address)" or "path (address)".
fn library_paths(output: &str) -> Vec<PathBuf> {
    output
        .lines()
        .flat_map(str::split_whitespace)
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let quoted = r#"find . | cpio --quiet -o -H newc >"$1""#;
    workspace::run(
        Command::new("sh")
            .args(["-c", quoted, "sh"])
            .arg(archive)
            .current_dir(tree),
    )
}

/// The console's output.
fn boot(kernel: &Path, initramfs: &Path) -> Result<String> {
    let mut machine = Command::new("timeout");
    machine
        .args([
            "300",
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "1536",
        ])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = machine.output().context("start qemu-system-x86_64")?;
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "the virtual machine ended with {}; its console:\n{console}",
            output.status
        );
    }
    Ok(console)
}

/// What the program printed, if it exited with 0.
fn outcome(console: &str) -> Result<String> {
    let lines: Vec<_> = console
        .lines()
        .filter_map(|line| Some(line.split_once(MARK)?.1.trim_end()))
        .collect();
    match lines.split_last() {
        Some((&"exit 0", printed)) => Ok(printed.join("\n")),
        Some((last, printed)) if last.starts_with("exit ") => bail!("{}", printed.join("\n")),
        _ => bail!("the program did not run to its end; the console:\n{console}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_told_from_the_program() {
        let console = "[ 1.0] random: crng\r\nxtask-vm:mqlb 211000\r\nxtask-vm:exit 0\r\n[ 2.0] reboot: Power down\r\n";
        assert_eq!(outcome(console).expect("exit 0"), "mqlb 211000");
        let refused = outcome("xtask-vm:mqlb is refused: EINVAL\r\nxtask-vm:exit 1\r\n");
        assert!(refused.is_err_and(|error| error.to_string() == "mqlb is refused: EINVAL"));
        assert!(outcome("Kernel panic\r\n").is_err());
        assert!(outcome("xtask-vm:mqlb 211000\r\n").is_err(), "no exit code");
    }

    #[test]
    fn ldd_names_libraries_and_the_interpreter() {
        let output = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(library_paths(output), expected.map(PathBuf::from));
        assert!(library_paths("\tnot a dynamic executable\n").is_empty());
    }
}
