//! TCP options (RFC 9293, section 3.2), walked one at a time.
//!
//! Options stand in a 64-byte buffer of which at most 40 are used; the rest is zero. Indices are
//! masked with 63, so no access can fail, neither in Rust nor for the verifier. A walk is a number
//! of calls to `step`: the XDP program makes them with `bpf_loop`, user space in a loop.

/// Room for options; the mask of all indices is one less.
pub const BUFFER: usize = 64;
/// The most options there can be, in bytes (and so the most steps of a walk).
pub const MAX: usize = 40;

/// Kinds of options.
pub mod kind {
    /// End of options.
    pub const END: u8 = 0;
    /// No operation.
    pub const NOP: u8 = 1;
    /// Maximum segment size.
    pub const MSS: u8 = 2;
    /// Window scale (RFC 7323).
    pub const WINDOW_SCALE: u8 = 3;
    /// SACK permitted (RFC 2018).
    pub const SACK_PERMITTED: u8 = 4;
    /// SACK blocks (RFC 2018).
    pub const SACK: u8 = 5;
    /// Timestamps (RFC 7323).
    pub const TIMESTAMPS: u8 = 8;
}

/// The timestamps option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Timestamps {
    /// TSval.
    pub value: u32,
    /// TSecr.
    pub echo: u32,
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One option (or NOP) at this offset, of this kind and length.
    Option { at: usize, kind: u8, len: usize },
    /// No more options.
    End,
    /// A length that is below 2 or beyond the end.
    Bad,
}

/// The byte at `at`.
#[inline(always)]
#[must_use]
pub const fn byte(buffer: &[u8; BUFFER], at: usize) -> u8 {
    buffer[at & (BUFFER - 1)]
}

/// 32 bits at `at`, network order.
#[inline(always)]
#[must_use]
pub const fn get4(b: &[u8; BUFFER], at: usize) -> u32 {
    u32::from_be_bytes([
        byte(b, at),
        byte(b, at + 1),
        byte(b, at + 2),
        byte(b, at + 3),
    ])
}

/// Writes 32 bits at `at`, network order.
#[inline(always)]
pub const fn put4(b: &mut [u8; BUFFER], at: usize, v: u32) {
    let v = v.to_be_bytes();
    b[at & (BUFFER - 1)] = v[0];
    b[(at + 1) & (BUFFER - 1)] = v[1];
    b[(at + 2) & (BUFFER - 1)] = v[2];
    b[(at + 3) & (BUFFER - 1)] = v[3];
}

/// Looks at the option at `at`, of options that are `len` bytes long.
#[inline(always)]
#[must_use]
pub const fn step(buffer: &[u8; BUFFER], len: usize, at: usize) -> Step {
    if at >= len {
        return Step::End;
    }
    let kind = byte(buffer, at);
    if kind == kind::END {
        return Step::End;
    }
    if kind == kind::NOP {
        return Step::Option { at, kind, len: 1 };
    }
    let option_len = byte(buffer, at + 1) as usize;
    if option_len < 2 || at + option_len > len {
        return Step::Bad;
    }
    Step::Option {
        at,
        kind,
        len: option_len,
    }
}

/// Copies options into a buffer to walk; more than 40 bytes can't stand in a header and are cut.
#[must_use]
pub fn buffer(options: &[u8]) -> ([u8; BUFFER], usize) {
    let mut b = [0; BUFFER];
    let mut len = 0;
    for (to, from) in b.iter_mut().take(MAX).zip(options) {
        *to = *from;
        len += 1;
    }
    (b, len)
}

/// Calls `f` with every option; `false` if the options are malformed.
pub fn walk(options: &[u8], mut f: impl FnMut(&[u8; BUFFER], usize, u8, usize)) -> bool {
    let (b, len) = buffer(options);
    let mut at = 0;
    for _ in 0..=MAX {
        match step(&b, len, at) {
            Step::Option {
                at: here,
                kind,
                len,
            } => {
                f(&b, here, kind, len);
                at = here + len;
            }
            Step::End => return true,
            Step::Bad => return false,
        }
    }
    true
}

/// The timestamps option among `options`.
#[must_use]
pub fn find_timestamps(options: &[u8]) -> Option<Timestamps> {
    let mut found = None;
    walk(options, |b, at, kind, len| {
        if kind == kind::TIMESTAMPS && len == 10 {
            found = Some(Timestamps {
                value: get4(b, at + 2),
                echo: get4(b, at + 6),
            });
        }
    });
    found
}

