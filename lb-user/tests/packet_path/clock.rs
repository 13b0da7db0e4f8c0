//! The clocks that the program reads.

fn ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours.
    let result = unsafe { libc::clock_gettime(clock, &raw mut now) };
    assert_eq!(result, 0);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap()
}

/// `bpf_ktime_get_ns`.
pub fn fine_ns() -> u64 {
    ns(libc::CLOCK_MONOTONIC)
}

/// `bpf_ktime_get_coarse_ns`.
pub fn coarse_ns() -> u64 {
    ns(libc::CLOCK_MONOTONIC_COARSE)
}
