//! The benchmarks themselves: a very short run has all its parts and values that can be. How fast anything is isn't
//! asked here.

use std::path::PathBuf;
use std::process::Command;

use lb_tests::lab::own_binary;
use serde_json::Value;

/// Goes with everything in it when it is dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // The next run uses another one.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bench(name: &str, arguments: &[&str]) -> (Directory, Value) {
    let out = std::env::temp_dir().join(format!("mqlb-bench-{name}-{}", std::process::id()));
    let out = Directory(out);
    let output = Command::new(own_binary().unwrap())
        .args(["bench", "--wires-only", "--quick", "--out"])
        .arg(&out.0)
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let json = std::fs::read_to_string(out.0.join("report.json")).unwrap();
    (out, serde_json::from_str(&json).unwrap())
}

/// Values of a metric, over all rounds.
fn values(report: &Value, scenario: &str, system: &str, key: &str) -> Vec<f64> {
    let samples = report["samples"].as_array().unwrap();
    samples
        .iter()
        .filter(|sample| sample["scenario"] == scenario && sample["system"] == system)
        .map(|sample| sample["values"][key].as_f64().unwrap())
        .collect()
}

#[test]
fn a_short_run_measures_every_system_in_turn() {
    let (out, report) = bench(
        "short",
        &[
            "--rounds=2",
            "--seconds=0.1",
            "--connections=300",
            "--systems=direct,nftables,mqlb-xdp,mqlb-proxy",
            "--scenarios=pairs,churn-known,churn-new,calm,memory,kill-9",
        ],
    );
    let systems = ["direct", "nftables", "mqlb-xdp", "mqlb-proxy"];
    for system in systems {
        for scenario in ["pairs", "churn-known", "churn-new"] {
            for key in ["cpu", "rate", "p50", "p99"] {
                let found = values(&report, scenario, system, key);
                assert_eq!(found.len(), 2, "{scenario} {system} {key}");
                assert!(
                    found.iter().all(|value| *value > 0.0),
                    "{scenario} {system} {key} {found:?}"
                );
            }
        }
        let failed = values(&report, "churn-known", system, "failed");
        assert_eq!(failed, [0.0, 0.0], "{system}");
        // Nobody can be faster than light in a cable, or need a second.
        let p50 = values(&report, "calm", system, "p50");
        assert!(
            p50.iter().all(|p50| (1.0..1e6).contains(p50)),
            "{system}: {p50:?}"
        );
    }
    // In turn: A B C D, D C B A.
    let order: Vec<_> = report["samples"]
        .as_array()
        .unwrap()
        .iter()
        .take(8)
        .map(|sample| sample["system"].as_str().unwrap())
        .collect();
    let there_and_back: Vec<_> = systems
        .into_iter()
        .chain(systems.into_iter().rev())
        .collect();
    assert_eq!(order, there_and_back);

    assert_eq!(values(&report, "kill-9", "mqlb-xdp", "lost"), [0.0, 0.0]);
    assert_eq!(
        values(&report, "kill-9", "mqlb-proxy", "lost"),
        [100.0, 100.0]
    );
    let maps = values(&report, "memory", "mqlb-xdp", "maps");
    assert!(
        maps.iter().all(|bytes| (64.0..4096.0).contains(bytes)),
        "{maps:?}"
    );

    let promise = |part: &str| {
        let promises = report["promises"].as_array().unwrap();
        let found = promises
            .iter()
            .find(|promise| promise["what"].as_str().unwrap().contains(part));
        found.unwrap()["found"].clone()
    };
    assert!(promise("CPU per request-response pair").as_f64().unwrap() > 0.0);
    // There was no HAProxy.
    assert_eq!(promise("new clients, share of HAProxy's"), Value::Null);

    let markdown = std::fs::read_to_string(out.0.join("report.md")).unwrap();
    let html = std::fs::read_to_string(out.0.join("report.html")).unwrap();
    for system in systems {
        assert!(
            markdown.contains(&format!("| `{system}` | **")),
            "{markdown}"
        );
        assert!(html.contains(&format!("<td><code>{system}</code></td>")));
    }
    assert!(html.contains("<svg") && !html.contains("<script") && !html.contains("http-equiv"));
    assert!(
        markdown.contains("| sessions lost on kill -9 | 0 % | 0 % | PASS |"),
        "{markdown}"
    );
}

#[test]
fn wrong_names_are_told_with_the_right_ones() {
    for (option, expected) in [
        ("--systems=haproxi", "mqlb-xdp"),
        ("--scenarios=pears", "churn-known"),
    ] {
        let output = Command::new(own_binary().unwrap())
            .args(["bench", option])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(expected),
            "{said}"
        );
    }
}
