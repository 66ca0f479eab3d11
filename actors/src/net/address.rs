//! The address of a tracker as people type it, and dialling.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::timeout;

use crate::base::limits::DIAL_TIMEOUT;

/// `HOST[:PORT]`: a name or an IP address, and a port; 7070 if none is stated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrackerAddress {
    host: String,
    port: u16,
}

impl TrackerAddress {
    /// The port of a tracker that was told none.
    pub const DEFAULT_PORT: u16 = 7070;

    /// Opens a connection, to the first of the host's addresses that answers.
    ///
    /// # Errors
    /// An unknown host, or what the last address said.
    pub async fn dial(&self) -> io::Result<TcpStream> {
        dial((self.host.as_str(), self.port)).await
    }
}

/// Whoever has this address, where connections are counted by address: of IPv6 its network of 64 bits, for
/// one machine has all the addresses of it.
pub fn site(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

/// Opens a TCP connection within [`DIAL_TIMEOUT`], with small messages sent at once.
///
/// # Errors
/// An unknown host, a refusal, or no answer in time.
pub async fn dial(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", DIAL_TIMEOUT.as_secs()))
    })??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl From<SocketAddr> for TrackerAddress {
    fn from(address: SocketAddr) -> TrackerAddress {
        TrackerAddress { host: address.ip().to_string(), port: address.port() }
    }
}

impl FromStr for TrackerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<TrackerAddress, AddressError> {
        let bad = |why| AddressError { text: text.into(), why };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(|| bad("the ']' is missing"))?;
                match rest {
                    "" => (host, None),
                    rest => (host, Some(rest.strip_prefix(':').ok_or_else(|| bad("a ':' follows the ']'"))?)),
                }
            }
            // More than one colon without brackets is an IPv6 address without a port.
            None if text.matches(':').count() > 1 => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty() {
            return Err(bad("the host is missing"));
        }
        if host.contains(|c: char| c.is_whitespace() || c.is_control() || "/[]".contains(c)) {
            return Err(bad("a host has no spaces, slashes or brackets"));
        }
        let port = match port {
            None => TrackerAddress::DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => port,
                _ => return Err(bad("the port is a number from 1 to 65535")),
            },
        };
        Ok(TrackerAddress { host: host.into(), port })
    }
}

impl fmt::Display for TrackerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A text that is no `HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no tracker address, {why}; write HOST or HOST:PORT, for example 10.0.0.1:7070")]
pub struct AddressError {
    text: String,
    why: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_an_address_reads_as_meant() {
        for (text, shown) in [
            ("10.0.0.1", "10.0.0.1:7070"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("tracker.lab", "tracker.lab:7070"),
            ("tracker.lab:1", "tracker.lab:1"),
            ("::1", "[::1]:7070"),
            ("[::1]", "[::1]:7070"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(text.parse::<TrackerAddress>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_site_is_an_ipv4_address_or_a_64_bit_network_of_ipv6() {
        for (address, counted_as) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.2", "10.0.0.2"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2::3", "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::"),
            ("2001:db8:1:3::3", "2001:db8:1:3::"),
            ("::1", "::"),
        ] {
            assert_eq!(site(address.parse().unwrap()).to_string(), counted_as, "{address}");
        }
    }

    /// A network that swallows what is sent to it: a queue of connections that is full answers nobody.
    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_is_given_up_after_five_seconds() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let full = socket.listen(0).unwrap();
        let address = full.local_addr().unwrap();
        let _first = std::net::TcpStream::connect(address).unwrap();
        let start = tokio::time::Instant::now();
        let error = dial(address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), DIAL_TIMEOUT);
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for text in [
            "",
            ":7070",
            "host:",
            "host:0",
            "host:65536",
            "host:http",
            "[::1",
            "[::1]7",
            "a b",
            "http://host",
            "[]:1",
            "[:1::][9]",
            "[[::1]]",
            "a[b]",
        ] {
            let error = text.parse::<TrackerAddress>().unwrap_err().to_string();
            assert!(error.contains("HOST:PORT"), "{text:?}: {error}");
        }
    }
}
