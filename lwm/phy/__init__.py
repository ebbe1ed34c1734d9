"""Building blocks that several standards share: sequences, constellations, OFDM."""
