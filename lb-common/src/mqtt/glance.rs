//! The CONNECTs of nearly all clients, read by the XDP program: whole, in one segment, of MQTT 3.1.1 or 5,
//! text in ASCII, properties of fixed size only. Whatever is accepted here is accepted by the sniffer, with
//! the same identifier, keep-alive and length; whatever is not quite sure is declined, and the sniffer decides.
//!
//! Written for the kernel's verifier: indices are masked, loops have a fixed bound, and what a loop needs and
//! leaves is in memory (a map's value), of which the verifier assumes nothing. So it doesn't follow every way out
//! of a loop through the rest of the program. The caller of [`Glance::read`] may put the loops into functions of
//! their own for the same reason.

use crate::siphash::{Key, State};

/// Bytes of a segment that are looked at, a power of two.
pub const ROOM: usize = 2048;
const MASK: usize = ROOM - 1;
/// Words are read across the end.
const SLACK: usize = 8;
/// Longest identifier, in words of 8 bytes.
const ID_WORDS: usize = 32;
/// Longest identifier that is read here, in bytes.
pub const LONGEST_ID: u32 = ID_WORDS as u32 * 8;
/// Longest will topic or user name, in words.
const TEXT_WORDS: usize = 64;
/// Most properties of a CONNECT or a will. There are no more of those that are read here.
const PROPERTIES: usize = 6;

/// Zero bytes, `MQTT`, and its length: what a CONNECT's variable header begins with, little endian.
const NAME: u64 = u64::from_le_bytes(*b"\0\x04MQTT\0\0");
/// In each byte: the lowest bit, the highest bit.
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// What a glance saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Seen {
    /// A sound CONNECT with a client identifier.
    Connect = 0,
    /// It doesn't end in this segment.
    Split = 1,
    /// Something that isn't read here, sound or not.
    Unusual = 2,
    /// No client identifier.
    Anonymous = 3,
    /// The client identifier is longer than [`LONGEST_ID`] or than the limit.
    Oversized = 4,
}

/// A segment's payload, and what was read of it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Glance {
    /// The payload.
    pub bytes: [u8; ROOM + SLACK],
    /// Its length.
    pub len: u32,
    /// Next byte to read.
    at: u32,
    /// One past the CONNECT's last byte.
    end: u32,
    /// The connect flags.
    flags: u32,
    /// 4 or 5.
    level: u32,
    /// Seconds; valid after [`Seen::Connect`].
    pub keep_alive: u32,
    /// Keyed hash of the client identifier, never 0; valid after [`Seen::Connect`].
    pub client: u64,
}

const WILL: u32 = 4;
const WILL_QOS: u32 = 0x18;
const WILL_RETAIN: u32 = 0x20;
const PASSWORD: u32 = 0x40;
const USER_NAME: u32 = 0x80;

/// Sets of property identifiers below 64, by what they hold (MQTT 5, section 2.2.2.2).
struct Properties {
    one: u64,
    two: u64,
    four: u64,
    /// 0 is a Protocol Error.
    not_zero: u64,
}

/// Session Expiry 0x11, Request Problem 0x17 and Response 0x19 Information, Receive Maximum 0x21, Topic Alias
/// Maximum 0x22, Maximum Packet Size 0x27. (Flags are 0 or 1, so all of one byte are bounded alike.)
const OF_CONNECT: Properties = Properties {
    one: 1 << 0x17 | 1 << 0x19,
    two: 1 << 0x21 | 1 << 0x22,
    four: 1 << 0x11 | 1 << 0x27,
    not_zero: 1 << 0x21 | 1 << 0x27,
};
/// Payload Format Indicator 0x01, Message Expiry 0x02, Will Delay 0x18.
const OF_WILL: Properties = Properties {
    one: 1 << 0x01,
    two: 0,
    four: 1 << 0x02 | 1 << 0x18,
    not_zero: 0,
};

impl Glance {
    /// Nothing.
    pub const EMPTY: Self = Self {
        bytes: [0; ROOM + SLACK],
        len: 0,
        at: 0,
        end: 0,
        flags: 0,
        level: 0,
        keep_alive: 0,
        client: 0,
    };

