//! A Docker engine of the test's own, in a lab's balancer namespace: its networks, its firewall rules and its
//! "host network" are the lab's. No image can be pulled into it; tests make theirs from what is on this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::{Lab, own_binary};
use crate::netns::run;
use crate::process::Process;
use crate::recipe::repository;

/// A running engine. Dropping it kills it with all its containers.
#[derive(Debug)]
pub struct Engine {
    directory: PathBuf,
    _process: Process,
}

/// What came of starting an engine.
pub enum Start {
    Running(Engine),
    /// The engine is installed but cannot run on this machine; why.
    Impossible(String),
}

impl Engine {
    /// Starts dockerd and waits for its API.
    ///
    /// # Errors
    /// dockerd is not installed.
    pub fn start(lab: &Lab) -> Result<Start> {
        let directory = lab.directory().join("docker");
        std::fs::create_dir_all(&directory)?;
        let group = format!("/{}", lab.id());
        // The engine is killed before the lab is undone, but its processes take a moment to go.
        lab.undo_with(&format!(
            "for try in $(seq 100); do \
                 find /sys/fs/cgroup -depth -type d -path '*{group}*' -exec rmdir {{}} +; \
                 [ -n \"$(find /sys/fs/cgroup -type d -path '*{group}*')\" ] || break; sleep 0.1; \
             done"
        ))?;
        let mut command = lab.topology.lb.command("unshare")?;
        // In namespaces of its own for processes and mounts, nothing of it outlives it: not containerd, not
        // containers, not their file systems.
        command.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "dockerd",
        ]);
        for (option, file) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
            ("--config-file", "daemon.json"),
        ] {
            command.arg(option).arg(directory.join(file));
        }
        std::fs::write(directory.join("daemon.json"), "{}")?;
        command.args(["--cgroup-parent", &group, "--log-level", "warn"]);
        command.args([
            "--host",
            &format!("unix://{}", directory.join("sock").display()),
        ]);
        find("dockerd").context("there is no dockerd: run `cargo xtask setup`")?;
        let log = lab.directory().join("dockerd.log");
        let mut process = Process::start("dockerd", command, &log)?;
        let socket = directory.join("sock");
        let up = process.wait_until("an answer at its socket", Duration::from_secs(60), |_| {
            docker(&socket)
                .arg("version")
                .output()
                .is_ok_and(|output| output.status.success())
        });
        Ok(match up {
            Ok(()) => Start::Running(Self {
                directory,
                _process: process,
            }),
            Err(error) => Start::Impossible(format!("{error:#}")),
        })
    }

    /// `docker ARGUMENTS…`.
    pub fn docker(&self) -> Command {
        docker(&self.directory.join("sock"))
    }

    /// `docker compose ARGUMENTS…` on the repository's file, with the variables of the file `env`. Compose 2 is
    /// the one that `cargo xtask setup` unpacked, or the system's.
    ///
    /// # Errors
    /// There is none.
    pub fn compose(&self, env: &Path) -> Result<Command> {
        let plugin = "usr/libexec/docker/cli-plugins/docker-compose";
        let unpacked = repository().join("target/newer-packages/root").join(plugin);
        let mut command = if unpacked.exists() {
            Command::new(unpacked)
        } else {
            let mut docker = self.docker();
            let version = docker.args(["compose", "version"]).output()?;
            ensure!(
                version.status.success(),
                "there is no Docker Compose 2: run `cargo xtask setup`"
            );
            let mut docker = self.docker();
            docker.arg("compose");
            docker
        };
        command
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.directory.join("sock").display()),
            )
            .arg("--project-directory")
            .arg(repository())
            .arg("--file")
            .arg(repository().join("docker-compose.yml"))
            .arg("--env-file")
            .arg(env);
        Ok(command)
    }

    /// Makes the image `name` out of the directory `root`. `changes` are instructions of a Dockerfile.
    ///
    /// # Errors
    /// Docker's own message.
    pub fn import(&self, root: &Path, name: &str, changes: &[&str]) -> Result<()> {
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(root)
            .args(["--owner=0", "--group=0", "-c", "."])
            .stdout(Stdio::piped())
            .spawn()
            .context("start tar")?;
        let mut import = self.docker();
        import.arg("import");
        for change in changes {
            import.args(["--change", change]);
        }
        import.args(["-", name]);
        import.stdin(tar.stdout.take().context("tar's output is piped")?);
        let output = import.output().context("start docker")?;
        let tarred = tar.wait()?;
        if !output.status.success() || !tarred.success() {
            bail!(
                "docker import {name}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// An image like EMQX's, with the stand-in in the place of `/opt/emqx/bin/emqx`.
    ///
    /// # Errors
    /// Something to make it of is missing.
    pub fn import_emqx(&self, version: &str) -> Result<()> {
        let root = self.directory.join("emqx");
        install(&own_binary()?, &root, "opt/emqx/bin/emqx")?;
        self.import(
            &root,
            &format!("emqx/emqx:{version}"),
            &[
                "WORKDIR /opt/emqx",
                "VOLUME [\"/opt/emqx/log\", \"/opt/emqx/data\"]",
                "CMD [\"/opt/emqx/bin/emqx\", \"foreground\"]",
            ],
        )
    }

    /// Adds what `hosted/start-emqx.sh` finds in EMQX's image, which is Debian: a shell, tools, EMQX's user and
    /// entry point.
    ///
    /// # Errors
    /// Something to make it of is missing.
    pub fn add_shell(&self, version: &str) -> Result<()> {
        let root = self.directory.join("emqx");
        for (program, to) in [
            ("/bin/sh", "bin/sh"),
            ("/usr/bin/id", "usr/bin/id"),
            ("/bin/mkdir", "usr/bin/mkdir"),
            ("/bin/chown", "usr/bin/chown"),
            ("/usr/bin/setpriv", "usr/bin/setpriv"),
        ] {
            install(Path::new(program), &root, to)?;
        }
        std::fs::create_dir_all(root.join("etc"))?;
        let passwd = "root:x:0:0::/:/bin/sh\nemqx:x:1000:1000::/opt/emqx:/bin/sh\n";
        std::fs::write(root.join("etc/passwd"), passwd)?;
        std::fs::write(root.join("etc/group"), "root:x:0:\nemqx:x:1000:\n")?;
        let entry = root.join("usr/bin/docker-entrypoint.sh");
        // It is not for root: that is what the script is to see to.
        std::fs::write(
            &entry,
            "#!/bin/sh\n[ \"$(id -u)\" = 1000 ] && exec \"$@\"\n",
        )?;
        run(Command::new("chmod").arg("755").arg(entry))?;
        self.import_emqx(version)
    }

    /// An image like HAProxy's own, with a user of its own too, from Debian's HAProxy.
    ///
    /// # Errors
    /// Something to make it of is missing.
    pub fn import_haproxy(&self, version: &str) -> Result<()> {
        let root = self.directory.join("haproxy");
        let newer = repository().join("target/newer-packages/root");
        if newer.is_dir() {
            std::fs::create_dir_all(root.join("usr/local/sbin"))?;
            run(Command::new("cp")
                .arg("-a")
                .arg(newer.join("usr"))
                .arg(&root))?;
            std::fs::rename(
                root.join("usr/sbin/haproxy"),
                root.join("usr/local/sbin/haproxy"),
            )?;
            for directory in ["lib", "lib64"] {
                std::os::unix::fs::symlink(format!("usr/{directory}"), root.join(directory))?;
            }
        } else {
            install(
                Path::new("/usr/sbin/haproxy"),
                &root,
                "usr/local/sbin/haproxy",
            )?;
        }
        std::fs::create_dir_all(root.join("etc"))?;
        std::fs::write(root.join("etc/passwd"), "haproxy:x:99:99::/:/bin/false\n")?;
        self.import(
            &root,
            &format!("haproxy:{version}"),
            &[
                // Their entry point is a script that adds the program's name; what it is given is the same.
                "ENV PATH=/usr/local/sbin",
                "USER haproxy",
                "CMD [\"haproxy\", \"-f\", \"/usr/local/etc/haproxy/haproxy.cfg\"]",
            ],
        )
    }

    /// An image in place of Debian's, with the libraries that `program` needs and nothing else.
    ///
    /// # Errors
    /// Something to make it of is missing.
    pub fn import_debian(&self, name: &str, program: &Path) -> Result<()> {
        let root = self.directory.join("debian");
        install(program, &root, "unused")?;
        std::fs::remove_file(root.join("unused"))?;
        self.import(&root, name, &["ENV PATH=/usr/local/bin:/usr/bin:/bin"])
    }
}

fn docker(socket: &Path) -> Command {
    let mut docker = Command::new("docker");
    docker
        .arg("--host")
        .arg(format!("unix://{}", socket.display()));
    docker
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.exists())
}

/// Copies `program` to `to` in `root`, and its libraries to where they are here.
fn install(program: &Path, root: &Path, to: &str) -> Result<()> {
    let libraries = run(Command::new("ldd").arg(program))?;
    let libraries = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|path| (PathBuf::from(path), path.trim_start_matches('/').to_owned()));
    let program = (program.to_owned(), to.to_owned());
    for (from, to) in libraries.chain([program]) {
        let to = root.join(to);
        let directory = to.parent().context("a file has a directory")?;
        std::fs::create_dir_all(directory)?;
        std::fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
    }
    std::fs::create_dir_all(root.join("tmp"))?;
    Ok(())
}
