"""Graph files: what is read, how vertices are numbered, and what is refused."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from fedunlearn.errors import UserError
from fedunlearn.topology import TopologySettings, build_graph, load_file, named_files

REAL = {
    "karate-club": nx.karate_club_graph,
    "davis-southern-women": nx.davis_southern_women_graph,
    "les-miserables": nx.les_miserables_graph,
    "florentine-families": nx.florentine_families_graph,
    "krackhardt-kite": nx.krackhardt_kite_graph,
}


@pytest.mark.parametrize("name", sorted(REAL))
def test_real_networks_equal_those_of_networkx(name: str) -> None:
    graph, truth = load_file(name), REAL[name]()
    labels = nx.get_node_attributes(graph, "label")
    edges = {frozenset((labels[u], labels[v])) for u, v in graph.edges}
    if name == "krackhardt-kite":
        truth = nx.relabel_nodes(truth, labels)
    assert edges == {frozenset((str(u), str(v))) for u, v in truth.edges}
    assert graph.graph["name"] == name


def test_every_named_file_gives_a_connected_graph_and_stands_in_the_readme() -> None:
    readme = (next(iter(named_files().values())).parent / "README.md").read_text()
    for name, path in named_files().items():
        assert nx.is_connected(load_file(name, num_nodes=100))
        assert f"`{path.name}`" in readme


def test_numeric_names_keep_their_order_and_others_their_place(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.edgelist"
    numbers.write_text("# a comment\n10 2\n2,1 0.5 ignored\n\n1 10  # again\n1 1\n10 1\n")
    graph = load_file(str(numbers))
    assert [graph.nodes[i]["label"] for i in range(3)] == ["1", "2", "10"]
    assert sorted(map(sorted, graph.edges)) == [[0, 1], [0, 2], [1, 2]]
    words = tmp_path / "words.txt"
    words.write_text("b a\na c\n")
    assert list(nx.get_node_attributes(load_file(str(words)), "label").values()) == ["b", "a", "c"]


def test_directed_multigraph_becomes_simple(tmp_path: Path) -> None:
    directed = nx.MultiDiGraph([("a", "b"), ("b", "a"), ("a", "b"), ("b", "c"), ("c", "c")])
    nx.write_graphml(directed, tmp_path / "g.graphml")
    graph = load_file(str(tmp_path / "g.graphml"))
    assert sorted(map(sorted, graph.edges)) == [[0, 1], [1, 2]]
    assert type(graph) is nx.Graph


def test_toml_edges_by_number_and_by_name(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text("nodes = 3\nedges = [[0, 2], [2, 1]]\n")
    assert sorted(map(sorted, load_file(str(file)).edges)) == [[0, 2], [1, 2]]
    file.write_text('nodes = ["z", "y"]\nedges = [["y", "z"]]\n')
    assert list(nx.get_node_attributes(load_file(str(file)), "label").values()) == ["z", "y"]


def test_a_spec_is_its_generator(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text('generator = "erdos-renyi"\nprobability = 0.3\n')
    by_file = build_graph(TopologySettings(generator="file", path=str(file)), 20, seed=4)
    direct = build_graph(TopologySettings(generator="erdos-renyi", probability=0.3), 20, seed=4)
    assert sorted(by_file.edges) == sorted(direct.edges)
    file.write_text('generator = "erdos-renyi"\nprobability = 0.3\nseed = 4\n')
    by_file = build_graph(TopologySettings(generator="file", path=str(file), seed=9), 20, seed=1)
    assert sorted(by_file.edges) == sorted(direct.edges)


def test_a_folder_of_the_user_comes_before_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "topologies").mkdir()
    (tmp_path / "topologies" / "karate-club.edgelist").write_text("0 1\n")
    monkeypatch.chdir(tmp_path)
    assert len(load_file("karate-club")) == 2
    assert len(load_file("karate-club.graphml")) == 34
    assert len(load_file("les-miserables")) == 77


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("g.graphml", "<graphml", ["g.graphml", "GraphML"]),
        ("g.graphml", "<html></html>", ["g.graphml", "GraphML"]),
        ("g.toml", "edges = [", ["g.toml", "cannot be read as TOML"]),
        ("g.toml", "edges = [[0, 1, 2]]", ["[0, 1, 2]", "pair"]),
        ("g.toml", "edges = 3", ["edges = 3"]),
        ("g.toml", "nodes = 2\nedges = [[0, 1], [1, 2]]", ["[1, 2]", "not in nodes"]),
        ("g.toml", "nodes = -1\nedges = [[0, 1]]", ["nodes = -1"]),
        ("g.toml", "nodes = 3\nedges = [[0, 1]]", ["isolated node 2"]),
        ("g.toml", "edges = [[0, 1], [2, 3]]", ["disconnected", "2 parts"]),
        ("g.toml", "edges = []", ["without nodes"]),
        ("g.toml", "edges = [[0, 1]]\nnoodles = 3", ["noodles = 3", "did you mean 'nodes'"]),
        ("g.toml", 'generator = "ring"\nnodse = 5', ["nodse = 5", "did you mean 'nodes'"]),
        ("g.toml", 'generator = "rign"', ["generator = 'rign'", "'ring'"]),
        ("g.toml", 'generator = "ring"', ["nodes"]),
        ("g.toml", 'generator = "ring"\nmixing = "metropolis"', ["mixing", "experiment"]),
        ("g.toml", 'generator = "file"\npath = "x"', ["belongs in the experiment"]),
        ("g.toml", 'generator = "file"', ["not allowed inside"]),
        ("g.toml", "degree = 4", ["neither 'generator'"]),
        ("g.toml", 'generator = "hypercube"\nnodes = 5', ["g.toml: generator", "4 and 8"]),
        ("g.edgelist", "0 1\nlonely\n", ["line 2", "lonely"]),
        ("g.edgelist", "\xff\xfe\x00", ["g.edgelist"]),
        ("g.gexf", "", [".gexf", ".graphml"]),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, file: str, content: str, words: list[str]) -> None:
    path = tmp_path / file
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as error:
        load_file(str(path))
    text = str(error.value)
    assert "\n" not in text and file in text
    for word in words:
        assert word in text


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'karate-club'"):
        load_file("karate-clbu")


def test_size_of_the_file_must_be_the_number_of_clients() -> None:
    with pytest.raises(UserError, match="34 nodes, but there are 20 train clients"):
        build_graph(TopologySettings(generator="file", path="karate-club"), 20, 0)
