//! The report as Markdown: ratios first, then figures.

use serde_json::Value;

use super::promises::{Promise, memory};
use super::statistics::{Spread, ratio, spread};
use super::{Described, Report};
use crate::bench::scenarios::Better;

pub fn write(report: &Report) -> String {
    let mut text = String::from("# Benchmarks\n\n");
    text += &head(report);
    text += &promises(&report.promises);
    for scenario in &report.scenarios {
        text += &table(report, scenario);
        if scenario.name == "memory" {
            text += &total(report);
        }
    }
    text += &packets(report.packets.as_ref());
    text += &flows(report.flows.as_ref());
    text
}

fn head(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "Written by a run, not by hand; [docs/benchmarks.md](docs/benchmarks.md) says what is measured and how.\n\n\
         ```sh\n{}\n```\n\n\
         {}, {} CPUs, {:.0} GB; Linux {}; {}; commit {}; {}.\n\n",
        report.command,
        machine.processor,
        machine.cpus,
        machine.memory as f64 / 1e9,
        machine.kernel,
        machine.distribution,
        machine.commit,
        machine.date
    );
    for entry in &report.systems {
        let version = entry.version.as_deref().unwrap_or("in the kernel");
        text += &format!("- `{}`: {version}\n", entry.name);
    }
    text + &format!(
        "\n{} rounds, systems in turn. Figures are medians over the rounds, with first and third quartile; ratios \
         are medians of each round's own ratio.\n{}\n",
        report.scale.rounds,
        quiet(report)
    )
}

/// How much of the machine's CPU time was not ours.
fn quiet(report: &Report) -> String {
    let shares = report.samples.iter().filter_map(|sample| {
        let (ours, all) = (sample.values.get("cpu")?, sample.values.get("cpu_machine")?);
        Some(100.0 * (all - ours) / all)
    });
    match Spread::of(shares) {
        Some(spread) => format!(
            "\nOf the machine's CPU time {:.1} % was not the measured processes' (median of all measurements; quartiles \
             {:.1} and {:.1} %).\n",
            spread.median, spread.low, spread.high
        ),
        None => String::new(),
    }
}

fn promises(promises: &[Promise]) -> String {
    let mut text =
        String::from("## What must hold\n\n| | at most | found | |\n|---|---:|---:|---|\n");
    for promise in promises {
        let found = promise.found.map_or("not measured".into(), |found| {
            let spread = promise.spread.filter(|[low, high]| low != high);
            let spread = spread.map_or(String::new(), |[low, high]| {
                format!(" ({} to {})", number(low), number(high))
            });
            format!("{} {}{spread}", number(found), promise.unit)
        });
        let verdict = match promise.holds() {
            Some(true) => "PASS",
            Some(false) => "**FAIL**",
            None => "",
        };
        let most = number(promise.most);
        text += &format!(
            "| {} | {most} {} | {found} | {verdict} |\n",
            promise.what, promise.unit
        );
    }
    text
}

fn table(report: &Report, scenario: &Described) -> String {
    let samples = &report.samples;
    let first = &scenario.metrics[0];
    let mut bases = vec![];
    for base in [Some("direct"), report.haproxy()].into_iter().flatten() {
        if report.systems.iter().any(|entry| entry.name == base)
            && spread(samples, scenario.name, base, first.key)
                .is_some_and(|spread| spread.median > 0.0)
        {
            bases.push(base);
        }
    }
    let mut text = format!("\n## {}\n\n", scenario.title);
    if !bases.is_empty() {
        let better = match first.better {
            Better::Lower => "less",
            Better::Higher => "more",
        };
        text += &format!(
            "The ratios are of: {} ({better} is better).\n\n",
            first.title
        );
    }
    text += "| |";
    for base in &bases {
        text += &format!(" × {base} |");
    }
    for metric in scenario.metrics {
        let unit = if metric.unit.is_empty() {
            String::new()
        } else {
            format!(", {}", metric.unit)
        };
        text += &format!(" {}{unit} |", metric.title);
    }
    text += &format!(
        "\n|---|{}\n",
        "---:|".repeat(bases.len() + scenario.metrics.len())
    );
    for entry in &report.systems {
        let system = &entry.name;
        let row: Vec<_> = scenario
            .metrics
            .iter()
            .map(|metric| spread(samples, scenario.name, system, metric.key))
            .collect();
        if row.iter().all(Option::is_none) {
            continue;
        }
        text += &format!("| `{system}` |");
        for base in &bases {
            let ratio = ratio(samples, scenario.name, first.key, system, base);
            text += &ratio.map_or(" |".into(), |ratio| format!(" **{:.2}** |", ratio.median));
        }
        for cell in row {
            text += &cell.map_or(" |".into(), |spread| format!(" {} |", show(spread)));
        }
        text += "\n";
    }
    text
}

