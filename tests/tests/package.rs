//! The Debian package, from its making to its purge, under a systemd of its own.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use lb_tests::balancer::Options;
use lb_tests::fleet::Fleet;
use lb_tests::lab::Lab;
use lb_tests::machine::{Machine, text};
use lb_tests::mqlb;
use lb_tests::netns::run;
use lb_tests::pace::{here, slowness};

const CLIENTS: u32 = 300;

/// The package of the `mqlb` under test: `MQLB_PACKAGES` has its revisions, or it is made here.
fn package(lab: &Lab, revision: u32) -> PathBuf {
    let name = format!("revision{revision}");
    let output = match std::env::var_os("MQLB_PACKAGES") {
        Some(packages) => PathBuf::from(packages).join(name),
        None => {
            let xtask = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/xtask");
            assert!(xtask.is_file(), "`cargo build -p xtask` first");
            let output = lab.directory().join(name);
            let mut make = Command::new(xtask);
            make.args(["dist", "--revision", &revision.to_string(), "--binary"])
                .arg(mqlb::binary().unwrap())
                .arg("--output")
                .arg(&output);
            run(&mut make).unwrap();
            output
        }
    };
    let mut sums = Command::new("sha256sum");
    run(sums.args(["--check", "SHA256SUMS"]).current_dir(&output)).unwrap();
    let version = env!("CARGO_PKG_VERSION").replacen('-', "~", 1);
    let start = format!("mqlb_{version}-{revision}_");
    let files = std::fs::read_dir(&output).unwrap();
    let mut files = files.map(|file| file.unwrap());
    files
        .find(|file| file.file_name().to_string_lossy().starts_with(&start))
        .expect("a package")
        .path()
}

/// A copy in the lab's directory: of other file systems than the root's a machine sees nothing.
fn seen_inside(lab: &Lab, package: &Path) -> PathBuf {
    let copy = lab.directory().join(package.file_name().unwrap());
    std::fs::copy(package, &copy).unwrap();
    copy
}

/// The lab's, with the state where the unit has it.
fn configuration(lab: &Lab) -> String {
    mqlb::configuration(lab, &Options::default())
        .lines()
        .filter(|line| !line.starts_with("state_dir"))
        .fold(String::new(), |text, line| text + line + "\n")
}

fn property(machine: &Machine, name: &str) -> String {
    let show = ["systemctl", "show", "--value", "--property", name, "mqlb"];
    machine.succeed(&show).unwrap().trim().to_owned()
}

