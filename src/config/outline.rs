//! The JSON Schema and the reference page of the configuration.
//!
//! Both are generated from the reader: it runs over an empty file in which every table seems to be present, and each key that it asks
//! for is noted, with form, bounds and default. The descriptions are the comments of `config/nodens.toml`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::diagnostic::Diagnostics;
use super::file::ConfigFile;
use super::key::{Arity, KeyProperty, Shape};
use super::value::ValueForm;

/// The example that has every key, with a comment above each.
const EXAMPLE: &str = include_str!("../../config/nodens.toml");

/// One table of the file.
#[derive(Debug, Default)]
pub struct Outline {
    /// Shape; none for the file itself.
    pub shape: Option<Shape>,
    /// Keys with values, in the order of the reader.
    pub keys: Vec<KeyOutline>,
    /// Tables within this one, in the order of the reader.
    pub tables: Vec<(&'static str, Outline)>,
}

/// One key with a value.
#[derive(Clone, Debug)]
pub struct KeyOutline {
    pub(crate) name: &'static str,
    /// Form of one value.
    pub form: ValueForm,
    pub(crate) arity: Arity,
    /// True if the key must be present.
    pub is_required: bool,
    /// The least and the most.
    pub bounds: Option<(String, String)>,
    /// Value without the key, if it is a fixed one.
    pub default: Option<String>,
}

/// Returns the file with all its tables and keys.
pub fn outline() -> Outline {
    let notes = Diagnostics::of_outline();
    ConfigFile::read("", &notes);
    let mut file = Outline::default();
    for noted in notes.noted() {
        let Some(table) = file.descend(&noted.table) else { continue };
        match noted.fact {
            KeyProperty::Table(shape) => {
                table.tables.push((noted.key, Outline { shape: Some(shape), ..Outline::default() }));
            }
            KeyProperty::Value { form, arity } => {
                let key = table.key(noted.key);
                (key.form, key.arity) = (form, arity);
            }
            KeyProperty::Required => table.key(noted.key).is_required = true,
            KeyProperty::Bounds(least, most) => table.key(noted.key).bounds = Some((least, most)),
            KeyProperty::Default(value) => table.key(noted.key).default = Some(value),
        }
    }
    file
}

impl Outline {
    /// Returns the table at `path`, whose parts are separated by dots; `NAME` stands for any name.
    fn descend(&mut self, path: &str) -> Option<&mut Self> {
        let mut table = self;
        for part in path.split('.').filter(|part| !part.is_empty() && *part != "NAME") {
            table = table.tables.iter_mut().find(|(key, _)| *key == part).map(|(_, table)| table)?;
        }
        Some(table)
    }

    /// Returns the key of this name, which is added if it is new.
    fn key(&mut self, name: &'static str) -> &mut KeyOutline {
        let at = self.keys.iter().position(|key| key.name == name).unwrap_or_else(|| {
            let (form, arity) = (ValueForm::Text(None), Arity::One);
            self.keys.push(KeyOutline { name, form, arity, is_required: false, bounds: None, default: None });
            self.keys.len() - 1
        });
        &mut self.keys[at]
    }

    /// Calls `visit` with the path of each table below, outer tables first.
    fn walk<'o>(&'o self, path: &str, visit: &mut impl FnMut(&str, &'o Outline)) {
        for (key, table) in &self.tables {
            let mut below = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
            if table.shape == Some(Shape::Named) {
                below.push_str(".NAME");
            }
            visit(&below, table);
            table.walk(&below, visit);
        }
    }

