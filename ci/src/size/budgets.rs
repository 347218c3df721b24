//! The budgets of code and RAM: `ci/budgets.toml`.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

use crate::tools::{Context, Trouble, at, read};

/// Where they are kept.
pub(super) const FILE: &str = "ci/budgets.toml";

/// What is aimed at and not enforced: an image, and bytes beyond an empty one.
pub(super) const AIMS: &[(&str, u64)] = &[("flash_log", 6 * 1024), ("node", 32 * 1024)];

/// What stands at the head of the file.
const HEAD: &str = "\
# What the core may cost a board at most, in bytes on a Cortex-M0: `cargo ci size` fails beyond that.
# `cargo ci size --update` sets it to what is measured, code rounded up to the next 128 bytes. RAM is exact.
# On other targets types have to be as large, and code has budgets of its own.
# The figures hold for one compiler; with another one, 5 % more is let pass.
";

/// What may grow: code rounds up to this.
const STEP: u64 = 128;

/// Bytes by image and by type, and the compiler that they hold for.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Budgets {
    pub(super) compiler: String,
    /// Beyond an empty image.
    pub(super) code: BTreeMap<String, u64>,
    pub(super) ram: BTreeMap<String, u64>,
    /// Code on other targets, by target.
    #[serde(default)]
    pub(super) elsewhere: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Budgets {
    pub(super) fn read(context: &Context) -> Result<Self, Trouble> {
        let path = context.root.join(FILE);
        toml::from_str(&read(&path)?).map_err(|error| at(&path, error))
    }

    pub(super) fn write(&self, context: &Context) -> Result<(), Trouble> {
        let path = context.root.join(FILE);
        let text = toml::to_string(self).map_err(|error| at(&path, error))?;
        fs::write(&path, format!("{HEAD}{text}")).map_err(|error| at(&path, error))
    }

    /// Not every byte is worth a commit.
    pub(super) fn with_room(mut self) -> Self {
        let elsewhere = self.elsewhere.values_mut().flat_map(BTreeMap::values_mut);
        let code = self.code.values_mut().chain(elsewhere);
        code.for_each(|bytes| *bytes = bytes.next_multiple_of(STEP));
        self
    }

    /// What takes more than its budget and so many percent, or has none.
    pub(super) fn exceeded(&self, measured: &Self, percent: u64) -> Vec<String> {
        let mut over = Vec::new();
        let mut all = vec![
            (&self.code, &measured.code, "code".to_owned()),
            (&self.ram, &measured.ram, "RAM".to_owned()),
        ];
        let none = BTreeMap::new();
        for (target, figures) in &measured.elsewhere {
            let budgets = self.elsewhere.get(target).unwrap_or(&none);
            all.push((budgets, figures, format!("code on {target}")));
        }
        for (budgets, figures, unit) in all {
            for (name, bytes) in figures {
                match budgets.get(name) {
                    Some(budget) if *bytes <= budget + budget * percent / 100 => {}
                    Some(budget) => {
                        over.push(format!("{name}: {bytes} bytes of {unit}, budget {budget}"));
                    }
                    None => over.push(format!("{name}: {bytes} bytes of {unit}, no budget")),
                }
            }
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budgets(code: u64, ram: u64) -> Budgets {
        Budgets {
            compiler: "rustc".to_owned(),
            code: [("node".to_owned(), code)].into(),
            ram: [("wal".to_owned(), ram)].into(),
            elsewhere: BTreeMap::new(),
        }
    }

    #[test]
    fn what_grows_past_its_budget_is_named() {
        assert_eq!(budgets(1000, 100).exceeded(&budgets(1000, 100), 0), Vec::<String>::new());
        let over = budgets(1000, 100).exceeded(&budgets(1001, 104), 0);
        assert_eq!(over.len(), 2);
        assert!(over[0].contains("node: 1001"));
    }

    #[test]
    fn another_compiler_has_some_slack() {
        assert!(budgets(1000, 100).exceeded(&budgets(1050, 105), 5).is_empty());
        assert_eq!(budgets(1000, 100).exceeded(&budgets(1051, 106), 5).len(), 2);
    }

    #[test]
    fn what_has_no_budget_is_named() {
        let mut figures = budgets(1, 1);
        figures.code.insert("more".to_owned(), 1);
        assert_eq!(budgets(1, 1).exceeded(&figures, 0), ["more: 1 bytes of code, no budget"]);
    }

    #[test]
    fn other_targets_have_budgets_of_their_own() {
        let on = |bytes| {
            let figures = [("node".to_owned(), bytes)].into();
            Budgets { elsewhere: [("riscv".to_owned(), figures)].into(), ..budgets(1, 1) }
        };
        assert!(on(1000).exceeded(&on(1000), 0).is_empty());
        assert!(on(1000).exceeded(&budgets(1, 1), 0).is_empty(), "not measured in this run");
        let over = on(1000).exceeded(&on(1001), 0);
        assert_eq!(over, ["node: 1001 bytes of code on riscv, budget 1000"]);
        assert_eq!(
            budgets(1, 1).exceeded(&on(1), 0),
            ["node: 1 bytes of code on riscv, no budget"]
        );
        assert_eq!(on(1001).with_room().elsewhere, on(1024).elsewhere);
    }

    #[test]
    fn a_budget_of_code_has_some_room() {
        let with_room = budgets(1001, 101).with_room();
        assert_eq!(with_room, budgets(1024, 101));
    }
}
