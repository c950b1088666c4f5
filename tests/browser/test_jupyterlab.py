"""A lecture and an exercise in JupyterLab, as a student meets them: run, move, answer wrong, answer right."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tools.notebooks import ROOT

STEM = "01_likelihood_score_fisher"
TOKEN = "a-token-for-this-test"
# All cells are on the page, not only those in view.
SETTINGS = {"@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"}}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab of its own: fresh settings, and copies of the two notebooks."""
    folder = tmp_path_factory.mktemp("lab")
    for path in (f"lectures/{STEM}.ipynb", f"exercises/{STEM}/{STEM}.ipynb"):
        (folder / "course" / path).parent.mkdir(parents=True)
        shutil.copy(ROOT / path, folder / "course" / path)
    for name, text in SETTINGS.items():
        (folder / "settings" / name).parent.mkdir(parents=True)
        (folder / "settings" / name).write_text(json.dumps(text))
    own = {"HOME": "", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    own |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    environment = os.environ | {name: str(folder / part) for name, part in own.items()} | {"JAX_PLATFORMS": "cpu"}
    options = [f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True", "--ServerApp.port=0"]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", *options]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder / "course", env=environment, stdout=log, stderr=log)
    try:
        yield address(folder / "runtime", folder / "log")
    finally:
        server.terminate()
        server.wait(30)


def address(runtime: Path, log: Path) -> str:
    def started(_):
        return next(iter(runtime.glob("jpserver-*.json")), None)

    file = WebDriverWait(None, 120).until(started, log.read_text())
    return json.loads(file.read_text())["url"]


def open_notebook(driver, lab, path):
    """Open it, and wait until its kernel answers."""
    driver.set_width(1280)
    driver.forget()
    driver.get(f"{lab}lab/tree/{path}?token={TOKEN}&reset")
    WebDriverWait(driver, 120).until(
        lambda d: d.execute_script("return window.jupyterapp?.shell.currentWidget?.content?.model?.cells.length > 5")
    )
    driver.execute_async_script(
        "const done = arguments[0], session = jupyterapp.shell.currentWidget.context.sessionContext;"
        "session.ready.then(() => session.session.kernel.info).then(() => done())"
    )


def run(driver, index=None):
    """Run one cell, or all, and wait for the end. (One long call would meet selenium's own limit of two minutes.)"""
    driver.execute_script(
        """
        const [index] = arguments, notebook = jupyterapp.shell.currentWidget.content;
        if (index !== null) { notebook.deselectAll(); notebook.activeCellIndex = index; }
        const command = index === null ? "notebook:run-all-cells" : "notebook:run-cell";
        window.ended = false;
        jupyterapp.commands.execute(command).finally(() => { window.ended = true; });""",
        index,
    )
    WebDriverWait(driver, 900).until(lambda d: d.execute_script("return window.ended"))


def cells(driver):
    return driver.execute_script("return jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells")


def test_a_lecture_runs_and_its_sliders_move_its_figures(driver, lab):
    open_notebook(driver, lab, f"lectures/{STEM}.ipynb")
    run(driver)
    code = [cell for cell in cells(driver) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell["outputs"] if o["output_type"] == "error"]
    interact_moves(driver)
    explorable_moves(driver)
    assert driver.elsewhere(lab) == []


def interact_moves(driver):
    """One step of the first slider of `interact` draws the figure anew."""
    box = driver.find_element(By.CSS_SELECTOR, ".widget-interact")
    picture = WebDriverWait(driver, 60).until(lambda _: box.find_elements(By.TAG_NAME, "img"))[0].get_attribute("src")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    box.find_element(By.CSS_SELECTOR, ".noUi-handle").send_keys(Keys.ARROW_RIGHT)
    WebDriverWait(driver, 60).until(
        lambda _: [image.get_attribute("src") != picture for image in box.find_elements(By.TAG_NAME, "img")] == [True]
    )


def explorable_moves(driver):
    """Each key moves a curve, and JupyterLab keeps none for itself; the time to the next frame is written down."""
    figure = driver.find_element(By.CLASS_NAME, "x-explorable")
    slider = figure.find_element(By.TAG_NAME, "input")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    driver.time_keys()
    seen = set()
    for _ in range(10):
        slider.send_keys(Keys.ARROW_LEFT)
        seen.add(tuple(path.get_attribute("d") for path in figure.find_elements(By.CSS_SELECTOR, "path.x-item")))
    assert len(seen) == 10
    times = driver.key_times(10)
    print(f"JupyterLab, key press to pixels: median {np.median(times):.1f} ms, longest {max(times):.1f} ms")
    assert np.median(times) < 500  # a shared machine is no clock: only a hang fails


WRONG = "def nll_normal(z, y, scale):\n    return 0.5 * jnp.sum(((y - z) / scale) ** 2)"
RIGHT = WRONG + " + z.size * (jnp.log(scale) + 0.5 * jnp.log(2 * jnp.pi))"


def test_an_exercise_names_the_mistake_and_takes_the_right_answer(driver, lab):
    open_notebook(driver, lab, f"exercises/{STEM}/{STEM}.ipynb")
    kinds = [cell["metadata"].get("nbgrader", {}).get("grade_id") for cell in cells(driver)]
    imports = next(k for k, cell in enumerate(cells(driver)) if cell["cell_type"] == "code")
    answer, check = kinds.index("answer-nll_normal"), kinds.index("check-nll_normal")
    run(driver, imports)
    assert "constants" in checked(driver, answer, check, WRONG)
    assert "✓" in checked(driver, answer, check, RIGHT)


def checked(driver, answer, check, text):
    """What a student reads below the check after typing `text` as the answer."""
    set_source = (
        "jupyterapp.shell.currentWidget.content.widgets[arguments[0]].model.sharedModel.setSource(arguments[1])"
    )
    driver.execute_script(set_source, answer, text)
    run(driver, answer)
    run(driver, check)
    shown = driver.execute_script("return jupyterapp.shell.currentWidget.content.widgets[arguments[0]].node", check)
    return shown.find_element(By.CSS_SELECTOR, ".jp-OutputArea-output").text
