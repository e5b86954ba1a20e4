//! A page that the browser has nothing to say about: no message, no refusal by its policy, no request.

use serde_json::{Value, json};

use super::tab::{Conditions, Tab};
use super::{expect_fault, expect_no_faults, with_markup};

impl Tab {
    /// Returns what the browser said about the page so far, and what the page asked it for.
    pub fn noise(&mut self) -> Vec<String> {
        let violations = self.evaluate("globalThis.recordedViolations ?? []");
        let mut noise: Vec<String> = serde_json::from_value(violations).expect("strings");
        let url = self.url().to_owned();
        noise.extend(self.events().iter().filter_map(|event| noise_of(event, &url)));
        noise
    }
}

/// Returns a fault for an event that a good page causes none of.
fn noise_of(event: &Value, url: &str) -> Option<String> {
    let parameters = &event["params"];
    match event["method"].as_str()? {
        "Runtime.consoleAPICalled" => Some(format!("console: {}", parameters["args"])),
        "Runtime.exceptionThrown" => Some(format!("exception: {}", parameters["exceptionDetails"])),
        "Log.entryAdded" => Some(format!("log: {}", parameters["entry"]["text"])),
        "Audits.issueAdded" => Some(format!("issue: {}", parameters["issue"])),
        "Page.javascriptDialogOpening" => Some(format!("dialog: {}", parameters["message"])),
        "Network.requestWillBeSent" => {
            let requested = parameters["request"]["url"].as_str()?;
            (requested != url).then(|| format!("request: {requested}"))
        }
        _ => None,
    }
}

fn noise(tab: &mut Tab, html: &str) -> Vec<String> {
    tab.load(html, Conditions::default());
    tab.noise()
}

#[test]
#[ignore = "needs chromium"]
fn pages_fetch_nothing_and_keep_their_policy_without_a_message() {
    expect_no_faults(|tab, page| noise(tab, &page.html));
}

#[test]
#[ignore = "needs chromium"]
fn foreign_scripts_images_and_styles_are_refused_and_noticed() {
    let mut tab = Tab::new();
    let mut markup = |markup: &str| noise(&mut tab, &with_markup(markup));
    expect_fault(&markup("<script>alert(1)</script>"), "script-src-elem refuses inline");
    expect_fault(&markup("<img src='https://example.invalid/x.png' alt=''>"), "img-src refuses");
    expect_fault(&markup("<p style='color: red'>"), "style-src-attr refuses inline");
    expect_fault(&markup("<p onclick='alert(1)'>"), "script-src-attr refuses inline");
    expect_fault(
        &markup("<iframe src='data:text/html,x' title='x'></iframe>"),
        "frame-src refuses",
    );
}

#[test]
#[ignore = "needs chromium"]
fn requests_and_messages_of_a_page_without_a_policy_are_noticed() {
    let html = "<!DOCTYPE html><title>x</title><img src='missing.png'>\
                <script>console.log('hello'); setTimeout(() => { throw new Error('thrown'); })</script>";
    let mut tab = Tab::open(html, Conditions::default());
    tab.call(
        "Runtime.evaluate",
        json!({"expression": "new Promise((end) => setTimeout(end))", "awaitPromise": true}),
    );
    let noise = tab.noise();
    expect_fault(&noise, "missing.png");
    expect_fault(&noise, "hello");
    expect_fault(&noise, "thrown");
}
