"""A BitTorrent client for one torrent, on libtorrent's Python binding (Debian package python3-libtorrent).

Usage: libtorrent_client.py TORRENT FOLDER IP seed|super-seed|get|get-and-stay

Prints `listening PORT`, and `complete` when it has all. `get` ends then, the others at SIGTERM.
"""

import signal
import sys

import libtorrent as lt

SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "out_enc_policy": int(lt.enc_policy.disabled),
    "in_enc_policy": int(lt.enc_policy.disabled),
    # TCP alone, as everybody else here.
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    # All machines of the bench may be one address.
    "allow_multiple_connections_per_ip": True,
    "unchoke_slots_limit": -1,
    "connections_limit": 1000,
    "connection_speed": 500,
    "torrent_connect_boost": 100,
    "active_limit": -1,
    "alert_mask": int(lt.alert.category_t.status_notification | lt.alert.category_t.error_notification),
}


def main() -> None:
    torrent, folder, address, role = sys.argv[1:]
    base = lt.high_performance_seed() if role.endswith("seed") else lt.default_settings()
    session = lt.session({**base, **SETTINGS, "listen_interfaces": f"{address}:0"})
    what = lt.add_torrent_params()
    what.ti = lt.torrent_info(torrent)
    what.save_path = folder
    what.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if role.endswith("seed"):
        what.flags |= lt.torrent_flags.seed_mode
    if role == "super-seed":
        what.flags |= lt.torrent_flags.super_seeding
    session.add_torrent(what)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        session.wait_for_alert(1000)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.torrent_finished_alert):
                print("complete", flush=True)
                if role == "get":
                    return
            elif alert.category() & lt.alert.category_t.error_notification:
                print(alert.message(), file=sys.stderr, flush=True)


main()
