//! Secrets and limits that the XDP program reads; one entry, written by the agent.

/// Value of the settings map (one entry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Settings {
    /// SYN cookie keys; `cookie_epoch & 1` is the current one, the other the previous one.
    pub cookie_keys: [[u64; 2]; 2],
    /// Key of the client identifier's hash.
    pub client_key: [u64; 2],
    /// Counts the rotations of the cookie keys.
    pub cookie_epoch: u32,
    /// Added to our timestamp clock (milliseconds), so that it doesn't tell the uptime.
    pub timestamp_offset: u32,
    /// First port of the SNAT range, host order.
    pub snat_first: u16,
    /// Last port of the SNAT range, host order.
    pub snat_last: u16,
    /// RSTs per second and CPU that the program sends by itself.
    pub reset_rate: u32,
}
const _: () = assert!(size_of::<Settings>() == 64);

/// A token bucket, one per CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Bucket {
    /// Tokens left, in 2^-20.
    pub tokens: u64,
    /// When it was last filled, ns.
    pub filled: u64,
}

impl Bucket {
    /// Takes one token; `rate` per second, a burst of one second.
    #[inline(always)]
    pub fn take(&mut self, now_ns: u64, rate: u32) -> bool {
        const ONE: u64 = 1 << 20;
        let elapsed = now_ns.saturating_sub(self.filled);
        let elapsed = if elapsed > 1_000_000_000 {
            1_000_000_000
        } else {
            elapsed
        };
        let limit = rate as u64 * ONE;
        // rate × 2^20 × elapsed / 10^9 without overflow: elapsed / 2^10 first (10^9 / 2^10 = 976562).
        let tokens = self.tokens + (rate as u64 * (elapsed >> 10) * ONE) / 976_562;
        self.filled = now_ns;
        self.tokens = if tokens > limit { limit } else { tokens };
        if self.tokens < ONE {
            return false;
        }
        self.tokens -= ONE;
        true
    }
}
