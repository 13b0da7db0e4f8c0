//! One row of the table: a frame in, and all that must come of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lb_common::layout::Verdict;

use crate::frame::Segment;
use crate::world::{Action, Run, World};

type Before = Box<dyn Fn(&mut World)>;
type After = Box<dyn Fn(&mut World, &Run)>;

/// The frame that the program must leave behind.
enum Out {
    /// Untouched. Also the rule for dropped frames: what is dropped needs no work.
    Same,
    /// Exactly this, checksums right.
    Is(Box<Segment>),
    /// The row looks by itself.
    Looked,
}

/// See the module.
pub struct Row {
    name: &'static str,
    frame: Vec<u8>,
    before: Vec<Before>,
    action: Action,
    counted: Vec<Verdict>,
    bytes: usize,
    out: Out,
    punts: usize,
    after: Vec<After>,
}

impl Row {
    /// `bytes` is what the counters must grow by: the length of the IP packet.
    pub fn raw(name: &'static str, frame: Vec<u8>, bytes: usize) -> Self {
        Self {
            name,
            frame,
            before: vec![],
            action: Action::Pass,
            counted: vec![Verdict::Passed],
            bytes,
            out: Out::Same,
            punts: 0,
            after: vec![],
        }
    }

    pub fn new(name: &'static str, segment: &Segment) -> Self {
        Self::raw(name, segment.bytes(), segment.ip_len())
    }

    /// Prepares the maps.
    pub fn with(mut self, before: impl Fn(&mut World) + 'static) -> Self {
        self.before.push(Box::new(before));
        self
    }

    /// Action and verdicts: exactly these are counted, once each.
    pub fn gives(mut self, action: Action, counted: &[Verdict]) -> Self {
        self.action = action;
        self.counted = counted.to_vec();
        self
    }

    pub fn drops(self, counted: Verdict) -> Self {
        self.gives(Action::Drop, &[counted])
    }

    pub fn out(mut self, segment: Segment) -> Self {
        self.out = Out::Is(Box::new(segment));
        self
    }

    /// The frame out is looked at by `look`.
    pub fn looks(mut self, look: impl Fn(&Segment) + 'static) -> Self {
        self.out = Out::Looked;
        self.then(move |_, run| look(&Segment::read(&run.frame)))
    }

    /// Dropped and handed to the agent: one record with the whole frame.
    pub fn punts(mut self, verdict: Verdict) -> Self {
        self.punts = 1;
        self.drops(verdict)
    }

    /// Looks at the maps afterwards.
    pub fn then(mut self, after: impl Fn(&mut World, &Run) + 'static) -> Self {
        self.after.push(Box::new(after));
        self
    }

    fn check(&self, world: &mut World) {
        world.reset();
        for before in &self.before {
            before(world);
        }
        let run = world.run(&self.frame);
        let counted: Vec<_> = run
            .counted
            .iter()
            .map(|(v, c)| (*v, c.packets, c.bytes))
            .collect();
        let mut expected: Vec<_> = self
            .counted
            .iter()
            .map(|v| (*v, 1, self.bytes as u64))
            .collect();
        expected.sort_by_key(|(v, ..)| *v as u32);
        assert_eq!(
            (run.action, counted),
            (self.action, expected),
            "action and counters"
        );
        match &self.out {
            Out::Same => assert_eq!(run.frame, self.frame, "the frame is left alone"),
            Out::Is(expected) => assert_eq!(Segment::read(&run.frame), **expected, "frame out"),
            Out::Looked => {}
        }
        assert_eq!(run.punts.len(), self.punts, "punts: {:?}", run.punts);
        for punt in &run.punts {
            assert_eq!(punt.frame, self.frame, "the punted frame");
            assert_eq!(usize::from(punt.length), self.frame.len());
            assert_eq!(punt.ifindex, crate::place::IFINDEX);
            assert_ne!(punt.time, 0);
        }
        for after in &self.after {
            after(world, &run);
        }
    }
}

/// Runs a table in a world of its own; every row is tried, and all that fail are named.
pub fn table(name: &str, rows: Vec<Row>) {
    let Some(mut world) = World::new(name) else {
        return;
    };
    let failed: Vec<_> = rows
        .iter()
        .filter(|row| {
            let failed = catch_unwind(AssertUnwindSafe(|| row.check(&mut world))).is_err();
            if failed {
                eprintln!("^ row {:?} of {name}", row.name);
            }
            failed
        })
        .map(|row| row.name)
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} rows failed: {failed:#?}",
        failed.len(),
        rows.len()
    );
}
