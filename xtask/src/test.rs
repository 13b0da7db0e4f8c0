//! `cargo xtask test`: formatting, lints, unit tests, then the tests that need a kernel.
//!
//! Every step runs even if an earlier one failed; the summary at the end has them all. The tests
//! that need root are built as the user who typed the command and only run as root.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::{Metadata, cargo_command, show};
use crate::{dist, lint, root, run, verify, vm};

/// The end-to-end tests build namespaces and start processes: a few at a time.
const ROOT_TEST_THREADS: &str = "--test-threads=4";

const OTHER_KERNELS: &str = "the balancer on other kernels";

#[derive(clap::Args)]
pub struct Args {
    /// Leave out the end-to-end tests in namespaces
    #[arg(long)]
    quick: bool,
    /// Leave out the balancer on other kernels, in virtual machines
    #[arg(long)]
    no_vm: bool,
    /// Only tests whose name contains one of these; formatting and lints are left out
    filters: Vec<String>,
}

/// # Errors
/// A step failed; all of them have been run and summed up.
pub fn run(args: &Args) -> Result<()> {
    let mut report = Report::default();
    if args.filters.is_empty() {
        report.step("formatting", |_| lint::formatting());
        report.step("clippy", |_| lint::clippy());
    }
    let metadata = Metadata::read()?;
    report.step("unit and property tests", |totals| {
        unit_tests(
            &metadata.targets("lb-common", "test"),
            &args.filters,
            totals,
        )
    });
    for (package, what) in [
        ("lb-user", "tests of mqlb and its programs"),
        ("lb-tests", "end-to-end tests"),
    ] {
        let targets = metadata.targets(package, "test");
        if targets.is_empty() || (args.quick && package == "lb-tests") {
            continue;
        }
        report.step(what, |totals| {
            root_tests(package, &targets, &args.filters, totals)
        });
    }
    if args.filters.is_empty() {
        report.step("verifier", |_| verify::gate());
        match vm::gate_impossible() {
            _ if args.quick || args.no_vm => report.left_out(OTHER_KERNELS, "not asked for"),
            Some(why) => report.left_out(OTHER_KERNELS, why),
            None => report.step(OTHER_KERNELS, |_| vm::gate()),
        }
    }
    if !args.filters.is_empty() && report.ran() == 0 {
        bail!("no test's name contains {}", args.filters.join(" or "));
    }
    report.finish()
}

/// The tests that need no privileges: in the sources, and lb-common's integration tests `targets`.
fn unit_tests(targets: &[&str], filters: &[String], totals: &mut Totals) -> Result<()> {
    let mut tests = cargo_command();
    tests.args(["test", "--no-fail-fast", "--lib", "--bins"]);
    tests.args(targets.iter().flat_map(|target| ["--test", target]));
    for package in ["lb-common", "lb-user", "lb-tests", "xtask"] {
        tests.args(["--package", package]);
    }
    watch(tests.arg("--").args(filters), totals)
}

