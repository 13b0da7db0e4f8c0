//! What a packet costs in the XDP program: nanoseconds by BPF_PROG_TEST_RUN, and the program's size.
//!
//! ```text
//! cargo run --release -p lb-user --example nanoseconds [-- --json]
//! ```
//! Needs root and a BPF file system on /sys/fs/bpf; attaches nothing and leaves nothing behind.
//! Close other programs first: the figures are of one CPU that is shared with everybody.
//!
//! The kernel runs the program again and again on one buffer, so a packet meets what the run before
//! it left. Spliced packets therefore walk through a chain of flows: each one's outgoing tuple is the
//! next one's key. With one flow in the map the chain is a loop of length one; with 100,000 every
//! packet needs another entry, in random order. Their TTL allows 254 runs, hence the short calls. A
//! call takes milliseconds of set-up (the kernel patches its XDP dispatcher), hence not many of them,
//! and the first packets after it meet cold caches and a cold branch predictor. Long and short calls
//! alternate: `warm` is the median of what the packets cost that only the long ones have.
//! A SYN becomes a SYN-ACK, which isn't for us, so it runs once a call: with cold caches, and by an
//! indirect call. The column `empty` is the empty program under the same conditions.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use aya::maps::{Array, HashMap};
use aya::programs::{Program, TestRun, Xdp};
use aya::{Ebpf, EbpfLoader, TestRunOptions};
use lb_common::cookie;
use lb_common::layout::{
    Endpoint, EndpointKey, EndpointKind, Flow, FlowKey, Hop, IdleLimits, Settings, State, Verdict,
};
use lb_common::options::Timestamps;
use lb_common::wire::{Emit, SynOptions, emit, flag};

/// How often a row's packet runs: packets a call, and calls.
#[derive(Clone, Copy)]
struct Runs {
    packets: u32,
    calls: u32,
}
/// The packet comes out as it went in.
const STEADY: Runs = Runs {
    packets: 1_000_000,
    calls: 5,
};
/// Every run takes one from the TTL; 255 lasts for 254.
const SPLICED: Runs = Runs {
    packets: 250,
    calls: 100,
};
/// Packets of the short calls beside [`SPLICED`].
const SHORT: u32 = 50;
/// The packet comes out as something else.
const SINGLE: Runs = Runs {
    packets: 1,
    calls: 20_000,
};
/// Flows of the large chain.
const FLOWS: u32 = 100_000;
/// Interface of the test run: loopback.
const IFINDEX: u32 = 1;

const VIP: [u8; 4] = [10, 77, 0, 2];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SETTINGS: Settings = Settings {
    cookie_keys: [[1, 2], [3, 4]],
    client_key: [5, 6],
    cookie_epoch: 0,
    timestamp_offset: 7,
    snat_first: 20_000,
    snat_last: 29_999,
    reset_rate: 0,
    idle: IdleLimits {
        grace: 0,
        least: 0,
        zero: 0,
    },
    linger: 0,
    connect_timeout: 0,
    client_id: 0,
    _pad: 0,
};

/// The maps are pinned by name: they get a directory of their own.
struct PinDirectory(PathBuf);

impl Drop for PinDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

/// A row of the table.
struct Row {
    name: &'static str,
    runs: Runs,
    flows: u32,
    /// Median over pairs of a long and a short call, ns a packet without the start of a call.
    warm: Option<f64>,
    /// Least of the calls, ns a packet: what it costs when nobody else is on the CPU.
    least: f64,
    /// Median over the calls, ns a packet.
    median: f64,
    /// Mean over the calls, ns a packet.
    mean: f64,
    /// The empty program's least under the same conditions.
    empty: f64,
}

fn main() -> anyhow::Result<()> {
    let json = match std::env::args().skip(1).collect::<Vec<_>>()[..] {
        [] => false,
        [ref only] if only == "--json" => true,
        _ => bail!("wrong use; the only argument is --json"),
    };
    let path = Path::new("/sys/fs/bpf").join(format!("mqlb-nanoseconds-{}", std::process::id()));
    std::fs::create_dir(&path).with_context(|| {
        format!(
            "create {} (root? a BPF file system on /sys/fs/bpf?)",
            path.display()
        )
    })?;
    let pins = PinDirectory(path);
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(&pins.0)
        .map_max_entries("FLOWS", 2 * FLOWS)
        .map_max_entries("BINDINGS", 64)
        .map_max_entries("PUNTS", 4096)
        .load(mqlb::PROGRAMS)
        .context("create the maps")?;
    for (name, program) in ebpf.programs_mut() {
        let Program::Xdp(program) = program else {
            bail!("{name} is not an XDP program")
        };
        program.load().with_context(|| format!("load {name}"))?;
    }
    let mut bench = Bench { ebpf, rows: vec![] };
    bench.prepare()?;
    bench.measure()?;
    let sizes = sizes(&bench.ebpf)?;
    if json {
        print_json(&bench.rows, &sizes)?;
    } else {
        print_table(&bench.rows, &sizes);
    }
    Ok(())
}

