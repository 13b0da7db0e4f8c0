//! The programs, loaded, and what stands in their maps.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use anyhow::{Context, bail};
use aya::maps::{Array, HashMap, Map, PerCpuArray};
use aya::programs::{Program, TestRun, Xdp};
use aya::{Ebpf, EbpfLoader, TestRunOptions};
use lb_common::layout::{
    Backend, Binding, Counter, Endpoint, EndpointKey, EndpointKind, Flow, FlowKey, Hop, IdleLimits,
    Listener, Settings, State, Verdict, source_mode,
};
use lb_common::limits::credit::{ALL, Credit, UNLIMITED, of_backend};

use crate::frames::{CLIENT_MAC, OUR_MAC, VIP, flow_key, flow_key_v6};
use crate::table::Size;

/// Flows of the large chain.
pub const MANY: u32 = 100_000;
/// Interface of the test run: loopback.
const IFINDEX: u32 = 1;

pub const SETTINGS: Settings = Settings {
    cookie_keys: [[1, 2], [3, 4]],
    client_key: [5, 6],
    cookie_epoch: 0,
    timestamp_offset: 7,
    snat_first: 20_000,
    snat_last: 29_999,
    reset_rate: 0,
    idle: IdleLimits {
        grace: 10_000_000_000,
        least: 0,
        zero: 0,
    },
    linger: u32::MAX,
    connect_timeout: u32::MAX,
    client_id: 65_535,
    _pad: 0,
};

pub struct Scene {
    ebpf: Ebpf,
}

/// What a call of the kernel's test run gave.
pub struct Called {
    pub action: u32,
    /// Nanoseconds a packet.
    pub ns: f64,
    /// The frame after the last packet.
    pub frame: Vec<u8>,
}

impl Scene {
    /// Loads the programs, with maps pinned in `pins` and room for so many flow entries; a VIP is known, no flows.
    pub fn load(pins: &Path, entries: u32) -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins)
            .map_max_entries("FLOWS", entries)
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
        let mut settings: Array<_, Settings> = ebpf
            .map_mut("SETTINGS")
            .context("no map SETTINGS")?
            .try_into()?;
        settings.set(0, SETTINGS, 0)?;
        let mut endpoints: HashMap<_, EndpointKey, Endpoint> = ebpf
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
        Ok(Self { ebpf })
    }

    /// Enters a chain of flows: the outgoing tuple of each is the key of the next. And one of IPv6.
    pub fn chain(&mut self, length: u32, flags: u8) -> anyhow::Result<()> {
        let mut flows: HashMap<_, FlowKey, Flow> = self
            .ebpf
            .map_mut("FLOWS")
            .context("no map FLOWS")?
            .try_into()?;
        let mut enter = |key: FlowKey, to: FlowKey| {
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
                flags,
                ..Flow::ZERO
            }
            .towards(&key, &to);
            flows.insert(key, flow, 0)
        };
        for at in 0..length {
            enter(
                flow_key(position(at, length)),
                flow_key(position((at + 1) % length, length)),
            )?;
        }
        enter(flow_key_v6(), flow_key_v6())?;
        Ok(())
    }

    /// Lets the program set up connections by itself: a backend, and clients that are bound to it.
    pub fn knows(&mut self, client: u64) -> anyhow::Result<()> {
        const SLOT: u16 = 2;
        const ADDRESSES: u8 = 16;
        let listener = Listener {
            steer: 1,
            source: source_mode::SNAT,
            window_scale: 7,
            answers: 7,
            pool: 0,
            mss: 1460,
            ..Listener::default()
        };
        Array::<_, Listener>::try_from(self.map("LISTENERS")?)?.set(0, listener, 0)?;
        let endless = Credit {
            opened: 0,
            open_until: UNLIMITED,
        };
        let mut credits = Array::<_, Credit>::try_from(self.map("CREDITS")?)?;
        credits.set(0, endless, 0)?;
        credits.set(ALL, endless, 0)?;
        credits.set(of_backend(SLOT), endless, 0)?;
        let backend = Backend {
            address: FlowKey::v4([10, 77, 1, 2], 0, VIP, 0).src,
            port: 1883u16.to_be_bytes(),
            state: 1,
            hop: Hop {
                ifindex: IFINDEX,
                dst_mac: CLIENT_MAC,
                src_mac: OUR_MAC,
                ..Hop::default()
            },
            generation: 1,
            mss: 1460,
            snat_count: ADDRESSES.into(),
            ..Backend::default()
        };
        Array::<_, Backend>::try_from(self.map("BACKENDS")?)?.set(SLOT.into(), backend, 0)?;
        let mut snat = Array::<_, [u8; 16]>::try_from(self.map("SNAT")?)?;
        for n in 0..ADDRESSES {
            let address = FlowKey::v4([10, 77, 1, 100 + n], 0, VIP, 0).src;
            snat.set(n.into(), address, 0)?;
        }
        let binding = Binding {
            backend: SLOT,
            ..Binding::default()
        };
        HashMap::<_, u64, Binding>::try_from(self.map("BINDINGS")?)?.insert(client, binding, 0)?;
        Ok(())
    }

    fn map(&mut self, name: &str) -> anyhow::Result<&mut Map> {
        let map = self.ebpf.map_mut(name);
        map.with_context(|| format!("no map {name}"))
    }

    /// How many packets were counted under a verdict so far.
    pub fn counted(&self, verdict: Verdict) -> anyhow::Result<u64> {
        let counters: PerCpuArray<_, Counter> = self
            .ebpf
            .map("COUNTERS")
            .context("no map COUNTERS")?
            .try_into()?;
        let per_cpu = counters.get(&(verdict as u32), 0)?;
        Ok(per_cpu.iter().map(|c| c.packets).sum())
    }

    /// Runs a program on one frame.
    pub fn call(&self, program: &str, frame: &[u8], repeat: u32) -> anyhow::Result<Called> {
        let program: &Xdp = self
            .ebpf
            .program(program)
            .context("no such program")?
            .try_into()?;
        let mut out = vec![0; 2048];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat,
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok(Called {
            action: result.return_value,
            ns: result.duration.as_nanos() as f64,
            frame: out,
        })
    }

    /// What the kernel allocated for the flow map, in bytes.
    pub fn memory_of_flows(&self) -> anyhow::Result<u64> {
        let Map::HashMap(data) = self.ebpf.map("FLOWS").context("no map FLOWS")? else {
            bail!("FLOWS is no hash map")
        };
        let fd = data.fd().as_fd().as_raw_fd();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
        let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        Ok(line.context("the kernel doesn't say")?.trim().parse()?)
    }

    pub fn sizes(&self) -> anyhow::Result<Vec<Size>> {
        let mut sizes = vec![];
        for (name, program) in self.ebpf.programs() {
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
        sizes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(sizes)
    }
}

/// The `at`th flow of a chain in random order: a multiplier that shares no factor with the length.
fn position(at: u32, length: u32) -> u32 {
    // 61,803 is odd and no multiple of 5, so it is coprime to 100,000.
    (u64::from(at) * 61_803 % u64::from(length)) as u32
}
