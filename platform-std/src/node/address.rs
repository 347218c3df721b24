//! Socket addresses as the membership keeps them: the bytes of the IP address, then the port, big-endian.

use std::net::{IpAddr, SocketAddr};

use quorate::membership::Address;

/// At most 18 bytes.
pub fn encode(address: SocketAddr) -> Address {
    let mut bytes = match address.ip() {
        IpAddr::V4(ip) => Address::from_iter(ip.octets()),
        IpAddr::V6(ip) => Address::from_iter(ip.octets()),
    };
    // There is room for them.
    let _ = bytes.extend_from_slice(&address.port().to_be_bytes());
    bytes
}

/// `None` for a member that is reached otherwise.
pub fn decode(address: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = address.split_last_chunk::<2>()?;
    let ip: IpAddr = match ip.len() {
        4 => <[u8; 4]>::try_from(ip).ok()?.into(),
        16 => <[u8; 16]>::try_from(ip).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

/// Is it one at which others could find a node? A port that the system is to choose, or "any address of mine", is none.
pub fn can_be_dialled(address: &SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_was_written_and_others_are_none() {
        for text in ["127.0.0.1:7001", "[2001:db8::1]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(decode(&encode(address)), Some(address));
        }
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(b"radio"), None);
    }
}
