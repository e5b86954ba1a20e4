//! A tab with one page: opened, scripted, and set to a size, a medium and a colour scheme.
//!
//! Owns the calls of the protocol that concern a page; refuses to own what is right for it (the checks).

use std::fs;
use std::sync::Arc;

use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::chromium::Browser;
use super::connection::Session;

/// Windows of the tests, in CSS pixels: a telephone and a desktop.
pub const NARROW: u32 = 380;
pub const WIDE: u32 = 1600;

/// The conditions under which a page is opened.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// Width of the window in CSS pixels.
    pub width: u32,
    /// True for the dark colour scheme.
    pub dark: bool,
    /// True for a printer's medium instead of a screen.
    pub paper: bool,
    /// False where the browser runs no script of the page.
    pub scripts: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { width: WIDE, dark: false, paper: false, scripts: true }
    }
}

/// A tab, and the page that it shows.
pub struct Tab {
    browser: Arc<Browser>,
    context: String,
    session: Session,
    /// Address of the page, empty before the first one.
    url: String,
    // Has the pages' files until the tab is closed.
    directory: TempDir,
    loads: u32,
}

impl Tab {
    /// Opens a tab without a page.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let browser = Browser::shared();
        let (context, session) = browser.open();
        let mut tab = Self { browser, context, session, url: String::new(), directory, loads: 0 };
        for domain in ["Page", "Runtime", "Log", "Network", "Audits"] {
            tab.call(&format!("{domain}.enable"), json!({}));
        }
        let record = json!({"source": include_str!("scripts/record_violations.js")});
        tab.call("Page.addScriptToEvaluateOnNewDocument", record);
        tab.call("Emulation.setFocusEmulationEnabled", json!({"enabled": true}));
        tab
    }

    /// Opens a page in a tab of its own.
    pub fn open(html: &str, conditions: Conditions) -> Self {
        let mut tab = Self::new();
        tab.load(html, conditions);
        tab
    }

    /// Replaces the page by another one from a file of its own, and waits until that is loaded.
    #[track_caller]
    pub fn load(&mut self, html: &str, conditions: Conditions) {
        self.loads += 1;
        let file = self.directory.path().join(format!("page-{}.html", self.loads));
        fs::write(&file, html).expect("a file");
        self.url = format!("file://{}", file.display());
        self.set(conditions);
        self.session.forget_events();
        let answer = self.call("Page.navigate", json!({"url": self.url}));
        assert!(answer.get("errorText").is_none(), "{answer}");
        self.session.event("Page.loadEventFired").unwrap_or_else(|error| panic!("{error}"));
        self.settle();
    }

    fn set(&mut self, conditions: Conditions) {
        let Conditions { width, dark, paper, scripts } = conditions;
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({
            "media": if paper { "print" } else { "" },
            "features": [{"name": "prefers-color-scheme", "value": scheme}],
        });
        self.call("Emulation.setEmulatedMedia", media);
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": !scripts}));
    }

    /// Waits until all that was asked of the page is laid out.
    pub fn settle(&mut self) {
        self.call("Page.getLayoutMetrics", json!({}));
    }

    /// Calls a method of the tab, and returns its result.
    #[track_caller]
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.session.call(method, &parameters).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the address of the page.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the events that came so far.
    pub fn events(&mut self) -> &[Value] {
        self.settle();
        self.session.events()
    }

    /// Evaluates an expression in the page, and returns its value; of a promise, that of its end. The page's
    /// policy does not apply to it, only to what it does.
    #[track_caller]
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let answer = self.call(
            "Runtime.evaluate",
            json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true}),
        );
        assert!(answer.get("exceptionDetails").is_none(), "{:#}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Calls a function, the text of a file in `scripts`, and returns its value.
    #[track_caller]
    pub fn run(&mut self, function: &str, argument: &Value) -> Value {
        self.evaluate(&format!("({})({argument})", function.trim_end()))
    }

    /// Calls a function that returns a list of faults.
    #[track_caller]
    pub fn faults(&mut self, function: &str, argument: &Value) -> Vec<String> {
        serde_json::from_value(self.run(function, argument)).expect("a list of strings")
    }

    /// Opens all folded parts of the page.
    pub fn unfold(&mut self) {
        self.evaluate(
            "document.querySelectorAll('details').forEach((part) => { part.open = true; })",
        );
        self.settle();
    }

    /// Presses and releases a key, named as in `KeyboardEvent.key`, and returns when the page has acted on it.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            _ => panic!("no key {key}"),
        };
        let mut event = json!({"key": key, "code": key, "windowsVirtualKeyCode": code});
        event["type"] = if text.is_some() { "keyDown".into() } else { "rawKeyDown".into() };
        if let Some(text) = text {
            event["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", event.clone());
        event["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", event);
    }

    /// Types text into the focused element.
    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    /// Returns a picture of the window's content, as PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        decode(&self.call("Page.captureScreenshot", json!({"format": "png"}))["data"])
    }

    /// Returns the page as a printer gets it: PDF, A4.
    pub fn pdf(&mut self) -> Vec<u8> {
        let paper = json!({"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": true});
        decode(&self.call("Page.printToPDF", paper)["data"])
    }

    /// Grants the page what it would ask its user for.
    pub fn grant(&mut self, permissions: &[&str]) {
        let parameters = json!({"permissions": permissions, "browserContextId": self.context});
        self.browser.call("Browser.grantPermissions", parameters);
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        let context = json!({"browserContextId": self.context});
        // An error is another test's, or already reported.
        let _ = self.browser.try_call("Target.disposeBrowserContext", context);
    }
}

fn decode(data: &Value) -> Vec<u8> {
    let data = data.as_str().expect("data");
    BASE64.decode(data.as_bytes()).expect("base64")
}
