import hashlib
import tracemalloc

import cv2
import numpy as np
import pytest

from components.core.html_page import render
from components.scans.viewer import page as viewer_page
from components.scans.viewer.page import LIBRARY, PLACE, Mask, Viewer, Volumes
from tests.support.browser import launch
from tests.support.viewer import viewed, volume

SHAPE = (24, 40, 6)
VOXEL_MM = (2.0, 2.0, 5.0)
ORANGE = "#f97316"


def make_scan(seed: int) -> np.ndarray:
    """Blocks of random brightness: no slice is like another, or like its mirror image."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.uniform(-50, 900, (6, 10, SHAPE[2])), np.ones((4, 4, 1))).astype(np.float32)


def make_mask(slice_: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[2:10, 4:12, slice_] = True
    return mask


def html(viewer: Viewer) -> str:
    text = render("<p>before</p>{{ viewer }}<p>after</p>", title="Scans", viewer=PLACE)
    return b"".join(viewer.parts(text)).decode()


@pytest.fixture
def viewer():
    """Two scans: one with a mask and probabilities, one without either and without a voxel size."""
    with Viewer() as viewer:
        probability = np.where(make_mask(4), 0.75, 0.0)
        first = Volumes(make_scan(1), [Mask("prediction", make_mask(4), ORANGE)], probability)
        viewer.add("first", "12 mL", VOXEL_MM, lambda: first)
        viewer.add("second", "no lesion", None, lambda: Volumes(make_scan(2)))
        yield viewer


def cases(text: str) -> list[dict]:
    return list(viewed(text).values())


def test_the_library_is_the_pinned_one_and_its_licence_is_beside_it():
    licence = LIBRARY.with_name("niivue-LICENSES.txt").read_text()
    assert hashlib.sha256(LIBRARY.read_bytes()).hexdigest() in licence
    assert "@niivue/niivue 0.69.0" in licence and "Redistributions in binary form" in licence


def test_a_page_holds_the_voxels_of_its_scans(viewer):
    first, second = cases(html(viewer))
    scan, mask, probability = first["layers"]
    low, high = first["range"]
    grey = np.asarray(volume(scan).dataobj) / 255 * (high - low) + low
    assert np.abs(grey - make_scan(1)).max() <= (high - low) / 255
    assert np.array_equal(np.asarray(volume(mask).dataobj), make_mask(4))
    assert np.allclose(np.asarray(volume(probability).dataobj) / 255, 0.75 * make_mask(4), atol=0.002)
    assert first["slice"] == 5 and volume(scan).header.get_zooms() == VOXEL_MM
    assert second["slice"] == 4 and [layer["kind"] for layer in second["layers"]] == ["scan"]
    assert (first["oriented"], second["oriented"]) == (True, False)


def test_a_volume_on_a_page_has_nothing_of_a_header_but_its_voxel_size(viewer):
    for layer in (layer for case in cases(html(viewer)) for layer in case["layers"]):
        header = volume(layer).header
        assert not header.extensions
        for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
            assert header[field].item() == b"", field
        affine = np.asarray(volume(layer).affine)
        assert np.array_equal(affine, np.diag(np.diag(affine)))  # no place in the scanner


def test_one_outlier_leaves_the_shades_of_a_scan_apart():
    scan = make_scan(1).repeat(4, axis=0).repeat(4, axis=1)
    scan[0, 0, 0] = 1e6
    with Viewer() as viewer:
        viewer.add("bright", "", VOXEL_MM, lambda: Volumes(scan))
        assert len(np.unique(np.asarray(volume(cases(html(viewer))[0]["layers"][0]).dataobj))) > 100


def test_scans_beyond_the_limit_are_counted_and_the_page_says_so():
    read = []
    with Viewer(limit=4_000) as viewer:
        for number in range(5):
            viewer.add(f"scan {number}", "", VOXEL_MM, lambda: read.append(1) or Volumes(make_scan(len(read))))
        text = html(viewer)
    assert 0 < len(cases(text)) == len(viewer.names) < 5
    assert sum(len(case["layers"][0]["nifti"]) for case in cases(text)) <= 4_000
    assert f"{viewer.left_out} are left out" in text and viewer.is_full
    assert len(read) == len(viewer.names) + 1


@pytest.mark.parametrize(("add", "said"), [(False, ""), (True, "No scan is in the viewer: a page holds at most")])
def test_a_page_without_a_scan_in_its_viewer_has_no_library(add, said):
    with Viewer(limit=10) as viewer:
        if add:
            viewer.add("large", "", VOXEL_MM, lambda: Volumes(make_scan(1)))
        text = html(viewer)
    assert said in text and "viewer-library" not in text and len(text) < 5_000


def test_memory_is_that_of_one_scan_not_of_all(tmp_path):
    scan = np.random.default_rng(0).normal(size=(96, 96, 20)).astype(np.float32)
    with Viewer() as viewer:
        viewer.add("0", "", VOXEL_MM, lambda: Volumes(scan))
        tracemalloc.start()
        viewer.add("1", "", VOXEL_MM, lambda: Volumes(scan))
        one = tracemalloc.get_traced_memory()[1]
        for number in range(2, 40):
            viewer.add(str(number), "", VOXEL_MM, lambda: Volumes(scan))
        viewer.write(render("{{ viewer }}", title="Scans", viewer=PLACE), tmp_path / "page.html")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (tmp_path / "page.html").stat().st_size > 7_000_000
    assert peak < max(one, 6_500_000) + 500_000  # 6.5 MB: the library is packed


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, viewer, tmp_path):
    """The page of `viewer` in a browser, once the first scan is shown."""
    (tmp_path / "page.html").write_text(html(viewer))
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    faults, addresses = [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: addresses.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.locator("#viewer[data-ready]").wait_for()
    yield page
    page.close()
    assert not faults
    assert addresses == [(tmp_path / "page.html").as_uri()]  # it loads nothing else


def canvas(page) -> np.ndarray:
    """Return the part of the canvas with the slice, as RGB (rows, columns, 3)."""
    page.wait_for_timeout(200)
    shot = cv2.imdecode(np.frombuffer(page.locator("#viewer canvas").screenshot(), np.uint8), cv2.IMREAD_COLOR)
    height, width = shot.shape[:2]
    left = (width - height * SHAPE[0] // SHAPE[1]) // 2
    return cv2.cvtColor(shot, cv2.COLOR_BGR2RGB)[:, left : width - left]


def most_alike(page, scan: np.ndarray) -> int:
    """Return which slice of a scan (X, Y, S), in the radiological view, the canvas is most like."""
    shown = cv2.resize(canvas(page)[:, :, 0], SHAPE[:2], interpolation=cv2.INTER_AREA).astype(float)
    views = [scan[:, :, s].T[::-1, ::-1] for s in range(scan.shape[2])]
    likeness = [np.corrcoef(shown.ravel(), view.ravel())[0, 1] for view in views]
    assert max(likeness) > 0.9, likeness
    return int(np.argmax(likeness))


def coloured(page) -> float:
    """Return the share of the canvas that is not grey."""
    shown = canvas(page).astype(int)
    return float((shown.max(2) - shown.min(2) > 40).mean())


def test_the_canvas_shows_the_slice_that_is_asked_for(opened):
    opened.keyboard.press("o")
    assert most_alike(opened, make_scan(1)) == 4
    for key, expected in ((".", 5), (".", 5), (",", 4), (",", 3)):
        opened.keyboard.press(key)
        assert most_alike(opened, make_scan(1)) == expected
        assert opened.locator("[data-part=slice-text]").text_content() == f"slice {expected + 1} of 6"
    opened.locator("[data-part=slice]").fill("1")
    assert most_alike(opened, make_scan(1)) == 0
    opened.locator("#viewer canvas").hover()
    opened.mouse.wheel(0, 100)
    assert most_alike(opened, make_scan(1)) == 1
    assert opened.locator("[data-part=slice]").input_value() == "2"


@pytest.mark.slow
def test_keys_go_to_the_next_scan_and_back_and_around(opened):
    opened.keyboard.press("o")
    for key, name, seed, expected in (("n", "second", 2, 3), ("n", "first", 1, 4), ("b", "second", 2, 3)):
        opened.keyboard.press(key)
        opened.wait_for_function("name => viewer.volumes.length == (name == 'first' ? 3 : 1)", arg=name)
        assert opened.locator("[data-part=case]").input_value() == name
        assert most_alike(opened, make_scan(seed)) == expected
    assert opened.locator("[data-part=text]").text_content() == "no lesion"


@pytest.mark.slow
def test_what_is_laid_over_one_scan_is_laid_over_the_next_too(opened):
    opened.keyboard.press("p")
    before = canvas(opened)
    for key, volumes in (("n", 1), ("b", 3)):
        opened.keyboard.press(key)
        opened.wait_for_function("count => viewer.volumes.length == count", arg=volumes)
    assert np.abs(canvas(opened).astype(int) - before).mean() < 1
    assert opened.locator("[data-part=layers] input:checked").count() == 2


@pytest.mark.slow
def test_a_layer_that_is_switched_while_a_scan_is_read_is_shown_as_its_box_says(opened):
    before = opened.evaluate("viewer.volumes[0].id")
    press = "key => document.dispatchEvent(new KeyboardEvent('keydown', { key }))"
    opened.evaluate(f"['n', 'b', 'p'].forEach({press})")
    opened.wait_for_function("before => viewer.volumes.length == 3 && viewer.volumes[0].id != before", arg=before)
    assert opened.get_by_label("probability").is_checked()
    assert opened.evaluate("viewer.volumes[2].opacity") == 0.6


@pytest.mark.slow
def test_masks_and_probabilities_are_laid_over_the_scan_and_taken_off(opened):
    area = make_mask(4)[:, :, 4].mean()
    assert coloured(opened) == pytest.approx(area, rel=0.15)
    opened.keyboard.press("o")
    assert coloured(opened) == 0
    opened.keyboard.press("p")
    assert coloured(opened) == pytest.approx(area, rel=0.15)
    opened.get_by_label("probability").click()
    opened.get_by_label("prediction").click()
    assert coloured(opened) == pytest.approx(area, rel=0.15)


@pytest.mark.slow
def test_the_window_changes_what_is_black_and_white(opened):
    opened.keyboard.press("o")
    before = canvas(opened).mean()
    opened.locator("[data-part=high]").fill("60")
    assert canvas(opened).mean() > before + 20
    low, high = np.percentile(make_scan(1), (0, viewer_page.WHITE))
    white = float(opened.locator("[data-part=window-text]").text_content().split()[-1])
    assert white == pytest.approx(low + (high - low) * 60 / 255, rel=0.01)
    opened.keyboard.press("r")
    assert canvas(opened).mean() == pytest.approx(before, abs=1)


@pytest.mark.slow
def test_no_key_leads_to_another_view_than_slices(opened):
    opened.locator("#viewer canvas").click()
    for key in "vchjkludi":
        opened.keyboard.press(key)
    assert opened.evaluate("viewer.opts.sliceType") == opened.evaluate("niivue.SLICE_TYPE.AXIAL")
    assert opened.evaluate("viewer.screenSlices.length") == 1


def test_the_viewer_works_in_a_frame_without_an_origin(browser, viewer):
    page = browser.new_page()
    page.set_content('<iframe sandbox="allow-scripts" width="1000" height="900"></iframe>')
    page.evaluate("text => { document.querySelector('iframe').srcdoc = text }", html(viewer))
    page.frame_locator("iframe").locator("#viewer[data-ready]").wait_for()
    page.close()


def test_a_browser_without_webgl_keeps_the_rest_of_the_page(browser, viewer, tmp_path):
    (tmp_path / "page.html").write_text(html(viewer))
    page = browser.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto((tmp_path / "page.html").as_uri())
    page.get_by_text("This browser has no WebGL 2").wait_for()
    assert page.get_by_text("after").is_visible() and not page.locator("#viewer canvas").is_visible()
    assert not faults
    page.close()
