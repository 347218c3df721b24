//! What a linked image holds: bytes of code and constants, its functions and its variables.

use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use rustc_demangle::demangle;

/// One image.
pub(super) struct Image {
    /// Machine code, with the constants that stand between it.
    pub(super) text: u64,
    /// Other constants.
    pub(super) constants: u64,
    /// By falling size; of equal size by name.
    pub(super) functions: Vec<Symbol>,
    /// In the order of their addresses.
    pub(super) variables: Vec<Symbol>,
}

/// A function or a variable.
pub(super) struct Symbol {
    pub(super) name: String,
    pub(super) bytes: u64,
}

impl Image {
    /// Reads an unstripped ELF image.
    pub(super) fn parse(image: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(image).map_err(|error| error.to_string())?;
        let section = |name| file.section_by_name(name).map_or(0, |section| section.size());
        let of_kind = |kind| {
            let symbols = file.symbols().filter(move |symbol| {
                symbol.is_definition() && symbol.kind() == kind && symbol.size() > 0
            });
            let mut symbols: Vec<_> = symbols.collect();
            symbols.sort_by_key(object::ObjectSymbol::address);
            // One function may have several names.
            symbols.dedup_by_key(|symbol| symbol.address());
            let told = symbols.iter().map(|symbol| Symbol {
                name: format!("{:#}", demangle(symbol.name().unwrap_or("(not text)"))),
                bytes: symbol.size(),
            });
            told.collect::<Vec<_>>()
        };
        let mut functions = of_kind(SymbolKind::Text);
        if functions.is_empty() {
            return Err("the image has no symbols: it was stripped".to_owned());
        }
        functions.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        Ok(Self {
            text: section(".text"),
            constants: section(".rodata") + section(".data"),
            functions,
            variables: of_kind(SymbolKind::Data),
        })
    }

    /// Flash that the image takes.
    pub(super) const fn bytes(&self) -> u64 {
        self.text + self.constants
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_code_and_functions_largest_first() {
        let program = std::env::current_exe().unwrap();
        let image = Image::parse(&std::fs::read(program).unwrap()).unwrap();
        let total: u64 = image.functions.iter().map(|symbol| symbol.bytes).sum();
        assert!(total > 10_000 && total <= image.text);
        assert!(image.functions.is_sorted_by(|a, b| a.bytes >= b.bytes));
    }

    #[test]
    fn what_is_no_image_is_an_error() {
        assert!(Image::parse(b"neither fish nor flesh").is_err());
    }
}
