"""The tests' receiver against PPDUs that others made or recorded: it must be right before it may judge ours."""

from pathlib import Path

import numpy as np
import pytest


def read_ci16(path: Path) -> np.ndarray:
    if not path.is_file():
        pytest.skip(f"{path.name} is absent")
    return np.fromfile(path, "<i2").reshape(-1, 2).astype(np.float64) @ np.array([1, 1j]) / 32768


def test_independent_implementation(shared, receive_all):
    found = receive_all(read_ci16(shared / "golden" / "wlan_legacy_and_ht.sigmf-data"))
    # The third is HT: its L-SIG says 6 Mbit/s, its DATA is none of clause 17.
    assert [(ppdu.rate, ppdu.fcs_ok) for ppdu in found] == [(6, True), (24, True), (6, False)]
    assert max(ppdu.evm_db for ppdu in found[:2]) < -35


def test_recording(shared, receive_all):
    found = receive_all(read_ci16(shared / "captures" / "wlan_11a_24mbps_conducted.sigmf-data"))
    assert [ppdu.fcs_ok for ppdu in found] == [True] * 19
    assert {ppdu.rate for ppdu in found} == {24}
    assert max(ppdu.evm_db for ppdu in found) < -25
    # Frame Control of an Ack is D4 00; each is 14 octets long (clause 9.3.1.4).
    acks = [ppdu for ppdu in found if ppdu.psdu[:2] == b"\xd4\x00"]
    assert len(acks) == 9
    assert {ppdu.length for ppdu in acks} == {14}


def test_noise_holds_nothing(receive_all):
    rng = np.random.default_rng(5)
    noise = rng.standard_normal(20000) + 1j * rng.standard_normal(20000)
    assert receive_all(noise) == []


def test_wrong_fcs_is_seen(shared, receive_all):
    iq = read_ci16(shared / "golden" / "wlan_legacy_and_ht.sigmf-data")
    first = receive_all(iq)[0]
    middle = first.start + 400 + 80 * 20
    iq[middle : middle + 160] = iq[middle + 160 : middle + 320]
    assert not receive_all(iq)[0].fcs_ok
