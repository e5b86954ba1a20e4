//! Tests of the grammar, form by form. The lines are by kernels and debuggers; numbers are made up.

use super::*;

/// Returns the references of a line as text, with `!` before an exact one.
fn read(grammar: &mut Grammar, line: &[u8]) -> Vec<String> {
    let read = grammar.line(line);
    read.references.iter().map(shown).collect()
}

fn shown(reference: &Reference<'_>) -> String {
    let mark = if reference.exact { "!" } else { "" };
    let place = match &reference.target {
        CodeLocation::Address(address) => format!("{address:x}"),
        CodeLocation::Symbol(symbol) => {
            let size = symbol.size.map(|size| format!("/{size:#x}")).unwrap_or_default();
            let module = symbol.module.as_ref().map(|module| match module.build_id {
                Some(id) => format!(" [{} {id}]", module.name),
                None => format!(" [{}]", module.name),
            });
            let address = symbol.address.map(|address| format!(" ={address:x}"));
            let (module, address) = (module.unwrap_or_default(), address.unwrap_or_default());
            format!("{}+{:#x}{size}{module}{address}", symbol.name, symbol.offset)
        }
    };
    format!("{mark}{place}")
}

#[track_caller]
fn expect(line: &str, expected: &[&str]) {
    assert_eq!(read(&mut Grammar::default(), line.as_bytes()), expected, "{line}");
}

#[test]
fn frames_of_linux_are_return_addresses() {
    expect(" vfs_write+0x235/0x3f0", &["vfs_write+0x235/0x3f0"]);
    expect("[    7.9]  ? vfs_write+0x235/0x3f0", &["vfs_write+0x235/0x3f0"]);
    expect("  nf_hook+0x1/0x20 [nf_tables]", &["nf_hook+0x1/0x20 [nf_tables]"]);
    let id = "d5ff5e6c0c9d1b2e8c1c6d6a9d3a2f1b0c9e8d7f";
    expect(&format!(" f+0x1/0x2 [mod {id}]"), &[&format!("f+0x1/0x2 [mod {id}]")]);
    expect(" f.constprop.0+0x1/0x2", &["f.constprop.0+0x1/0x2"]);
    expect(" f.llvm.123456+0x1/0x2", &["f.llvm.123456+0x1/0x2"]);
    expect(" a::b::f+0x1/0x2", &["a::b::f+0x1/0x2"]);
    expect("Call Trace: a+0x1/0x2 b+0x3/0x4", &["a+0x1/0x2", "b+0x3/0x4"]);
    // Other characters may follow the module.
    expect(" (f+0x1/0x2 [mod])", &["f+0x1/0x2 [mod]"]);
    expect("f+0x1/0x2 [mod], S:01", &["f+0x1/0x2 [mod]"]);
    expect(&format!(" f+0x1/0x2 [mod {id}])"), &[&format!("f+0x1/0x2 [mod {id}]")]);
    // syzkaller's addition is no module.
    expect(" f+0x1/0x2 mm/slab.c:12 [inline]", &["f+0x1/0x2"]);
    expect(" f+0x1/0x2 [inline]", &["f+0x1/0x2"]);
}

