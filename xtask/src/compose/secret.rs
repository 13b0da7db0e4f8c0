//! Random secrets from the operating system's randomness.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// `length` random letters and digits, each worth 5.95 bits; the first is a letter, so that nobody who reads
/// it takes it for a number (EMQX reads variables as HOCON). No character means anything to a shell, to
/// Docker Compose or in an URL.
///
/// # Errors
/// The system has no /dev/urandom.
pub fn random(length: usize) -> Result<String> {
    let urandom = File::open("/dev/urandom").context("open /dev/urandom, for secrets")?;
    secret_from(urandom, length).context("read /dev/urandom")
}

fn secret_from(mut source: impl Read, length: usize) -> std::io::Result<String> {
    let mut secret = String::with_capacity(length);
    while secret.len() < length {
        let mut byte = [0];
        source.read_exact(&mut byte)?;
        // 248 is the largest multiple of 62: what is above it would favour the first characters.
        let Some(character) =
            (byte[0] < 248).then(|| char::from(ALPHABET[usize::from(byte[0] % 62)]))
        else {
            continue;
        };
        if !secret.is_empty() || character.is_ascii_alphabetic() {
            secret.push(character);
        }
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same_and_all_characters_occur() {
        let secret = random(20_000).unwrap();
        assert_eq!(secret.len(), 20_000);
        for character in ALPHABET {
            // Expected 322 times each; 200 is more than six standard deviations away.
            let count = secret.bytes().filter(|byte| byte == character).count();
            assert!(
                (200..450).contains(&count),
                "{} {count}",
                char::from(*character)
            );
        }
        assert_ne!(random(32).unwrap(), random(32).unwrap());
    }

    #[test]
    fn bytes_that_would_favour_some_characters_and_leading_digits_are_skipped() {
        let source = [255, 248, 61, 247, 0, 61, 62];
        assert_eq!(secret_from(source.as_slice(), 3).unwrap(), "A9A");
        assert!(secret_from([1].as_slice(), 2).is_err(), "the source ended");
    }
}
