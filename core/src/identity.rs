//! Who a board is: drawn and admitted once, kept in flash, carried by every frame.

use crate::types::{ClusterId, Generation, NodeId};

/// Which member of which cluster this board is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its member number.
    pub node: NodeId,
    /// Which life of that number it is; zero until an admission has given one.
    pub generation: Generation,
}
