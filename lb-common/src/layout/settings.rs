//! Secrets and limits that the XDP program reads; one entry, written by the agent.

use super::ticks;

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
    /// How the silence is bounded after which a connection ends.
    pub idle: IdleLimits,
    /// A binding that wasn't refreshed for so long is void; in ticks.
    pub linger: u32,
    /// For one backend to answer a SYN, in ticks.
    pub connect_timeout: u32,
    /// Longest client identifier that is taken, in bytes.
    pub client_id: u32,
    /// Named padding.
    pub _pad: u32,
}
const _: () = assert!(size_of::<Settings>() == 104);

/// From a CONNECT's keep-alive to the idle limit of its connection. In nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct IdleLimits {
    /// Added to 1.5 × keep-alive.
    pub grace: u64,
    /// Shorter keep-alives count as this: a broker may set a longer one (MQTT 5, section 3.2.2.3.14),
    /// in a CONNACK that nobody here reads.
    pub least: u64,
    /// The limit where the keep-alive is 0; 0 for no limit.
    pub zero: u64,
}

impl IdleLimits {
    /// Silence after which a connection ends, in ticks; 0 for never. `keep_alive` is in seconds.
    #[inline(always)]
    #[must_use]
    pub const fn limit(&self, keep_alive: u16) -> u32 {
        if keep_alive == 0 {
            return ticks::span(self.zero);
        }
        // MQTT 5, section 3.1.2.10: a server waits one and a half times the keep-alive.
        let asked = keep_alive as u64 * 1_000_000_000;
        let keep_alive = if asked > self.least {
            asked
        } else {
            self.least
        };
        ticks::span((keep_alive * 3 / 2).saturating_add(self.grace))
    }
}

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
