//! Prefixes that loggers put before a line of a kernel's log: levels, time stamps, hosts, callers.
//!
//! Owns the length of a line's prefix. Only forms at the start of a line depend on it (a frame's number, a
//! bare address); addresses of other forms are found anywhere. Called by the grammar.

use super::MAX_PREFIX;
use super::words::blank;

/// Returns the length of a line's prefix in bytes, including white space and colours behind it.
pub(super) fn length(line: &[u8]) -> usize {
    let mut at = blank(line);
    while at < MAX_PREFIX {
        let rest = &line[at..];
        let Some(length) =
            [level, facility, kmsg, bracketed, date, tag, lava].iter().find_map(|f| f(rest))
        else {
            break;
        };
        at += length;
        at += blank(&line[at..]);
    }
    at
}

/// Matches `<4>`, a level of syslog(2).
fn level(text: &[u8]) -> Option<usize> {
    let digits = text.strip_prefix(b"<")?.iter().take(4).take_while(|b| b.is_ascii_digit()).count();
    ((1..=3).contains(&digits) && text.get(digits + 1) == Some(&b'>')).then_some(digits + 2)
}

/// Matches `kern  :crit  : `, by `dmesg --decode`.
fn facility(text: &[u8]) -> Option<usize> {
    let text = &text[..text.len().min(20)];
    let first = text.iter().position(|&byte| byte == b':')?;
    let second = first + 1 + text[first + 1..].iter().position(|&byte| byte == b':')?;
    let is_word = |part: &[u8]| {
        let word = part.trim_ascii();
        !word.is_empty() && word.iter().all(u8::is_ascii_lowercase)
    };
    let (facility, level) = (&text[..first], &text[first + 1..second]);
    (is_word(facility) && is_word(level) && facility.trim_ascii().len() < 9).then_some(second + 1)
}

/// Matches `6,1234,5678,-;`, a record of /dev/kmsg.
fn kmsg(text: &[u8]) -> Option<usize> {
    let end = text.iter().take(60).position(|&byte| byte == b';')?;
    let is_record = text[..end].iter().filter(|&&byte| byte == b',').count() >= 2
        && text[0].is_ascii_digit()
        && text[..end].iter().all(|byte| byte.is_ascii_alphanumeric() || b",-=+".contains(byte));
    is_record.then_some(end + 1)
}

/// Matches `[   12.345678]`, `[    T123]`, `[C1]` (CONFIG_PRINTK_CALLER), or dmesg's `[Sat Nov 28 12:00:00
/// 2026]`.
fn bracketed(text: &[u8]) -> Option<usize> {
    let inner = text.strip_prefix(b"[")?;
    let end = inner.iter().take(40).position(|&byte| byte == b']')?;
    let inner = inner[..end].trim_ascii();
    // `dmesg --show-delta` prints `[  +0.000003]`, `dmesg --reltime` prints `[Nov28 12:00]`.
    let is_number = |bytes: &[u8]| bytes.iter().all(|b| b.is_ascii_digit() || *b == b'.');
    let inner = inner.strip_prefix(b"+").unwrap_or(inner);
    let is_stamp = match inner.split_first() {
        Some((b'T' | b'C', caller)) if !caller.is_empty() && is_number(caller) => true,
        Some(_) => {
            (is_number(inner) && inner.contains(&b'.')) || is_date(inner) || is_minute(inner)
        }
        None => false,
    };
    is_stamp.then_some(end + 2)
}

/// Returns true for a date with a time: `HH:MM:SS`, and otherwise only characters that dates have.
fn is_date(text: &[u8]) -> bool {
    clock_at(text).is_some()
        && text.iter().all(|b| b.is_ascii_alphanumeric() || b" :.,+-".contains(b))
}

/// Returns true for a date such as `Nov28 12:00`.
fn is_minute(text: &[u8]) -> bool {
    text.len() == 11 && text[..3].iter().all(u8::is_ascii_alphabetic) && text[8] == b':'
}

/// Returns the position of the first `HH:MM:SS`.
fn clock_at(text: &[u8]) -> Option<usize> {
    text.windows(8).take(40).position(|window| {
        window.iter().enumerate().all(|(index, byte)| match index {
            2 | 5 => *byte == b':',
            _ => byte.is_ascii_digit(),
        })
    })
}

/// Matches `2026-11-28T12:00:00.000Z`, `2026-11-28 12:00:00,123`, `Nov 28 12:00:00`, `12:00:00`.
fn date(text: &[u8]) -> Option<usize> {
    let clock = clock_at(text)?;
    // A date, or nothing, comes before the time.
    let before = &text[..clock];
    // `2026-11-28T`; the day of the week may come before it.
    let day = if before.len() == 15 { &before[4..] } else { before };
    let is_iso = day.len() == 11 && day[..4].iter().all(u8::is_ascii_digit) && day[4] == b'-';
    let is_syslog = (4..=11).contains(&clock) && before.iter().take(3).all(u8::is_ascii_alphabetic);
    if !(clock == 0 || is_iso || is_syslog) {
        return None;
    }
    let zone = text[clock + 8..].iter().take_while(|byte| !byte.is_ascii_whitespace()).count();
    Some(clock + 8 + zone)
}

/// Matches `kernel:`, `host kernel:`, `UTC host kernel[0]:`, `1795860000.123456 host kernel:`.
fn tag(text: &[u8]) -> Option<usize> {
    let mut end = 0;
    for word in text[..text.len().min(MAX_PREFIX)].split(|&byte| byte == b' ').take(4) {
        end += word.len();
        if word.starts_with(b"kernel") && word.ends_with(b":") {
            return Some(end);
        }
        end += 1;
    }
    None
}

/// Matches LAVA's log as YAML: `- {"dt": "..", "lvl": "target", "msg": "` before the text.
fn lava(text: &[u8]) -> Option<usize> {
    const MESSAGE: &[u8] = b"\"msg\": \"";
    text.starts_with(b"- {").then_some(())?;
    let start = text.windows(MESSAGE.len()).take(MAX_PREFIX).position(|w| w == MESSAGE)?;
    Some(start + MESSAGE.len())
}