    /// Reads `bytes[..len]`. `key` is that of the client identifier's hash, `longest` its greatest length; the
    /// other arguments are [`Self::properties`], [`Self::identifier`] and [`Self::text`], or functions that call
    /// them and nothing else.
    #[inline(always)]
    pub fn read(
        &mut self,
        key: &Key,
        longest: u32,
        properties: impl Fn(&mut Self, bool) -> bool,
        identifier: impl Fn(&mut Self, &Key, u32) -> Seen,
        text: impl Fn(&mut Self, bool) -> bool,
    ) -> Seen {
        let seen = self.head();
        if !matches!(seen, Seen::Connect) {
            return seen;
        }
        if self.level == 5 && !properties(self, false) {
            return Seen::Unusual;
        }
        let seen = identifier(self, key, longest);
        if !matches!(seen, Seen::Connect) {
            return seen;
        }
        if self.flags & WILL != 0 {
            let properties = self.level != 5 || properties(self, true);
            if !properties || !text(self, true) || !self.binary() {
                return Seen::Unusual;
            }
        }
        if self.flags & USER_NAME != 0 && !text(self, false) {
            return Seen::Unusual;
        }
        if self.flags & PASSWORD != 0 && !self.binary() {
            return Seen::Unusual;
        }
        if self.at != self.end {
            return Seen::Unusual;
        }
        Seen::Connect
    }

    /// [`Self::read`] in user space. A payload longer than [`ROOM`] is cut, and so `Split`.
    pub fn read_all(&mut self, payload: &[u8], key: &Key, longest: u32) -> Seen {
        let len = payload.len().min(ROOM);
        for (to, from) in self.bytes.iter_mut().zip(payload.iter().take(len)) {
            *to = *from;
        }
        // At most ROOM.
        self.len = len as u32;
        self.read(key, longest, Self::properties, Self::identifier, Self::text)
    }

    /// 8 bytes at `at`, little endian.
    #[inline(always)]
    const fn word(&self, at: u32) -> u64 {
        let at = at as usize & MASK;
        let b = &self.bytes;
        u64::from_le_bytes([
            b[at],
            b[at + 1],
            b[at + 2],
            b[at + 3],
            b[at + 4],
            b[at + 5],
            b[at + 6],
            b[at + 7],
        ])
    }

    #[inline(always)]
    const fn byte(&self, at: u32) -> u32 {
        self.bytes[at as usize & MASK] as u32
    }

