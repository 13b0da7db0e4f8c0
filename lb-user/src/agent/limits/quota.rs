//! The sweeper's part in limits of connections: counts those that live, and writes how many more may be
//! opened (see [`lb_common::limits::credit`]).
//!
//! A connection is counted by the entry that exists as long as it counts: for its source the client's,
//! which is there from the first data on; for listener and backend the backend's, from the choice on. For the
//! flow map all of them count, two for a connection: closed ones take their place too. Clients that are being read or
//! refused have places of their own ([`crate::dataplane::RESERVE`]).

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use lb_common::layout::{Flow, FlowKey, Source, SourceKey, State, V4_MAPPED, flags};
use lb_common::limits::credit::{ALL, CELLS, Credit, of_backend};

use super::Rules;
use crate::dataplane::{Credits, Maps};

const BPF_NOEXIST: u64 = 1;
const BPF_EXIST: u64 = 2;

/// One count.
pub struct Quota {
    rules: Arc<Rules>,
    /// How many were opened before the walk, by cell.
    opened: Vec<u32>,
    live: Vec<u32>,
    entries: u32,
    /// Sources as they were before the walk; empty where none is limited.
    before: HashMap<SourceKey, Source>,
    sources: HashMap<SourceKey, u32>,
}

impl Quota {
    /// Before the walk.
    ///
    /// # Errors
    /// The sources can't be read.
    pub fn begin(rules: Arc<Rules>, credits: &Credits, maps: &Maps) -> anyhow::Result<Self> {
        let mut before = HashMap::new();
        if rules.count_sources() {
            maps.each_source(|key, source| {
                before.insert(*key, *source);
            })
            .context("the sources can't be read")?;
        }
        Ok(Self::new(
            rules,
            (0..CELLS).map(|i| credits.get(i).opened).collect(),
            before,
        ))
    }

    pub(super) fn new(
        rules: Arc<Rules>,
        opened: Vec<u32>,
        before: HashMap<SourceKey, Source>,
    ) -> Self {
        Self {
            rules,
            live: vec![0; opened.len()],
            entries: 0,
            opened,
            before,
            sources: HashMap::new(),
        }
    }

    /// One entry of the flow map.
    pub fn see(&mut self, key: &FlowKey, flow: &Flow) {
        self.entries += u32::from(flow.state != State::Sniff as u8);
        if let Some(all) = self.live.get_mut(ALL as usize) {
            *all = self.entries.div_ceil(2);
        }
        if flow.closed() {
            return;
        }
        let listener = self.rules.listeners.get(usize::from(flow.listener));
        if flow.flags & flags::FROM_CLIENT == 0 {
            let cells = [
                listener.map(|l| u32::from(l.credit)),
                Some(of_backend(flow.backend)),
            ];
            for cell in cells.into_iter().flatten() {
                if let Some(live) = self.live.get_mut(cell as usize) {
                    *live += 1;
                }
            }
        } else if let Some(listener) = listener.filter(|l| l.source_flows != 0) {
            // The VIP may be of the other family, where an edge says who the client is.
            let v4 = key.src[..12] == V4_MAPPED;
            let source = SourceKey::new(listener, &key.src, v4);
            *self.sources.entry(source).or_default() += 1;
        }
    }

    /// After the walk: everybody knows how many more may be opened.
    pub fn finish(self, credits: &Credits, maps: &mut Maps) {
        for (index, until) in self.untils() {
            credits.set_until(index, until);
        }
        for change in self.changes() {
            let written = match change {
                Change::Limit(key, until) => maps.sources.get(&key, 0).and_then(|now| {
                    let credit = Credit {
                        open_until: until,
                        ..now.credit
                    };
                    maps.sources
                        .insert(key, Source { credit, ..now }, BPF_EXIST)
                }),
                Change::Make(key, source) => maps.sources.insert(key, source, BPF_NOEXIST),
            };
            if let Err(error) = written {
                // It was evicted, or made by the program a moment ago: the next sweep meets it.
                tracing::trace!("the credit of a source is not written: {error}");
            }
        }
    }

    /// What the cells get.
    pub(super) fn untils(&self) -> impl Iterator<Item = (u32, u32)> {
        (0..)
            .zip(&self.opened)
            .zip(&self.live)
            .zip(&self.rules.most)
            .map(|(((index, opened), live), most)| (index, Credit::until(*opened, *most, *live)))
    }

    /// What has to be written of sources. There may be very many, each a system call: a source that has
    /// more room than it knows of hears of it when it has used half of what it has.
    pub(super) fn changes(&self) -> Vec<Change> {
        // Places of the listeners map that stand for no VIP name the first pool, and no limit.
        let limited = self.rules.listeners.iter().filter(|l| l.source_flows != 0);
        let most: HashMap<u16, u32> = limited.map(|l| (l.pool, l.source_flows)).collect();
        let of = |key: &SourceKey| most.get(&key.pool).copied();
        let mut changes = Vec::new();
        for (key, source) in &self.before {
            let Some(most) = of(key) else { continue };
            let live = self.sources.get(key).copied().unwrap_or(0);
            let (has, room) = (source.credit.left(), most.saturating_sub(live));
            if has > room || has < room && has <= most / 2 {
                let until = Credit::until(source.credit.opened, most, live);
                changes.push(Change::Limit(*key, until));
            }
        }
        for (key, live) in &self.sources {
            let Some(most) = of(key).filter(|_| !self.before.contains_key(key)) else {
                continue;
            };
            // Where its entry went, or before there was a limit. The program gives the whole limit to
            // sources that it doesn't know, which is far from the truth for some.
            if live.saturating_mul(2) > most {
                let credit = Credit {
                    opened: 0,
                    open_until: Credit::until(0, most, *live),
                };
                changes.push(Change::Make(
                    *key,
                    Source {
                        credit,
                        ..Source::default()
                    },
                ));
            }
        }
        changes
    }
}

/// What is written to the sources map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Another limit for a source that is there.
    Limit(SourceKey, u32),
    /// A source that the map doesn't have.
    Make(SourceKey, Source),
}
