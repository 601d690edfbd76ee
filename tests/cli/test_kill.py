"""Trainings that are killed at random moments end with the bits of one that nobody disturbed."""

import sys

from built_program import ROOT, program

sys.path.insert(0, str(ROOT / "scripts"))

from kill_rounds import finished, rounds


def test_killed_trainings_end_with_the_same_bits(hsattn, data, tmp_path):
    done = list(rounds(program(), data, tmp_path, count=4, seed=3))
    assert sum(killed for _, killed, _ in done) >= 2
    assert all(same for _, _, same in done), done


def test_other_bits_are_noticed(hsattn, data, tmp_path):
    (_, _, same), *_ = rounds(program(), data, tmp_path, count=1, seed=4)
    assert same
    weights, losses = finished(tmp_path / "whole")
    path = tmp_path / "round-0" / "checkpoints" / "step-00000030" / "model.safetensors"
    path.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert finished(tmp_path / "round-0") != (weights, losses)
