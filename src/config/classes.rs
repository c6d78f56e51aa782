//! The file's table `[classes]`: names for groups of topics.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::layers::scalar;
use super::refusal::ConfigRefusal;
use crate::bus::{TopicClass, TopicFilter};

/// Reads the table. What filters and names may be is for [`crate::bus::TopicClasses::compile`] to say, which `Config::check` asks.
pub(super) fn read_classes(
    path: &Path,
    classes: &DeTable<'_>,
    line_of: impl Fn(usize) -> usize,
) -> Result<Vec<TopicClass>, ConfigRefusal> {
    let mut read = Vec::with_capacity(classes.len());
    for (key, value) in classes {
        let (name, line) = (key.get_ref().as_ref(), line_of(key.span().start));
        let filter = |value: &DeValue<'_>| match value {
            DeValue::String(text) => TopicFilter::parse(text).map_err(|cause| ConfigRefusal::ClassFilter {
                path: path.to_owned(),
                line,
                filter: text.to_string(),
                cause,
            }),
            other => Err(ConfigRefusal::ClassKind {
                path: path.to_owned(),
                line,
                class: name.to_owned(),
                found: scalar(other).err().unwrap_or("a single value"),
            }),
        };
        let filters: Result<Vec<_>, _> = match value.get_ref() {
            DeValue::Array(filters) => filters.iter().map(|value| filter(value.get_ref())).collect(),
            single => filter(single).map(|filter| vec![filter]),
        };
        read.push(TopicClass { name: name.to_owned(), filters: filters? });
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Flags, Layers};

    fn load(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("es.toml");
        std::fs::write(&path, text).expect("a file");
        let layers = Layers { flags: Flags::with_config(Some(path.clone())), ..Layers::default() };
        let loaded = Config::load(&layers).map(|loaded| loaded.config);
        loaded.map_err(|refusal| refusal.to_string().replace(path.to_str().expect("plain"), "es.toml"))
    }

    #[test]
    fn a_class_is_a_filter_or_a_list_of_them() {
        let config = load("[classes]\norders = [\"orders/#\", \"invoices/+\"]\naudit = \"orders/audit\"\n").expect("good");
        let classes = config.topic_classes().expect("good");
        let name = |topic: &str| classes.name(classes.of(topic.as_bytes())).to_owned();
        assert_eq!(["invoices/1", "orders/1", "orders/audit", "x"].map(name), ["orders", "orders", "audit", "other"]);
    }

    #[test]
    fn what_makes_no_class_is_refused_with_its_line() {
        let refused = |text: &str| load(text).expect_err("refused");
        let lines = "error: topic filter `a/#/b` is refused (es.toml line 2)\ncause: the `#` at byte 2 must be the last level\n\
                     fix:   orders = [\"orders/#\", \"invoices/+\"]";
        assert_eq!(refused("[classes]\nx = [\"a\", \"a/#/b\"]\n"), lines);
        assert!(refused("[classes]\nx = 1\n").starts_with("error: the class `x` has a single value (es.toml line 2)\n"));
        assert!(refused("[classes]\nx = [[\"a\"]]\n").starts_with("error: the class `x` has a list (es.toml line 2)\n"));
        assert!(refused("classes = 1\n").starts_with("error: key `classes` has a single value (es.toml line 1)\n"));
        let lines = "error: the table [classes] is refused\ncause: `other` is the class of all topics that no other has\n";
        assert!(refused("[classes]\nother = \"a\"\n").starts_with(lines));
    }
}