/// Waits until a property of the service is something else than `before`.
fn changed(machine: &Machine, name: &str, before: &str, limit: Duration) -> String {
    let begun = Instant::now();
    loop {
        let now = property(machine, name);
        if now != before && property(machine, "ActiveState") == "active" {
            return now;
        }
        assert!(begun.elapsed() < limit, "{name} is still {now:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Nobody was cut off, and some who leave and come back find their broker.
fn serves(fleet: &Fleet, what: &str) {
    assert_eq!(fleet.gauges.lost.load(Relaxed), 0, "{what}");
    fleet.disconnect(0..50).unwrap();
    let back = fleet.connect(0..50).unwrap();
    back.check().unwrap();
    assert_eq!(back.returned, 50, "{what}");
}

#[test]
fn installed_upgraded_reloaded_hung_and_removed() {
    let lab = common::lab_with_brokers(3);
    let [old, new] = [1, 2].map(|revision| seen_inside(&lab, &package(&lab, revision)));
    let machine = Machine::boot(&lab).unwrap_or_else(|error| panic!("{error:#}"));
    let shell = |command: &str| {
        machine
            .succeed(&["sh", "-c", command])
            .unwrap_or_else(|error| panic!("{error:#}"))
    };
    let install = |package: &Path| shell(&format!("dpkg --install {}", package.display()));

    // Installed: nothing runs, everything is there.
    let said = install(&old);
    assert!(said.contains("systemctl enable --now mqlb"), "{said}");
    assert_eq!(property(&machine, "ActiveState"), "inactive");
    shell("dpkg --verify mqlb && id mqlb && mqlb --version");
    let files = shell("dpkg --listfiles mqlb");
    for file in [
        "/usr/share/man/man1/mqlb.1.gz",
        "/usr/share/man/man1/mqlb-drain.1.gz",
        "/usr/share/bash-completion/completions/mqlb",
        "/usr/share/zsh/vendor-completions/_mqlb",
        "/usr/share/fish/vendor_completions.d/mqlb.fish",
        "/usr/share/doc/mqlb/copyright",
        "/usr/share/doc/mqlb/third-party.gz",
    ] {
        assert!(files.lines().any(|line| line == file), "{file} in {files}");
    }
    shell("mqlb check --config /etc/mqlb/mqlb.toml");
    shell("systemd-analyze verify /usr/lib/systemd/system/mqlb.service");
    shell("bash -c '. /usr/share/bash-completion/completions/mqlb && complete -p mqlb'");
    let audit = "systemd-analyze security --offline=yes --threshold=25";
    shell(&format!("{audit} /usr/lib/systemd/system/mqlb.service"));

    // Started: by a user of its own, who sees its own pins and no others.
    let configuration = configuration(&lab);
    let file = machine.file("/etc/mqlb/mqlb.toml");
    std::fs::write(&file, &configuration).unwrap();
    shell("systemctl start mqlb");
    assert_eq!(
        property(&machine, "StatusText"),
        "serving; 3 of 3 backends up"
    );
    let pid = property(&machine, "MainPID");
    assert_eq!(shell(&format!("ps -o user= {pid}")).trim(), "mqlb");
    shell("test \"$(stat -c %a:%U /sys/fs/bpf)\" = 1700:root");
    shell("mkdir /sys/fs/bpf/others");
    assert_eq!(shell(&format!("ls /proc/{pid}/root/sys/fs/bpf")), "mqlb\n");
    let ports = shell("cat /proc/sys/net/ipv4/ip_local_reserved_ports");
    assert_eq!(ports.trim(), "10000-32767");

    let fleet = lab.fleet().unwrap();
    fleet.connect(0..CLIENTS).unwrap().check().unwrap();
    serves(&fleet, "started");

    // Upgraded: another agent, the same sessions. The administrator's file is kept.
    install(&new);
    let upgraded = property(&machine, "MainPID");
    assert_ne!(upgraded, pid, "the new agent runs");
    assert_eq!(property(&machine, "ActiveState"), "active");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), configuration);
    assert!(shell("dpkg-query --show mqlb").contains("-2"));
    serves(&fleet, "upgraded");

    // Reloaded: what is wrong changes nothing, and is said.
    shell("systemctl reload mqlb");
    std::fs::write(&file, "[xdp]\ninterfaces = 7\n").unwrap();
    assert!(
        !machine
            .run(&["systemctl", "reload", "mqlb"])
            .unwrap()
            .status
            .success()
    );
    std::fs::write(&file, &configuration).unwrap();
    shell("systemctl reload mqlb");
    assert_eq!(property(&machine, "MainPID"), upgraded);
    assert_eq!(property(&machine, "ActiveState"), "active");

    // Killed, then hung: systemd starts another one.
    shell(&format!("kill -9 {upgraded}"));
    let third = changed(
        &machine,
        "MainPID",
        &upgraded,
        here(Duration::from_secs(20)),
    );
    serves(&fleet, "killed");
    let (watchdog, stop) = (2 * slowness(), slowness());
    let hurry = format!("[Service]\nWatchdogSec={watchdog}s\nTimeoutStopSec={stop}s\n");
    shell(&format!(
        "mkdir -p /run/systemd/system/mqlb.service.d && printf '{hurry}' >/run/systemd/system/mqlb.service.d/hurry.conf \
         && systemctl daemon-reload && systemctl restart mqlb"
    ));
    let fourth = changed(&machine, "MainPID", &third, here(Duration::from_secs(20)));
    shell(&format!("kill -STOP {fourth}"));
    changed(&machine, "MainPID", &fourth, here(Duration::from_secs(30)));
    let journal = shell("journalctl --unit mqlb --no-pager");
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    serves(&fleet, "hung");

    // Stopped: the sessions go on. Removed: they end, and it says so.
    shell("systemctl stop mqlb");
    assert_eq!(property(&machine, "ActiveState"), "inactive");
    assert_eq!(fleet.gauges.lost.load(Relaxed), 0);
    shell("systemctl start mqlb");
    serves(&fleet, "stopped and started");
    let said = shell("dpkg --remove mqlb");
    assert!(said.contains("the sessions through it end"), "{said}");
    shell("! ls /sys/fs/bpf/mqlb && test -e /etc/mqlb/mqlb.toml -a -e /var/lib/mqlb");
    let links = run(lab
        .topology
        .lb
        .command("ip")
        .unwrap()
        .args(["link", "show"]))
    .unwrap();
    assert!(!links.contains("xdp"), "{links}");
    let said = shell("dpkg --purge mqlb");
    assert!(!said.contains("not empty"), "{said}");
    shell("! test -e /etc/mqlb && ! test -e /var/lib/mqlb");
}

/// An agent that somebody runs by hand must not lose its program's package, and says whom it serves.
#[test]
fn a_package_in_use_by_hand_is_not_removed() {
    let lab = common::lab_with_brokers(1);
    let package = seen_inside(&lab, &package(&lab, 1));
    let machine = Machine::boot(&lab).unwrap_or_else(|error| panic!("{error:#}"));
    let install = format!("dpkg --install {}", package.display());
    machine.succeed(&["sh", "-c", &install]).unwrap();
    std::fs::write(machine.file("/etc/mqlb/mqlb.toml"), configuration(&lab)).unwrap();
    let by_hand = ["systemd-run", "--unit=by-hand", "--property=Type=notify"];
    let agent = ["/usr/bin/mqlb", "run", "--config", "/etc/mqlb/mqlb.toml"];
    machine.succeed(&[&by_hand[..], &agent].concat()).unwrap();
    let fleet = lab.fleet().unwrap();
    fleet.connect(0..20).unwrap().check().unwrap();

    let refused = machine.run(&["dpkg", "--remove", "mqlb"]).unwrap();
    assert!(!refused.status.success());
    let said = text(&refused);
    assert!(said.contains("another mqlb runs"), "{said}");
    assert_eq!(fleet.gauges.lost.load(Relaxed), 0);

    // What root pinned and wrote, the service takes over.
    machine.succeed(&["systemctl", "stop", "by-hand"]).unwrap();
    machine.succeed(&["dpkg", "--configure", "-a"]).unwrap();
    machine
        .succeed(&["systemctl", "start", "mqlb"])
        .unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(fleet.gauges.lost.load(Relaxed), 0);
    fleet.connect(20..40).unwrap().check().unwrap();
    machine.succeed(&["dpkg", "--purge", "mqlb"]).unwrap();
}
