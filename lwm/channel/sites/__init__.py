"""Sites: ray-traced multipath of real and simple places, shipped, traced by the user, or read from DeepMIMO."""

from lwm.channel.sites.deepmimo import read_deepmimo
from lwm.channel.sites.draw import SiteDraw, draw_site
from lwm.channel.sites.shipped import SITES, site_table
from lwm.channel.sites.table import SiteTable, load_table
from lwm.channel.sites.trace import trace_site

__all__ = [
    "SITES",
    "SiteDraw",
    "SiteTable",
    "draw_site",
    "load_table",
    "read_deepmimo",
    "site_table",
    "trace_site",
]
