//! What the host has to know of a firmware image: where its variables lie, and where its stack is.

use std::fs;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use rustc_demangle::demangle;

use crate::tools::{Trouble, at, failed};

/// What the firmware's start code has painted the stack with (`paint-stack` of cortex-m-rt).
const PAINT: [u8; 4] = 0xcccc_ccccu32.to_le_bytes();

/// A firmware: its image, and what is known of it.
pub(crate) struct Firmware {
    pub(crate) path: PathBuf,
    pub(crate) addresses: Addresses,
}

impl Firmware {
    /// Of that image.
    pub(crate) fn of(path: &Path) -> Result<Self, Trouble> {
        Ok(Self { path: path.to_owned(), addresses: Addresses::of(path)? })
    }

    /// A copy in `folder`: the image may be built anew meanwhile.
    pub(crate) fn copied(&self, folder: &Path) -> Result<Self, Trouble> {
        let name = self.path.file_name().unwrap_or_default();
        let path = folder.join(name).with_extension("elf");
        fs::copy(&self.path, &path).map_err(|error| at(&path, error))?;
        Self::of(&path)
    }
}

/// Addresses in an image.
pub(crate) struct Addresses {
    /// The words that are there to be watched.
    pub(crate) watch: u32,
    /// The end of all variables, and of memory: the stack grows from there to here.
    pub(crate) stack_end: u32,
    pub(crate) stack_start: u32,
    /// Bytes of flash, and of variables.
    pub(crate) flash: u64,
    pub(crate) variables: u64,
    /// Each variable by its name, the largest first, and its bytes.
    pub(crate) each_variable: Vec<(String, u64)>,
}

/// Where the RAM of a Cortex-M begins.
const RAM_START: u64 = 0x2000_0000;

/// The sections of cortex-m-rt that take flash, and those that take RAM; the initial values of variables take both.
const IN_FLASH: &[&str] = &[".vector_table", ".text", ".rodata", ".data"];
const IN_RAM: &[&str] = &[".data", ".bss", ".uninit"];

impl Addresses {
    /// Looks them up.
    pub(crate) fn of(path: &Path) -> Result<Self, Trouble> {
        let bytes = fs::read(path).map_err(|error| at(path, error))?;
        let file = object::File::parse(&*bytes).map_err(|error| at(path, error))?;
        let find = |name: &str| {
            let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
            match symbol.and_then(|symbol| u32::try_from(symbol.address()).ok()) {
                Some(address) => Ok(address),
                None => failed(format!("{}: has no symbol {name}", path.display())),
            }
        };
        let size = |names: &[&str]| {
            let sections = names.iter().filter_map(|name| file.section_by_name(name));
            sections.map(|section| section.size()).sum()
        };
        let mut each_variable: Vec<_> = file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Data && symbol.address() >= RAM_START)
            .map(|symbol| {
                let name = format!("{:#}", demangle(symbol.name().unwrap_or_default()));
                (name, symbol.size())
            })
            .collect();
        each_variable.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(Self {
            each_variable,
            flash: size(IN_FLASH),
            variables: size(IN_RAM),
            watch: find("WATCH")?,
            stack_end: find("_stack_end")?,
            stack_start: find("_stack_start")?,
        })
    }

    /// Bytes between the stack's end and its beginning.
    pub(crate) fn stack_bytes(&self) -> usize {
        self.stack_start.saturating_sub(self.stack_end) as usize
    }
}

/// How deep the stack was at the worst, by what is left of the paint; `stack` is all of it, from its end on.
pub(crate) fn depth(stack: &[u8]) -> usize {
    let painted = stack.chunks(4).take_while(|word| *word == PAINT).count() * 4;
    stack.len().saturating_sub(painted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_word_that_was_written_counts() {
        let mut stack = [0xcc; 64];
        assert_eq!(depth(&stack), 0);
        stack[60] = 1;
        assert_eq!(depth(&stack), 4);
        stack[21] = 1;
        assert_eq!(depth(&stack), 44);
        assert_eq!(depth(&[1; 64]), 64);
    }
}
