//! The password of the statistics, by HTTP's basic authentication (RFC 7617).

use data_encoding::BASE64;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

use crate::config::Admin;

/// Whether a request has it.
pub(super) fn fits(headers: &HeaderMap, password: &str) -> bool {
    let said = headers.get(AUTHORIZATION).and_then(|said| {
        let (scheme, rest) = said.to_str().ok()?.split_once(' ')?;
        let basic = scheme.eq_ignore_ascii_case("basic");
        basic.then(|| BASE64.decode(rest.trim().as_bytes()).ok())?
    });
    let wanted = format!("{}:{password}", Admin::STATS_USER);
    said.is_some_and(|said| same(&said, wanted.as_bytes()))
}

/// Takes as long for a wrong beginning as for a wrong end.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differs = one
        .iter()
        .zip(other)
        .fold(0, |so_far, (a, b)| so_far | (a ^ b));
    one.len() == other.len() && differs == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_user_and_password_fit() {
        let says = |said: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, said.parse().unwrap());
            fits(&headers, "pass:word")
        };
        let basic = |text: &str| format!("Basic {}", BASE64.encode(text.as_bytes()));
        assert!(says(&basic("stats:pass:word")));
        assert!(says(&basic("stats:pass:word").replace("Basic", "basic")));
        for wrong in [
            "stats:pass",
            "stats:pass:wordy",
            "admin:pass:word",
            "",
            "stats:",
        ] {
            assert!(!says(&basic(wrong)), "{wrong}");
        }
        assert!(!says("Bearer c3RhdHM6cGFzczp3b3Jk") && !says("Basic ?") && !says("Basic"));
        assert!(!fits(&HeaderMap::new(), "pass:word"));
    }
}
