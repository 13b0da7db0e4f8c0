//! The XDP program, loaded into the running kernel with maps of its own, and run on single frames
//! by BPF_PROG_TEST_RUN. Nothing is attached; no packet leaves.

use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::{TestRun, Xdp};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, TestRunOptions};
use lb_common::layout::{
    Backend, Binding, Bucket, Counter, Endpoint, EndpointKey, Flow, FlowKey, Listener, Pending,
    Settings, Source, SourceKey, TURNS, Turns, Verdict,
};

use lb_common::limits::credit::{self, Credit};

use crate::place;

/// What an XDP program decides, by its number in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Drop = 1,
    Pass = 2,
    Tx = 3,
    Redirect = 4,
}

impl Action {
    fn from_return_value(v: u32) -> Self {
        match v {
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            v => panic!("the program returned {v}: aborted, or no action at all"),
        }
    }
}

/// A record of the ring buffer, read by the offsets that `layout::Punt` documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Punted {
    pub time: u64,
    pub ifindex: u32,
    pub captured: u16,
    pub length: u16,
    pub isn: u32,
    pub kind: u8,
    pub listener: u8,
    /// The captured bytes.
    pub frame: Vec<u8>,
}

impl Punted {
    fn read(record: &[u8]) -> Self {
        let u16_at = |at: usize| u16::from_ne_bytes(record[at..at + 2].try_into().unwrap());
        let u32_at = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().unwrap());
        let captured = u16_at(12);
        Self {
            time: u64::from_ne_bytes(record[..8].try_into().unwrap()),
            ifindex: u32_at(8),
            captured,
            length: u16_at(14),
            isn: u32_at(16),
            kind: record[20],
            listener: record[21],
            frame: record[24..24 + usize::from(captured)].to_vec(),
        }
    }
}

/// What came of one frame.
#[derive(Debug)]
pub struct Run {
    pub action: Action,
    pub frame: Vec<u8>,
    /// Every verdict that was counted, with packets and bytes.
    pub counted: Vec<(Verdict, Counter)>,
    pub punts: Vec<Punted>,
}

/// The maps are pinned by name: each world has a directory of its own.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

/// The loaded program and its maps.
pub struct World {
    pub flows: HashMap<MapData, FlowKey, Flow>,
    pub endpoints: HashMap<MapData, EndpointKey, Endpoint>,
    pub backends: Array<MapData, Backend>,
    pub bindings: HashMap<MapData, u64, Binding>,
    pub snat: Array<MapData, [u8; 16]>,
    pub turns: Array<MapData, Turns>,
    pub pending: Array<MapData, Pending>,
    pub listeners: Array<MapData, Listener>,
    pub credits: Array<MapData, Credit>,
    pub sources: HashMap<MapData, SourceKey, Source>,
    pub blocked: LpmTrie<MapData, [u8; 16], u32>,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Counter>,
    buckets: PerCpuArray<MapData, Bucket>,
    punts: RingBuf<MapData>,
    ebpf: Ebpf,
    pins: Pins,
}

/// What the map of turns holds of a pool that has none.
pub const NO_TURNS: Turns = Turns {
    next: 0,
    len: 0,
    families: 0,
    round: [0; TURNS],
};

/// Slots of the flow map here, unless a test wants fewer.
pub const FLOWS: u32 = 64;

impl World {
    /// A world of `place`'s endpoints. `None`, with the reason printed, without root.
    pub fn new(name: &str) -> Option<Self> {
        Self::with_flows(name, FLOWS)
    }

