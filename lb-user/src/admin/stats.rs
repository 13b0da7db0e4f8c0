//! `/stats`: the status as a page for people. One self-contained file, no script, reloads itself.

use std::fmt::{Display, Write};

use super::model::Status;

const STYLE: &str = "body{font:14px/1.4 system-ui,sans-serif;margin:1.5em;color:#222}\
h1{font-size:1.3em}h2{font-size:1em;margin:1.5em 0 .3em}\
table{border-collapse:collapse}th,td{text-align:left;padding:.15em 1em .15em 0;border-bottom:1px solid #ddd}\
td.n,th.n{text-align:right}.up{color:#070}.down{color:#b00}.draining,.disabled{color:#860}";

/// A cell: its CSS class, and its text.
type Cell = (&'static str, String);

pub(super) fn render(status: &Status) -> String {
    let mut page = Page {
        html: String::new(),
    };
    page.raw("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.raw("<meta http-equiv=\"refresh\" content=\"2\"><title>mqlb</title><style>");
    page.raw(STYLE);
    page.raw("</style></head><body>");
    let ready = if status.ready { "ready" } else { "not ready" };
    page.raw("<h1>");
    page.text(format_args!(
        "mqlb {} · {} · {ready}",
        status.version, status.name
    ));
    page.raw("</h1>");
    summary(&mut page, status);
    backends(&mut page, status);
    listeners(&mut page, status);
    counters(&mut page, status);
    page.raw("</body></html>\n");
    page.html
}

fn summary(page: &mut Page, status: &Status) {
    let interfaces: Vec<String> = status
        .interfaces
        .iter()
        .map(|interface| format!("{} ({})", interface.name, interface.mode.as_str()))
        .collect();
    let bindings = match status.bindings.current_estimate {
        Some(current) => format!("about {current} of {}", status.bindings.capacity),
        None => format!("up to {}", status.bindings.capacity),
    };
    let rows = [
        ("Up for", format!("{} s", status.uptime_seconds)),
        ("Interfaces", interfaces.join(", ")),
        (
            "Flows",
            format!("{} of {}", status.flows.current, status.flows.capacity),
        ),
        ("Bindings", bindings),
        (
            "Steered",
            format!(
                "{} by the kernel, {} by the agent",
                status.steered.kernel, status.steered.agent
            ),
        ),
        (
            "In set-up",
            format!(
                "{} sniffing, {} connecting",
                status.setups.sniffing, status.setups.connecting
            ),
        ),
    ];
    page.table(
        &[],
        rows.map(|(key, value)| vec![("", key.to_owned()), ("", value)]),
    );
}

fn backends(page: &mut Page, status: &Status) {
    for pool in &status.pools {
        page.raw("<h2>");
        page.text(format_args!("Pool {} ({})", pool.name, pool.policy));
        page.raw("</h2>");
        let heads = [
            ("", "Backend"),
            ("", "State"),
            ("n", "Weight"),
            ("n", "Flows"),
            ("n", "Assigned"),
            ("n", "Failures"),
            ("", "Address"),
        ];
        let row = |backend: &super::model::BackendStatus| -> Vec<Cell> {
            vec![
                ("", backend.name.clone()),
                (backend.state.as_str(), backend.state.as_str().to_owned()),
                ("n", backend.weight.to_string()),
                ("n", backend.flows.to_string()),
                ("n", backend.assigned_total.to_string()),
                ("n", backend.failures_total.to_string()),
                ("", backend.address.join(", ")),
            ]
        };
        page.table(&heads, pool.backends.iter().map(row));
    }
}

fn listeners(page: &mut Page, status: &Status) {
    page.raw("<h2>Listeners</h2>");
    let heads = [
        "Name",
        "Kind",
        "VIPs",
        "Pool",
        "Data path",
        "Source",
        "PROXY protocol",
    ]
    .map(|head| ("", head));
    let rows = status.listeners.iter().map(|listener| {
        let texts = [
            &listener.name,
            &listener.kind,
            &listener.bind.join(", "),
            &listener.pool,
            &listener.datapath,
            &listener.source,
            &listener.proxy_protocol,
        ];
        texts.map(|text| ("", text.clone())).to_vec()
    });
    page.table(&heads, rows);
}

fn counters(page: &mut Page, status: &Status) {
    page.raw("<h2>Packets</h2>");
    let rows = status.counters.iter().map(|(verdict, counter)| {
        vec![
            ("", verdict.clone()),
            ("n", counter.packets.to_string()),
            ("n", counter.bytes.to_string()),
        ]
    });
    page.table(&[("", "Verdict"), ("n", "Packets"), ("n", "Bytes")], rows);
    page.raw("<h2>Refused connections</h2>");
    let rows = status
        .rejects
        .iter()
        .map(|(reason, count)| vec![("", reason.clone()), ("n", count.to_string())]);
    page.table(&[("", "Reason"), ("n", "Count")], rows);
}

struct Page {
    html: String,
}

impl Page {
    /// Markup of our own.
    fn raw(&mut self, markup: &str) {
        self.html.push_str(markup);
    }

    /// Text from elsewhere.
    fn text(&mut self, text: impl Display) {
        write!(Escaped(&mut self.html), "{text}").expect("a String takes everything");
    }

    fn table(&mut self, heads: &[(&str, &str)], rows: impl IntoIterator<Item = Vec<Cell>>) {
        self.raw("<table>");
        if !heads.is_empty() {
            self.row("th", heads.iter().map(|(class, text)| (*class, *text)));
        }
        for row in rows {
            self.row(
                "td",
                row.iter().map(|(class, text)| (*class, text.as_str())),
            );
        }
        self.raw("</table>");
    }

    fn row<'a>(&mut self, tag: &str, cells: impl Iterator<Item = (&'a str, &'a str)>) {
        self.raw("<tr>");
        for (class, text) in cells {
            self.raw(&format!("<{tag} class=\"{class}\">"));
            self.text(text);
            self.raw(&format!("</{tag}>"));
        }
        self.raw("</tr>\n");
    }
}

/// Escapes for element content and quoted attributes.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}
