//! `quorate wal recover`: a new cluster out of one board's image, when the majority of the old one is lost.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use quorate::ClusterId;

use super::{Failure, config, print};
use crate::image;
use crate::recover::Prospect;

/// Make a new cluster of one board out of its flash image, when the majority of the old one is lost for good.
///
/// Without --accept-loss it only says what may be lost. IMAGE is not changed. The new image goes onto the board that
/// IMAGE came from, and onto no other; further boards are added as new members, with blank flash. Take the image of
/// the board that has the most entries.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The flash image of the board that is to go on, as it was read from it
    image: PathBuf,
    /// Where the new image is written; the file must not exist
    #[arg(long, value_name = "FILE", requires = "accept_loss")]
    out: Option<PathBuf>,
    /// Do it, in the knowledge of what may be lost
    #[arg(long, requires = "out")]
    accept_loss: bool,
    /// The new cluster's identity, eight hex digits; drawn at random if it is not given
    #[arg(long, value_name = "HEX", value_parser = parse_cluster)]
    cluster: Option<ClusterId>,
}

pub(super) fn parse_cluster(text: &str) -> Result<ClusterId, String> {
    let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u32::from_str_radix(text, 16).ok().filter(|number| digits && *number != 0);
    let number = number.ok_or_else(|| "eight hex digits, not all zero".to_string())?;
    Ok(ClusterId(number.to_be_bytes()))
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let failed = |what: String| Failure::new(format!("{}: {what}", args.image.display()));
    let bytes = config::read(&args.image)
        .map_err(|e| Failure::usage(format!("{}: can't be read: {e}", args.image.display())))?;
    let prospect = Prospect::of(&bytes).map_err(|e| failed(e.to_string()))?;
    print(&losses(&prospect))?;
    let Some(out) = &args.out else {
        return Err(Failure::new(
            "nothing was written: --out FILE --accept-loss makes the new image",
        ));
    };
    let new = match args.cluster {
        Some(cluster) => cluster,
        None => {
            let mut id = [0; 4];
            getrandom::fill(&mut id)
                .map_err(|e| Failure::new(format!("no random number can be had: {e}")))?;
            ClusterId(id)
        }
    };
    if new == prospect.board.status.cluster {
        return Err(Failure::usage("the new cluster can't have the identity of the old one"));
    }
    let recovered = prospect.recover(&bytes, new).map_err(|e| failed(e.to_string()))?;
    // What was written is read again, by a path that knows nothing of this one.
    let board = image::read(&recovered).map_err(|e| failed(e.to_string()))?;
    store(out, &recovered)?;
    print(&format!(
        "\n{}: board {} is cluster {:?} now, alone, with {} keys at revision {}, hash {:016x}\n",
        out.display(),
        board.id(),
        board.status.cluster,
        board.content.len(),
        board.revision,
        board.hash,
    ))
}

fn losses(prospect: &Prospect) -> String {
    let status = &prospect.board.status;
    let others: Vec<_> = prospect.others().iter().map(|id| id.to_string()).collect();
    format!(
        "board {} of cluster {:?}, term {}: {} entries, {} of them known to be committed\n\
         - entries after {} that the others had committed are lost\n\
         - {} entries here that may not have been committed take effect, also where nobody was told so\n\
         - its members {} are strangers to the new cluster, should they come back: never let both clusters be used\n",
        prospect.board.id(),
        status.cluster,
        status.term,
        status.last.index,
        status.commit,
        status.last.index,
        prospect.undecided(),
        if others.is_empty() { "(none)".into() } else { others.join(", ") },
    )
}

fn store(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |e| Failure::new(format!("{}: can't be written: {e}", path.display()));
    let mut file = File::create_new(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}
