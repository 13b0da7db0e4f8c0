//! The XDP program as a table: frame in → action, counters, frame out, map entries and punts, by
//! BPF_PROG_TEST_RUN in the running kernel. Needs root and a BPF file system; skipped otherwise.

mod clock;
mod close;
mod frame;
mod header;
mod hop;
mod known;
mod limits;
mod moves;
mod newcomer;
mod options;
mod place;
mod property;
mod proxied;
mod recipe;
mod row;
mod set_up;
mod sources;
mod spliced;
mod syn;
mod turns;
mod world;
