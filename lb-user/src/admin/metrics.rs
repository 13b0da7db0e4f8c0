//! `/metrics`: the status in Prometheus' text format 0.0.4.

use std::fmt::{Display, Write};

use super::model::{BackendState, BackendStatus, ListenerStatus, PoolStatus, Status};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One sample: its labels and its value.
type Sample<'a> = (Vec<(&'static str, &'a str)>, u64);

pub(super) fn render(status: &Status) -> String {
    let mut out = Exposition::default();
    let one = |value: u64| vec![(vec![], value)];
    out.gauge(
        "mqlb_build_info",
        "Always 1; the version is in the label.",
        vec![(vec![("version", &status.version)], 1)],
    );
    out.gauge(
        "mqlb_ready",
        "1 once clients can be served.",
        one(status.ready.into()),
    );
    out.gauge(
        "mqlb_uptime_seconds",
        "Since the agent started.",
        one(status.uptime_seconds),
    );
    out.gauge(
        "mqlb_interface_info",
        "Always 1 for each interface with the program attached.",
        status
            .interfaces
            .iter()
            .map(|it| {
                (
                    vec![("interface", it.name.as_str()), ("mode", it.mode.as_str())],
                    1,
                )
            })
            .collect(),
    );
    counters(&mut out, status);
    usage(&mut out, status);
    backends(&mut out, &status.pools);
    certificates(&mut out, &status.listeners);
    out.text
}

fn counters(out: &mut Exposition, status: &Status) {
    let counters = || {
        status
            .counters
            .iter()
            .map(|(verdict, counter)| (vec![("verdict", verdict.as_str())], counter))
    };
    out.counter(
        "mqlb_packets_total",
        "Packets by what the data path did with them.",
        counters()
            .map(|(labels, counter)| (labels, counter.packets))
            .collect(),
    );
    out.counter(
        "mqlb_bytes_total",
        "Bytes, from the IP header on, by what the data path did with them.",
        counters()
            .map(|(labels, counter)| (labels, counter.bytes))
            .collect(),
    );
    out.counter(
        "mqlb_rejected_connects_total",
        "Connections refused for their first bytes, by reason.",
        status
            .rejects
            .iter()
            .map(|(reason, count)| (vec![("reason", reason.as_str())], *count))
            .collect(),
    );
    let steered = [
        ("kernel", status.steered.kernel),
        ("agent", status.steered.agent),
    ];
    out.counter(
        "mqlb_steered_total",
        "Connections by who chose their backend.",
        steered.map(|(by, count)| (vec![("by", by)], count)).into(),
    );
}

fn usage(out: &mut Exposition, status: &Status) {
    let one = |value: u64| vec![(vec![], value)];
    out.gauge(
        "mqlb_flows",
        "Live client connections.",
        one(status.flows.current),
    );
    out.gauge(
        "mqlb_flows_capacity",
        "Most client connections at a time.",
        one(status.flows.capacity),
    );
    if let Some(current) = status.bindings.current_estimate {
        out.gauge(
            "mqlb_bindings",
            "Client identifiers bound to a backend, estimated.",
            one(current),
        );
    }
    out.gauge(
        "mqlb_bindings_capacity",
        "Most client identifiers remembered.",
        one(status.bindings.capacity),
    );
    let setups = [
        ("sniffing", status.setups.sniffing),
        ("connecting", status.setups.connecting),
    ];
    out.gauge(
        "mqlb_setups",
        "Connections that the agent is setting up, by stage.",
        setups
            .map(|(stage, count)| (vec![("stage", stage)], count))
            .into(),
    );
}

fn backends(out: &mut Exposition, pools: &[PoolStatus]) {
    let each = |value: &dyn Fn(&BackendStatus) -> u64| -> Vec<Sample> {
        let backends = pools
            .iter()
            .flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)));
        backends
            .map(|(pool, backend)| (labels(pool, backend), value(backend)))
            .collect()
    };
    let states = BackendState::ALL.iter().flat_map(|state| {
        let mut samples = each(&|backend| u64::from(backend.state == *state));
        samples
            .iter_mut()
            .for_each(|(labels, _)| labels.push(("state", state.as_str())));
        samples
    });
    out.gauge(
        "mqlb_backend_state",
        "1 for the state that a backend is in.",
        states.collect(),
    );
    out.gauge(
        "mqlb_backend_weight",
        "Configured share of new clients.",
        each(&|backend| backend.weight.into()),
    );
    out.gauge(
        "mqlb_backend_flows",
        "Live client connections of a backend.",
        each(&|backend| backend.flows),
    );
    out.counter(
        "mqlb_backend_assigned_total",
        "Connections begun to a backend.",
        each(&|backend| backend.assigned_total),
    );
    out.counter(
        "mqlb_backend_failures_total",
        "Failed attempts to connect to a backend.",
        each(&|backend| backend.failures_total),
    );
}

fn certificates(out: &mut Exposition, listeners: &[ListenerStatus]) {
    let mut samples: Vec<Sample> = Vec::new();
    for listener in listeners {
        for certificate in &listener.certificates {
            let labels = vec![
                ("listener", listener.name.as_str()),
                ("file", certificate.file.as_str()),
            ];
            // One file may be there for two keys.
            if samples.iter().all(|(others, _)| *others != labels) {
                samples.push((labels, certificate.not_after_seconds));
            }
        }
    }
    out.gauge(
        "mqlb_certificate_not_after_seconds",
        "Until when clients accept a listener's certificate, in seconds since 1970.",
        samples,
    );
}

fn labels<'a>(pool: &'a PoolStatus, backend: &'a BackendStatus) -> Vec<(&'static str, &'a str)> {
    vec![("pool", &pool.name), ("backend", &backend.name)]
}

#[derive(Default)]
struct Exposition {
    text: String,
}

impl Exposition {
    fn gauge(&mut self, name: &str, help: &str, samples: Vec<Sample>) {
        self.family(name, help, "gauge", samples);
    }

    fn counter(&mut self, name: &str, help: &str, samples: Vec<Sample>) {
        self.family(name, help, "counter", samples);
    }

    fn family(&mut self, name: &str, help: &str, kind: &str, samples: Vec<Sample>) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
        for (labels, value) in samples {
            let labels: Vec<String> = labels
                .iter()
                .map(|(key, value)| format!("{key}=\"{}\"", escape(value)))
                .collect();
            if labels.is_empty() {
                self.line(format_args!("{name} {value}"));
            } else {
                self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
            }
        }
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.text, "{line}").expect("a String takes everything");
    }
}

fn escape(label: &str) -> String {
    label
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