    /// Returns the JSON Schema of this table alone, without its shape.
    fn schema(&self, path: &str, comments: &Comments) -> Value {
        let mut properties = Map::new();
        for key in &self.keys {
            properties.insert(key.name.to_owned(), key.schema(comments.of_key(path, key.name)));
        }
        for (name, table) in &self.tables {
            let below = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
            let shaped = match table.shape {
                Some(Shape::Many) => json!({ "type": "array", "items": table.schema(&below, comments) }),
                Some(Shape::Named) => {
                    json!({ "type": "object", "additionalProperties": table.schema(&(below.clone() + ".NAME"), comments) })
                }
                _ => table.schema(&below, comments),
            };
            properties.insert((*name).to_owned(), described(shaped, comments.of_table(&below)));
        }
        let required: Vec<_> = self.keys.iter().filter(|key| key.is_required).map(|key| key.name).collect();
        let mut schema = json!({ "type": "object", "additionalProperties": false, "properties": properties });
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        schema
    }
}

impl KeyOutline {
    fn schema(&self, comment: Option<&str>) -> Value {
        let mut one = match self.form {
            ValueForm::Text(None) => json!({ "type": "string" }),
            ValueForm::Text(Some(pattern)) => json!({ "type": "string", "pattern": pattern }),
            ValueForm::OneOf(words) => json!({ "type": "string", "enum": words }),
            ValueForm::Integer => json!({ "type": "integer" }),
            ValueForm::Number => json!({ "type": "number" }),
            ValueForm::Boolean => json!({ "type": "boolean" }),
            ValueForm::Map => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        };
        if matches!(self.form, ValueForm::Integer | ValueForm::Number)
            && let Some((least, most)) = &self.bounds
        {
            one["minimum"] = self.form.json(least);
            one["maximum"] = self.form.json(most);
        }
        let list = || json!({ "type": "array", "items": one, "minItems": 1 });
        let mut schema = match self.arity {
            Arity::One => one,
            Arity::List => list(),
            Arity::OneOrList => json!({ "anyOf": [list(), one] }),
        };
        if let Some(default) = &self.default {
            schema["default"] = self.form.json(default);
        }
        described(schema, comment)
    }

    /// Returns the kind of its value in words.
    fn words(&self) -> String {
        let one = match self.form {
            ValueForm::Text(_) => "string".to_owned(),
            ValueForm::OneOf(words) => words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", "),
            ValueForm::Integer => "integer".to_owned(),
            ValueForm::Number => "number".to_owned(),
            ValueForm::Boolean => "boolean".to_owned(),
            ValueForm::Map => "table of strings".to_owned(),
        };
        let many = if matches!(self.form, ValueForm::OneOf(_)) { one.clone() } else { format!("{one}s") };
        match self.arity {
            Arity::One => one,
            Arity::List => format!("list of {many}"),
            Arity::OneOrList => format!("{one}, or a list"),
        }
    }
}

impl ValueForm {
    /// Returns a value of this form, as the reader shows it, in JSON.
    fn json(self, shown: &str) -> Value {
        match self {
            Self::Integer | Self::Number | Self::Boolean => {
                serde_json::from_str(shown).unwrap_or_else(|_| shown.into())
            }
            Self::Text(_) | Self::OneOf(_) | Self::Map => shown.into(),
        }
    }
}

fn described(mut schema: Value, comment: Option<&str>) -> Value {
    if let Some(comment) = comment {
        schema["description"] = comment.into();
    }
    schema
}

/// Returns the JSON Schema (draft 7, which Taplo understands) of a configuration file.
pub fn json_schema() -> String {
    let mut schema = outline().schema("", &Comments::read(EXAMPLE));
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "nodens".into();
    format!("{schema:#}\n")
}

/// Returns the reference page, in Markdown.
pub fn reference() -> String {
    let (file, comments) = (outline(), Comments::read(EXAMPLE));
    let mut page =
        "# Configuration keys\n\nThis page is generated from the reader of the file and from the comments of \
        [config/nodens.toml](../../config/nodens.toml). `nodens schema` prints the same as a JSON Schema for editors.\n"
            .to_owned();
    file.walk("", &mut |path, table| {
        let header = if table.shape == Some(Shape::Many) { format!("[[{path}]]") } else { format!("[{path}]") };
        let _ = writeln!(page, "\n## {header}\n");
        if let Some(comment) = comments.of_table(path.trim_end_matches(".NAME")) {
            let _ = writeln!(page, "{comment}\n");
        }
        page.push_str("| key | value | default | bounds | meaning |\n|---|---|---|---|---|\n");
        for key in &table.keys {
            let default = match (&key.default, key.is_required) {
                (Some(default), _) => format!("`{}`", key.form.json(default)),
                (None, true) => "required".to_owned(),
                (None, false) => String::new(),
            };
            let bounds = key.bounds.as_ref().map(|(least, most)| format!("{least} to {most}")).unwrap_or_default();
            let meaning = comments.of_key(path, key.name).unwrap_or_default().replace('|', "\\|");
            let _ = writeln!(page, "| `{}` | {} | {default} | {bounds} | {meaning} |", key.name, key.words());
        }
    });
    page
}

