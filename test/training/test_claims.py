"""The experiments of `scal3r eval claims`, as small as they run."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from scal3r_ros import claims, claims_filters, claims_report
from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.evaluation.boundary import edge_kinds
from scal3r_ros.training import head_trial, head_views
from scal3r_ros.training.head_trial import ARMS, Arm, parameters, run_trial
from scal3r_ros.training.paths import TOUR_AXES, TOUR_STEP, tour


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    return head_views.training_views(folder, 16), head_views.test_views(folder, 32)


def test_all_heads_have_equally_many_parameters():
    counts = {head: parameters(head_trial.matched_net(head)) for head in head_trial.FEATURES}
    assert max(counts.values()) / min(counts.values()) < 1.005, counts


def test_the_held_out_family_is_tested_and_never_trained_on(views):
    train, test = views
    assert not any(train.held_out)
    assert 1 <= sum(test.held_out) < len(test.held_out)


def test_windows_have_edges(views):
    for depth in views[0].depth.numpy().astype(np.float64):
        assert edge_kinds(depth, depth)[0].sum() >= head_views.LEAST_EDGES


def test_a_view_is_smooth_in_colour_and_sharp_in_depth(views):
    train, _ = views
    assert train.images.shape == (16, 3, 32, 32)
    assert train.depth.shape == (16, 32, 32)
    coarse = train.inputs(torch.arange(16), torch.Generator())[:, 3] * 3
    seen = train.depth > 0
    error = (coarse - train.depth.clamp_min(1e-3).log()).abs()[seen]
    assert float(error.median()) < 0.1


@pytest.mark.parametrize("head", ["single", "Z"])
def test_a_head_learns_edges_that_coarse_depth_does_not_have(head, views):
    """Of four windows by heart: better than the coarse depth it is given."""
    torch.manual_seed(1)
    rows = torch.arange(4)
    x, depth = views[0].inputs(rows, torch.Generator().manual_seed(0)), views[0].depth[rows]
    seen, log_depth = depth > 0, depth.clamp_min(1e-3).log()
    net = head_trial.start_net(head)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    recipe = "l1" if head == "single" else "mean"
    for _ in range(90):
        loss = head_trial.trial_loss(net(x), depth, recipe)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    found = net(x).decode("soft").log()
    coarse = x[:, 3] * head_views.COARSE_UNIT
    assert (found - log_depth).abs()[seen].mean() < 0.9 * (coarse - log_depth).abs()[seen].mean()


@pytest.mark.parametrize("arm", [ARMS[0], ARMS[3], ARMS[-1]], ids=lambda a: a.name)
def test_an_arm_is_judged(arm, views):
    rows = run_trial(arm, 1, 3, *views)
    every = {(d, s) for d in arm.decodings for s in ("known families", "held-out family")}
    assert {(row["decoding"], row["scenes"]) for row in rows} == every
    assert all(0 <= row["flying"] <= 1 for row in rows)


def test_experts_begin_apart_and_likelihood_draws_one_to_the_depth(views):
    rows = torch.arange(4)
    x, depth = views[0].inputs(rows, torch.Generator().manual_seed(0)), views[0].depth[rows]
    net = head_trial.start_net("B")
    first = net(x).log_depth.mean(dim=(0, 2, 3))
    assert first.diff().min() > 0.2
    losses = []
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(10):
        losses.append(head_trial.trial_loss(net(x), depth, "likelihood"))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0] - 0.5


def test_the_same_seed_gives_the_same_result(views):
    a, b = (run_trial(Arm("Z", "likelihood"), 3, 4, *views) for _ in range(2))
    assert a == b


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_tour_stays_in_the_room_moves_on_and_never_turns_on_the_spot(seed):
    T = tour(np.random.default_rng(claims.TOUR_SEED + seed), 520)
    assert np.abs(T[:, :3, 3]).max() <= max(TOUR_AXES)
    move = np.diff(T[:, :3, 3], axis=0)
    steps = np.linalg.norm(move, axis=1)
    assert steps.min() > 0.5 * TOUR_STEP
    assert steps.max() < 2 * TOUR_STEP
    turn = Rotation.from_matrix(T[:-1, :3, :3].transpose(0, 2, 1) @ T[1:, :3, :3]).magnitude()
    assert np.degrees(turn.max()) < 8
    level, looks = move[:, [0, 2]], T[:-1, [0, 2], 2]
    ahead = (level * looks).sum(axis=1) / np.linalg.norm(level, axis=1)
    assert ahead.min() > 0.95  # it looks where it goes
    first, later = T[:60, :3, 3], T[300:, :3, 3]
    assert np.linalg.norm(first[:, None] - later[None], axis=2).min(axis=1).max() > 0.1


def test_memory_and_filters_leave_rows_and_a_page(tmp_path, monkeypatch, views):
    monkeypatch.setattr(claims, "CHUNKS", (1,))
    monkeypatch.setattr(claims_filters, "CLIPS", 1)
    monkeypatch.setattr(claims_filters, "FAMILIES", ("room",))
    monkeypatch.setattr(claims_filters, "SWEPT", {"grazing_cos": (-1.0, 0.12)})
    claims.run_claims(tmp_path, ("memory", "filters"), (1,), steps=0)
    rows = [json.loads(f.read_text())[0] for f in tmp_path.glob("memory_*.json")]
    every = {(1, mode, refined) for mode in claims.MODES for refined in (False, True)}
    assert {(r["seed"], r["mode"], r["refined"]) for r in rows} == every
    assert all(0 <= r["ate_m"] < 1 for r in rows)
    assert len(list(open_sequence(tmp_path / "tours" / "1_1"))) == 16
    filters = json.loads((tmp_path / "filters.json").read_text())
    every = {r["filter"]: r for r in filters}
    kept = {name: row["points_kept"] for name, row in every.items()}
    assert kept["none"] >= 0.99 * every["none"]["points"]
    assert kept["all"] < min(n for name, n in kept.items() if name != "all")
    precision = {name: row["right_kept"] / row["points_kept"] for name, row in every.items()}
    assert precision["all"] > precision["none"]
    for seed in (1, 2):
        for arm in ARMS[:3]:
            rows = run_trial(arm, seed, 2, *views)
            (tmp_path / f"heads_{arm.head}_{seed}.json").write_text(json.dumps(rows))
    claims.report(tmp_path, tmp_path / "claims.md")
    page = (tmp_path / "claims.md").read_text()
    assert all((tmp_path / f"{n}.png").stat().st_size > 1000 for n in ("claims", "claims_memory"))
    for word in (
        "| single |",
        "| guided |  |",
        "| C, joint | soft |",
        "held-out family",
        "| gate certainty |",
        "**0.12: 0.",
        "refined by bundle adjustment",
    ):
        assert word in page


def test_what_has_run_is_not_run_again(tmp_path, monkeypatch):
    for name in ("filters", "thresholds"):
        (tmp_path / f"{name}.json").write_text("[]")
    monkeypatch.setattr(claims, "filter_rows", lambda: pytest.fail("run again"))
    claims.run_claims(tmp_path, ("filters",), (1,), steps=0)


def test_a_part_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match="among .*heads.*got tails"):
        claims.run_claims(tmp_path, ("tails",), (1,), steps=0)


def test_verdicts_follow_the_rule():
    good = {"air": 0.7, "abs_rel_interior": 1.0, "boundary_f1": 1.01}
    assert claims_report.verdict(good, 0.5) == "holds"
    assert claims_report.verdict(good, 0.99) == "gate collapsed: failed"
    assert claims_report.verdict(good | {"air": 0.8}, 0.5) == "does not hold"
    assert claims_report.verdict(good | {"boundary_f1": 0.9}, 0.5) == "a trade: costs boundary F1"
