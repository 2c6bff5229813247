"""Writes the MMDB files of this folder with mmdb-writer 0.2.7 (PyPI), in the layouts that docs/geo.md lists."""

import sys
from netaddr import IPSet
from mmdb_writer import MMDBWriter

FOLDER = sys.argv[1]


def write(name, kind, networks):
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type=kind)
    for network, record in networks.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(f"{FOLDER}/{name}.mmdb")


def place(code, name, city=None):
    record = {
        "continent": {"code": "EU", "names": {"en": "Europe", "de": "Europa"}},
        "country": {"iso_code": code, "names": {"en": name}, "is_in_european_union": True},
        "registered_country": {"iso_code": "FR", "names": {"en": "France"}, "is_in_european_union": True},
    }
    if city:
        record |= {
            "city": {"names": {"en": city, "de": "anders"}},
            "location": {"latitude": 52.52, "longitude": 13.4, "accuracy_radius": 20, "time_zone": "Europe/Berlin"},
            "postal": {"code": "10117"},
            "subdivisions": [{"names": {"en": "Region"}}, {"names": {"en": "Land Berlin"}}],
        }
    return record


write("city", "GeoLite2-City", {
    "127.0.0.0/8": place("DE", "Germany", "Berlin"),
    "192.0.2.0/24": place("DE", "Germany", "Berlin"),
    "198.51.100.0/24": place("FR", "France"),
    "2001:db8::/32": place("DE", "Germany", "Berlin"),
})
write("country", "GeoLite2-Country", {"127.0.0.0/8": place("NL", "Netherlands"), "192.0.2.0/24": place("NL", "Netherlands")})
write("asn", "GeoLite2-ASN", {
    "192.0.2.0/24": {"autonomous_system_number": 64500, "autonomous_system_organization": "Example Net"},
})
write("flat", "ip-location-db city", {
    "192.0.2.0/24": {"city": "Berlin", "country_code": "DE", "latitude": 52.52, "longitude": 13.4,
                     "postcode": "10117", "state1": "Land Berlin", "state2": "", "timezone": "Europe/Berlin"},
})
write("list", "operator list", {
    "127.0.0.1/32": {"categories": ["cloud", "cloud.example"], "is_tor_node": True},
    "192.0.2.7/32": {"categories": ["bot", "bot.example"], "is_on_blocklist": True},
    "198.51.100.0/24": {"is_tor_node": True},
})
write("unknown", "something else", {"192.0.2.0/24": {"colour": "blue"}})
