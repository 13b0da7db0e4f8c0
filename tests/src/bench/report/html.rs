//! The report as one HTML page, with plots.

use serde_json::Value;

use super::plot::{bars, escape, growth};
use super::statistics::spread;
use super::{Described, Report};

const STYLE: &str = "\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto }
svg { width: 100%; max-width: 760px; margin: .6rem 0; font: 13px system-ui, sans-serif; display: block }
svg .title { font-weight: 600 }
rect { fill: #999 } rect.direct { fill: #9a9a9a } rect.nftables { fill: #c9b27c } rect.haproxy { fill: #6f9fd8 } rect.mqlb { fill: #3fa06a }
line { stroke: #222 } line.axis { stroke: #bbb } polyline { fill: none; stroke: #3fa06a; stroke-width: 2 } circle { fill: #3fa06a }
.pass { color: #1c7c42; font-weight: 600 } .fail { color: #b3261e; font-weight: 600 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } svg text { fill: #ddd } line { stroke: #ddd } pre { background: #262626 } th, td { border-color: #444 } }";

pub fn write(report: &Report) -> String {
    let mut body = String::new();
    let text = report.markdown();
    // Sections are told as in Markdown; before the table of a scenario stand its plots.
    for (at, section) in text.split("\n## ").enumerate() {
        let (title, rest) = section.split_once('\n').unwrap_or((section, ""));
        match at {
            0 => body += &format!("<h1>{}</h1>\n", escape(title.trim_start_matches("# "))),
            _ => body += &format!("<h2>{}</h2>\n", escape(title)),
        }
        let scenario = report
            .scenarios
            .iter()
            .find(|scenario| scenario.title == title);
        body += &scenario.map_or(String::new(), |scenario| plots(report, scenario));
        if title == "Many flows" {
            body += &report.flows.as_ref().map_or(String::new(), flows);
        }
        body += &blocks(rest);
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>mqlb: benchmarks</title>\n<style>\n{STYLE}\n</style></head>\n<body>\n{body}</body></html>\n"
    )
}

fn plots(report: &Report, scenario: &Described) -> String {
    let plot = |metric: &crate::bench::scenarios::Metric| {
        let rows: Vec<_> = report
            .systems
            .iter()
            .filter_map(|entry| {
                let spread = spread(&report.samples, scenario.name, &entry.name, metric.key)?;
                Some((entry.name.as_str(), spread))
            })
            .collect();
        bars(metric.title, metric.unit, &rows)
    };
    scenario.metrics.iter().map(plot).collect()
}

fn flows(flows: &Value) -> String {
    let points = |key: &str| -> Vec<_> {
        let rows = flows["rows"].as_array().into_iter().flatten();
        rows.filter_map(|row| Some((row["flows"].as_f64()?, row[key].as_f64()?)))
            .collect()
    };
    growth(
        "ns per packet of a random connection, by connections",
        &points("splice_ns"),
    ) + &growth(
        "ns per set-up by the kernel, by connections",
        &points("set_up_ns"),
    )
}

/// The few forms of Markdown that the report has: paragraphs, lists, tables and blocks of code.
fn blocks(text: &str) -> String {
    let mut html = String::new();
    for block in text
        .split("\n\n")
        .map(str::trim)
        .filter(|block| !block.is_empty())
    {
        if let Some(code) = block.strip_prefix("```sh\n") {
            html += &format!(
                "<pre>{}</pre>\n",
                escape(code.trim_end_matches("```").trim_end())
            );
        } else if block.starts_with('|') {
            html += &table(block);
        } else if block.starts_with("- ") {
            let items = block
                .lines()
                .map(|line| format!("<li>{}</li>", inline(line.trim_start_matches("- "))));
            html += &format!("<ul>{}</ul>\n", items.collect::<String>());
        } else {
            html += &format!("<p>{}</p>\n", inline(block));
        }
    }
    html
}

fn table(block: &str) -> String {
    let mut html = String::from("<table>\n");
    for (at, line) in block.lines().enumerate() {
        let cell = match at {
            0 => "th",
            1 => continue,
            _ => "td",
        };
        let line = line.trim().trim_start_matches('|');
        let line = line.strip_suffix('|').unwrap_or(line);
        let cells = line.split('|').map(|text| {
            let class = match text.trim() {
                "PASS" => " class=\"pass\"",
                "**FAIL**" => " class=\"fail\"",
                _ => "",
            };
            format!("<{cell}{class}>{}</{cell}>", inline(text.trim()))
        });
        html += &format!("<tr>{}</tr>\n", cells.collect::<String>());
    }
    html + "</table>\n"
}

/// `code`, **bold** and links.
fn inline(text: &str) -> String {
    let mut html = String::new();
    for (at, part) in escape(text).replace("\\*", "*").split('`').enumerate() {
        if at % 2 == 1 {
            html += &format!("<code>{part}</code>");
            continue;
        }
        for (at, part) in part.split("**").enumerate() {
            html += &if at % 2 == 1 {
                format!("<b>{part}</b>")
            } else {
                links(part)
            };
        }
    }
    html
}

fn links(text: &str) -> String {
    let Some((before, rest)) = text.split_once('[') else {
        return text.to_owned();
    };
    match rest
        .split_once("](")
        .and_then(|(name, rest)| Some((name, rest.split_once(')')?)))
    {
        // Beside the page there is no such file: the name says where it is in the repository.
        Some((name, (_, rest))) => format!("{before}{name}{}", links(rest)),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_of_the_report_becomes_html() {
        let html = blocks(
            "a `b<c` **d** [e](f)\n\n| x | y |\n|---|---:|\n| 1 | PASS |\n\n- one\n- two\n\n```sh\nrun it\n```\n",
        );
        for part in [
            "<p>a <code>b&lt;c</code> <b>d</b> e</p>",
            "<tr><th>x</th><th>y</th></tr>",
            "<td class=\"pass\">PASS</td>",
            "<ul><li>one</li><li>two</li></ul>",
            "<pre>run it</pre>",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
    }
}
