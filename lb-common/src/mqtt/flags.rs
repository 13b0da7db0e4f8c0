//! The connect flags (MQTT 5, section 3.1.2.3).

use super::{Protocol, Reject};

const RESERVED: u8 = 0b0000_0001;
const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_QOS: u8 = 0b0001_1000;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USER_NAME: u8 = 0b1000_0000;

/// Connect flags that don't contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags(u8);

impl Flags {
    pub fn check(bits: u8, protocol: Protocol) -> Result<Self, Reject> {
        let flags = Self(bits);
        let will_sound = if flags.has(WILL) {
            bits & WILL_QOS != WILL_QOS
        } else {
            bits & (WILL_QOS | WILL_RETAIN) == 0
        };
        // MQTT 5 lets a password stand alone (section 3.1.2.9), the others don't [MQTT-3.1.2-22].
        let login_sound = protocol == Protocol::V5 || !flags.has(PASSWORD) || flags.has(USER_NAME);
        if flags.has(RESERVED) || !will_sound || !login_sound {
            return Err(Reject::BadFlags);
        }
        Ok(flags)
    }

    const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    pub const fn clean_start(self) -> bool {
        self.has(CLEAN_START)
    }

    pub const fn will(self) -> bool {
        self.has(WILL)
    }

    pub const fn user_name(self) -> bool {
        self.has(USER_NAME)
    }

    pub const fn password(self) -> bool {
        self.has(PASSWORD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte() {
        for bits in 0..=255u8 {
            let bit = |n: u8| bits >> n & 1 == 1;
            let qos = bits >> 3 & 3;
            let common = !bit(0) && if bit(2) { qos < 3 } else { qos == 0 && !bit(5) };
            for protocol in [Protocol::V31, Protocol::V311, Protocol::V5] {
                let expected = common && (protocol == Protocol::V5 || bit(7) || !bit(6));
                assert_eq!(
                    Flags::check(bits, protocol).is_ok(),
                    expected,
                    "{bits:#010b} {protocol:?}"
                );
            }
        }
    }

    #[test]
    fn accessors() {
        let flags = Flags::check(0b1100_0110, Protocol::V311).unwrap();
        assert!(flags.clean_start() && flags.will() && flags.user_name() && flags.password());
        let flags = Flags::check(0, Protocol::V311).unwrap();
        assert!(!flags.clean_start() && !flags.will() && !flags.user_name() && !flags.password());
    }
}
