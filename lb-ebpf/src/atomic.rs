//! The atomic operations that are needed. For BPF, Rust's `AtomicU64` has none, although the processor has
//! them since Linux 5.12 (`-Ctarget-cpu=v3`). With a result they are full barriers, also on arm64.

/// Adds to `*at`, gives what was there.
///
/// # Safety
/// `at` points to a map's value, and is aligned.
#[inline(always)]
pub unsafe fn fetch_add(at: *mut u64, mut value: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("{0} = atomic_fetch_add((u64 *)({1} + 0), {0})", inout(reg) value, in(reg) at);
    }
    value
}

/// Writes to `*at`, gives what was there.
///
/// # Safety
/// As for [`fetch_add`].
#[inline(always)]
pub unsafe fn swap(at: *mut u64, mut value: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("{0} = xchg_64({1} + 0, {0})", inout(reg) value, in(reg) at);
    }
    value
}

/// Sets the bits of `mask` in `*at`.
///
/// # Safety
/// As for [`fetch_add`].
#[inline(always)]
pub unsafe fn set(at: *mut u64, mask: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("lock *(u64 *)({1} + 0) |= {0}", in(reg) mask, in(reg) at);
    }
}

/// Clears the bits of `*at` that `mask` doesn't have.
///
/// # Safety
/// As for [`fetch_add`].
#[inline(always)]
pub unsafe fn keep(at: *mut u64, mask: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("lock *(u64 *)({1} + 0) &= {0}", in(reg) mask, in(reg) at);
    }
}
