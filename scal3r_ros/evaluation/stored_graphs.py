"""Pose graphs that the official program has solved: what is left of every relation, beside ours."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.evaluation.backend import unweighted_graph
from scal3r_ros.evaluation.neighbour_chain import chain
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import PoseGraphConfig
from scal3r_ros.mapping.pose_graph import PoseGraph
from scal3r_ros.mapping.types import Edge


@dataclass(frozen=True, eq=False)
class StoredGraph:
    """A chain with loops, and the official solution. Places are T_first_chunk."""

    neighbours: list[Sim3]  # T_j_j+1
    loops: list[tuple[tuple[int, int], Sim3]]  # (i, j), T_j_i
    official: list[Sim3]

    def residuals(self, placed: Mapping[int, Sim3] | Sequence[Sim3]) -> Float[ndarray, " n"]:
        """Norms of the logarithms by which neighbours, then loops disagree with the places."""
        steps = [((j + 1, j), T) for j, T in enumerate(self.neighbours)]
        left = [(T.inverse() @ placed[j].inverse() @ placed[i]).log() for (i, j), T in steps]
        left += [(T.inverse() @ placed[j].inverse() @ placed[i]).log() for (i, j), T in self.loops]
        return np.linalg.norm(left, axis=1)

    def ours(self) -> dict[int, Sim3]:
        """All relations count alike, as in the official program: by one radian, one unit, one of
        log scale."""
        graph = PoseGraph(PoseGraphConfig())
        alike = np.eye(7)
        for index, T in enumerate(chain(self.neighbours)):
            graph.add_submap(index, T, fixed=index == 0)
            if index:
                step = self.neighbours[index - 1]
                graph.add_edge(Edge(index, index - 1, step, alike, "overlap", 1.0, 0.0))
        for (i, j), T in self.loops:
            graph.add_edge(Edge(i, j, T, alike, "loop", 1.0, 0.0))
        graph.optimise_batch()
        return graph.poses


def read_graphs(ring: Mapping[str, ndarray], chunks: Mapping[str, Any]) -> dict[str, StoredGraph]:
    """A drifting ring of 20 chunks, and six chunks of a network that knows nothing: pgo.safetensors
    and loop.json of the official program's reference numbers."""

    def of_ring(name: str) -> list[Sim3]:
        parts = (ring[f"{name}.{part}"].astype(np.float64) for part in "Rts")
        return [Sim3(R, t, float(s)) for R, t, s in zip(*parts, strict=True)]

    def of_chunk(told: list[Any]) -> Sim3:
        s, R, t = told
        return Sim3(np.array(R), np.array(t).reshape(3), float(s))

    ends = [(int(i), int(j)) for i, j in ring["loop.ij"]]
    return {
        "ring of 20 chunks": StoredGraph(
            of_ring("seq"),
            list(zip(ends, of_ring("loop"), strict=True)),
            chain(of_ring("opt")),
        ),
        "six chunks": StoredGraph(
            [of_chunk(told) for told in chunks["norm_track"]],
            [((i, j), of_chunk(told)) for i, j, told in chunks["loop_track"]],
            chain([of_chunk(told) for told in chunks["opt_track"]]),
        ),
    }


def solve_graphs(graphs: Mapping[str, StoredGraph]) -> dict[str, dict[str, dict[str, float]]]:
    """What is left of the relations, by way of solving: the largest of a loop and of two
    neighbours, the sum of all squares, which the official program makes small; milliseconds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, graph in graphs.items():
        began = time.perf_counter()
        ways: dict[str, Any] = {"ours": graph.ours()}
        ms = 1e3 * (time.perf_counter() - began)
        ways["official"] = graph.official
        placed = chain(graph.neighbours)
        ways["imitated"] = unweighted_graph(placed, graph.neighbours, graph.loops)
        ways["chain"] = placed
        found[name] = {}
        for way, poses in ways.items():
            left = graph.residuals(poses)
            found[name][way] = {
                "loops": round(float(left[len(graph.neighbours) :].max()), 4),
                "neighbours": round(float(left[: len(graph.neighbours)].max()), 4),
                "sum of squares": round(float((left**2).sum()), 4),
            }
        found[name]["ours"]["ms"] = round(ms, 1)
    return found
