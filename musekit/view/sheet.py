"""The style sheet of the views: one look in JupyterLab and on a page of Voila, light, dark and narrow.

All colours are the page's own `--jp-*` variables, with fallbacks for a page that has none. Widths follow the panel
(container queries), not the window: a notebook beside a file browser is narrow on a wide screen. The `Desk`, which is
in every view, brings the sheet onto the page.
"""

PANEL = """
.muse-view {
  --muse-ink: var(--jp-ui-font-color1, #1b1f24);
  --muse-ground: var(--jp-layout-color1, #fff);
  --muse-soft: color-mix(in srgb, var(--muse-ink) 72%, var(--muse-ground));  /* 4.5 : 1 at the least */
  --muse-line: var(--jp-border-color2, #d5d9df);
  --muse-well: var(--jp-layout-color0, #fff);
  --muse-accent: var(--jp-brand-color1, #1976d2);
  --muse-tint: color-mix(in srgb, var(--muse-accent) 12%, transparent);
  --muse-bad: color-mix(in srgb, var(--jp-error-color1, #d32f2f) 72%, var(--muse-ink));
  --muse-star: #e69f00;
  container-type: inline-size;
  box-sizing: border-box;
  width: 100%;
  max-width: 1180px;
  margin: 6px 0 14px;
  padding: 12px 16px 16px;
  color: var(--muse-ink);
  background: var(--muse-ground);
  border: 1px solid var(--muse-line);
  border-radius: 12px;
  gap: 10px;
}
body[data-jp-theme-light="false"] .muse-view { color-scheme: dark; }  /* players, lists, boxes of the browser */
.muse-view .widget-box, .muse-view .jupyter-widget-box { overflow: visible; }
.muse-view .jupyter-widgets { margin: 0; }
.muse-view .widget-html, .muse-view .widget-html-content { height: auto; line-height: 1.4; min-width: 0; }
.muse-view .muse-empty, .muse-view .muse-hidden { display: none; }

/* the head: a lamp, the name, what is going on, and a thin bar */
.muse-view .muse-head { display: flex; flex-flow: row wrap; align-items: center; gap: 4px 14px; }
.muse-view .muse-name {
  font-size: 13px; font-weight: 700; letter-spacing: .14em; text-transform: uppercase; white-space: nowrap;
}
.muse-view .muse-lamp {
  display: inline-block; width: 9px; height: 9px; margin-right: 9px; border-radius: 50%; background: var(--muse-line);
}
.muse-view.muse-busy .muse-lamp { background: var(--muse-accent); animation: muse-glow 1.1s ease-in-out infinite; }
.muse-view.muse-done .muse-lamp { background: var(--jp-success-color1, #388e3c); }
.muse-view.muse-failed .muse-lamp { background: var(--muse-bad); }
@keyframes muse-glow { 50% { opacity: .25; } }
@media (prefers-reduced-motion: reduce) { .muse-view.muse-busy .muse-lamp { animation: none; } }
.muse-view .muse-say { flex: 1 1 220px; min-width: 0; color: var(--muse-soft); overflow-wrap: anywhere; }
.muse-view .muse-say .muse-trouble { color: var(--muse-bad); font-weight: 600; }
.muse-view .muse-bar { width: 100%; height: 4px; min-height: 4px; }
.muse-view .muse-bar > .progress {
  position: static; height: 4px; margin: 0; border: 0; border-radius: 2px; overflow: hidden;
  background: var(--muse-line);
}
.muse-view .muse-bar .progress-bar { height: 4px; border-radius: 2px; transition: width .15s linear; }

/* lines and grids of controls */
.muse-view .muse-row { display: flex; flex-flow: row wrap; align-items: center; gap: 6px 8px; }
.muse-view .muse-grid {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(280px, 100%), 1fr)); gap: 6px 26px;
  align-items: center;
}
.muse-view .muse-grid > .jupyter-widgets { width: auto; }
.muse-view .muse-row > .widget-slider, .muse-view .muse-row > .widget-dropdown, .muse-view .muse-row > .widget-text {
  flex: 1 1 180px; width: auto; min-width: 0; max-width: 420px;
}
.muse-view .muse-row > .muse-wide { flex: 6 1 300px; max-width: none; }
.muse-view .muse-stack { display: flex; flex-direction: column; gap: 10px; min-width: 0; }
.muse-view .muse-stack > .jupyter-widgets { width: auto; max-width: none; align-self: stretch; }
.muse-view .muse-stack > .widget-button, .muse-view .muse-stack > .jupyter-button { align-self: flex-start; }
.muse-view .widget-label { color: var(--muse-soft); text-align: left; }
.muse-view .widget-readout { color: var(--muse-ink); font-variant-numeric: tabular-nums; }
"""
CONTROLS = """
.muse-view .widget-button, .muse-view .jupyter-button { border-radius: 7px; padding: 0 12px; white-space: nowrap; }
.muse-view .jupyter-button:focus-visible, .muse-view summary:focus-visible, .muse-view audio:focus-visible {
  outline: 2px solid var(--muse-accent); outline-offset: 1px;
}
.muse-view input[type="text"], .muse-view input[type="number"], .muse-view select { border-radius: 7px; }
.muse-view input[type="text"], .muse-view input[type="number"] { background: var(--muse-well); }
.muse-view .widget-checkbox { width: auto; }
.muse-view .widget-checkbox label { display: flex; align-items: center; gap: 6px; }
.muse-view .widget-checkbox input { margin: 0; }
body[data-jp-theme-light="false"] .muse-view select { appearance: auto; background-image: none; }  /* a light arrow */
.muse-view ::placeholder { color: var(--muse-soft); opacity: 1; }
.muse-view .noUi-connect { background: var(--muse-accent); }
.muse-view .noUi-handle { border: 2px solid var(--muse-accent); background: var(--muse-well); box-shadow: none; }
.muse-view [disabled] .noUi-handle, .muse-view [disabled] .noUi-connect { border-color: var(--muse-line); }
.muse-view .widget-toggle-buttons { display: flex; flex-flow: row nowrap; width: auto; }
.muse-view .widget-toggle-buttons > div { display: flex; flex: 1 1 auto; min-width: 0; margin-left: 8px; }
.muse-view .widget-toggle-buttons .widget-toggle-button {
  flex: 1 1 0; width: auto; min-width: 0; margin: 0; padding: 0 6px; border-radius: 0;
}
.muse-view .widget-toggle-buttons .widget-toggle-button:first-of-type { border-radius: 7px 0 0 7px; }
.muse-view .widget-toggle-buttons .widget-toggle-button:last-of-type { border-radius: 0 7px 7px 0; }
.muse-view .jupyter-button.mod-active {
  color: var(--muse-ink); background: color-mix(in srgb, var(--muse-accent) 24%, var(--muse-ground));
  box-shadow: inset 0 -2px 0 var(--muse-accent);
}
.muse-view .muse-card-star i, .muse-view .muse-line-star i { margin: 0; }
.muse-view .muse-card-star.mod-active i, .muse-view .muse-line-star.mod-active i { color: var(--muse-star); }
.muse-view .jupyter-widget-Collapse { border: 0; }
.muse-view .jupyter-widget-Collapse-header {
  padding: 4px 2px; border: 0; background: none; color: var(--muse-soft); font-weight: 600;
}
.muse-view .jupyter-widget-Collapse-header:hover { color: var(--muse-ink); }
.muse-view .jupyter-widget-Collapse-contents { padding: 8px 2px 4px; border: 0; background: none; overflow: visible; }
.muse-view .jupyter-widget-tab > .lm-TabBar { overflow-x: auto; }
.muse-view .jupyter-widget-tab > .lm-TabBar .lm-TabBar-tab {
  flex: 1 1 auto; min-width: 0; padding: 0 10px; text-align: center; color: var(--muse-ink);
}
.muse-view .jupyter-widget-tab > .lm-TabBar .lm-TabBar-tabLabel { overflow: visible; }
.muse-view .jupyter-widget-tab > .widget-tab-contents {
  padding: 14px 12px; background: none; border-radius: 0 0 8px 8px; overflow: visible;
}
.muse-view table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.muse-view th, .muse-view td { padding: 3px 10px 3px 0; text-align: left; border-bottom: 1px solid var(--muse-line); }

/* the player */
.muse-view .muse-desk figure {
  margin: 0; padding: 8px 12px; border-radius: 10px; background: var(--muse-tint); border: 1px solid var(--muse-line);
}
.muse-view .muse-desk figure[hidden] { display: none; }
.muse-view .muse-desk:has(figure[hidden]) { height: 0; margin-bottom: -10px; }  /* an empty one takes no gap */
.muse-view .muse-desk-label { margin-bottom: 4px; font-weight: 600; overflow-wrap: anywhere; }
.muse-view .muse-desk-line { display: flex; flex-flow: row wrap; align-items: center; gap: 4px 14px; }
.muse-view .muse-desk-line audio { flex: 1 1 240px; }
.muse-view .muse-desk-line label { white-space: nowrap; }
.muse-view audio { width: 100%; height: 40px; }
"""
STUDIO = """
.muse-view .muse-ask { display: flex; flex-flow: row wrap; align-items: center; gap: 8px; }
.muse-view .muse-ask > .muse-big { flex: 1 1 340px; width: auto; height: auto; }
.muse-view .muse-big input[type="text"] { height: 44px; padding: 0 14px; font-size: 17px; border-radius: 9px; }
.muse-view .muse-ask > .muse-generate, .muse-view .muse-ask > .muse-lab-sample {
  height: 44px; padding: 0 22px; font-size: 15px; font-weight: 600; border-radius: 9px;
}
.muse-view .muse-ask > .jupyter-button { height: 44px; line-height: 44px; border-radius: 9px; }
@container (max-width: 640px) {
  .muse-view .muse-ask > .muse-big { flex-basis: 100%; }
  .muse-view .muse-ask > .muse-generate, .muse-view .muse-ask > .muse-lab-sample { flex: 1 1 auto; }
  .muse-view .muse-ask > .widget-slider { flex: 1 1 100%; }
}
.muse-view .muse-cards {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(290px, 100%), 1fr)); gap: 12px;
}
.muse-view .muse-card-box {
  width: auto; min-width: 0; padding: 12px; gap: 8px; background: var(--muse-well);
  border: 1px solid var(--muse-line); border-radius: 10px;
}
.muse-view .muse-card-box .muse-card {
  display: block !important; width: auto !important; margin: 0 !important; padding: 0 !important; border: 0 !important;
}
.muse-view .muse-card svg { display: block; margin: 6px 0; }
.muse-view .muse-card polygon { fill: var(--muse-accent); }
.muse-view .muse-card-box .jupyter-button { padding: 0 9px; }
.muse-view .muse-kept { color: var(--muse-ink); background: var(--muse-tint); }
"""
LAB = """
.muse-view .muse-lab-two {
  display: grid; grid: "map tools" minmax(min-content, 1fr) "map desk" auto / minmax(0, 1.5fr) minmax(350px, 1fr);
  gap: 12px 16px;
}
.muse-view .muse-lab-place { grid-area: map; }
.muse-view .muse-lab-tools { grid-area: tools; min-width: 0; }
.muse-view .muse-lab-desk { grid-area: desk; }
.muse-view .muse-lab-map {
  width: auto; height: 520px; background: var(--muse-well); border: 1px solid var(--muse-line); border-radius: 10px;
  overflow: hidden;
}
.muse-view .muse-lab-map .textpoint text, .muse-view .muse-lab-map .annotation-text {
  fill: var(--muse-ink) !important; paint-order: stroke; stroke: var(--muse-well); stroke-width: 3px;
  stroke-linejoin: round; font-weight: 500 !important;
}
.muse-view .muse-lab-map .colorbar text { fill: var(--muse-soft) !important; }
.muse-view .muse-lab-legend i { font-style: normal; margin-right: 14px; white-space: nowrap; }
.muse-view .muse-lab-legend svg { vertical-align: -2px; margin-right: 4px; }
.muse-view .muse-way-stops-list { overflow-wrap: anywhere; }
@container (max-width: 860px) {
  .muse-view .muse-lab-two { grid: "map" auto "desk" auto "tools" auto / minmax(0, 1fr); }
  .muse-view .muse-lab-map { height: 440px; }
}
"""
LIBRARY = """
.muse-view .muse-list { border-top: 1px solid var(--muse-line); }
.muse-view .muse-line {
  display: flex; flex-flow: row nowrap; align-items: center; gap: 8px; padding: 6px 4px;
  border-bottom: 1px solid var(--muse-line);
}
.muse-view .muse-line:hover { background: var(--muse-tint); }
.muse-view .muse-line > .muse-line-text { flex: 1 1 0; width: auto; min-width: 0; }
.muse-view .muse-line > .muse-line-chosen { flex: 0 0 24px; width: 24px; height: auto; align-self: center; }
.muse-view .muse-line > .jupyter-button { flex: 0 0 auto; padding: 0 10px; }
.muse-view .muse-piece-name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-weight: 600; }
.muse-view .muse-piece-facts { font-size: 85%; color: var(--muse-soft); overflow-wrap: anywhere; }
.muse-view .muse-tag {
  display: inline-block; margin-left: 6px; padding: 0 7px; border-radius: 9px; background: var(--muse-tint);
  font-size: 85%; font-weight: 400; color: var(--muse-ink);
}
"""
SHEET = PANEL + CONTROLS + STUDIO + LAB + LIBRARY
