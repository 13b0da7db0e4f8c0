//! The kernel's reader of CONNECTs: never panics, and accepts nothing that the sniffer reads otherwise.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../lb-common/tests/glance_oracle/mod.rs"]
mod glance_oracle;
#[path = "../../lb-common/tests/mqtt_oracle/mod.rs"]
#[expect(dead_code, reason = "only `framed` is needed here")]
mod mqtt_oracle;

fuzz_target!(|input: &[u8]| {
    glance_oracle::check(input);
    // With a fixed header and a name that fit: they are what random bytes get wrong first.
    let named = [&b"\0\x04MQTT"[..], input].concat();
    glance_oracle::check(&mqtt_oracle::framed(&named));
});
