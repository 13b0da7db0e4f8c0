//! What runs in a guest, and what came of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::guest::Acceleration;
use super::initramfs::quoted;
use crate::test::{TestBinary, Totals, build_tests};
use crate::workspace::Metadata;
use crate::{dist, run, verify};

/// Begins the lines between which a program's output is.
const BEGIN: &str = "xtask-vm:begin ";
const END: &str = "xtask-vm:end ";

/// Test files that don't run in a guest, and why.
pub const LEFT_OUT: [(&str, &str); 1] = [(
    "compose",
    "starts a Docker engine, which needs a file system of its own below it",
)];

/// Test files in which the balancer has no interface of a lab: other wires change nothing there.
const WITHOUT_LAB: [&str; 19] = [
    "compose",
    "lab",
    "package",
    "program",
    "proxy",
    "proxy_edge",
    "proxy_http",
    "proxy_memory",
    "proxy_pace",
    "proxy_passthrough",
    "proxy_tls",
    "proxy_ws",
    "proxy_ws_clients",
    "recipe",
    "recipe_files",
    "recipe_hosted",
    "recipe_http",
    "recipe_tls",
    "unprivileged",
];

/// How many labs with cards there can be at a time; each has two wires. The benchmark's test has one for each of
/// four systems.
pub const CARD_SETS: u8 = 4;

/// Of each part, what fits into a few minutes of software emulation.
pub const QUICK: [&str; 4] = ["packet_path", "net_kernel", "splice", "restart"];

/// How the balancer's interfaces in the labs are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wires {
    Veth,
    Virtio,
}

/// Everything that was built to be run in guests.
pub struct Built {
    pub mqlb: PathBuf,
    pub lab: PathBuf,
    packages: PathBuf,
    loader: PathBuf,
    tests: Vec<TestBinary>,
}

impl Built {
    /// Builds the tests in `files`, all if there are none.
    ///
    /// # Errors
    /// There is no such file, or the build failed.
    pub fn build(files: &[String]) -> Result<Self> {
        let metadata = Metadata::read()?;
        let packages = ["lb-user", "lb-tests"].map(|name| (name, metadata.targets(name, "test")));
        let known = |file: &str| packages.iter().any(|(_, targets)| targets.contains(&file));
        if let Some(unknown) = files.iter().find(|file| !known(file)) {
            bail!("there is no {unknown}.rs in lb-user/tests or tests/tests");
        }
        let mqlb = run::build_mqlb()?;
        let mut tests = Vec::new();
        for (package, mut targets) in packages {
            targets.retain(|name| files.is_empty() || files.iter().any(|file| file == name));
            if !targets.is_empty() {
                tests.extend(build_tests(package, &targets)?);
            }
        }
        Ok(Self {
            lab: mqlb.with_file_name("mqlb-lab"),
            packages: dist::for_tests(&mqlb)?,
            loader: verify::build_loader()?,
            mqlb,
            tests,
        })
    }

    /// The job that runs the tests whose names contain one of `filters`.
    pub fn job(&self, wires: Wires, filters: &[String], acceleration: Acceleration) -> String {
        let seconds = 300 * acceleration.slowness();
        // What hangs is to be seen before it is ended.
        let late = seconds - 5;
        let mut job = format!(
            "failed=0\n\
             run() {{\n\
             \tname=$1 directory=$2; shift 2\n\
             \techo \"{BEGIN}$name\"\n\
             \t(sleep {late}; echo \"$name is still running:\"; ps -e --forest -o pid,stat,etime,time,wchan:20,args) & late=$!\n\
             \t(cd \"$directory\" && exec timeout --kill-after=10 {seconds} \"$@\")\n\
             \tcode=$?; [ $code = 0 ] || failed=1\n\
             \t{{ kill $late && wait $late; }} 2>/dev/null\n\
             \techo \"{END}$code\"\n\
             }}\n\
             export MQLB_BIN={} MQLB_PACKAGES={} RUST_BACKTRACE=1\n",
            quoted(&self.mqlb),
            quoted(&self.packages)
        );
        // Who knows better says so: another guest may run beside this one.
        let slowness = match std::env::var_os("MQLB_SLOWNESS") {
            Some(said) => quoted(Path::new(&said)),
            None => acceleration.slowness().to_string(),
        };
        job += &format!("export MQLB_SLOWNESS={slowness}\n");
        if wires == Wires::Virtio {
            job += &format!("export MQLB_LAB_CARDS={CARD_SETS}\n");
        } else if filters.is_empty() {
            job += &format!("run verifier / {}\n", quoted(&self.loader));
        }
        let filters: String = filters
            .iter()
            .map(|filter| format!(" {}", quoted(Path::new(filter))))
            .collect();
        for test in &self.tests {
            if !is_wanted(test, wires) {
                continue;
            }
            let (directory, binary) = (quoted(&test.manifest_dir), quoted(&test.binary));
            job += &format!(
                "CARGO_MANIFEST_DIR={directory} run {} {directory} {binary} --test-threads=2{filters}\n",
                test.name
            );
        }
        job + "exit $failed\n"
    }
}

