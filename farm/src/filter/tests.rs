use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Filter {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

const VMS: [(&str, &[&str]); 5] = [
    ("boot/cpus=1", &["smoke"]),
    ("boot/cpus=8", &["smoke", "large"]),
    ("boot/cpus=80", &["large"]),
    ("storage/abba (old)", &["known"]),
    ("network", &[]),
];

#[test]
fn filters_select_vms_by_name_and_tag() {
    let rows: [(&str, &[usize]); 22] = [
        ("all()", &[0, 1, 2, 3, 4]),
        ("boot", &[0, 1, 2]),
        ("cpus=8", &[1, 2]),
        ("name(=boot/cpus=8)", &[1]),
        ("name(= boot/cpus=8 )", &[1]),
        (r"name(=storage/abba \(old\))", &[3]),
        ("name(=storage/abba (old))", &[3]),
        ("name(=boot)", &[]),
        ("name(cpus=(1|80)$)", &[0, 2]),
        (r"name(\(old\)$)", &[3]),
        ("name(^n)", &[4]),
        ("tag(smoke)", &[0, 1]),
        ("tag( smoke )", &[0, 1]),
        ("tag(smok)", &[]),
        ("not boot", &[3, 4]),
        ("!boot&!network", &[3]),
        ("not not network", &[4]),
        ("tag(smoke) and tag(large)", &[1]),
        ("tag(smoke)|network", &[0, 1, 4]),
        // Binding: `and` binds tighter than `or`, and `not` tighter than `and`.
        ("network or boot and tag(large)", &[1, 2, 4]),
        ("(network or boot) and not tag(large)", &[0, 4]),
        ("not (boot or network) or name(=network)", &[3, 4]),
    ];
    for (text, wanted) in rows {
        let filter = parsed(text);
        let matches = |(name, tags): &(&str, &[&str])| {
            filter.matches_vm(name, &tags.iter().map(|&tag| tag.to_owned()).collect())
        };
        let found: Vec<usize> = (0..VMS.len()).filter(|&vm| matches(&VMS[vm])).collect();
        assert_eq!(found, wanted, "{text}");
    }
}

#[test]
fn filter_mistakes_are_reported_with_their_column() {
    let deep = format!("{}x{}", "(".repeat(65), ")".repeat(65));
    let rows = [
        ("", 1, "expected an expression"),
        ("  ", 3, "expected an expression"),
        ("a b", 3, "expected `and` or `or`"),
        ("a (b)", 3, "expected `and` or `or`"),
        ("(a b)", 4, "expected `and` or `or`"),
        ("a!b", 2, "expected `and` or `or`"),
        ("a and", 6, "expected an expression"),
        ("a and or b", 7, "expected an expression: a word"),
        ("| a", 1, "expected an expression: a word"),
        ("not", 4, "expected an expression"),
        ("a and (b or c", 7, "this is never closed"),
        ("a)", 2, "this closes nothing"),
        ("()", 2, "expected an expression"),
        ("\u{e4} & nam(x)", 5, "no `nam(...)`; did you mean `name`?"),
        ("xyzzy(x)", 1, "no `xyzzy(...)`; there are all, name, tag"),
        ("name()", 6, "name() needs an argument"),
        ("a & tag( )", 9, "tag() needs an argument"),
        ("all(x)", 5, "all() has nothing inside"),
        ("a & name(x(y)", 9, "this is never closed; a parenthesis"),
        ("a & name([z-a])", 10, "no regular expression: invalid character class range"),
        (&deep, 66, "nested more than 64 deep"),
    ];
    for (text, column, message) in rows {
        let error = text.parse::<Filter>().unwrap_err();
        assert!(error.message.starts_with(message), "{text}: {error}");
        assert_eq!(error.column, column, "{error}");
    }
    let error = "a b".parse::<Filter>().unwrap_err().to_string();
    assert!(error.ends_with("\n  a b\n    ^"), "{error}");
}

#[test]
fn several_filters_combine_by_or() {
    let all = |texts: &[&str]| Filter::any_of(texts.iter().map(|text| parsed(text)).collect());
    assert_eq!(all(&[]), Filter::All);
    assert_eq!(all(&["a & b"]), parsed("a & b"));
    assert_eq!(all(&["a & b", "c"]), parsed("(a & b) | c"));
}

/// Length alone makes no depth: an expression may be as long as a command line.
#[test]
fn long_expressions_do_not_exceed_the_depth_limit() {
    let long = vec!["a"; 50_000].join(" | ");
    assert!(matches!(parsed(&long), Filter::Or(filters) if filters.len() == 50_000));
    let not = "!".repeat(50_000) + "a";
    assert!(not.parse::<Filter>().unwrap_err().message.contains("nested"));
}

fn filter() -> impl Strategy<Value = Filter> {
    let no_keyword = |word: &String| !["and", "or", "not"].contains(&word.as_str());
    let word = "[a-z=/.*\\\\\u{e4}-]{1,6}".prop_filter("a keyword", no_keyword);
    let regex = prop_oneof![r"[a-z]{1,3}", Just(r"\((a|b)+\)$".into()), Just(r" ^[^(x)]\\".into())];
    let pattern = |text: String| Filter::Matches(Pattern(Regex::new(&text).unwrap()));
    let leaf = prop_oneof![
        Just(Filter::All),
        word.prop_map(Filter::Word),
        r"[a-z()\\ =!&|]{0,4}[a-z()\\]".prop_map(|name| Filter::Exact(name.trim().into())),
        regex.prop_map(pattern),
        "[a-z!&|=-]{1,4}".prop_map(Filter::Tag),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|filter| Filter::Not(Box::new(filter))),
            vec(inner.clone(), 2..4).prop_map(Filter::And),
            vec(inner, 2..4).prop_map(Filter::Or),
        ]
    })
}

proptest! {
    #[test]
    fn printed_filters_parse_to_the_same_filter(filter in filter()) {
        let text = filter.to_string();
        let read = text.parse::<Filter>();
        prop_assert_eq!(read.as_ref(), Ok(&filter), "{}", text);
    }

    #[test]
    fn any_text_parses_or_fails_at_a_column_inside_it(
        text in "(name|tag|all|and|or|not|[ ()!&|=\\\\a\u{e4}]){0,24}",
    ) {
        match text.parse::<Filter>() {
            Ok(filter) => prop_assert_eq!(filter.to_string().parse(), Ok(filter)),
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.column)),
        }
    }
}