/// The comments of the example, by table and by key.
#[derive(Debug, Default)]
struct Comments {
    tables: BTreeMap<String, String>,
    keys: BTreeMap<(String, String), String>,
}

impl Comments {
    /// Reads the comments of a file; keys and headers may be commented out themselves. A key right below another one shares its
    /// comment.
    fn read(text: &str) -> Self {
        let mut comments = Self::default();
        let (mut table, mut open, mut last) = (String::new(), String::new(), None::<String>);
        for line in text.lines() {
            let plain = line.strip_prefix("# ").unwrap_or(line);
            if let Some(path) = header(plain) {
                table = path;
                if !open.is_empty() {
                    comments.tables.entry(table.clone()).or_insert_with(|| std::mem::take(&mut open));
                }
                (open, last) = (String::new(), None);
            } else if let Some(key) = key(plain) {
                let comment = if open.is_empty() { last.clone() } else { Some(std::mem::take(&mut open)) };
                if let Some(comment) = &comment {
                    comments.keys.entry((table.clone(), key.to_owned())).or_insert_with(|| comment.clone());
                }
                last = comment;
            } else if let Some(words) = line.strip_prefix('#') {
                let words = words.trim();
                open = if open.is_empty() { words.to_owned() } else { format!("{open} {words}") };
            } else if line.trim().is_empty() {
                (open, last) = (String::new(), None);
            }
        }
        comments
    }

    fn of_table(&self, path: &str) -> Option<&str> {
        self.tables.get(path).or_else(|| self.tables.get(&format!("{path}.NAME"))).map(String::as_str)
    }

    /// Returns the comment of a key; that of a view's route or record is the one of any route or record.
    fn of_key(&self, table: &str, key: &str) -> Option<&str> {
        let of = |table: &str| self.keys.get(&(table.to_owned(), key.to_owned())).map(String::as_str);
        of(table).or_else(|| of(table.strip_prefix("view.")?))
    }
}

/// Returns the path of a table's header; names of upstreams are replaced by `NAME`.
fn header(line: &str) -> Option<String> {
    let path = line.strip_prefix('[')?.trim_end().strip_suffix(']')?;
    let path = path.strip_prefix('[').map_or(Some(path), |path| path.strip_suffix(']'))?;
    let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let upstream = path.strip_prefix("upstreams.").map(|_| "upstreams.NAME".to_owned());
    path.bytes().all(is_path).then(|| upstream.unwrap_or_else(|| path.to_owned()))
}

/// Returns the key of a line `key = value`.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim_end();
    (!key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_explains_every_key() {
        let comments = Comments::read(EXAMPLE);
        let mut missing = Vec::new();
        outline().walk("", &mut |path, table| {
            assert!(!table.keys.is_empty(), "{path}");
            let silent = table.keys.iter().filter(|key| comments.of_key(path, key.name).is_none());
            missing.extend(silent.map(|key| format!("{path}.{}", key.name)));
        });
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn the_example_has_no_other_keys() {
        let file = outline();
        let mut known = std::collections::BTreeSet::new();
        file.walk("", &mut |path, table| {
            known.extend(table.keys.iter().map(|key| (path.to_owned(), key.name.to_owned())));
        });
        let comments = Comments::read(EXAMPLE);
        let strange: Vec<_> = comments.keys.keys().filter(|key| !known.contains(*key)).collect();
        assert_eq!(strange, Vec::<&(String, String)>::new());
    }

    #[test]
    fn forms_bounds_and_defaults() {
        let schema: Value = serde_json::from_str(&json_schema()).expect("JSON");
        let server = &schema["properties"]["server"]["properties"];
        assert_eq!(server["workers"]["type"], "integer");
        assert_eq!((&server["workers"]["minimum"], &server["workers"]["maximum"]), (&json!(0), &json!(1024)));
        assert_eq!(server["tcp_idle_timeout"]["default"], "10s");
        let upstream = &schema["properties"]["upstreams"]["additionalProperties"];
        assert_eq!(upstream["required"], json!(["servers"]));
        assert_eq!(upstream["properties"]["select"]["enum"], json!(["ordered", "fastest", "spread"]));
        let view = &schema["properties"]["view"]["items"]["properties"];
        assert_eq!(view["route"]["items"]["properties"]["zones"]["type"], "array");
        assert_eq!(view["inherit"]["default"], true);
    }
}