/// Memory in one figure.
fn total(report: &Report) -> String {
    let mut text = String::from(
        "\nIn all, without what the plain route costs clients and brokers too:\n\n| | B per connection |\n|---|---:|\n",
    );
    for entry in &report.systems {
        if let Some(bytes) = memory(&report.samples, &entry.name) {
            text += &format!("| `{}` | {bytes:.0} |\n", entry.name);
        }
    }
    text
}

fn packets(packets: Option<&Value>) -> String {
    let Some(packets) = packets else {
        return String::new();
    };
    let mut text = String::from(
        "\n## Nanoseconds per packet in the XDP program\n\n`cargo run --release -p lb-user --example nanoseconds`, \
         by BPF_PROG_TEST_RUN.\n\n| | flows | least | median | empty program | least − empty |\n|---|---:|---:|---:|---:|---:|\n",
    );
    for row in packets["rows"].as_array().into_iter().flatten() {
        let nanoseconds = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        let single = if row["packets_per_call"] == 1 {
            " *"
        } else {
            ""
        };
        text += &format!(
            "| {}{single} | {} | {:.0} | {:.0} | {:.0} | {:.0} |\n",
            row["name"].as_str().unwrap_or_default(),
            row["flows"],
            nanoseconds("least_ns"),
            nanoseconds("median_ns"),
            nanoseconds("empty_ns"),
            nanoseconds("least_ns") - nanoseconds("empty_ns")
        );
    }
    text += "\n\\* one packet a call, with cold caches; the clock's own cost is in the empty program's.\n\n\
             | program | instructions | bytes of machine code | instructions the verifier walked |\n|---|---:|---:|---:|\n";
    for row in packets["programs"].as_array().into_iter().flatten() {
        text += &format!(
            "| `{}` | {} | {} | {} |\n",
            row["name"].as_str().unwrap_or_default(),
            row["instructions"],
            row["jited_bytes"],
            row["verifier_walked"]
        );
    }
    text
}

fn flows(flows: Option<&Value>) -> String {
    let Some(flows) = flows else {
        return String::new();
    };
    let mut text = String::from(
        "\n## Many flows\n\n`cargo run --release -p lb-user --example nanoseconds -- --flows`: so many connections in the real flow map, and \
         packets of random ones through the real program.\n\n| connections | a packet of one of them, ns | a set-up by the kernel, ns | \
         memory of the map, MB |\n|---:|---:|---:|---:|\n",
    );
    for row in flows["rows"].as_array().into_iter().flatten() {
        text += &format!(
            "| {} | {:.0} | {:.0} | {:.0} |\n",
            row["flows"],
            row["splice_ns"].as_f64().unwrap_or(f64::NAN),
            row["set_up_ns"].as_f64().unwrap_or(f64::NAN),
            row["map_bytes"].as_f64().unwrap_or(f64::NAN) / 1e6
        );
    }
    text
}

fn show(spread: Spread) -> String {
    let Spread { low, median, high } = spread;
    match low == high {
        true => number(median),
        false => format!("{} ({} to {})", number(median), number(low), number(high)),
    }
}

/// With three digits that count.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || value == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    // Thousands apart.
    let (sign, rest) = text
        .strip_prefix('-')
        .map_or(("", &text[..]), |rest| ("-", rest));
    let (whole, part) = rest
        .split_once('.')
        .map_or((rest, None), |(whole, part)| (whole, Some(part)));
    let mut grouped = String::new();
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let part = part.map_or(String::new(), |part| format!(".{part}"));
    format!("{sign}{grouped}{part}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.0123, "0.012"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (123.4, "123"),
            (1_234_567.8, "1,234,568"),
            (-1234.0, "-1,234"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
