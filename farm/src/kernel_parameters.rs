//! Kernel parameters as a user writes them: single words, and those that contradict each other.
//!
//! Owns the check for parameters that are given twice; refuses to own their meaning, which is the guest's.
//! Called by suites and by the command line.

/// Parameters that Linux takes more than once (Documentation/admin-guide/kernel-parameters.txt): each adds
/// to those before it. The bundled guest has none.
const LISTS: [&str; 19] = [
    "acpi_mask_gpe",
    "acpi_osi",
    "blacklist",
    "cgroup_disable",
    "console",
    "crashkernel",
    "dyndbg",
    "earlycon",
    "earlyprintk",
    "hugepages",
    "hugepagesz",
    "initcall_blacklist",
    "memmap",
    "module_blacklist",
    "netconsole",
    "parport",
    "trace_event",
    "video",
    "virtio_mmio.device",
];

/// Parameters that the programs of an initial RAM disk take more than once (dracut.cmdline(7)).
const LISTS_OF_DRACUT: [&str; 3] = ["ifname", "ip", "nameserver"];

/// Prefixes of parameters that programs in user space take more than once.
const LISTS_OF_PROGRAMS: [&str; 2] = ["rd.", "systemd."];

/// Two words of a guest's kernel parameters that set the same parameter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kernel parameter `{name}` is given twice, as `{first}` and as `{second}`")]
pub struct RepeatedParameter {
    /// Name of the parameter, with `_` for each `-`.
    pub name: String,
    /// Word that sets it first.
    pub first: String,
    /// Word that sets it again.
    pub second: String,
}

/// Splits kernel parameters as their guest does. Linux splits at spaces outside of double quotes, up to the
/// `--` behind which it passes words to its init program. The bundled guest splits at each space, and knows
/// neither quotes nor `--`.
pub fn words(parameters: &str, is_bundled: bool) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    let words = parameters.split(move |character: char| {
        is_quoted ^= character == '"' && !is_bundled;
        !is_quoted && character.is_ascii_whitespace()
    });
    words.filter(|word| !word.is_empty()).take_while(move |&word| is_bundled || word != "--")
}

/// Returns the name in a word: the part before its `=`. Linux takes `-` and `_` for the same.
pub fn name(word: &str) -> String {
    word.split('=').next().unwrap_or_default().replace('-', "_")
}

/// Returns the value of the parameter `workload=`; `None` without one.
pub fn workload(parameters: &str, is_bundled: bool) -> Option<&str> {
    words(parameters, is_bundled).find_map(|word| word.strip_prefix("workload="))
}

/// Checks that no parameter is given twice. A kernel that is not the bundled guest may have parameters that
/// are lists.
///
/// # Errors
/// The first parameter that is given again.
pub fn check(parameters: &str, is_bundled: bool) -> Result<(), RepeatedParameter> {
    let mut seen: Vec<(String, &str)> = Vec::new();
    for word in words(parameters, is_bundled) {
        let name = name(word);
        let is_list = [&LISTS[..], &LISTS_OF_DRACUT].concat().contains(&name.as_str())
            || LISTS_OF_PROGRAMS.iter().any(|prefix| name.starts_with(prefix));
        if !is_bundled && is_list {
            continue;
        }
        if let Some((name, first)) = seen.iter().find(|(earlier, _)| *earlier == name) {
            let (name, first, second) = (name.clone(), (*first).to_owned(), word.to_owned());
            return Err(RepeatedParameter { name, first, second });
        }
        seen.push((name, word));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_split_as_their_guest_splits_them() {
        let rows: [(&str, &[&str], &[&str]); 4] = [
            ("  a=1\tb ", &["a=1", "b"], &["a=1", "b"]),
            ("x=\"file +p\" b", &["x=\"file +p\"", "b"], &["x=\"file", "+p\"", "b"]),
            ("a -- b", &["a"], &["a", "--", "b"]),
            ("", &[], &[]),
        ];
        for (text, linux, bundled) in rows {
            assert_eq!(words(text, false).collect::<Vec<_>>(), linux, "{text}");
            assert_eq!(words(text, true).collect::<Vec<_>>(), bundled, "{text}");
        }
    }

    #[test]
    fn bundled_workload_is_found_behind_dashes_and_quotes() {
        for text in ["workload=exit", "-- workload=exit", "x=\"a workload=exit"] {
            assert_eq!(workload(text, true), Some("exit"), "{text}");
        }
        assert_eq!(workload("x=workload=exit", true), None);
        assert_eq!(workload("-- workload=exit", false), None);
    }

    #[test]
    fn only_lists_of_linux_may_be_given_twice() {
        let twice = |text, is_bundled| check(text, is_bundled).err().map(|wrong| wrong.name);
        let name = |name: &str| Some(name.to_owned());
        let rows = [
            ("loglevel=8 section_ms=3", None, None),
            ("loglevel=8 loglevel=3", name("loglevel"), name("loglevel")),
            ("nox2apic nox2apic", name("nox2apic"), name("nox2apic")),
            ("nr-cpus=1 nr_cpus=2", name("nr_cpus"), name("nr_cpus")),
            ("console=ttyS0 console=tty0", name("console"), None),
            ("rd.break=a rd.break=b", name("rd.break"), None),
            ("a=1 -- a=2", name("a"), None),
            ("crashkernel=1G,high crashkernel=9M,low", name("crashkernel"), None),
            ("acpi_osi=! acpi_osi=Linux", name("acpi_osi"), None),
            ("ip=eth0:dhcp ip=eth1:dhcp", name("ip"), None),
        ];
        for (text, bundled, foreign) in rows {
            assert_eq!((twice(text, true), twice(text, false)), (bundled, foreign), "{text}");
        }
        let wrong = check("a=1 b a=2", false).unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "the kernel parameter `a` is given twice, as `a=1` and as `a=2`"
        );
    }
}
