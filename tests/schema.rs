//! The committed schema is the one that the report's types make. To update it after a change of
//! those: `NMISCOPE_UPDATE=1 cargo test --test schema`.

use nmiscope::report::json::schema;

const COMMITTED: &str = include_str!("../docs/report.schema.json");

#[test]
fn the_committed_schema_is_that_of_the_report() {
    if std::env::var_os("NMISCOPE_UPDATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/report.schema.json");
        std::fs::write(path, schema()).expect("docs/report.schema.json can be written");
        return;
    }
    assert!(
        COMMITTED == schema(),
        "docs/report.schema.json is out of date; NMISCOPE_UPDATE=1 cargo test --test schema"
    );
}

#[test]
fn the_schema_is_a_schema() {
    let schema: serde_json::Value = serde_json::from_str(&schema()).expect("JSON");
    assert!(jsonschema::meta::is_valid(&schema));
}

#[test]
fn the_schema_refuses_what_is_no_report() {
    let schema: serde_json::Value = serde_json::from_str(COMMITTED).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    for wrong in [serde_json::json!({}), serde_json::json!([]), serde_json::json!({"outcome": 7})] {
        assert!(!validator.is_valid(&wrong), "{wrong}");
    }
}