#[test]
fn program_counters_are_exact() {
    expect("RIP: 0010:f+0x14/0x90", &["!f+0x14/0x90"]);
    expect("RIP: 0010:f+0x14/0x90 [mod]", &["!f+0x14/0x90 [mod]"]);
    expect("RIP: 0010:0xffffffffc0123456", &["!ffffffffc0123456"]);
    expect("RIP: ffffffff81234567  RSP: ffffc90000013e50", &["!ffffffff81234567"]);
    expect("rip=0xffffffff81234567 rsp=0x0", &["!ffffffff81234567"]);
    expect("rip            0xffffffff81234567", &["!ffffffff81234567"]);
    expect("pc : f+0x14/0x90", &["!f+0x14/0x90"]);
    expect(
        "pc : [<ffffffff81234567>]    lr : [<ffffffff81234568>]",
        &["!ffffffff81234567", "ffffffff81234568"],
    );
    expect("PC is at f+0x14/0x90", &["!f+0x14/0x90"]);
    expect("LR is at f+0x14/0x90", &["f+0x14/0x90"]);
    expect("EIP: f+0x14/0x90", &["!f+0x14/0x90"]);
    expect("EIP: 0060:[<ffffffff81234567>] EFLAGS: 00010246", &["!ffffffff81234567"]);
    expect("NIP [c000000000123456] f+0x14/0x90", &["!f+0x14/0x90 =c000000000123456"]);
    expect("IP: f+0x14/0x90", &["!f+0x14/0x90"]);
    expect(
        "traps: insmod[1] general protection ip:ffffffff81234567 sp:ffffc90000013e50",
        &["!ffffffff81234567"],
    );
    expect("$pc = 0xffffffff81234567", &["!ffffffff81234567"]);
    expect("RIP: 0010:f+0x1/0x9 g+0x1/0x9", &["!f+0x1/0x9", "g+0x1/0x9"]);
    expect("lr : ffffffff81234567", &["ffffffff81234567"]);
    expect("epc : f+0x14/0x90 ra : g+0x2/0x4", &["!f+0x14/0x90", "g+0x2/0x4"]);
}

#[test]
fn an_address_and_the_symbol_beside_it_are_one_reference() {
    let address = "ffffffff81234567";
    let both = format!("f+0x14/0x90 ={address}");
    expect(&format!(" [<{address}>] f+0x14/0x90"), &[&both]);
    expect(&format!(" [<{address}>] ? f+0x14/0x90"), &[&both]);
    expect(&format!("RIP: 0010:[<{address}>]  [<{address}>] f+0x14/0x90"), &[&format!("!{both}")]);
    expect(&format!("RIP  [<{address}>] f+0x14/0x90"), &[&format!("!{both}")]);
    expect(
        &format!("[<{address}>] (f+0x14/0x90) from [<{address}>] (g+0x1/0x2)"),
        &[&both, &format!("g+0x1/0x2 ={address}")],
    );
    expect(&format!(" [<{address}>]"), &[address]);
    expect(&format!(" [<{address}>] ?"), &[address]);
}

#[test]
fn function_pointers_are_exact() {
    expect("initcall f+0x0/0x30 [mod] returned 0", &["!f+0x0/0x30 [mod]"]);
    expect(" ? __pfx_kthread+0x10/0x10", &["!__pfx_kthread+0x10/0x10"]);
    expect("Workqueue: events f [mod]", &["!f+0x0 [mod]"]);
    expect("Workqueue: events_unbound f", &["!f+0x0"]);
    expect("Workqueue: writeback wb_workfn (flush-8:0)", &["!wb_workfn+0x0"]);
    expect("Workqueue: events", &[]);
}

#[test]
fn messages_that_print_a_program_counter_are_exact() {
    expect("NMI backtrace for cpu 1 skipped: idling at f+0xb/0x10", &["!f+0xb/0x10"]);
    expect("WARNING: CPU: 1 PID: 2 at net/x.c:12 f+0x14/0x90 [mod]", &["!f+0x14/0x90 [mod]"]);
    expect("WARNING: net/x.c:12 at f+0x14/0x90, CPU#1: insmod/12", &["!f+0x14/0x90"]);
    expect("BUG: KASAN: use-after-free in f+0x14/0x90", &["f+0x14/0x90"]);
    expect(
        "hardirqs last  enabled at (12): [<ffffffff81234567>] f+0x1a/0x20",
        &["f+0x1a/0x20 =ffffffff81234567"],
    );
    expect(
        " #0: ffff888100000000 (&x->lock){+.+.}-{3:3}, at: f+0x12/0x80 [mod]",
        &["f+0x12/0x80 [mod]"],
    );
}

