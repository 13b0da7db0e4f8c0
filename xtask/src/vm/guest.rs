//! A virtual machine in qemu that runs one job among this machine's files.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::initramfs;
use super::kernel::Kernel;

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Acceleration {
    /// The processor itself.
    Kvm,
    /// qemu: an order of magnitude slower, but everywhere.
    Tcg,
}

impl Acceleration {
    /// KVM, if there is a processor that has what it takes and we may use it.
    ///
    /// A /dev/kvm alone means little: under some hypervisors it only runs kernels that know of them.
    pub fn detect() -> Self {
        let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let device = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        match device.is_ok() && virtualises(&processor) {
            true => Self::Kvm,
            false => Self::Tcg,
        }
    }

    /// How much longer everything may take.
    pub fn slowness(self) -> u32 {
        match self {
            Self::Kvm => 1,
            Self::Tcg => 6,
        }
    }
}

/// `processor` is the content of /proc/cpuinfo: Intel calls it vmx, AMD svm.
fn virtualises(processor: &str) -> bool {
    processor
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm")
}

/// A guest, before it starts.
pub struct Guest<'a> {
    pub kernel: &'a Kernel,
    pub acceleration: Acceleration,
    /// Its files, the console's output among them, are called this.
    pub name: &'a str,
    /// Where they are.
    pub directory: &'a Path,
    pub megabytes: u32,
    /// More of qemu's arguments.
    pub devices: Vec<String>,
    /// Lines of shell.
    pub job: &'a str,
    pub limit: Duration,
}

impl Guest<'_> {
    /// Boots it, hands each line that the job prints to `heard`, and returns the job's exit code.
    ///
    /// # Errors
    /// qemu doesn't start, the kernel panics, or the job isn't done within the limit: the machine is ended then.
    /// The message holds the end of the console.
    pub fn run(&self, mut heard: impl FnMut(&str)) -> Result<i32> {
        std::fs::create_dir_all(self.directory)?;
        let archive = self.file("cpio");
        initramfs::make(self.kernel, self.job, &archive).context("build the initramfs")?;
        let mut machine = self.qemu(&archive);
        let mut machine = machine.spawn().context("start qemu-system-x86_64")?;
        let output = machine.stdout.take().context("its output is piped")?;
        let mut code = None;
        for line in BufReader::new(output).split(b'\n') {
            // Programs may print anything: not all of it is UTF-8.
            let line = line.context("read the guest's output")?;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            match line.strip_prefix(initramfs::EXIT) {
                Some(number) => code = number.trim().parse().ok(),
                None => heard(line),
            }
        }
        let status = machine.wait().context("wait for qemu")?;
        std::fs::remove_file(&archive).context("remove the initramfs")?;
        match (code, status.code()) {
            (Some(code), _) => Ok(code),
            (None, Some(124)) => bail!(
                "guest {} was ended: it was not done after {} s{}",
                self.name,
                self.limit.as_secs(),
                self.console()
            ),
            _ => bail!(
                "guest {} ended before its job ({status}){}",
                self.name,
                self.console()
            ),
        }
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.directory.join(format!("{}.{extension}", self.name))
    }

    fn qemu(&self, archive: &Path) -> Command {
        let mut machine = Command::new("timeout");
        machine
            // In the foreground, so that the terminal's Ctrl-C reaches qemu too.
            .args(["--foreground", "--kill-after=5"])
            .arg(self.limit.as_secs().to_string())
            .arg("qemu-system-x86_64");
        match self.acceleration {
            Acceleration::Kvm => machine.args(["-accel", "kvm", "-cpu", "host"]),
            Acceleration::Tcg => machine.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
        };
        machine
            .args(["-smp", "2", "-m", &self.megabytes.to_string()])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-device", "virtio-rng-pci"])
            .arg("-serial")
            .arg(format!("file:{}", self.file("console").display()))
            .args(["-device", "virtio-serial-pci"])
            .args(["-chardev", "file,id=output,path=/dev/stdout"])
            .arg("-device")
            .arg(format!(
                "virtserialport,chardev=output,name={}",
                initramfs::PORT
            ))
            .arg("-fsdev")
            .arg("local,id=files,path=/,security_model=none,readonly=on,multidevs=remap")
            .arg("-device")
            .arg(format!(
                "virtio-9p-pci,fsdev=files,mount_tag={}",
                initramfs::FILES
            ))
            .args(&self.devices)
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(archive)
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            // Where the sockets between guests are: their paths may only be short.
            .current_dir(self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        machine
    }

    /// The end of what the kernel had to say, to add to a message.
    fn console(&self) -> String {
        const LINES: usize = 40;
        let file = self.file("console");
        let text = std::fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(LINES)..].join("\n");
        format!("; the end of its console, {}:\n{end}", file.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_flag_of_the_processor_counts() {
        assert!(virtualises("model name : x\nflags\t\t: fpu vmx sse\n"));
        assert!(virtualises("flags\t\t: svm\n"));
        assert!(!virtualises(
            "model name : vmx\nflags\t\t: fpu hypervisor\n"
        ));
        assert!(!virtualises(""));
    }
}