struct Bench {
    ebpf: Ebpf,
    rows: Vec<Row>,
}

/// What a call of the kernel's test run gave.
struct Called {
    action: u32,
    ns: f64,
    /// First bytes of the frame after the last packet.
    ttl: u8,
}

impl Bench {
    fn prepare(&mut self) -> anyhow::Result<()> {
        let mut settings: Array<_, Settings> = self
            .ebpf
            .map_mut("SETTINGS")
            .context("no map SETTINGS")?
            .try_into()?;
        settings.set(0, SETTINGS, 0)?;
        let mut endpoints: HashMap<_, EndpointKey, Endpoint> = self
            .ebpf
            .map_mut("ENDPOINTS")
            .context("no map ENDPOINTS")?
            .try_into()?;
        let key = EndpointKey {
            address: FlowKey::v4(VIP, 0, VIP, 0).src,
            port: 1883u16.to_be_bytes(),
            _pad: [0; 2],
        };
        let vip = Endpoint {
            kind: EndpointKind::Vip as u8,
            listener: 0,
            window_scale: 7,
            answers: Endpoint::TIMESTAMPS | Endpoint::SACK | Endpoint::WINDOW_SCALE,
            mss: 1460,
            window: 16_384,
        };
        endpoints.insert(key, vip, 0)?;
        Ok(())
    }

    fn measure(&mut self) -> anyhow::Result<()> {
        let data = [0x30; 100];
        let plain = segment(flow_key(0));
        let stamped = Emit {
            timestamps: Some(Timestamps {
                value: 77,
                echo: 88,
            }),
            ..plain
        };
        // (name, segment, whether SACK is put behind the timestamps)
        let spliced = [
            (
                "splice, 100 bytes, timestamps",
                Emit {
                    payload: &data,
                    ..stamped
                },
                false,
            ),
            ("splice, pure ACK, timestamps", stamped, false),
            ("splice, pure ACK, no options", plain, false),
            ("splice, ACK, timestamps and SACK", stamped, true),
        ];
        for flows in [1, FLOWS] {
            self.chain(flows)?;
            self.row("passed (ARP)", flows, STEADY, &[arp()], PASS)?;
            for (name, segment, sack) in &spliced {
                // Calls begin at flows that the call before didn't touch.
                let starts = (0..SPLICED.calls).map(|call| {
                    let key = flow_key(position(call * SPLICED.packets % flows, flows));
                    let frame = frame(&Emit { key, ..*segment })?;
                    Ok(if *sack { with_sack(frame) } else { frame })
                });
                let frames = starts.collect::<anyhow::Result<Vec<_>>>()?;
                self.row(name, flows, SPLICED, &frames, TX)?;
            }
            self.newcomers(flows)?;
        }
        Ok(())
    }

    /// Packets that belong to no flow.
    fn newcomers(&mut self, flows: u32) -> anyhow::Result<()> {
        let key = FlowKey::v4([192, 0, 2, 1], 5555, VIP, 1883);
        let syn = Emit {
            flags: flag::SYN,
            ack: 0,
            syn: SynOptions {
                mss: Some(1460),
                window_scale: Some(7),
                sack: true,
            },
            timestamps: Some(Timestamps { value: 77, echo: 0 }),
            ..segment(key)
        };
        self.row(
            "SYN to SYN-ACK, Linux's options",
            flows,
            SINGLE,
            &[frame(&syn)?],
            TX,
        )?;
        let cookie = cookie::make(&SETTINGS.cookie_keys[0], &key, 999, 0xef);
        let ack = Emit {
            seq: 1000,
            ack: cookie.wrapping_add(1),
            timestamps: Some(Timestamps {
                value: 77,
                echo: 88,
            }),
            ..segment(key)
        };
        self.row(
            "bare ACK, valid cookie",
            flows,
            STEADY,
            &[frame(&ack)?],
            DROP,
        )?;
        let previous = cookie::make(&SETTINGS.cookie_keys[1], &key, 999, 0xef);
        let ack = Emit {
            ack: previous.wrapping_add(1),
            ..ack
        };
        self.row(
            "bare ACK, cookie of the previous key",
            flows,
            STEADY,
            &[frame(&ack)?],
            DROP,
        )?;
        let wrong = Emit {
            ack: cookie ^ 0x1100,
            payload: b"\x10",
            ..ack
        };
        self.row(
            "wrong cookie, over the limit of RSTs",
            flows,
            STEADY,
            &[frame(&wrong)?],
            DROP,
        )
    }

