// The map of the Lab: hills with their names, and points to click. plotly draws it; its script comes through the
// kernel's connection with the first map. All that is shown is state of a plain model, so nothing is lost while a
// busy machine loads 5 MB.

const EMPTY = "Press Sample: the map of answers appears here";
const GREY = "rgb(128,128,128)";  // legible on white and on black
const CLEAR = "rgba(0,0,0,0)";
const HILLS = [[0, "rgba(110,130,160,0)"], [0.1, "rgba(110,130,160,0)"], [1, "rgba(110,130,160,0.5)"]];
const EDGE = { width: 1, color: "rgba(255,255,255,0.75)" };  // of a point, against a dark ground
const UNNAMED = { showlegend: false, hoverinfo: "skip" };
const LAYOUT = {
  autosize: true, margin: { l: 8, r: 8, t: 8, b: 8 }, dragmode: "pan", paper_bgcolor: CLEAR, plot_bgcolor: CLEAR,
  font: { color: GREY }, modebar: { bgcolor: CLEAR, color: GREY }, clickmode: "event+select", hovermode: "closest",
  xaxis: { visible: false }, yaxis: { visible: false, scaleanchor: "x" }, showlegend: true,
  legend: { orientation: "h" },
};

// plotly's script as a module, once per page
function plotly(source) {
  window.musePlotly ??= (async () => {
    const text = `const module = { exports: {} };\n${source}\nexport default module.exports;`;
    const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    try {
      return (await import(url)).default;
    } finally {
      URL.revokeObjectURL(url);
    }
  })();
  return window.musePlotly;
}

function traces({ hills, groups, peaks }, narrow) {
  const names = peaks.text.map((text) => narrow ? text.replaceAll(", ", ",<br>") : text);
  return [
    { type: "contour", ...hills, zmin: 0, zmax: 1, colorscale: HILLS, showscale: false, ...UNNAMED,
      contours: { start: 0.06, end: 0.96, size: 0.09 }, line: { width: 0.6, color: GREY } },
    ...groups.map(({ x, y, text, name, color }) => ({
      type: "scatter", mode: "markers", x, y, text, name, hoverinfo: "text",
      marker: { size: 10, opacity: 0.9, line: EDGE, color },
      selected: { marker: { size: 20 } }, unselected: { marker: { opacity: 0.9 } },  // the clicked point is larger
    })),
    { type: "scatter", mode: "text", ...peaks, text: names, textfont: { size: 12, color: GREY }, ...UNNAMED,
      unselected: { textfont: { color: GREY } } },  // a name does not fade where a point was clicked
  ];
}

// The keyboard's way: arrows choose a point, Enter plays it
function walk(chart, land, library, state) {
  const points = land.groups.flatMap(({ index, x }, group) => x.map((_, i) => [group + 1, i, index[i]]));
  let at = -1;
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      at = (at + step + points.length) % points.length;
      const [curveNumber, pointNumber] = points[at];
      library.Fx.hover(chart, [{ curveNumber, pointNumber }]);  // its label is shown
      chart.setAttribute("aria-description", land.groups[curveNumber - 1].text[pointNumber]);
    } else if (event.key === "Enter" && at >= 0) {
      state.send({ point: points[at][2] });
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  });
}

async function render({ model, el }) {
  const state = await model.widget_manager.get_model(model.get("state"));
  let chart = null;
  const remove = () => {
    const old = chart;
    chart = null;
    el.textContent = EMPTY;
    if (old) window.musePlotly.then((library) => library.purge(old));
  };
  const draw = async () => {
    const land = state.get("land");
    const library = land.groups && await plotly(state.get("plotly"));
    if (land !== state.get("land")) return;  // another map came meanwhile
    remove();
    if (!land.groups) return;
    const now = chart = document.createElement("div");
    now.className = "muse-lab-chart";
    el.replaceChildren(now);
    const layout = structuredClone(LAYOUT);  // plotly writes into it
    await library.newPlot(now, traces(land, el.clientWidth < 640), layout, {
      responsive: true, displaylogo: false, modeBarButtonsToRemove: ["sendChartToCloud"],  // nothing leaves the page
    });
    now.tabIndex = 0;
    now.dataset.lmSuppressShortcuts = "true";  // JupyterLab's: arrows would go to another cell
    now.setAttribute("role", "application");
    now.setAttribute("aria-label", `map of ${land.groups.map(({ name, x }) => `${x.length} answers to ${name}`).join(", ")}`
      + "; arrow keys go from point to point, Enter plays one");
    walk(now, land, library, state);
    now.on("plotly_click", ({ points: [{ curveNumber, pointIndex }] }) => {
      state.send({ point: land.groups[curveNumber - 1].index[pointIndex] });
    });
  };
  state.on("change:land", draw);
  draw();
  return () => {
    state.off("change:land", draw);
    remove();
  };
}
export default { render };
