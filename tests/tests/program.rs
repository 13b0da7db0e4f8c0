//! `mqlb-lab run` as a user runs it: what it prints, and that it leaves nothing behind.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::netns::run;
use serde_json::Value;

fn lab_run(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqlb-lab"));
    command.arg("run").args(arguments);
    if let Ok(balancer) = std::env::var("MQLB_LAB_BALANCER") {
        command.args(["--balancer", &balancer]);
    }
    command
}

#[test]
fn once_json_prints_one_object_with_what_happened() {
    let printed = run(lab_run(&["--once", "--json", "--clients", "100"]).stderr(Stdio::inherit()));
    let result: Value = serde_json::from_str(&printed.unwrap()).unwrap();
    let connections: Vec<_> = ["emqx1", "emqx2", "emqx3"]
        .map(|broker| result["connections"][broker].as_u64().unwrap())
        .into();
    assert_eq!(connections, [50, 20, 30]);
    for (key, value) in [("reconnects", 50), ("returned", 50), ("failed", 0)] {
        assert_eq!(result[key], value, "{key}");
    }
    if std::env::var("MQLB_LAB_BALANCER").is_err() {
        let steered = |who: &str| result["steered"][who].as_u64().unwrap();
        assert_eq!(steered("kernel") + steered("agent"), 150);
    }
}

#[test]
fn an_interrupted_lab_leaves_nothing_behind() {
    leaves_nothing_behind(libc::SIGINT);
}

#[test]
fn a_killed_lab_leaves_nothing_behind() {
    leaves_nothing_behind(libc::SIGKILL);
}

fn leaves_nothing_behind(signal: libc::c_int) {
    let mut lab = start(&["--clients", "30"]);
    let id = format!("mqlb-lab-{}-0", lab.id());
    assert!(!traces(&id).is_empty(), "a running lab is seen");
    let pid = libc::pid_t::try_from(lab.id()).unwrap();
    // SAFETY: kill touches no memory; the child is not reaped yet, so the number is its own.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    lab.wait().unwrap();
    // After SIGKILL another process cleans up, a moment later.
    let start = Instant::now();
    while !traces(&id).is_empty() && start.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(traces(&id), Vec::<String>::new());
}

/// Starts a lab and returns once some of its clients have reconnected.
fn start(arguments: &[&str]) -> Child {
    let mut lab = lab_run(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(lab.stdout.take().unwrap());
    let connected = output
        .lines()
        .map(Result::unwrap)
        .any(|line| line.contains("returned 1"));
    assert!(connected, "the lab ended before its clients were connected");
    lab
}

/// Namespaces, processes, directories and pins that carry the lab's name.
fn traces(id: &str) -> Vec<String> {
    let mut found = Vec::new();
    let namespaces = run(Command::new("ip").args(["netns", "list"])).unwrap();
    found.extend(
        namespaces
            .lines()
            .filter(|line| line.contains(id))
            .map(str::to_owned),
    );
    for directory in ["/run/mqlb-lab", "/sys/fs/bpf/mqlb"] {
        let path = Path::new(directory).join(id);
        if path.exists() {
            found.push(path.display().to_string());
        }
    }
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(id) {
            found.push(command);
        }
    }
    found
}
