//! A PC on a wire of boards is told who it is as they are: by an identity page (`core/docs/identity-page.md`), here in a file.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use quorate::node::Boot;
use quorate_embedded::identity::{PAGE_BYTES, Page};

use super::sizes;
use super::start::{IMAGE, Joining, Options, StartError, found};
use crate::image;

/// What an erased byte of the file reads as.
const ERASED: u8 = 0xff;
/// The mark is the last bytes of a page.
const MARK_BYTES: usize = 32;

/// What the page's node is started with. Where the page says so, and there is no image in `data`, the node founds its cluster first, and
/// marks the page as a board does: a node that loses its disk asks for its place, and does not found twice.
///
/// # Errors
/// The page can't be used, or the image can't be made.
pub fn by_page(path: &Path, data: PathBuf) -> Result<Options, StartError> {
    let failed = |what: String| StartError::Page { path: path.into(), what };
    let bytes = fs::read(path).map_err(|error| failed(format!("can't be read: {error}")))?;
    let bytes = bytes.first_chunk::<PAGE_BYTES>();
    let bytes = bytes.ok_or_else(|| failed(format!("a page has {PAGE_BYTES} bytes")))?;
    let page = Page::parse(bytes, ERASED).map_err(|error| failed(error.to_string()))?;
    let geometry = sizes::geometry_for(&page.limits).map_err(StartError::Settings)?;
    if page.founds() {
        let image = data.join(IMAGE);
        let founded = if image.exists() {
            is_of(&image, &page)
        } else {
            page.boot_without_log(0, |boot| match boot {
                Boot::Found(founding) => found(&data, founding),
                // A page that founds boots in no other way.
                _ => Ok(()),
            })?;
            true
        };
        // Before a frame is sent. What is another's image is for the start to refuse.
        if founded {
            mark(path).map_err(|error| failed(format!("can't be marked: {error}")))?;
        }
    }
    let config = page.config(sizes::flash(geometry), 0);
    Ok(Options {
        link: Some(page.link),
        members_max: page.members_max,
        join: Some(Joining { cluster: Some(page.cluster), limits: page.limits }),
        heartbeat_ms: Some(config.heartbeat_ms),
        election_ms: Some(config.election_ms),
        ..Options::new(page.node, data, Vec::new())
    })
}

/// Is this the log that the page has founded?
fn is_of(path: &Path, page: &Page) -> bool {
    let board = fs::read(path).ok().and_then(|bytes| image::read(&bytes).ok());
    board.is_some_and(|board| board.id() == page.node.get() && board.status.cluster == page.cluster)
}

fn mark(path: &Path) -> std::io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.seek(SeekFrom::Start((PAGE_BYTES - MARK_BYTES) as u64))?;
    file.write_all(&[!ERASED; MARK_BYTES])?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provision::Provision;
    use quorate::node::Limits;
    use quorate::{ClusterId, NodeId, plan};

    fn page(founds: bool) -> Vec<u8> {
        let members: Vec<_> = (1..=3).filter_map(NodeId::new).collect();
        let node = members[1];
        let provision = Provision {
            cluster: ClusterId(*b"wire"),
            members,
            members_max: 4,
            limits: Limits {
                frame_bytes: 112,
                entry_bytes: 59,
                log_bytes: 1800,
                snapshot_bytes: 309,
            },
            link: plan::serial(115_200),
            heartbeat_ms: None,
            election_ms: None,
        };
        provision.page(node, founds, 7, ERASED).to_vec()
    }

    #[test]
    fn a_page_founds_once_and_is_marked_by_then() {
        let dir = tempfile::tempdir().unwrap();
        let (path, data) = (dir.path().join("board-2.page"), dir.path().join("data"));
        fs::write(&path, page(true)).unwrap();
        let options = by_page(&path, data.clone()).unwrap();
        assert_eq!((options.id.get(), options.members_max), (2, 4));
        let image = data.join(IMAGE);
        let board = image::read(&fs::read(&image).unwrap()).unwrap();
        assert_eq!((board.id(), board.status.cluster), (2, ClusterId(*b"wire")));
        assert_eq!((board.members.len(), board.limits.entry_bytes), (3, 59));
        assert_ne!(fs::read(&path).unwrap(), page(true));
        // Its disk is gone: it asks for its place.
        fs::remove_file(&image).unwrap();
        by_page(&path, data.clone()).unwrap();
        assert!(!image.exists());
    }

    #[test]
    fn a_founder_that_died_before_its_page_was_marked_marks_it_at_its_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let (path, data) = (dir.path().join("page"), dir.path().join("data"));
        fs::write(&path, page(true)).unwrap();
        by_page(&path, data.clone()).unwrap();
        let marked = fs::read(&path).unwrap();
        fs::write(&path, page(true)).unwrap();
        by_page(&path, data.clone()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), marked);
        // Not by another's image.
        fs::write(&path, page(true)).unwrap();
        fs::write(data.join(IMAGE), [0; 4096]).unwrap();
        by_page(&path, data).unwrap();
        assert_eq!(fs::read(&path).unwrap(), page(true));
    }

    #[test]
    fn what_is_no_page_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("page");
        let told = |bytes: Option<Vec<u8>>| {
            if let Some(bytes) = bytes {
                fs::write(&path, bytes).unwrap();
            }
            by_page(&path, dir.path().join("data")).unwrap_err().to_string()
        };
        assert!(told(None).contains("can't be read"));
        assert!(told(Some(vec![0xff; 95])).ends_with("a page has 96 bytes"));
        let mut damaged = page(false);
        damaged[9] ^= 1;
        assert!(told(Some(damaged)).ends_with("the identity page is damaged"));
    }
}
