//! Under which address a holder is told to an asker.

use std::net::{IpAddr, SocketAddr};

/// The address of a holder as an asker from `asker` can use it, who reached who is asked (a tracker,
/// or another holder) at `reached_at`. All three are canonical: no IPv4 address in IPv6 form.
///
/// A holder on the same machine as who is asked is seen there at a loopback address, which means
/// another machine to everybody else. They are told the address by which they themselves reached
/// that machine.
pub fn seen_by(holder: SocketAddr, asker: IpAddr, reached_at: IpAddr) -> SocketAddr {
    match in_place_of_loopback(asker, reached_at) {
        Some(ip) if holder.ip().is_loopback() => SocketAddr::new(ip, holder.port()),
        _ => holder,
    }
}

/// What stands in place of a loopback address for such an asker; `None` if it is on this machine too.
pub fn in_place_of_loopback(asker: IpAddr, reached_at: IpAddr) -> Option<IpAddr> {
    (!asker.is_loopback()).then_some(reached_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_at_loopback_is_told_to_others_where_they_reached_the_tracker() {
        for (holder, asker, reached_at, told) in [
            ("127.0.0.1:9", "127.0.0.1", "127.0.0.1", "127.0.0.1:9"),
            ("127.0.0.5:9", "127.0.0.1", "127.0.0.1", "127.0.0.5:9"),
            ("127.0.0.1:9", "10.0.0.7", "10.0.0.1", "10.0.0.1:9"),
            ("127.8.8.8:9", "10.0.0.7", "10.0.0.1", "10.0.0.1:9"),
            ("[::1]:9", "10.0.0.7", "10.0.0.1", "10.0.0.1:9"),
            ("[::1]:9", "::1", "::1", "[::1]:9"),
            ("[::1]:9", "2001:db8::7", "2001:db8::1", "[2001:db8::1]:9"),
            ("10.0.0.3:9", "10.0.0.7", "10.0.0.1", "10.0.0.3:9"),
            ("10.0.0.3:9", "127.0.0.1", "127.0.0.1", "10.0.0.3:9"),
            // The tracker's machine reaches itself by its outer address too.
            ("127.0.0.1:9", "10.0.0.1", "10.0.0.1", "10.0.0.1:9"),
        ] {
            let seen = seen_by(holder.parse().unwrap(), asker.parse().unwrap(), reached_at.parse().unwrap());
            assert_eq!(seen.to_string(), told, "{holder} asked for by {asker}");
        }
    }
}
