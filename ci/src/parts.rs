//! The step `parts`: the firmware of `examples/` for parts that many people own. No such part is here: that it links is what is shown,
//! and in `cargo ci full` that clippy finds nothing in it. In the firmware that the step `qemu` runs it looks each time.

use std::fs;

use object::{Object, ObjectSection, SectionKind};

use crate::embedded::Toolchain;
use crate::qemu;
use crate::tools::{Context, Trouble, at};

/// A firmware.
struct Part {
    /// Its folder in `examples/`, and its image.
    name: &'static str,
    target: &'static str,
    /// Built in every run, and not in `cargo ci full` alone.
    always: bool,
}

const PARTS: &[Part] = &[
    Part { name: "nrf52840", target: "thumbv7em-none-eabihf", always: true },
    Part { name: "rp2040", target: "thumbv6m-none-eabi", always: true },
    Part { name: "stm32g4", target: "thumbv7em-none-eabihf", always: false },
    Part { name: "esp32c3", target: "riscv32imc-unknown-none-elf", always: false },
];

/// What runs on a Cortex-M0 in steps of its own.
const MEASURED: &[&str] = &["probe", "size", "trio-board"];

/// `parts`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let arguments = ["--locked", "--manifest-path", qemu::MANIFEST, "--all-features"];
    Toolchain::find(context)?.lint(context, &arguments, qemu::VARIABLES)?;
    if context.options.full {
        for name in MEASURED {
            let manifest = format!("ci/{name}/Cargo.toml");
            let arguments = ["--locked", "--manifest-path", &manifest];
            Toolchain::find(context)?.lint(context, &arguments, &[])?;
        }
    }
    let mut sizes = Vec::new();
    for part in PARTS.iter().filter(|part| part.always || context.options.full) {
        let toolchain = Toolchain::find_for(context, part.target)?;
        let manifest = format!("examples/{}/Cargo.toml", part.name);
        let arguments = ["--locked", "--manifest-path", &manifest];
        let image = toolchain.firmware_with(context, &arguments, qemu::VARIABLES)?.join(part.name);
        if context.options.full {
            toolchain.lint(context, &arguments, qemu::VARIABLES)?;
        }
        let bytes = fs::read(&image).map_err(|error| at(&image, error))?;
        let size = Size::of(&bytes).map_err(|error| at(&image, error))?;
        sizes.push(format!("{} {} + {} KB", part.name, size.flash / 1024, size.ram / 1024));
    }
    let rest = if context.options.full {
        ""
    } else {
        "; the others, and clippy for all, in `cargo ci full`"
    };
    Ok(format!("flash and static RAM of {}{rest}", sizes.join(", ")))
}

/// Bytes that an image takes.
#[derive(Debug, PartialEq, Eq)]
struct Size {
    flash: u64,
    ram: u64,
}

impl Size {
    fn of(image: &[u8]) -> Result<Self, object::Error> {
        let file = object::File::parse(image)?;
        let mut size = Self { flash: 0, ram: 0 };
        for section in file.sections() {
            let (flash, ram) = match section.kind() {
                SectionKind::Text | SectionKind::ReadOnlyData => (true, false),
                SectionKind::Data => (true, true),
                SectionKind::UninitializedData => (false, true),
                _ => (false, false),
            };
            // esp-hal's map has the stack as a section, and one for each address that another section has, too.
            let nothing =
                section.name().is_ok_and(|name| name.ends_with("_dummy") || name == ".stack");
            let ram = ram && !nothing;
            size.flash += u64::from(flash) * section.size();
            size.ram += u64::from(ram) * section.size();
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_zero_at_first_takes_no_flash() {
        let program = std::env::current_exe().unwrap();
        let image = fs::read(program).unwrap();
        let size = Size::of(&image).unwrap();
        let file = object::File::parse(&*image).unwrap();
        let section = |name| file.section_by_name(name).unwrap().size();
        assert!(size.flash > section(".text") && size.flash < image.len() as u64);
        assert!(size.ram >= section(".data") + section(".bss"));
    }

    #[test]
    fn what_is_no_image_is_an_error() {
        assert!(Size::of(b"neither fish nor flesh").is_err());
    }
}