/// The options that a SYN or SYN-ACK carries and that matter to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offered {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale.
    pub window_scale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
}

/// The same, read one option at a time: the XDP program does it with `bpf_loop`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Offers {
    /// The option block; zero beyond `len`.
    pub buffer: [u8; BUFFER],
    /// Its length in bytes.
    pub len: u32,
    /// Next byte to look at.
    pub at: u32,
    /// Not zero when the options are malformed.
    pub bad: u32,
    /// TSval.
    pub value: u32,
    /// TSecr.
    pub echo: u32,
    /// Maximum segment size, 0 for none.
    pub mss: u16,
    /// Window scale, 15 for none.
    pub window_scale: u8,
    /// Bit 0: SACK permitted; bit 1: there are timestamps.
    pub bits: u8,
}

impl Offers {
    const NONE: u8 = 15;

    /// Begins a walk; the caller has filled `buffer`.
    #[inline(always)]
    pub const fn begin(&mut self, len: u32) {
        self.len = len;
        self.at = 0;
        self.bad = 0;
        self.value = 0;
        self.echo = 0;
        self.mss = 0;
        self.window_scale = Self::NONE;
        self.bits = 0;
    }

    /// Reads the next option; `false` when done. At most 41 calls.
    #[inline(always)]
    pub const fn step(&mut self) -> bool {
        let at = self.at as usize & (BUFFER - 1);
        let (kind, len) = match step(&self.buffer, self.len as usize, at) {
            Step::Option { kind, len, .. } => (kind, len),
            Step::End => return false,
            Step::Bad => {
                self.bad = 1;
                return false;
            }
        };
        match (kind, len) {
            (kind::MSS, 4) => {
                self.mss =
                    u16::from_be_bytes([byte(&self.buffer, at + 2), byte(&self.buffer, at + 3)]);
            }
            (kind::WINDOW_SCALE, 3) => {
                let scale = byte(&self.buffer, at + 2);
                // RFC 7323, section 2.3: more than 14 is read as 14.
                self.window_scale = if scale > 14 { 14 } else { scale };
            }
            (kind::SACK_PERMITTED, 2) => self.bits |= 1,
            (kind::TIMESTAMPS, 10) => {
                self.value = get4(&self.buffer, at + 2);
                self.echo = get4(&self.buffer, at + 6);
                self.bits |= 2;
            }
            _ => {}
        }
        self.at = (at + len) as u32;
        true
    }

    /// What was read.
    #[inline(always)]
    #[must_use]
    pub const fn offered(&self) -> Offered {
        Offered {
            // 0 is no segment size; nobody sends it.
            mss: if self.mss == 0 { None } else { Some(self.mss) },
            window_scale: if self.window_scale == Self::NONE {
                None
            } else {
                Some(self.window_scale)
            },
            sack: self.bits & 1 != 0,
            timestamps: if self.bits & 2 == 0 {
                None
            } else {
                Some(Timestamps {
                    value: self.value,
                    echo: self.echo,
                })
            },
        }
    }
}

/// Reads the options of a SYN or SYN-ACK.
#[must_use]
pub fn offered(options: &[u8]) -> Offered {
    let (buffer, len) = buffer(options);
    let mut offers = Offers {
        buffer,
        len: 0,
        at: 0,
        bad: 0,
        value: 0,
        echo: 0,
        mss: 0,
        window_scale: 0,
        bits: 0,
    };
    // At most 40.
    offers.begin(len as u32);
    for _ in 0..=MAX {
        if !offers.step() {
            break;
        }
    }
    offers.offered()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn linux_syn() {
        let o = offered(&[
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7,
        ]);
        assert_eq!(
            o,
            Offered {
                mss: Some(1460),
                window_scale: Some(7),
                sack: true,
                timestamps: Some(Timestamps { value: 9, echo: 0 })
            }
        );
    }

    #[test]
    fn malformed_lengths() {
        assert!(!walk(&[2, 0], |_, _, _, _| {}));
        assert!(!walk(&[8, 10, 1], |_, _, _, _| {}));
        assert!(
            !walk(&[1, 1, 1, 5], |_, _, _, _| {}),
            "the length byte is missing"
        );
        assert!(
            walk(&[0, 99, 99], |_, _, _, _| {}),
            "nothing counts after the end"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked(options in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut total = 0;
            walk(&options, |_, at, _, len| { total = at + len; });
            prop_assert!(total <= MAX);
        }
    }
}
