//! The coarse clock of the packet path.
//!
//! Asking the kernel for the time is a call of 14 ns, a fifth of a splice; `bpf_jiffies64` is a plain
//! load where the verifier knows its address (64-bit, Linux 5.6). The clock that entries are stamped by moves
//! with the jiffies and no faster, so one word remembers for which jiffy it was asked last.

use core::cell::UnsafeCell;

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use lb_common::layout::ticks;

/// The lower half of a jiffy, then the ticks at that jiffy: one word, so that no CPU sees half of it.
///
/// A jiffy comes again after 2^32 (49 days at 1000 Hz); for a wrong time the first packet after a
/// silence of exactly that would have to hit the same one.
static LAST: Word = Word(UnsafeCell::new(0));

/// A word of the program's own memory that every CPU reads and writes. `AtomicU64` would be the type,
/// but LLVM 22 has no atomic loads for BPF before v4 ("Cannot select: AtomicLoad").
struct Word(UnsafeCell<u64>);

// SAFETY: it is only read and written as a whole, by one aligned access each.
unsafe impl Sync for Word {}

impl Word {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the pointer is that of a static.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.get().write_volatile(value) };
    }
}

/// Now, in [`ticks`] of the coarse monotonic clock. At most a jiffy late.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: the helper only reads a counter.
    let jiffies = unsafe { bpf_jiffies64() };
    let last = LAST.load();
    if last >> 32 == jiffies & 0xffff_ffff {
        return last as u32;
    }
    // SAFETY: the helper only reads a clock.
    let ticks = ticks::from_ns(unsafe { bpf_ktime_get_coarse_ns() });
    LAST.store(jiffies << 32 | ticks as u64);
    ticks
}
