//! Reports as pages: one file of HTML with everything in it, for a browser without network.
//!
//! Owns the frame of all pages (base.html), their style, their script and the policy that keeps a page to
//! these. The words are those of [`text`](crate::text). Called by the command line and by farms.
//!
//! A page is readable without its script, on paper, in the dark, on a narrow screen and by keyboard. All
//! strings of a report go through [`sanitize`](crate::sanitize) and are escaped by their template; only what
//! another template has made is inserted as it is, which [`page`] sees to by its types.

mod backtrace;
mod hang;
mod href;
pub mod index;
mod party;
mod policy;
mod report;
mod room;
mod sources;
mod stack;
mod verdict;
mod words;

use askama::Template;

pub use href::Href;
pub(crate) use report::failed_cpu;
pub use report::report;
pub use sources::{Excerpt, Sources};
pub(crate) use verdict::{certainty, end, kernel, main_hang};

/// The frame of a page, around a header and a main part that templates of their own make.
#[derive(Template)]
#[template(path = "base.html")]
struct Base<'a, Header: Template, Main: Template> {
    policy: &'a str,
    style: &'a str,
    script: &'a str,
    title: &'a str,
    header: &'a Header,
    main: &'a Main,
    footer: &'a str,
}

/// Returns a whole page. `title` and `footer` are plain text of one line each; `header` has the page's only
/// `<h1>`, and headings in `main` begin with `<h2>`.
///
/// # Panics
/// Never: a template writes to a string, which does not fail.
pub fn page(title: &str, header: &impl Template, main: &impl Template, footer: &str) -> String {
    let base = Base {
        policy: &policy::POLICY,
        style: policy::STYLE,
        script: policy::SCRIPT,
        title,
        header,
        main,
        footer,
    };
    base.render().expect("a string takes all that is written to it")
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use sha2::{Digest, Sha256};

    use super::*;

    #[derive(Template)]
    #[template(source = "<h1>{{ text }}</h1>", ext = "html")]
    struct Heading<'a> {
        text: &'a str,
    }

    fn example() -> String {
        let heading = Heading { text: "</script><script>alert(1)</script>" };
        page("a < b", &heading, &Heading { text: "x" }, "made by & for")
    }

    /// Returns the text of the only element of a name, whose start tag has no attributes.
    fn element<'a>(page: &'a str, name: &str) -> &'a str {
        let (start, end) = (format!("<{name}>"), format!("</{name}>"));
        assert_eq!(page.matches(&format!("<{name}")).count(), 1, "{name}");
        page.split_once(&start).unwrap().1.split_once(&end).unwrap().0
    }

    #[test]
    fn the_policy_has_the_hashes_of_the_pages_style_and_script() {
        let page = example();
        let hash = |name| BASE64.encode(&Sha256::digest(element(&page, name)));
        let policy = format!(
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src &#39;none&#39;; style-src \
             &#39;sha256-{}&#39;; script-src &#39;sha256-{}&#39;; base-uri &#39;none&#39;; form-action \
             &#39;none&#39;\">",
            hash("style"),
            hash("script")
        );
        assert!(page.contains(&policy), "{policy}");
        assert!(
            page.find(&policy) < page.find("<style>"),
            "a policy counts for what comes after it"
        );
    }

    #[test]
    fn text_of_a_report_is_text_of_the_page() {
        let page = example();
        assert!(page.contains("<title>a &#60; b</title>"), "{page}");
        assert!(page.contains("made by &#38; for"), "{page}");
        assert!(!page.contains("<script>alert"), "{page}");
    }
}
