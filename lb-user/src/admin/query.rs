//! Query strings (RFC 3986, sections 2.1 and 3.4). `+` is itself, not a space: client identifiers
//! have both.

/// The parameters of a query, percent-decoded. The error says what is wrong.
pub(super) fn parse(query: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut parameters = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameters.push((key.to_owned(), decode(value)?));
    }
    Ok(parameters)
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return Err(format!(
                "{text:?} has a % without two hexadecimal digits; write %25 for a %"
            ));
        };
        out.push((high * 16 + low) as u8);
    }
    Ok(out)
}

/// Percent-encodes whatever is not unreserved.
pub fn encode(bytes: &[u8]) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    bytes
        .iter()
        .map(|&byte| {
            if unreserved(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn queries() {
        let expected = vec![
            ("id".to_owned(), b"a b+c/%".to_vec()),
            ("x".to_owned(), vec![]),
        ];
        assert_eq!(parse("id=a%20b+c%2f%25&&x"), Ok(expected));
        assert_eq!(parse(""), Ok(vec![]));
        for bad in ["id=%", "id=%4", "id=%zz", "id=%+1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_survive_a_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let encoded = encode(&bytes);
            prop_assert!(encoded.is_ascii() && !encoded.contains(['&', '=', '#', ' ']));
            prop_assert_eq!(decode(&encoded), Ok(bytes));
        }
    }
}
