//! The schemas in docs/ equal those that the types make. To update them after a change of the types:
//! `NMISCOPE_UPDATE=1 cargo test --test end_to_end schema::`.

use nmiscope_farm::timestamp::Timestamp;
use nmiscope_farm::triage;
use nmiscope_farm::{event, lists, suite};
use nmiscope_report as report;
use serde_json::{Value, json};

/// Row of a schema's file in docs/, its committed text, and the function that makes it.
type Row = (&'static str, &'static str, fn() -> String);

const SCHEMAS: [Row; 7] = [
    ("report.schema.json", include_str!("../docs/report.schema.json"), report::json::schema),
    ("suite.schema.json", include_str!("../docs/suite.schema.json"), suite::schema),
    ("triage.schema.json", include_str!("../docs/triage.schema.json"), triage::schema),
    (
        "symbolize.schema.json",
        include_str!("../docs/symbolize.schema.json"),
        report::reference::schema,
    ),
    ("farm-events.schema.json", include_str!("../docs/farm-events.schema.json"), event::schema),
    ("farm-list.schema.json", include_str!("../docs/farm-list.schema.json"), suite::list_schema),
    ("list.schema.json", include_str!("../docs/list.schema.json"), lists::schema),
];

fn validator(schema: &str) -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(schema).expect("JSON");
    jsonschema::validator_for(&schema).expect("a schema")
}

#[test]
fn committed_schemas_equal_those_of_the_types() {
    for (file, committed, schema) in SCHEMAS {
        if std::env::var_os("NMISCOPE_UPDATE").is_some() {
            let path = format!("{}/docs/{file}", env!("CARGO_MANIFEST_DIR"));
            std::fs::write(path, schema()).expect("docs/ can be written");
            continue;
        }
        assert!(
            committed == schema(),
            "docs/{file} is out of date; NMISCOPE_UPDATE=1 cargo test --test end_to_end schema::"
        );
    }
}

#[test]
fn schemas_are_valid_json_schemas() {
    for (file, _, schema) in SCHEMAS {
        let schema: Value = serde_json::from_str(&schema()).expect("JSON");
        assert!(jsonschema::meta::is_valid(&schema), "{file}");
    }
}

#[test]
fn schemas_refuse_foreign_documents() {
    for (file, committed, _) in SCHEMAS {
        let validator = validator(committed);
        for wrong in [json!({}), json!([]), json!({"outcome": 7})] {
            assert!(!validator.is_valid(&wrong), "{file}: {wrong}");
        }
    }
}

/// Converts a suite to JSON, as editors do that check TOML against a JSON schema.
fn as_json(suite: &str) -> Value {
    let value: toml::Value = toml::from_str(suite).expect("TOML");
    serde_json::to_value(value).expect("JSON")
}

fn is_read(suite: &str) -> bool {
    let nowhere = std::path::Path::new("/");
    suite::Suite::parse(suite.into(), nowhere, nowhere).is_ok()
}

#[test]
fn suite_schema_accepts_exactly_what_the_farm_accepts() {
    let validator = validator(&suite::schema());
    let right = [
        "cpus = 512\nmemory = '64M'\ntime-limit = '3s'\ntags = ['a', 'b-c']",
        "hang-after = '2s'",
        "hang-after = ['2s', 'livelock=9s']",
        "hang-after = { general = '2s', dead-halt = '0' }",
        "matrix = { cpus = [1, 2], memory = ['64M'], append = ['', 'x'] }",
        "expect = 'pass'",
        "expect = { exit = 3 }",
        "expect = { hang = 'any' }",
        "expect = { hang = 'boot-stall', blamed = ['cpu0'] }",
        "expect = { panic = 'x' }",
        "expect = { crash = true }",
        "console = { must = ['a'], must-not = ['b'] }",
    ];
    let wrong = [
        "cpu = 1",
        "cpus = 0",
        "cpus = 513",
        "cpus = '1'",
        "memory = 64",
        "tags = ['a b']",
        "retries = -1",
        "hang-after = 3",
        "hang-after = { livelok = '2s' }",
        "matrix = { cpus = [] }",
        "matrix = { cpus = [0] }",
        "matrix = { cpu = [1] }",
        "expect = 'no'",
        "expect = { exit = 3, crash = true }",
        "expect = { hang = 'no' }",
        "expect = { blamed = ['cpu0'] }",
        "console = { mustnot = [] }",
    ];
    let rows = right.map(|row| (row, true)).into_iter().chain(wrong.map(|row| (row, false)));
    for (row, right) in rows {
        let vm = format!("[[vm]]\nname = 'x'\nimage = 'x'\n{row}\n");
        assert_eq!((validator.is_valid(&as_json(&vm)), is_read(&vm)), (right, right), "{row}");
        // All keys but the matrix are allowed in `defaults` too.
        let defaults = format!("[defaults]\n{row}\n[[vm]]\nname = 'x'\nimage = 'x'\n");
        let right = right && !row.starts_with("matrix");
        let found = (validator.is_valid(&as_json(&defaults)), is_read(&defaults));
        assert_eq!(found, (right, right), "defaults: {row}");
    }
    for wrong in
        ["[defaults]\n", "[default]\n[[vm]]\nname = 'x'\nimage = 'x'\n", "[[vm]]\nimage = 'x'\n"]
    {
        assert!(!validator.is_valid(&as_json(wrong)) && !is_read(wrong), "{wrong}");
    }
}

#[test]
fn every_kind_of_event_is_valid_by_the_schema() {
    use event::{
        EventKind, FarmEvent, FarmFinished, FarmStarted, HangSummary, Id, Status, VmFinished,
        VmStarted,
    };
    let id = Id { name: "a/b".into(), run: 1, attempt: 2 };
    let counts = [(Status::Pass, 3), (Status::Hang, 1)].into();
    let hang = HangSummary {
        class: nmiscope::hang::Class::Deadlock,
        signature: "7f3a91c2aaaaaaaa".into(),
        blamed: vec!["cpu0".into()],
        locks: vec![],
        function: None,
    };
    let events = [
        EventKind::FarmStarted(FarmStarted {
            schema_version: event::EVENT_SCHEMA_VERSION,
            tool: "0.1.0".into(),
            suite: "suite.toml".into(),
            host: "here".into(),
            planned: 3,
            done: 0,
            lost: vec![],
            stale: vec![],
            seed: Some(u64::MAX),
            partition: None,
            cpus: 2,
            memory_bytes: 1 << 30,
        }),
        EventKind::VmStarted(VmStarted {
            id: id.clone(),
            directory: "vms/a".into(),
            definition: "0".repeat(64),
        }),
        EventKind::VmFinished(Box::new(VmFinished {
            id,
            directory: "vms/a".into(),
            status: Status::Hang,
            again: false,
            flaky: false,
            known: None,
            reason: None,
            hang: Some(hang),
            elapsed_ms: 1.5,
            files: [("report".to_owned(), "report.json".into())].into(),
        })),
        EventKind::FarmInterrupted { by: "SIGINT".into() },
        EventKind::FarmFinished(FarmFinished {
            counts,
            flaky: 0,
            known: 0,
            distinct_hangs: 1,
            not_run: 0,
            elapsed_ms: 2.0,
        }),
    ];
    let validator = validator(&event::schema());
    for kind in events {
        let event = serde_json::to_value(FarmEvent { time: Timestamp::from_unix_ms(7), kind })
            .expect("JSON");
        let faults: Vec<String> =
            validator.iter_errors(&event).map(|error| error.to_string()).collect();
        assert!(faults.is_empty(), "{event}: {faults:?}");
    }
}
