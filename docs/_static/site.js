(() => {
  "use strict";
  const SCROLLERS = "mjx-container, .bd-article table, .bd-article pre";

  // Boxes that scroll sideways are reached by keyboard; what fits stays out of the way of the Tab key.
  function mark(box) {
    if (box.scrollWidth > box.clientWidth + 1) box.setAttribute("tabindex", "0");
    else box.removeAttribute("tabindex");
  }

  // The theme leaves these without a name, with another name than they show, or with a role that is not theirs.
  function mendNames() {
    document.querySelectorAll(".search-button-field").forEach((button) => button.removeAttribute("aria-label"));
    document.querySelectorAll(".bd-sidebar-primary summary").forEach((fold) => {
      fold.setAttribute("aria-label", "Pages of " + fold.closest("li").querySelector("a").textContent.trim());
    });
    document.querySelectorAll(".citation-list").forEach((list) => list.removeAttribute("role"));
  }

  const watch = new ResizeObserver((entries) => entries.forEach((entry) => mark(entry.target)));
  const watchAll = () => document.querySelectorAll(SCROLLERS).forEach((box) => watch.observe(box));
  addEventListener("DOMContentLoaded", mendNames);
  addEventListener("load", watchAll);
  addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(watchAll));
})();
