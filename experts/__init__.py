"""One package per radio protocol: its parameter space, its waveform, its facts."""
