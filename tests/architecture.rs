//! The drawing of modules in docs/architecture.md against the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

type Uses = BTreeSet<(String, String)>;

/// Arrows of the drawing.
fn drawn() -> Uses {
    let text = fs::read_to_string("docs/architecture.md").unwrap();
    let drawing = text.split("flowchart TD\n").nth(1).unwrap().split("```").next().unwrap();
    let arrow = |line: &str| line.trim().split_once(" --> ").map(|(from, to)| (from.to_string(), to.to_string()));
    drawing.lines().map(|line| arrow(line).unwrap_or_else(|| panic!("no arrow: {line}"))).collect()
}

/// What a module's files name as `crate::OTHER`, but for comments and tests at their ends.
fn named(path: &Path, names: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_none_or(|name| name != "tests.rs") {
                named(&path, names);
            }
        }
        return;
    }
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    for line in code.lines() {
        let line = line.split("//").next().unwrap_or_default();
        for rest in line.split("crate::").skip(1) {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
            names.insert(rest[..end].to_string());
        }
    }
}

#[test]
fn the_drawing_is_the_code() {
    let drawn = drawn();
    let modules: BTreeSet<&String> = drawn.iter().flat_map(|(from, to)| [from, to]).collect();
    let mut found = Uses::new();
    for module in &modules {
        let mut names = BTreeSet::new();
        for path in [format!("src/{module}.rs"), format!("src/{module}")] {
            if Path::new(&path).exists() {
                named(Path::new(&path), &mut names);
            }
        }
        let others = names.into_iter().filter(|name| name != *module && modules.contains(name));
        found.extend(others.map(|name| ((*module).clone(), name)));
    }
    let missing: Vec<_> = found.difference(&drawn).collect();
    let gone: Vec<_> = drawn.difference(&found).collect();
    assert!(missing.is_empty() && gone.is_empty(), "not drawn: {missing:?}; drawn, but not there: {gone:?}");
    assert!(found.len() > 30);
}
