//! The MQTT sniffer: never panics, never changes its mind as bytes come, agrees with mqttbytes.

#![no_main]

use libfuzzer_sys::fuzz_target;

// What must hold is written down once, for this target and for the property tests.
#[path = "../../lb-common/tests/mqtt_oracle/mod.rs"]
mod mqtt_oracle;

fuzz_target!(|input: &[u8]| {
    // As the first bytes of a stream.
    mqtt_oracle::check(input);
    // As the body of a CONNECT whose remaining length fits: it is what random bytes get wrong first.
    mqtt_oracle::check(&mqtt_oracle::framed(input));
});
