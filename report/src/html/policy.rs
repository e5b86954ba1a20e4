//! The style and the script of all pages, and the policy that keeps a page to them.
//!
//! Owns which style sheets there are, and their hashes; refuses to own markup. Called by `html`.

use std::sync::LazyLock;

use data_encoding::BASE64;
use sha2::{Digest, Sha256};

/// Text of the only `<style>` element of a page.
pub(super) const STYLE: &str = concat!(
    include_str!("style.css"),
    include_str!("index/style.css"),
    include_str!("../wait_graph/style.css"),
    include_str!("../strips/style.css")
);

/// Text of the only `<script>` element of a page.
pub(super) const SCRIPT: &str = include_str!("script.js");

/// Content security policy of a page: it loads nothing, and of styles and scripts a browser accepts only
/// those with these hashes. Text of a guest that became markup by a mistake would do nothing.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; \
         form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// Returns the SHA-256 of an element's text, in base64 as a policy has it.
fn hash(text: &str) -> String {
    BASE64.encode(&Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_other_tools_compute() {
        // printf 'alert("Hello, world.");' | openssl dgst -sha256 -binary | base64
        assert_eq!(
            hash(r#"alert("Hello, world.");"#),
            "95/2P1j1ZySEaTPvS2vdbldPcGJYZRvEeWm0x0qZqcQ="
        );
    }

    #[test]
    fn style_and_script_end_no_element_and_load_nothing() {
        for text in [STYLE, SCRIPT] {
            for forbidden in
                ["</", "<!--", "@import", "url(", "\r", "\0", "http:", "https:", "fetch("]
            {
                assert!(!text.contains(forbidden), "{forbidden:?}");
            }
        }
    }
}