    /// 16 bits at `at`, network order.
    #[inline(always)]
    const fn short(&self, at: u32) -> u32 {
        let at = at as usize & MASK;
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]) as u32
    }

    /// Fixed header, name, level, flags and keep-alive.
    #[inline(always)]
    fn head(&mut self) -> Seen {
        // The shortest has 14 bytes.
        if self.byte(0) != 0x10 || self.len == 0 {
            return Seen::Unusual;
        }
        if self.len < 14 {
            return Seen::Split;
        }
        // A remaining length of one or two bytes, minimal or not (MQTT 5, section 1.5.5).
        let (low, high) = (self.byte(1), self.byte(2));
        let more = low >> 7;
        if more & high >> 7 != 0 {
            return Seen::Unusual;
        }
        let start = 2 + more;
        let end = start + (low & 127) + ((more * high) << 7);
        if end > self.len {
            return Seen::Split;
        }
        let variable = self.word(start);
        if variable & 0xffff_ffff_ffff != NAME || end < start + 12 {
            return Seen::Unusual;
        }
        let (level, flags) = (variable >> 48 & 0xff, (variable >> 56) as u32);
        if level != 4 && level != 5 {
            return Seen::Unusual;
        }
        self.level = level as u32;
        self.flags = flags;
        let will_sound = if flags & WILL != 0 {
            flags & WILL_QOS != WILL_QOS
        } else {
            flags & (WILL_QOS | WILL_RETAIN) == 0
        };
        let login_sound = level == 5 || flags & (USER_NAME | PASSWORD) != PASSWORD;
        if flags & 1 != 0 || !will_sound || !login_sound {
            return Seen::Unusual;
        }
        self.keep_alive = self.short(start + 8);
        self.at = start + 10;
        self.end = end;
        Seen::Connect
    }

    /// Property length and properties, of a will or of the CONNECT itself.
    #[inline(always)]
    pub fn properties(&mut self, of_will: bool) -> bool {
        let known = if of_will { &OF_WILL } else { &OF_CONNECT };
        let len = self.byte(self.at);
        let mut at = self.at + 1;
        let end = at + len;
        if len > 127 || end > self.end {
            return false;
        }
        let mut seen = 0u64;
        let mut i = 0;
        while i < PROPERTIES {
            if at >= end {
                break;
            }
            let identifier = self.byte(at);
            let bit = 1u64 << (identifier & 63);
            let is = |set: u64| (set >> (identifier & 63)) as u32 & 1;
            let size = is(known.one) + 2 * is(known.two) + 4 * is(known.four);
            // Of the four bytes that follow, the first `size` are the value.
            let four = u32::from_le_bytes([
                self.byte(at + 1) as u8,
                self.byte(at + 2) as u8,
                self.byte(at + 3) as u8,
                self.byte(at + 4) as u8,
            ])
            .swap_bytes();
            let value = four >> ((32 - 8 * size) & 31);
            let zero = is(known.not_zero) != 0 && value == 0;
            let large = size == 1 && value > 1;
            if identifier > 63 || size == 0 || seen & bit != 0 || zero || large {
                return false;
            }
            seen |= bit;
            at += 1 + size;
            i += 1;
        }
        self.at = at;
        at == end
    }

    /// The client identifier: its length, its characters, its hash.
    #[inline(always)]
    pub fn identifier(&mut self, key: &Key, longest: u32) -> Seen {
        if self.at + 2 > self.end {
            return Seen::Unusual;
        }
        let len = self.short(self.at);
        let start = self.at + 2;
        if len == 0 {
            return Seen::Anonymous;
        }
        if start + len > self.end {
            return Seen::Unusual;
        }
        if len > LONGEST_ID || len > longest {
            return Seen::Oversized;
        }
        let mut hash = State::new(key);
        let mut bad = 0;
        let mut i = 0;
        let words = len >> 3;
        while i < ID_WORDS as u32 {
            if i >= words {
                break;
            }
            let word = self.word(start + i * 8);
            bad |= not_ascii(word);
            hash.word(word);
            i += 1;
        }
        // What follows the identifier counts as ones here, so that it is good text, and as zeros there.
        let rest = (1u64 << (8 * (len & 7))) - 1;
        let word = self.word(start + (len & !7)) & rest;
        bad |= not_ascii(word | ONES & !rest);
        hash.word(word | (len as u64) << 56);
        let client = hash.finish();
        self.client = if client == 0 { 1 } else { client };
        self.at = start + len;
        if bad == 0 {
            Seen::Connect
        } else {
            Seen::Unusual
        }
    }

    /// A text field, a will topic or a user name.
    #[inline(always)]
    pub fn text(&mut self, topic: bool) -> bool {
        if self.at + 2 > self.end {
            return false;
        }
        let len = self.short(self.at);
        let start = self.at + 2;
        let words = len >> 3;
        if start + len > self.end || words >= TEXT_WORDS as u32 || topic && len == 0 {
            return false;
        }
        let wildcards = if topic { HIGHS } else { 0 };
        let mut bad = 0;
        let mut i = 0;
        while i < TEXT_WORDS as u32 {
            if i >= words {
                break;
            }
            let word = self.word(start + i * 8);
            bad |= not_ascii(word) | wildcard(word) & wildcards;
            i += 1;
        }
        let rest = (1u64 << (8 * (len & 7))) - 1;
        let word = self.word(start + (len & !7)) & rest | ONES & !rest;
        bad |= not_ascii(word) | wildcard(word) & wildcards;
        self.at = start + len;
        bad == 0
    }

    /// A binary field, a will payload or a password: anything goes.
    #[inline(always)]
    fn binary(&mut self) -> bool {
        if self.at + 2 > self.end {
            return false;
        }
        let end = self.at + 2 + self.short(self.at);
        self.at = end;
        end <= self.end
    }
}

/// Not zero if a byte of the word is U+0000 or no ASCII.
#[inline(always)]
const fn not_ascii(word: u64) -> u64 {
    (word | word.wrapping_sub(ONES) & !word) & HIGHS
}

/// Not zero if a byte of a word of ASCII is `+` or `#`.
#[inline(always)]
const fn wildcard(word: u64) -> u64 {
    let (plus, hash) = (word ^ (ONES * b'+' as u64), word ^ (ONES * b'#' as u64));
    (plus.wrapping_sub(ONES) & !plus | hash.wrapping_sub(ONES) & !hash) & HIGHS
}
