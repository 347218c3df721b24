//! What boards print, decoded: defmt frames, whose texts are in the firmware's image. The feature `logs` is for whoever wants to see them.

/// One board's.
#[cfg(feature = "logs")]
pub(super) struct Decoder {
    table: &'static defmt_decoder::Table,
    stream: Box<dyn defmt_decoder::StreamDecoder + Send + Sync>,
}

#[cfg(feature = "logs")]
impl Decoder {
    /// For what this image prints.
    pub(super) fn new(image: &[u8]) -> Result<Self, String> {
        let table = defmt_decoder::Table::parse(image).map_err(|error| error.to_string())?;
        let table = table.ok_or("the image has no log: it was built without `log`")?;
        // One for each board of a program that shows three of them once.
        let table: &'static _ = Box::leak(Box::new(table));
        Ok(Self { table, stream: table.new_stream_decoder() })
    }

    /// Whole lines, with those bytes.
    pub(super) fn lines(&mut self, bytes: &[u8]) -> Vec<String> {
        self.stream.received(bytes);
        let mut lines = Vec::new();
        loop {
            match self.stream.decode() {
                Ok(frame) => lines.push(frame.display(false).to_string()),
                // Power went in the middle of a line.
                Err(defmt_decoder::DecodeError::Malformed)
                    if self.table.encoding().can_recover() => {}
                Err(_) => return lines,
            }
        }
    }
}

/// One board's, which nobody wants to see.
#[cfg(not(feature = "logs"))]
pub(super) struct Decoder;

#[cfg(not(feature = "logs"))]
impl Decoder {
    pub(super) fn new(_: &[u8]) -> Result<Self, String> {
        println!("(the boards' own logs are shown with `--features logs`)");
        Ok(Self)
    }

    pub(super) fn lines(&mut self, _: &[u8]) -> Vec<String> {
        Vec::new()
    }
}