    /// Enters a chain of flows: the outgoing tuple of each is the key of the next.
    fn chain(&mut self, length: u32) -> anyhow::Result<()> {
        let mut flows: HashMap<_, FlowKey, Flow> = self
            .ebpf
            .map_mut("FLOWS")
            .context("no map FLOWS")?
            .try_into()?;
        for at in 0..length {
            let key = flow_key(position(at, length));
            let to = flow_key(position((at + 1) % length, length));
            let flow = Flow {
                seq_add: 0x0123_4567,
                ack_add: 0x0012_3456,
                tsval_add: 0x0765_4321,
                tsecr_add: 0x0fed_cba9,
                ifindex: IFINDEX,
                dst_mac: OUR_MAC,
                src_mac: CLIENT_MAC,
                ingress: Hop::signature(IFINDEX, &CLIENT_MAC, 0),
                state: State::Open as u8,
                flags: lb_common::layout::flags::FROM_CLIENT,
                ..Flow::ZERO
            }
            .towards(&key, &to);
            flows.insert(key, flow, 0)?;
        }
        Ok(())
    }

    /// Measures one row over `frames` in turn, and the empty program in the same way.
    fn row(
        &mut self,
        name: &'static str,
        flows: u32,
        runs: Runs,
        frames: &[Vec<u8>],
        action: u32,
    ) -> anyhow::Result<()> {
        let before = self.spliced()?;
        let mut ns = Vec::new();
        let mut warm = Vec::new();
        let mut empty_ns = Vec::new();
        let mut ttl = None;
        // Side by side, so that a noisy minute hits both.
        for frame in frames.iter().cycle().take(runs.calls as usize) {
            let called = self.call("mqlb", frame, runs.packets)?;
            ensure!(
                called.action == action,
                "{name}: action {}, not {action}",
                called.action
            );
            ttl = Some(called.ttl);
            ns.push(called.ns);
            if runs.packets == SPLICED.packets {
                let short = self.call("mqlb", frame, SHORT)?.ns;
                let (long, more) = (f64::from(runs.packets), f64::from(runs.packets - SHORT));
                warm.push((called.ns * long - short * f64::from(SHORT)) / more);
            }
            empty_ns.push(self.call("mqlb_empty", frame, runs.packets)?.ns);
        }
        if name.starts_with("splice") {
            // Not one packet of the row may have taken another way.
            let spliced = self.spliced()? - before;
            let packets = u64::from(runs.calls) * u64::from(runs.packets + SHORT);
            ensure!(
                spliced == packets,
                "{name}: {spliced} of {packets} packets were spliced"
            );
            ensure!(
                ttl == Some((255 - runs.packets) as u8),
                "{name}: TTL {ttl:?}"
            );
        }
        let mean = ns.iter().sum::<f64>() / ns.len() as f64;
        self.rows.push(Row {
            name,
            runs,
            flows,
            warm: (!warm.is_empty()).then(|| median(warm)),
            least: least(&ns),
            median: median(ns),
            mean,
            empty: least(&empty_ns),
        });
        Ok(())
    }

    fn spliced(&self) -> anyhow::Result<u64> {
        let counters: aya::maps::PerCpuArray<_, lb_common::layout::Counter> = self
            .ebpf
            .map("COUNTERS")
            .context("no map COUNTERS")?
            .try_into()?;
        let per_cpu = counters.get(&(Verdict::Spliced as u32), 0)?;
        Ok(per_cpu.iter().map(|c| c.packets).sum())
    }

    fn call(&self, program: &str, frame: &[u8], repeat: u32) -> anyhow::Result<Called> {
        let program: &Xdp = self
            .ebpf
            .program(program)
            .context("no such program")?
            .try_into()?;
        let mut out = [0; 256];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat,
            ..TestRunOptions::default()
        })?;
        Ok(Called {
            action: result.return_value,
            ns: result.duration.as_nanos() as f64,
            ttl: out[14 + 8],
        })
    }
}

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