    /// The same with another size of the flow map.
    pub fn with_flows(name: &str, flows: u32) -> Option<Self> {
        // SAFETY: geteuid has no preconditions and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: loading BPF programs needs root");
            return None;
        }
        let path = Path::new("/sys/fs/bpf")
            .join(format!("mqlb-packet-path-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap_or_else(|e| {
            panic!(
                "create {}: {e} (is a BPF file system mounted?)",
                path.display()
            )
        });
        let pins = Pins(path);
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(&pins.0)
            .map_max_entries("FLOWS", flows)
            .map_max_entries("BINDINGS", 64)
            .map_max_entries("BACKENDS", 8)
            // One page: about a dozen small records.
            .map_max_entries("PUNTS", 4096)
            .load(mqlb::PROGRAMS)
            .unwrap();
        let program: &mut Xdp = ebpf.program_mut("mqlb").unwrap().try_into().unwrap();
        program.load().unwrap();
        let mut map = |name: &str| ebpf.take_map(name).unwrap();
        let mut world = Self {
            flows: map("FLOWS").try_into().unwrap(),
            endpoints: map("ENDPOINTS").try_into().unwrap(),
            backends: map("BACKENDS").try_into().unwrap(),
            bindings: map("BINDINGS").try_into().unwrap(),
            snat: map("SNAT").try_into().unwrap(),
            turns: map("TURNS").try_into().unwrap(),
            pending: map("PENDING").try_into().unwrap(),
            listeners: map("LISTENERS").try_into().unwrap(),
            credits: map("CREDITS").try_into().unwrap(),
            sources: map("SOURCES").try_into().unwrap(),
            blocked: map("BLOCKED").try_into().unwrap(),
            settings: map("SETTINGS").try_into().unwrap(),
            counters: map("COUNTERS").try_into().unwrap(),
            buckets: map("BUCKETS").try_into().unwrap(),
            punts: map("PUNTS").try_into().unwrap(),
            ebpf,
            pins,
        };
        world.reset();
        Some(world)
    }

    /// Everything as a fresh agent leaves it: `place`'s endpoints, no flow, full buckets.
    pub fn reset(&mut self) {
        let keys: Vec<_> = self.flows.keys().map(Result::unwrap).collect();
        for key in keys {
            self.flows.remove(&key).unwrap();
        }
        let keys: Vec<_> = self.endpoints.keys().map(Result::unwrap).collect();
        for key in keys {
            self.endpoints.remove(&key).unwrap();
        }
        for (key, endpoint) in place::endpoints() {
            self.endpoints.insert(key, endpoint, 0).unwrap();
        }
        self.backends
            .set(u32::from(place::BACKEND_SLOT), place::backend(), 0)
            .unwrap();
        let keys: Vec<_> = self.sources.keys().map(Result::unwrap).collect();
        for key in keys {
            self.sources.remove(&key).unwrap();
        }
        let keys: Vec<_> = self.blocked.keys().map(Result::unwrap).collect();
        for key in keys {
            self.blocked.remove(&key).unwrap();
        }
        self.turns.set(place::POOL.into(), NO_TURNS, 0).unwrap();
        self.set_listener(&place::UNLIMITED);
        for cell in [credit::ALL, place::UNLIMITED.credit.into()] {
            self.set_credit(cell, credit::UNLIMITED);
        }
        self.set_settings(&place::SETTINGS);
        let full = vec![Bucket::default(); nr_cpus().unwrap()];
        self.buckets
            .set(0, PerCpuValues::try_from(full).unwrap(), 0)
            .unwrap();
        self.drain();
    }

    /// Forgets the punts that wait in the ring buffer.
    pub fn drain(&mut self) {
        while self.punts.next().is_some() {}
    }

    /// Of the one listener.
    pub fn set_listener(&mut self, listener: &Listener) {
        let index = u32::from(place::LISTENER);
        self.listeners.set(index, listener, 0).unwrap();
    }

    /// So many more connections may be opened that this cell counts.
    pub fn set_credit(&mut self, cell: u32, left: u32) {
        let credit = Credit {
            opened: 0,
            open_until: left,
        };
        self.credits.set(cell, credit, 0).unwrap();
    }

    /// Where the maps are pinned.
    pub fn dir(&self) -> &Path {
        &self.pins.0
    }

    pub fn set_settings(&mut self, settings: &Settings) {
        self.settings.set(0, settings, 0).unwrap();
    }

    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.get(key, 0).ok()
    }

    fn counters(&self) -> Vec<Counter> {
        (0..Verdict::COUNT)
            .map(|i| {
                let per_cpu = self.counters.get(&i, 0).unwrap();
                Counter {
                    packets: per_cpu.iter().map(|c| c.packets).sum(),
                    bytes: per_cpu.iter().map(|c| c.bytes).sum(),
                }
            })
            .collect()
    }

    /// Runs the program on `frame`, come in on loopback (interface 1), and collects its punts.
    pub fn run(&mut self, frame: &[u8]) -> Run {
        let mut run = self.run_leaving_punts(frame);
        while let Some(record) = self.punts.next() {
            run.punts.push(Punted::read(&record));
        }
        run
    }

    /// The same, as if the agent slept.
    pub fn run_leaving_punts(&mut self, frame: &[u8]) -> Run {
        let before = self.counters();
        let program: &Xdp = self.ebpf.program("mqlb").unwrap().try_into().unwrap();
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let length = u32::try_from(frame.len()).unwrap();
        let context: Vec<u8> = [0, length, 0, place::IFINDEX, 0, 0]
            .iter()
            .flat_map(|v: &u32| v.to_ne_bytes())
            .collect();
        let mut out = vec![0; frame.len() + 2048];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .unwrap();
        out.truncate(usize::try_from(result.data_size_out).unwrap());
        let counted = Verdict::ALL
            .iter()
            .zip(self.counters().iter().zip(&before))
            .filter(|(_, (after, before))| after != before)
            .map(|(verdict, (after, before))| {
                let counter = Counter {
                    packets: after.packets - before.packets,
                    bytes: after.bytes - before.bytes,
                };
                (*verdict, counter)
            })
            .collect();
        Run {
            action: Action::from_return_value(result.return_value),
            frame: out,
            counted,
            punts: vec![],
        }
    }
}
