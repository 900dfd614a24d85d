// The browser remembers how the newest pieces were made (not their sound), so that a page with a new kernel can make them
// again. Only this browser has that list, and its user can empty it.

const KEY = "muse-studio-past", MOST = 32;

function remembered() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) || "[]");
    return Array.isArray(found) ? found.filter((one) => typeof one === "string") : [];
  } catch {
    return [];  // no storage, or not ours
  }
}

function remember(texts) {
  for (let rest = texts.slice(-MOST); ; rest = rest.slice(1)) {
    try {
      return localStorage.setItem(KEY, JSON.stringify(rest));
    } catch {
      if (!rest.length) return;  // full, or no storage
    }
  }
}

async function render({ model, el }) {
  const state = await model.widget_manager.get_model(model.get("state"));
  const bring = document.createElement("button"), forget = document.createElement("button");
  bring.className = "muse-past-bring";
  forget.className = "muse-past-forget";
  forget.textContent = "Forget them";
  forget.title = "empty this browser's list of pieces";
  el.append(bring, forget);
  const lost = () => remembered().filter((one) => !state.get("pieces").includes(one));
  const show = () => {
    const n = lost().length;
    el.hidden = !n;
    bring.textContent = n === 1 ? "Bring back my last piece" : `Bring back my last ${n} pieces`;
    bring.title = "make the earlier pieces again, from what this browser remembers: the same settings give the same sound";
  };
  const note = () => {
    const old = remembered();
    const fresh = state.get("pieces").filter((one) => !old.includes(one));
    if (fresh.length) remember([...old, ...fresh]);
    show();
  };
  bring.addEventListener("click", () => state.send({ past: lost() }));
  forget.addEventListener("click", () => {
    remember(state.get("pieces"));
    show();
  });
  state.on("change:pieces", note);
  note();
  return () => state.off("change:pieces", note);
}
export default { render };