/// The `at`th flow of a chain in random order: a multiplier that shares no factor with the length.
fn position(at: u32, length: u32) -> u32 {
    // 61,803 is odd and no multiple of 5, so it is coprime to 100,000.
    (u64::from(at) * 61_803 % u64::from(length)) as u32
}

/// The tuple of flow `n`: clients of a few networks.
fn flow_key(n: u32) -> FlowKey {
    let [_, _, high, low] = (n / 50).to_be_bytes();
    FlowKey::v4([10, 9, high, low], 40_000 + (n % 50) as u16, VIP, 1883)
}

fn segment(key: FlowKey) -> Emit<'static> {
    Emit {
        key,
        seq: 1000,
        ack: 2000,
        flags: flag::ACK,
        window: 500,
        syn: SynOptions::default(),
        timestamps: None,
        payload: &[],
    }
}

/// The frame with a TTL of 255.
fn frame(e: &Emit<'_>) -> anyhow::Result<Vec<u8>> {
    let hop = Hop {
        dst_mac: OUR_MAC,
        src_mac: CLIENT_MAC,
        ..Hop::default()
    };
    let mut out = vec![0; 256];
    let length = emit(e, &hop, &mut out).context("the frame is too long")?;
    out.truncate(length);
    out[14 + 8] = 255;
    Ok(out)
}

/// Puts a SACK block behind 12 bytes of timestamps. (The checksum is updated by difference, so it
/// needs not be right.)
fn with_sack(mut frame: Vec<u8>) -> Vec<u8> {
    frame.extend([1, 1, 5, 10, 0, 0, 1, 0, 0, 0, 2, 0]);
    frame[14 + 20 + 12] += 3 << 4;
    frame[14 + 3] += 12;
    frame
}

fn arp() -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &CLIENT_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    frame.resize(60, 0);
    frame
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Name, translated instructions, bytes of machine code, instructions that the verifier walked.
struct Size {
    name: String,
    instructions: u32,
    jited: u32,
    walked: u32,
}

fn sizes(ebpf: &Ebpf) -> anyhow::Result<Vec<Size>> {
    let mut sizes = vec![];
    for (name, program) in ebpf.programs() {
        let info = program
            .info()
            .with_context(|| format!("ask the kernel about {name}"))?;
        sizes.push(Size {
            name: name.to_owned(),
            instructions: info
                .size_translated()
                .context("kernel.bpf_stats hides the size")?
                / 8,
            jited: info.size_jitted(),
            walked: info
                .verified_instruction_count()
                .context("the kernel does not say what the verifier walked (before 5.16)")?,
        });
    }
    Ok(sizes)
}

fn print_table(rows: &[Row], sizes: &[Size]) {
    println!(
        "{:<40}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}",
        "ns per packet", "flows", "warm", "least", "median", "mean", "empty"
    );
    for r in rows {
        let warm = r.warm.map_or(String::new(), |w| format!("{w:.0}"));
        let name = if r.runs.packets == 1 {
            format!("{} *", r.name)
        } else {
            r.name.to_owned()
        };
        println!(
            "{:<40}{:>8}{:>8}{:>8.0}{:>8.0}{:>8.1}{:>8.0}",
            name, r.flows, warm, r.least, r.median, r.mean, r.empty
        );
    }
    println!("* one packet a call, with cold caches: the clock's own cost is in \"empty\"");
    println!();
    println!(
        "{:<16}{:>14}{:>14}{:>14}",
        "program", "instructions", "jited bytes", "walked"
    );
    for s in sizes {
        println!(
            "{:<16}{:>14}{:>14}{:>14}",
            s.name, s.instructions, s.jited, s.walked
        );
    }
}

fn print_json(rows: &[Row], sizes: &[Size]) -> anyhow::Result<()> {
    let rows: Vec<_> = rows
        .iter()
        .map(|r| {
            serde_json::json!({
                "name": r.name, "flows": r.flows, "packets_per_call": r.runs.packets, "calls": r.runs.calls,
                "warm_ns": r.warm, "least_ns": r.least, "median_ns": r.median, "mean_ns": r.mean, "empty_ns": r.empty,
            })
        })
        .collect();
    let programs: Vec<_> = sizes
        .iter()
        .map(|s| {
            serde_json::json!({
                "name": s.name, "instructions": s.instructions,
                "jited_bytes": s.jited, "verifier_walked": s.walked,
            })
        })
        .collect();
    let all = serde_json::json!({ "rows": rows, "programs": programs });
    println!("{}", serde_json::to_string_pretty(&all)?);
    Ok(())
}
