//! The table of other tools' faults in `tests/README.md` names tests that are there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.extension() {
            _ if path.is_dir() => sources(&path, found),
            Some(extension) if extension == "rs" => found.push(path),
            _ => {}
        }
    }
}

#[test]
fn each_fault_of_another_tool_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    ["tests", "nodectl/src"].iter().for_each(|folder| sources(&root.join(folder), &mut files));
    let code: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let text = std::fs::read_to_string(root.join("tests/README.md")).unwrap();
    let (_, table) = text.split_once("## Faults of other tools").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 15, "{table}");
    for row in rows {
        let tests: Vec<&str> = row
            .rsplit('|')
            .nth(1)
            .unwrap()
            .split('`')
            .filter(|word| word.contains('_') && !word.contains(' '))
            .collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            assert!(
                code.contains(&format!("#[test]\nfn {test}()")) || code.contains(&format!("    fn {test}()")),
                "{test}"
            );
        }
    }
}
