//! The ClientHello reader: never panics, never changes its mind as bytes come, and doesn't care where records end.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../lb-common/tests/client_hello_oracle/mod.rs"]
mod client_hello_oracle;

fuzz_target!(|input: &[u8]| {
    // As the first bytes of a stream.
    let _ = client_hello_oracle::check(input);
    // As a handshake message, in records of any size: random bytes get their headers wrong first.
    client_hello_oracle::check_message(input);
});