#[test]
fn addresses_of_user_space_are_no_references() {
    expect("RIP: 0033:0x47b7a0", &[]);
    expect("RIP: 0033:[<00007f1234567890>]  [<00007f1234567890>] 0x7f1234567890", &[]);
}

#[test]
fn values_of_data_registers_are_no_references() {
    expect("RAX: ffffffff81234567 RBX: 0000000000000000 RCX: ffffffff81234560", &[]);
    expect("RSP: 0018:ffffc90000013e50 EFLAGS: 00000246 ORIG_RAX: ffffffffffffff13", &[]);
    expect("CR2: ffffffff81234567", &[]);
    expect("x29: ffff800010003d20 x28: ffffffff81234567", &[]);
    expect("Code: ff ff ff ff <0f> 0b 48 89 e5", &[]);
    expect("BUG: unable to handle page fault for address: ffffffff81234567", &[]);
    expect("took 1234567890123456789 ns, code deadbeef, 0xg", &[]);
}

#[test]
fn interrupted_frames_of_gdb_are_exact() {
    let mut gdb = Grammar::default();
    let lines: [(&str, &[&str]); 6] = [
        ("#0  0xffffffff81234567 in f (a=0x1) at kernel/x.c:12", &["!ffffffff81234567"]),
        ("#1  0xffffffff81234568 in g ()", &["ffffffff81234568"]),
        ("#2  <signal handler called>", &[]),
        ("#3  0xffffffff81234569 in h ()", &["!ffffffff81234569"]),
        ("#4  0xffffffff8123456a in i ()", &["ffffffff8123456a"]),
        ("#5  j () at kernel/x.c:13", &[]),
    ];
    expect("0xffffffff81234567 in f ()", &["!ffffffff81234567"]);
    expect("0xffffffff81234567 is in f (x.c:1).", &["!ffffffff81234567"]);
    expect("Breakpoint 1, 0xffffffff81234567 in f ()", &["!ffffffff81234567"]);
    // Frames as drgn prints them.
    expect("#0  f+0x14/0x90 (x.c:1:2)", &["!f+0x14/0x90"]);
    expect("#1  f+0x14/0x90 (x.c:1:2)", &["f+0x14/0x90"]);
    for (line, expected) in lines {
        assert_eq!(read(&mut gdb, line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn frames_of_crash_at_an_exception_are_exact() {
    let mut crash = Grammar::default();
    let lines: [(&str, &[&str]); 7] = [
        (" #0 [fffffe0000009e50] crash_nmi_callback at ffffffff81053fe3", &["ffffffff81053fe3"]),
        (" #5 [fffffe0000009ef0] end_repeat_nmi at ffffffff81a01566", &["ffffffff81a01566"]),
        ("    [exception RIP: f+95]", &["!f+0x5f"]),
        (
            "    RIP: ffffffff810f5aef  RSP: ffffc90000013e50  RFLAGS: 00000002",
            &["!ffffffff810f5aef"],
        ),
        ("--- <NMI exception stack> ---", &[]),
        (" #6 [ffffc90000013e50] f at ffffffff810f5aef", &["!ffffffff810f5aef"]),
        (" #7 [ffffc90000013e58] g at ffffffff810f5aef [mod]", &["ffffffff810f5aef"]),
    ];
    for (line, expected) in lines {
        assert_eq!(read(&mut crash, line.as_bytes()), expected, "{line}");
    }
    expect("    [exception RIP: unknown or invalid address]", &[]);
}

#[test]
fn the_frame_after_the_bundled_guests_interruption_is_exact() {
    let mut guest = Grammar::default();
    assert!(read(&mut guest, b" --- interrupted ---").is_empty());
    assert_eq!(read(&mut guest, b" [<ffffffff80201234>]"), ["!ffffffff80201234"]);
    assert_eq!(read(&mut guest, b" [<ffffffff80201234>]"), ["ffffffff80201234"]);
    expect("  #0  spin            [<ffffffff80201234>]", &["!ffffffff80201234"]);
    expect("  #6  run_on_stack    [<ffffffff80201234>]", &["ffffffff80201234"]);
}

#[test]
fn a_trace_of_arm_repeats_the_exact_program_counter() {
    let mut arm = Grammar::default();
    assert_eq!(read(&mut arm, b"pc : f+0x14/0x90"), ["!f+0x14/0x90"]);
    assert_eq!(read(&mut arm, b"lr : g+0x14/0x90"), ["g+0x14/0x90"]);
    assert!(read(&mut arm, b"Call trace:").is_empty());
    assert_eq!(read(&mut arm, b" f+0x14/0x90"), ["!f+0x14/0x90"]);
    assert_eq!(read(&mut arm, b" f+0x14/0x90"), ["f+0x14/0x90"]);
    expect(" f+0x14/0x90 [mod] (P)", &["!f+0x14/0x90 [mod]"]);
    expect(" f+0x14/0x90 (L)", &["f+0x14/0x90"]);
}

#[test]
fn an_address_at_the_start_of_a_line_is_a_reference() {
    for line in ["ffffffff81234567", "0xffffffff81234567", "0Xffffffff81234567", "FFFFFFFF81234567"]
    {
        expect(line, &["ffffffff81234567"]);
        expect(&format!("[   12.345678] {line}"), &["ffffffff81234567"]);
    }
    expect("ffffffff`81234567", &["ffffffff81234567"]);
    expect("ffffffff81234567: 48 89 e5   mov", &["!ffffffff81234567"]);
    expect("=> 0xffffffff81234567 <f+20>:\tmov", &["!ffffffff81234567"]);
    expect("at ffffffff81234567", &[]);
    // Several in a row are words of a stack.
    expect(" ffffffff81234567 ffffffff81234568 0000000000000000", &[]);
}

#[test]
fn the_prefix_of_a_logger_is_skipped() {
    let frame = "#1  0xffffffff81234567 in f ()";
    for prefix in [
        "",
        "<4>",
        "[   12.345678] ",
        "<4>[   12.345678] ",
        "[   12.345678][    T1] ",
        "[   12.345678] [ T1234] ",
        "[Sat Nov 28 12:00:00 2026] ",
        "Nov 28 12:00:00 host kernel: ",
        "Nov  8 12:00:00 host kernel: [   12.345678] ",
        "2026-11-28T12:00:00.000Z host kernel: ",
        "2026-11-28T12:00:00.000000+00:00 host kernel: [   12.345678] ",
        "2026-11-28 12:00:00,123 ",
        "12:00:00 ",
        "host kernel: ",
        "2023-05-10T12:00:00.123456  <4>[   12.345678]  ",
        "- {\"dt\": \"2026-11-28T12:00:00.123456\", \"lvl\": \"target\", \"msg\": \"[   12.345678] ",
        "kern  :crit  : [   12.345678] ",
        "[  +0.000003] ",
        "[Nov28 12:00] ",
        "Sat 2026-11-28 12:00:00 UTC host kernel: ",
        "1795860000.123456 host kernel: ",
        "6,1234,5678,-;",
        "\x1b[32m[   12.345678] \x1b[0m\x1b[33m",
        "\0\0",
    ] {
        expect(&format!("{prefix}{frame}"), &["ffffffff81234567"]);
    }
}

#[test]
fn colours_and_control_characters_separate_words() {
    expect("\x1b[31m f+0x14/0x90\x1b[0m", &["f+0x14/0x90"]);
    expect("\0f+0x14/0x90\0[mod]\r", &["f+0x14/0x90 [mod]"]);
    expect("\x1b f+0x14/0x90 \x1b[", &["f+0x14/0x90"]);
}

#[test]
fn a_line_that_is_not_utf_8_is_parsed() {
    let line = b"\xff\xfe f+0x14/0x90 [\xffmod] \x80+0x1/0x2 +0x3/0x4 9+0x5/0x6";
    assert_eq!(read(&mut Grammar::default(), line), ["f+0x14/0x90"]);
}

#[test]
fn malformed_numbers_are_no_references() {
    for text in [
        "f+0x91/0x90",
        "f+0x/0x90",
        "f+0x14/0x",
        "f+0x14/90",
        "f+14/0x90",
        "f+0x14/0x90_",
        "f+0x14",
    ] {
        expect(text, &[]);
    }
    expect("f+0x11112222333344445/0x90", &[]);
}

#[test]
fn boots_and_kaslr_offsets_are_notices() {
    let notice = |line: &'static str| Grammar::notice(line.as_bytes());
    let offset = "Kernel Offset: 0x1a000000 from 0xffffffff81000000 (relocation range: 0x1-0x2)";
    assert_eq!(notice(offset), Some(Notice::Offset(0x1a00_0000)));
    for prefix in ["kern  :emerg : [ 6.7] ", "serial| ", "<0>1 2026-11-28T12:00:00Z h k - - - "] {
        let line = format!("{prefix}{offset}");
        assert_eq!(Grammar::notice(line.as_bytes()), Some(Notice::Offset(0x1a00_0000)), "{line}");
    }
    assert_eq!(notice("[   12.3] Kernel Offset: disabled"), Some(Notice::Offset(0)));
    assert_eq!(notice("Kernel Offset: soon"), None);
    assert_eq!(
        notice("WARNING: kernel relocated [416MB]: patching 97254 gdb minimal_symbol values"),
        Some(Notice::Offset(416 << 20))
    );
    assert_eq!(
        notice("[    0.000000] Linux version 6.1.0 (x)"),
        Some(Notice::Boot(b"Linux version 6.1.0 (x)"))
    );
    assert_eq!(notice("Linux version 6 of a program"), None);
}

#[test]
fn the_span_of_a_reference_covers_its_address_and_symbol() {
    let line = b"RIP: 0010:[<ffffffff81234567>]  [<ffffffff81234567>] f+0x14/0x90 [mod]";
    let reference = &Grammar::default().line(line).references[0];
    assert_eq!(&line[reference.span.clone()], &line[10..64]);
}

#[test]
fn arguments_are_addresses_or_symbols() {
    let shown = |text| argument(text).map(|reference| shown(&reference));
    assert_eq!(shown("ffffffff81234567").as_deref(), Some("!ffffffff81234567"));
    assert_eq!(shown("0x401000").as_deref(), Some("!401000"));
    assert_eq!(shown("f+0x14/0x90").as_deref(), Some("f+0x14/0x90"));
    assert_eq!(shown("  ? f+0x14/0x90 [mod]").as_deref(), Some("f+0x14/0x90 [mod]"));
    assert_eq!(shown("RIP: 0010:f+0x14/0x90").as_deref(), Some("!f+0x14/0x90"));
    assert_eq!(shown("f+20").as_deref(), Some("!f+0x14"));
    assert_eq!(shown("f+0x14").as_deref(), Some("!f+0x14"));
    for text in ["main", "", "0x", "0xfffffffffffffffff", "a+0x1/0x2 b+0x1/0x2"] {
        assert_eq!(shown(text), None, "{text}");
    }
}

/// Repeats of each part would make a quadratic parser read the same bytes again and again, for hours in a
/// megabyte.
#[test]
fn a_long_line_is_parsed_in_linear_time() {
    for part in
        ["+0x", "f+0x1/0x2,", "[<", "[<ffffffff81234567>]", ":", "f::", "\x1b[", "#0 ", "pc ", "a"]
    {
        let line = part.repeat((1 << 20) / part.len());
        let read = Grammar::default().line(line.as_bytes());
        assert!(read.references.len() <= line.len() / part.len(), "{part}");
    }
}