/// Builds the integration tests `targets` of `package` in release and runs each as root.
fn root_tests(
    package: &str,
    targets: &[&str],
    filters: &[String],
    totals: &mut Totals,
) -> Result<()> {
    let mqlb = run::build_mqlb()?;
    let packages = dist::for_tests(&mqlb)?;
    let binaries = build_tests(package, targets)?;
    let mut failed = Vec::new();
    for test in binaries {
        let why = "to run the tests that load XDP programs and create network namespaces";
        let manifest_dir = test.manifest_dir.as_os_str();
        let env = [
            ("MQLB_BIN", mqlb.as_os_str()),
            ("CARGO_MANIFEST_DIR", manifest_dir),
            ("MQLB_PACKAGES", packages.as_os_str()),
        ];
        let mut command = root::command(&test.binary, why, &env)?;
        command
            .current_dir(&test.manifest_dir)
            .arg(ROOT_TEST_THREADS)
            .args(filters);
        eprintln!("     Running {} as root", test.name);
        if let Err(error) = watch(&mut command, totals) {
            eprintln!("xtask: {error:#}");
            failed.push(test.name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// A test file, built.
pub struct TestBinary {
    pub name: String,
    pub binary: PathBuf,
    pub manifest_dir: PathBuf,
}

/// Builds the integration tests `targets` of `package` in release.
///
/// # Errors
/// The build failed.
pub fn build_tests(package: &str, targets: &[&str]) -> Result<Vec<TestBinary>> {
    let mut build = cargo_command();
    build.args([
        "test",
        "--release",
        "--no-run",
        "--message-format=json-render-diagnostics",
        "--package",
        package,
    ]);
    build.args(targets.iter().flat_map(|target| ["--test", target]));
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start `{}`", show(&build)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", show(&build), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(test_binary)
        .collect())
}

/// The test binary that a line of cargo's JSON messages announces, if it does.
fn test_binary(line: &str) -> Option<TestBinary> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    Some(TestBinary {
        name: message["target"]["name"].as_str()?.to_owned(),
        binary: message["executable"].as_str()?.into(),
        manifest_dir: PathBuf::from(message["manifest_path"].as_str()?)
            .parent()?
            .to_owned(),
    })
}

/// Runs `command`, shows its output as it comes, and adds the results that it prints to `totals`.
fn watch(command: &mut Command, totals: &mut Totals) -> Result<()> {
    let shown = show(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{shown}`"))?;
    let stdout = child.stdout.take().context("the child's stdout is piped")?;
    for line in BufReader::new(stdout).split(b'\n') {
        // Tests may print anything: not all of it is UTF-8.
        let line = String::from_utf8_lossy(&line.context("read the tests' output")?).into_owned();
        println!("{line}");
        totals.add(&line);
    }
    let status = child.wait().context("wait for the tests")?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Sums of libtest's "test result:" lines.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
}

impl Totals {
    /// Adds what `line` reports, if it is a result line.
    pub fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split(';') {
            let mut words = count.split_whitespace();
            let Some(number) = words.next().and_then(|word| word.parse::<u64>().ok()) else {
                continue;
            };
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// What was run, and how it ended.
#[derive(Default)]
struct Report {
    steps: Vec<Step>,
    /// What was not run, and why.
    left_out: Vec<(&'static str, &'static str)>,
}

struct Step {
    name: &'static str,
    outcome: Result<()>,
    totals: Totals,
    took: Duration,
}

impl Report {
    fn step(&mut self, name: &'static str, work: impl FnOnce(&mut Totals) -> Result<()>) {
        eprintln!("\nxtask: {name}");
        let (start, mut totals) = (Instant::now(), Totals::default());
        let outcome = work(&mut totals);
        if let Err(error) = &outcome {
            eprintln!("xtask: {name}: {error:#}");
        }
        self.steps.push(Step {
            name,
            outcome,
            totals,
            took: start.elapsed(),
        });
    }

    /// What isn't run is said, so that nobody takes it for passed.
    fn left_out(&mut self, name: &'static str, why: &'static str) {
        self.left_out.push((name, why));
    }

    /// How many tests passed or failed in all.
    fn ran(&self) -> u64 {
        self.steps
            .iter()
            .map(|step| step.totals.passed + step.totals.failed)
            .sum()
    }

    /// Prints the summary.
    fn finish(self) -> Result<()> {
        println!("\nsummary");
        for Step {
            name,
            outcome,
            totals:
                Totals {
                    passed,
                    failed,
                    ignored,
                },
            took,
        } in &self.steps
        {
            let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
            print!("  {verdict:6} {name}, {:.0} s", took.as_secs_f64());
            if passed + failed + ignored > 0 {
                print!(": {passed} passed, {failed} failed, {ignored} ignored");
            }
            println!();
        }
        for (name, why) in &self.left_out {
            println!("  left out {name}: {why}");
        }
        let failed: Vec<_> = self
            .steps
            .iter()
            .filter(|step| step.outcome.is_err())
            .map(|step| step.name)
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        bail!("failed: {}", failed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_come_from_result_lines_only() {
        let mut totals = Totals::default();
        totals.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s");
        totals.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s");
        totals.add("test 7 passed; 7 failed ... ok");
        totals.add("running 5 tests");
        assert_eq!(
            totals,
            Totals {
                passed: 15,
                failed: 2,
                ignored: 1
            }
        );
    }

    #[test]
    fn test_binaries_come_from_artifact_messages() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"name":"splice"},
            "profile":{"test":true},"executable":"/w/target/release/deps/splice-1"}"#;
        let found = test_binary(line).expect("a test binary");
        assert_eq!(found.name, "splice");
        assert_eq!(found.manifest_dir, std::path::Path::new("/w/tests"));
        assert!(
            test_binary(&line.replace("true", "false")).is_none(),
            "a dependency, not a test"
        );
        assert!(test_binary("not JSON").is_none());
    }
}
