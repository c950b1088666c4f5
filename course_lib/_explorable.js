// Every position of the sliders was computed beforehand. To move a slider is to pick other rows of the arrays:
// a row of x and a row of y make a path, a row of two numbers is the place of a label, a row of one text is a readout.
function explorable(id, data) {
  "use strict";

  // An array is {values, stride, count}: `stride` says how far one step of each slider moves in `values`.
  function row(array, positions) {
    const first = positions.reduce((sum, position, axis) => sum + position * array.stride[axis], 0);
    return array.values.slice(first, first + array.count);
  }

  // Coordinates come as base64 of 16-bit integers in tenths of a unit of the SVG.
  function unpack(array) {
    const bytes = Uint8Array.from(atob(array.values), (character) => character.charCodeAt(0));
    return { ...array, values: Array.from(new Int16Array(bytes.buffer), (tenths) => tenths / 10) };
  }

  const items = data.items.map((item) => ({
    ...item, x: unpack(item.x), y: unpack(item.y), place: unpack(item.place),
  }));

  // A curve is joined by " " (a line to the next point); markers are joined by the shape to draw at each point.
  function path(item, positions) {
    const y = row(item.y, positions);
    return "M" + row(item.x, positions).map((x, k) => x + "," + y[k]).join(item.between) + item.after;
  }

  function start(root, copy) {
    root.dataset.ready = "yes";
    root.querySelector(".x-note").remove();
    // The stills are images, which survive where scripts and SVG are stripped; here they become live SVG.
    root.querySelectorAll("img").forEach((image) => { image.outerHTML = atob(image.src.split(",")[1]); });

    const sliders = [...root.querySelectorAll("input")];
    const find = (selector) => [...root.querySelectorAll(selector)];
    const paths = find(".x-item"), labels = find(".x-label"), values = find(".x-value"), readouts = find(".x-readout");

    // The same output may be open twice on one page; each label must lead to the slider beside it.
    find("label").forEach((label, axis) => { label.htmlFor = sliders[axis].id = `${id}-slider-${axis}-${copy}`; });

    function draw() {
      const positions = sliders.map((slider) => Number(slider.value));
      sliders.forEach((slider, axis) => {
        values[axis].textContent = data.sliders[axis][positions[axis]];
        slider.setAttribute("aria-valuetext", values[axis].textContent);
      });
      items.forEach((item, i) => {
        const [x, y] = row(item.place, positions);
        paths[i].setAttribute("d", path(item, positions));
        labels[i].setAttribute("x", x);
        labels[i].setAttribute("y", y);
      });
      data.readouts.forEach((readout, i) => { readouts[i].textContent = row(readout, positions)[0]; });
    }

    sliders.forEach((slider) => slider.addEventListener("input", draw));
    draw();
  }

  const copies = [...document.querySelectorAll(`[id="${id}"]`)];
  copies.forEach((root, copy) => { if (!root.dataset.ready) start(root, copy); });
}
