// A beside B: two chosen cards stand first, and one button (key x) goes from one to the other at the same place in time.
// All cards are played equally loud.

async function render({ model, el }) {
  const view = () => el.closest(".muse-view") || el;
  const words = document.createElement("span"), go = document.createElement("button");
  words.setAttribute("role", "status");
  go.className = "muse-pair-switch";
  go.textContent = "A or B";
  go.title = "hear the other one of A and B, at the same place (key x)";
  el.append(go, words);
  let last = "B";  // what was heard

  const card = (side) => view().querySelector(`[data-piece][data-side="${side}"]`);
  const buttons = () => view().querySelectorAll("button.muse-side");
  const name = (side) => `${side}: ${card(side) ? `no. ${card(side).dataset.piece}` : "none"}`;
  const show = () => {
    for (const button of buttons()) {
      const chosen = button.closest("[data-piece]").dataset.side === button.dataset.side;
      button.setAttribute("aria-pressed", String(chosen));
    }
    const heard = card(last) && !card(last).querySelector("audio").paused ? ` \u00b7 playing ${last}` : "";
    words.textContent = card("A") || card("B")
      ? `${name("A")}, ${name("B")}${heard}` : "compare: press A on one card and B on another";
  };
  const put = (one, side) => {
    if (card(side)) delete card(side).dataset.side;
    if (one) one.dataset.side = side;
    show();
  };
  const press = ({ target }) => {
    const button = target instanceof Element && target.closest("button.muse-side");
    if (!button || !view().contains(button)) return;
    const one = button.closest("[data-piece]"), { side } = button.dataset;
    if (one.dataset.side === side) put(null, side); else put(one, side);
  };
  const change = () => {
    const free = () => [...view().querySelectorAll("[data-piece]")].filter((one) => !one.dataset.side).at(-1);
    for (const side of "AB") if (!card(side) && free()) put(free(), side);  // the newest that are free
    if (!card("A") || !card("B")) return;
    const sound = (side) => card(side).querySelector("audio");
    const here = ["A", "B"].find((side) => !sound(side).paused) || last, other = here === "A" ? "B" : "A";
    const [from, to] = [sound(here), sound(other)];
    if (Number.isFinite(to.duration)) to.currentTime = Math.min(from.currentTime, Math.max(0, to.duration - 0.05));
    last = other;
    to.play().catch(() => {});  // and `oneAtATime` pauses the other
  };
  const heard = ({ target, type }) => {
    const one = target instanceof Element && view().contains(target) && target.closest("[data-side]");
    if (one && type === "play") last = one.dataset.side;
    show();
  };
  go.addEventListener("click", change);
  document.addEventListener("click", press, true);
  for (const kind of ["play", "pause"]) document.addEventListener(kind, heard, true);
  show();
  return () => {
    document.removeEventListener("click", press, true);
    for (const kind of ["play", "pause"]) document.removeEventListener(kind, heard, true);
  };
}
export default { render };
