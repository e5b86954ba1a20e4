//! Pictures of pages for the documentation, made by `screenshots.sh`.

use std::fs;
use std::path::PathBuf;

use super::pages::page;
use super::tab::{Conditions, NARROW, Tab, WIDE};

/// A picture of a part of a page.
struct Picture {
    file: &'static str,
    page: &'static str,
    /// Selector of the element at the picture's top.
    top: &'static str,
    width: u32,
    dark: bool,
}

const PICTURES: [Picture; 6] = [
    Picture { file: "deadlock", page: "abba-deadlock", top: "header", width: WIDE, dark: false },
    Picture { file: "wait-graph", page: "large", top: ".wait-graph", width: WIDE, dark: true },
    Picture { file: "last-minute", page: "spin-irqs-on", top: ".strips", width: WIDE, dark: false },
    Picture { file: "stacks", page: "ipi-wait", top: ".party", width: WIDE, dark: true },
    Picture {
        file: "narrow",
        page: "mutex-deadlock",
        top: ".wait-graph",
        width: NARROW,
        dark: false,
    },
    Picture { file: "narrow-dark", page: "spin-irqs-on", top: ".party", width: NARROW, dark: true },
];

/// Largest picture in the repository, in bytes.
const LARGEST: usize = 150_000;

/// Writes the pictures into the directory that `NMISCOPE_SCREENSHOTS` names; without it they are only made.
#[test]
#[ignore = "needs chromium"]
fn pictures_of_pages_are_small_files() {
    let directory = std::env::var_os("NMISCOPE_SCREENSHOTS").map(PathBuf::from);
    let mut tab = Tab::new();
    for Picture { file, page: name, top, width, dark } in PICTURES {
        tab.load(&page(name).html, Conditions { width, dark, ..Conditions::default() });
        let scroll = format!("document.querySelector('{top}').scrollIntoView()");
        tab.evaluate(&scroll);
        let picture = tab.screenshot();
        let size = picture.len();
        assert!(picture.starts_with(b"\x89PNG") && size < LARGEST, "{file}: {size} bytes");
        if let Some(directory) = &directory {
            fs::write(directory.join(format!("{file}.png")), picture).expect("a file");
        }
    }
}
