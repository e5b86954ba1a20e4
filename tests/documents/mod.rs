//! Checks of documents against the program: what they show is what it prints.
//!
//! | module | document |
//! |---|---|
//! | `guide` | docs/guide.md |
//! | `readme` | README.md |

use std::path::Path;
use std::process::Command;

use crate::common::*;

mod guide;
mod readme;

/// A fenced block of code.
pub struct Block<'a> {
    /// Language behind the opening fence.
    pub language: &'a str,
    pub text: &'a str,
}

/// Returns the fenced blocks in order, and the text between them.
pub fn blocks(guide: &str) -> (Vec<Block<'_>>, Vec<&str>) {
    let (mut blocks, mut prose) = (Vec::new(), Vec::new());
    for (number, part) in guide.split("```").enumerate() {
        if number % 2 == 0 {
            prose.push(part);
        } else {
            let (language, text) = part.split_once('\n').expect("a language");
            blocks.push(Block { language, text });
        }
    }
    assert!(guide.matches("```").count().is_multiple_of(2), "an open block of code");
    (blocks, prose)
}

/// Returns the first block in a language that has a part.
#[track_caller]
pub fn block_with<'a>(guide: &'a str, language: &str, part: &str) -> &'a str {
    let (blocks, _) = blocks(guide);
    let mut found =
        blocks.iter().filter(|block| block.language == language && block.text.contains(part));
    found.next().unwrap_or_else(|| panic!("no block in {language} has {part:?}")).text
}

/// Returns the commands of a session with the lines that each prints.
pub fn commands(session: &str) -> Vec<(&str, String)> {
    let mut commands: Vec<(&str, String)> = Vec::new();
    for line in session.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push((command, String::new())),
            None => {
                let (_, printed) = commands.last_mut().expect("a session begins with a command");
                printed.push_str(line);
                printed.push('\n');
            }
        }
    }
    commands
}

/// Runs a command by the shell, with the program in its path.
pub fn shell(command: &str, directory: &Path) -> Finished {
    let program_directory = binary().parent().expect("a directory").display().to_string();
    let path = std::env::var("PATH").expect("a path");
    let mut invocation = program(Command::new("sh"), ["-c", command])
        .env("PATH", &format!("{program_directory}:{path}"));
    invocation.command.current_dir(directory);
    invocation.run()
}
