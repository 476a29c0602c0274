(function () {
  "use strict";
  var settings = {responsive: true, displayModeBar: false};
  var plots = Array.prototype.slice.call(document.querySelectorAll(".wb-plot"));

  function draw(plot) {
    if (plot.dataset.drawn || plot.offsetParent === null) { return; }
    plot.dataset.drawn = "yes";
    var figure = JSON.parse(document.getElementById(plot.id + "-data").textContent);
    Plotly.newPlot(plot, figure.data, figure.layout, settings);
  }

  document.querySelectorAll(".wb-choice").forEach(function (choice) {
    var panels = choice.querySelectorAll(".wb-panel");
    function show(name) {
      panels.forEach(function (panel) { panel.hidden = panel.dataset.name !== name; });
      plots.forEach(draw);
      panels.forEach(function (panel) {
        if (!panel.hidden) { panel.querySelectorAll(".wb-plot").forEach(function (p) { Plotly.Plots.resize(p); }); }
      });
    }
    choice.querySelectorAll("input").forEach(function (input) {
      input.addEventListener("change", function () { show(input.value); });
      if (input.checked) { show(input.value); }
    });
  });
  plots.forEach(draw);
  document.querySelectorAll("details").forEach(function (box) {
    box.addEventListener("toggle", function () { plots.forEach(draw); });
  });

  function sized(limit) {
    plots.forEach(function (plot) {
      if (plot.dataset.drawn && plot.offsetParent !== null) {
        Plotly.relayout(plot, limit ? {width: Math.min(plot.clientWidth, limit(plot)), autosize: false} : {width: null, autosize: true});
      }
    });
  }
  window.addEventListener("beforeprint", function () {
    sized(function (plot) {
      var row = plot.closest(".wb-row");
      return row && !row.classList.contains("wb-one") ? 330 : 680;
    });
  });
  window.addEventListener("afterprint", function () { sized(null); });
})();
