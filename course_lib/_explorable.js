// Every position of the sliders was computed beforehand. To move a slider is to pick other rows of the arrays: a row of
// x and a row of y make a path or arrows, a row of bytes the colours of a map, a row of two numbers the place of a
// label, a row of one text a readout.
function explorable(id, data) {
  "use strict";
  const SWEEP = 4000;  // milliseconds that "play" takes from one end to the other
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // An array is {values, stride, count}: `stride` says how far one step of each slider moves in `values`.
  function row(array, positions) {
    const first = positions.reduce((sum, position, axis) => sum + position * array.stride[axis], 0);
    return array.values.slice(first, first + array.count);
  }

  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

  // Coordinates come as base64 of 16-bit integers in tenths of a unit of the SVG.
  function unpack(array) {
    return { ...array, values: Array.from(new Int16Array(bytes(array.values).buffer), (tenths) => tenths / 10) };
  }

  const prepare = {
    path: (item) => ({ ...item, x: unpack(item.x), y: unpack(item.y), place: unpack(item.place) }),
    map: (item) => ({ ...item, cells: { ...item.cells, values: bytes(item.cells.values) }, colors: bytes(item.colors) }),
  };
  prepare.arrows = prepare.path;
  const items = data.items.map((item) => prepare[item.kind](item));

  // A curve is joined by " " (a line to the next point); markers are joined by the shape to draw at each point.
  function path(item, positions) {
    const y = row(item.y, positions);
    return "M" + row(item.x, positions).map((x, k) => x + "," + y[k]).join(item.between) + item.after;
  }

  function arrow(x0, y0, x1, y1) {
    const dx = x1 - x0, dy = y1 - y0, length = Math.hypot(dx, dy), h = Math.min(5, length / 2) / (length || 1);
    const at = (x, y) => Math.floor(10 * x + 0.5) / 10 + "," + Math.floor(10 * y + 0.5) / 10;
    const tip = at(x1, y1), left = at(x1 - h * (dx + 0.6 * dy), y1 - h * (dy - 0.6 * dx));
    return `M${at(x0, y0)}L${tip}M${left}L${tip}L${at(x1 - h * (dx - 0.6 * dy), y1 - h * (dy + 0.6 * dx))}`;
  }

  function arrows(item, positions) {
    const x = row(item.x, positions), y = row(item.y, positions);
    let drawn = "";
    for (let k = 0; k < x.length; k += 2) drawn += arrow(x[k], y[k], x[k + 1], y[k + 1]);
    return drawn;
  }

  function picture(item, positions) {
    const cells = row(item.cells, positions), canvas = document.createElement("canvas");
    canvas.width = item.columns;
    canvas.height = cells.length / item.columns;
    const image = new ImageData(canvas.width, canvas.height);
    cells.forEach((cell, k) => {
      image.data.set(item.colors.subarray(3 * cell, 3 * cell + 3), 4 * k);
      image.data[4 * k + 3] = 255;
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas.toDataURL();
  }

  function redraw(item, shape, label, positions) {
    if (item.kind === "map") return shape.setAttribute("href", picture(item, positions));
    shape.setAttribute("d", item.kind === "arrows" ? arrows(item, positions) : path(item, positions));
    const [x, y] = row(item.place, positions);
    label.setAttribute("x", x);
    label.setAttribute("y", y);
  }

  // A button that moves the slider to its end, and begins anew there; where motion is unwelcome, one step a press.
  function playButton(slider, name, output) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "x-play";
    let timer = 0;

    function show() {
      const [sign, word] = timer ? ["❚❚", "Pause"] : still.matches ? ["▶❘", "Step"] : ["▶", "Play"];
      button.textContent = sign;
      button.setAttribute("aria-label", `${word}: ${name}`);
      output.setAttribute("aria-live", timer ? "off" : "polite");
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      show();
    }

    function step() {
      if (!button.isConnected) return clearInterval(timer);
      slider.value = Number(slider.value) + 1;
      slider.dispatchEvent(new Event("input"));
      if (slider.value === slider.max) stop();
    }

    button.addEventListener("click", () => {
      if (timer) return stop();
      if (slider.value === slider.max) slider.value = -1;
      if (still.matches) return step();
      timer = setInterval(step, Math.max(40, SWEEP / Number(slider.max)));
      show();
    });
    slider.addEventListener("keydown", stop);
    slider.addEventListener("pointerdown", stop);
    still.addEventListener("change", show);
    show();
    return button;
  }

  function start(root, copy) {
    root.dataset.ready = "yes";
    root.querySelector(".x-note").remove();
    // The stills are images, which survive where scripts and SVG are stripped; here they become live SVG.
    root.querySelectorAll("img").forEach((image) => { image.outerHTML = atob(image.src.split(",")[1]); });

    const sliders = [...root.querySelectorAll("input")];
    const find = (selector) => [...root.querySelectorAll(selector)];
    const shapes = find(".x-item"), labels = find(".x-label"), values = find(".x-value"), readouts = find(".x-readout");

    // The same output may be open twice on one page; each label must lead to the slider beside it.
    find("label").forEach((label, axis) => {
      label.htmlFor = sliders[axis].id = `${id}-slider-${axis}-${copy}`;
      values[axis].after(playButton(sliders[axis], label.textContent, root.querySelector("output")));
    });

    function draw() {
      const positions = sliders.map((slider) => Number(slider.value));
      sliders.forEach((slider, axis) => {
        values[axis].textContent = data.sliders[axis][positions[axis]];
        slider.setAttribute("aria-valuetext", values[axis].textContent);
      });
      items.forEach((item, i) => redraw(item, shapes[i], labels[i], positions));
      data.readouts.forEach((readout, i) => { readouts[i].textContent = row(readout, positions)[0]; });
    }

    // On paper: the start position, which the author chose and the description speaks of.
    let before = [];
    function move(positions) {
      sliders.forEach((slider, axis) => { slider.value = positions[axis]; });
      draw();
    }
    addEventListener("beforeprint", () => {
      before = sliders.map((slider) => slider.value);
      move(sliders.map((slider) => slider.defaultValue));
    });
    addEventListener("afterprint", () => move(before));

    sliders.forEach((slider) => slider.addEventListener("input", draw));
    draw();
  }

  const copies = [...document.querySelectorAll(`[id="${id}"]`)];
  copies.forEach((root, copy) => { if (!root.dataset.ready) start(root, copy); });
}
