"""Pictures say their finding, carry their words, and leave nobody else's style changed."""

from __future__ import annotations

import base64
import io
import itertools
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread
from sklearn.metrics import average_precision_score

from brookside_mlops.drift_plots import distribution_picture, unit_of
from brookside_mlops.evaluation_plots import ranking_picture
from brookside_mlops.feature_profiles import feature_profile
from brookside_mlops.metrics import Classified
from brookside_mlops.plots import COLOURS, INK, Picture, describe, figure, verdict_colour
from brookside_mlops.stages.deploy import DeployResult, splits_picture
from tests.colours import contrast

CSS = (Path(__file__).parents[1] / "brookside_mlops" / "endpoints" / "static" / "page.css").read_text(
    encoding="utf-8"
)

# Machado, Oliveira and Fernandes (2009): how linear RGB looks to someone without one kind of cone
BLINDNESS = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def pixels(picture: Picture) -> np.ndarray:
    return imread(io.BytesIO(picture.png()), format="png")


def seen(colour: str, matrix: list[list[float]]) -> np.ndarray:
    """Return the CIE L*a*b* coordinates of a colour as seen through a matrix of colour blindness."""
    rgb = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(np.array(matrix) @ linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("name", BLINDNESS)
def test_roles_are_told_apart_without_one_kind_of_cone(name):
    apart = {
        (one, two): float(
            np.linalg.norm(seen(COLOURS[one], BLINDNESS[name]) - seen(COLOURS[two], BLINDNESS[name]))
        )
        for one, two in itertools.combinations(COLOURS, 2)
    }
    assert min(apart.values()) > 15, min(apart, key=apart.get)  # 2.3 is a just noticeable difference


def test_all_that_is_drawn_stands_out_from_its_ground():
    assert contrast(INK, "#FFFFFF") >= 4.5, "text"
    assert min(contrast(colour, "#FFFFFF") for colour in COLOURS.values()) >= 3
    bright, dark = (dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in CSS.split("@media")[:2])
    for name, colours in (("light", bright), ("dark", bright | dark)):
        for role in set(COLOURS) - {"muted"}:
            assert name == "dark" or colours[role] == COLOURS[role], "the page of an endpoint has the same"
            assert contrast(colours[role], colours["card"]) >= 3, (name, role)
        for text in ("ink", "soft", "link", "good-ink", "warn-ink", "bad-ink"):
            for ground in ("page", "card", "sunk"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (name, text, ground)


def test_critical_and_fail_look_alike_and_differ_from_the_rest():
    assert verdict_colour("critical") == verdict_colour("fail")
    assert len({verdict_colour(verdict) for verdict in ("pass", "warning", "fail")}) == 3


def test_one_panel_alone_and_several_as_a_list():
    _, ax = figure()
    _, row = figure(columns=3)
    _, grid = figure(rows=2, columns=2)
    _, single = figure(rows=1)
    assert not isinstance(ax, list)
    assert [len(panels) for panels in (row, grid, single)] == [3, 4, 1]


def test_the_callers_style_neither_changes_nor_is_needed_later():
    before = dict(mpl.rcParams)
    picture, ax = figure()
    ax.plot([1, 2])
    assert dict(mpl.rcParams) == before
    with mpl.rc_context({"axes.grid": False, "axes.spines.top": True}):
        assert not ax.spines["top"].get_visible()
        assert ax.lines[0].get_color() == COLOURS["primary"]
    assert pixels(picture).shape == (352, 704, 4)


def test_figures_need_no_pyplot():
    code = """if True:
        import sys
        from brookside_mlops.plots import figure

        figure()[0].png()
        sys.exit("matplotlib.pyplot" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_long_title_stays_within_its_panel(columns):
    picture, panels = figure(columns=columns)
    for panel in panels:
        panel.set_title(
            "Three of the fifteen features moved beyond their limit: channel, team size and data volume"
        )
        assert panel.get_title(loc="left").count("\n") >= 1
    picture.draw_without_rendering()
    right = [panel._left_title.get_window_extent().x1 for panel in panels]
    left = [panel._left_title.get_window_extent().x0 for panel in panels[1:]]
    assert all(end <= start for end, start in zip(right, [*left, picture.bbox.x1], strict=True))


def test_a_title_can_be_restyled():
    _, ax = figure()
    assert ax.set_title("small", fontsize=8).get_fontsize() == 8


def test_words_stand_beside_the_image():
    picture, ax = figure()
    ax.plot([1, 2], label="line")
    ax.legend()
    bare, nothing = picture._repr_mimebundle_()
    assert nothing == {} and bare["text/plain"] == "a picture"
    assert describe(picture, "A line that rises.") is picture
    data, metadata = picture._repr_mimebundle_(include=None)
    assert metadata == {"image/png": {"alt": "A line that rises."}}
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert not ax.get_legend().get_frame_on()


def test_the_same_plot_gives_the_same_bytes():
    def draw() -> bytes:
        picture, ax = figure()
        ax.bar(["a", "b"], [1, 2], color=verdict_colour("pass"))
        return picture.png()

    assert draw() == draw()


# What the pictures of the stages say


def test_whole_numbers_have_a_bar_each_and_no_gap_between_them(tmp_path: Path) -> None:
    before = feature_profile(pa.array([1, 2, 3, 4, 5, 6, 7, 8] * 40))
    now = feature_profile(pa.array([2, 3, 4, 5, 6, 7, 8, 9] * 40), before)
    assert unit_of(tmp_path, "team_size") == ""
    (tmp_path / "contract.yaml").write_text(
        (Path(__file__).parents[1] / "contracts" / "portfolio.yaml").read_text()
    )
    unit = unit_of(tmp_path, "team_size")
    axes = distribution_picture("team_size", before, now, unit=unit).axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert [round(bar.get_x() + 0.5, 6) for bar in axes.patches[:8]] == list(range(1, 9))
    assert heights[:8] == pytest.approx([12.5] * 8) and axes.get_xlabel() == "team_size (people)"


def test_ranking_is_titled_with_what_was_found() -> None:
    chance = np.linspace(0, 1, 100)
    actual = np.where(chance + np.sin(40 * chance) / 4 > 0.5, "yes", "no")
    case = Classified(actual, actual, np.column_stack([1 - chance, chance]), ("no", "yes"), "yes")
    found = ranking_picture(case)
    expected = average_precision_score(actual == "yes", chance)
    assert found.axes[1].get_title("left") == f"Average precision {expected:.3f}"
    assert f"average precision {expected:.3f}" in found.alt
    assert found.axes[1].get_legend().get_texts()[0].get_text().startswith("guessing: ")


def test_first_version_took_over_from_nobody() -> None:
    first = DeployResult(
        stage="deploy",
        verdict="pass",
        artifacts={"rollout": "rollout.json"},
        endpoint="cost-dev",
        deployment="blue",
        previous="",
        version=1,
        scoring_uri="",
        key_file="",
        splits=[{"blue": 100}],
        replayed=0,
        curl="",
    )
    assert "Version 1 serves alone: nothing served before" in splits_picture(first).alt
    again = first.model_copy(update={"artifacts": {}})
    assert "Version 1 served already" in splits_picture(again).alt
    second = first.model_copy(
        update={"previous": "green", "splits": [{"blue": 50, "green": 50}, {"blue": 100}]}
    )
    assert "took over in 2 steps" in splits_picture(second).alt