fn is_wanted(test: &TestBinary, wires: Wires) -> bool {
    let name = test.name.as_str();
    match wires {
        Wires::Veth => LEFT_OUT.iter().all(|(left_out, _)| *left_out != name),
        Wires::Virtio => test.manifest_dir.ends_with("tests") && !WITHOUT_LAB.contains(&name),
    }
}

/// What came of the programs in a guest.
#[derive(Default)]
pub struct Results {
    done: Vec<Outcome>,
    under_way: Option<(Outcome, Instant)>,
}

struct Outcome {
    name: String,
    totals: Totals,
    took: Duration,
    /// An exit code; none if it didn't end.
    code: Option<i32>,
}

impl Results {
    /// Takes a line of the guest's output; true if it isn't one of ours.
    pub fn hear(&mut self, line: &str) -> bool {
        if let Some(name) = line.strip_prefix(BEGIN) {
            let outcome = Outcome {
                name: name.to_owned(),
                totals: Totals::default(),
                took: Duration::ZERO,
                code: None,
            };
            self.under_way = Some((outcome, Instant::now()));
        } else if let Some(code) = line.strip_prefix(END) {
            if let Some((mut outcome, start)) = self.under_way.take() {
                outcome.code = code.trim().parse().ok();
                outcome.took = start.elapsed();
                self.done.push(outcome);
            }
        } else {
            if let Some((outcome, _)) = &mut self.under_way {
                outcome.totals.add(line);
            }
            return true;
        }
        false
    }

    /// Prints a line for each program.
    ///
    /// # Errors
    /// One failed, or not a single test ran.
    pub fn finish(mut self, what: &str) -> Result<()> {
        if let Some((outcome, start)) = self.under_way.take() {
            self.done.push(Outcome {
                took: start.elapsed(),
                ..outcome
            });
        }
        let mut failed = Vec::new();
        for outcome in &self.done {
            let verdict = match outcome.code {
                Some(0) => "ok".to_owned(),
                Some(124 | 137) => "FAILED, out of time".to_owned(),
                Some(code) => format!("FAILED, exit code {code}"),
                None => "FAILED, did not end".to_owned(),
            };
            let Totals {
                passed,
                failed: failures,
                ignored,
            } = outcome.totals;
            println!(
                "  {:14} {verdict}, {:.0} s: {passed} passed, {failures} failed, {ignored} ignored",
                outcome.name,
                outcome.took.as_secs_f64()
            );
            if outcome.code != Some(0) {
                failed.push(outcome.name.as_str());
            }
        }
        if !failed.is_empty() {
            bail!("{what}: failed: {}", failed.join(", "));
        }
        if self.done.iter().all(|one| one.totals == Totals::default()) {
            bail!("{what}: no test ran");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Results {
        let mut results = Results::default();
        for line in lines {
            results.hear(line);
        }
        results
    }

    const PASSED: &str =
        "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";

    #[test]
    fn what_ends_with_0_has_passed() {
        let lines = [
            "xtask-vm:begin splice",
            "running 2 tests",
            PASSED,
            "xtask-vm:end 0",
        ];
        assert!(heard(&lines).finish("k").is_ok());
    }

    #[test]
    fn what_fails_or_does_not_end_has_not() {
        for last in ["xtask-vm:end 101", "xtask-vm:end 124", "Kernel panic"] {
            let lines = ["xtask-vm:begin splice", PASSED, last];
            let error = heard(&lines).finish("k").expect_err(last).to_string();
            assert_eq!(error, "k: failed: splice");
        }
        assert!(heard(&[]).finish("k").is_err(), "nothing is no success");
    }

    #[test]
    fn the_lab_runs_on_cards_and_the_rest_does_not() {
        let test = |name: &str, directory: &str| TestBinary {
            name: name.into(),
            binary: PathBuf::new(),
            manifest_dir: directory.into(),
        };
        let splice = test("splice", "/w/tests");
        assert!(is_wanted(&splice, Wires::Virtio));
        assert!(!is_wanted(
            &test("packet_path", "/w/lb-user"),
            Wires::Virtio
        ));
        assert!(is_wanted(&test("packet_path", "/w/lb-user"), Wires::Veth));
        assert!(!is_wanted(&test("compose", "/w/tests"), Wires::Veth));
    }
}
