//! `cargo xtask run` for whoever isn't root: `mqlb-lab run --unprivileged`, as nobody and without any capability.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lb_tests::mqlb::binary;
use lb_tests::netns::run;
use lb_tests::process::copy_program;
use serde_json::Value;

const NOBODY: u32 = 65534;

/// Programs that nobody may read, and a place to write to.
struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Self {
        let home = std::env::temp_dir().join(format!("mqlb-{name}-{}", std::process::id()));
        std::fs::create_dir_all(home.join("tmp")).unwrap();
        std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o755)).unwrap();
        chown(home.join("tmp"), Some(NOBODY), Some(NOBODY)).unwrap();
        copy_program(&binary().unwrap(), &home.join("mqlb")).unwrap();
        let lab = Path::new(env!("CARGO_BIN_EXE_mqlb-lab"));
        copy_program(lab, &home.join("mqlb-lab")).unwrap();
        Self(home)
    }

    fn lab_run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        let nobody = NOBODY.to_string();
        command
            .args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"])
            .args(["--inh-caps=-all", "--bounding-set=-all", "--"])
            .arg(self.0.join("mqlb-lab"))
            .args(["run", "--unprivileged"])
            .args(arguments)
            .env("TMPDIR", self.0.join("tmp"))
            .env("MQLB_BIN", self.0.join("mqlb"))
            .env_remove("XDG_RUNTIME_DIR");
        command
    }

    /// Directories of labs, and processes that were started from here.
    fn traces(&self) -> Vec<String> {
        let labs = self.0.join("tmp").join(format!("mqlb-lab-{NOBODY}"));
        let labs = std::fs::read_dir(labs).unwrap().flatten();
        let labs = labs.filter(|entry| entry.path().is_dir());
        let mut found: Vec<_> = labs.map(|e| e.path().display().to_string()).collect();
        let home = self.0.display().to_string();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(&home) {
                found.push(command);
            }
        }
        found
    }

    fn is_clean(&self) {
        let start = Instant::now();
        while !self.traces().is_empty() && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.traces(), Vec::<String>::new());
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Only files of its own are in there.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn clients_are_spread_and_come_back_by_the_proxy() {
    let home = Home::new("nobody");
    let mut lab = home.lab_run(&["--once", "--json", "--clients", "100"]);
    let printed = run(lab.stderr(Stdio::inherit())).unwrap();
    let result: Value = serde_json::from_str(&printed).unwrap();
    let connections = ["emqx1", "emqx2", "emqx3"].map(|b| result["connections"][b].as_u64());
    assert_eq!(connections, [Some(50), Some(20), Some(30)]);
    for (key, value) in [("reconnects", 50), ("returned", 50), ("failed", 0)] {
        assert_eq!(result[key], value, "{key}");
    }
    assert_eq!(result["steered"]["agent"], 150);
    assert_eq!(result["steered"]["kernel"], 0);
    home.is_clean();
}

#[test]
fn a_killed_lab_leaves_nothing_behind() {
    let home = Home::new("killed");
    let log = home.0.join("log");
    let mut lab = home
        .lab_run(&["--clients", "30"])
        .stdout(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !has_returned(&log) {
        assert!(start.elapsed() < Duration::from_secs(60), "no clients");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!home.traces().is_empty(), "a running lab is seen");
    lab.kill().unwrap();
    lab.wait().unwrap();
    home.is_clean();
}

fn has_returned(log: &Path) -> bool {
    std::fs::read_to_string(log).is_ok_and(|text| text.contains("returned 1"))
}

#[test]
fn what_needs_root_is_refused() {
    let home = Home::new("refused");
    let mut lab = home.lab_run(&["--once", "--balancer", "haproxy"]);
    let error = run(&mut lab).unwrap_err().to_string();
    assert!(error.contains("leave --balancer"), "{error}");
}
