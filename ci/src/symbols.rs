//! Looks into a linked image for what must not be there: panic paths and an allocator.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionKind, SymbolKind};
use rustc_demangle::demangle;

/// A symbol of which any occurrence is an error. Everything that panics ends in `core::panicking`
/// or in the panic handler itself.
fn is_forbidden(name: &str) -> bool {
    let parts = ["core::panicking", "rust_begin_unwind", "__rust_alloc", "__rust_realloc"];
    let crates = ["alloc::", "std::"];
    parts.iter().any(|part| name.contains(part))
        || crates.iter().any(|part| name.trim_start_matches(['<', '&']).starts_with(part))
}

/// What was found in an image.
pub(crate) struct Findings {
    /// Functions in the image, forbidden or not.
    pub(crate) functions: usize,
    /// The forbidden symbols.
    pub(crate) forbidden: BTreeSet<String>,
    /// Variables that do not begin as zeros: each lies in flash and in RAM.
    pub(crate) initialized: BTreeSet<String>,
    /// Who refers to a function, as far as the linker kept that.
    callers: BTreeMap<String, BTreeSet<String>>,
}

impl Findings {
    /// One line for each symbol, with the code outside `core` that leads to it.
    pub(crate) fn text(&self) -> String {
        let line = |name: &String| {
            let culprits: Vec<String> = self.culprits(name).into_iter().collect();
            format!("  {name} <- {}", culprits.join(", "))
        };
        self.forbidden.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Up through the callers to the first ones that are not the language's own library.
    pub(crate) fn culprits(&self, name: &str) -> BTreeSet<String> {
        let (mut seen, mut found) = (BTreeSet::new(), BTreeSet::new());
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            for caller in self.callers.get(name).into_iter().flatten() {
                if !seen.insert(caller) {
                    continue;
                }
                if caller.trim_start_matches('<').starts_with("core::") || is_forbidden(caller) {
                    open.push(caller);
                } else {
                    found.insert(caller.clone());
                }
            }
        }
        found
    }
}

/// Reads an unstripped ELF image; linked with `--emit-relocs` it also tells who calls what.
pub(crate) fn inspect(image: &[u8]) -> Result<Findings, String> {
    let file = object::File::parse(image).map_err(|error| error.to_string())?;
    let name_of = |symbol: &object::Symbol<'_, '_>| {
        format!("{:#}", demangle(symbol.name().unwrap_or("(not text)")))
    };
    // Where each function lies. Bit 0 of an address says "Thumb", not where.
    let mut functions = BTreeMap::new();
    let (mut forbidden, mut initialized) = (BTreeSet::new(), BTreeSet::new());
    let is_data = |section: object::Section<'_, '_>| section.kind() == SectionKind::Data;
    for symbol in file.symbols().filter(|symbol| symbol.is_definition()) {
        let name = name_of(&symbol);
        if is_forbidden(&name) {
            forbidden.insert(name.clone());
        }
        let section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
        if symbol.kind() == SymbolKind::Data && section.is_some_and(is_data) {
            initialized.insert(name.clone());
        }
        if symbol.kind() == SymbolKind::Text && symbol.size() > 0 {
            functions.insert(symbol.address() & !1, name);
        }
    }
    if functions.is_empty() {
        return Err("the image has no symbols: it was stripped".to_owned());
    }
    let mut callers = BTreeMap::<String, BTreeSet<String>>::new();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        for (address, relocation) in section.relocations() {
            let RelocationTarget::Symbol(target) = relocation.target() else { continue };
            let Ok(symbol) = file.symbol_by_index(target) else { continue };
            if let Some((_, caller)) = functions.range(..=address).next_back() {
                callers.entry(name_of(&symbol)).or_default().insert(caller.clone());
            }
        }
    }
    Ok(Findings { functions: functions.len(), forbidden, initialized, callers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_paths_and_allocators_are_forbidden_and_nothing_else() {
        assert!(is_forbidden("core::panicking::panic_bounds_check"));
        assert!(is_forbidden("__rustc::rust_begin_unwind"));
        assert!(is_forbidden("__rustc::__rust_alloc"));
        assert!(is_forbidden("<alloc::vec::Vec<u8> as core::ops::drop::Drop>::drop"));
        assert!(!is_forbidden("quorate::node::Node::poll_output"));
        assert!(!is_forbidden("core::slice::memchr::memchr_aligned"));
    }

    #[test]
    fn a_program_that_panics_and_allocates_is_caught() {
        let program = std::env::current_exe().unwrap();
        let found = inspect(&std::fs::read(program).unwrap()).unwrap();
        assert!(found.forbidden.iter().any(|name| name.contains("core::panicking")));
        assert!(found.forbidden.iter().any(|name| name.contains("__rust_alloc")));
    }

    #[test]
    fn what_is_no_image_is_an_error() {
        assert!(inspect(b"neither fish nor flesh").is_err());
    }
}
