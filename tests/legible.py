"""Two questions to a page, in JavaScript: what sticks out of a panel, and which text is too faint on its ground."""

# Controls and texts that stick out of the panel of that selector, or are cut by it
outside = """(selector) => {
  const panel = document.querySelector(selector), edge = panel.getBoundingClientRect(), found = [];
  for (const part of panel.querySelectorAll('button, input, select, audio, label, figure, table, .noUi-target')) {
    const at = part.getBoundingClientRect();
    if (!at.width || !at.height || part.closest('[hidden]')) continue;
    if (at.left < edge.left - 1 || at.right > edge.right + 1)
      found.push(`${part.tagName}.${part.className} ${at.left - edge.left} to ${at.right - edge.right}`);
  }
  if (panel.scrollWidth > panel.clientWidth + 1) found.push(`the panel scrolls: ${panel.scrollWidth}`);
  return found;
}"""

# Texts of that panel whose contrast is below 4.5 (WCAG 2.2, 1.4.3; 3 where they are large), switched off ones aside
faint = """(selector) => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true}), known = {};
  const colour = (text) => known[text] ??= (() => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  })();
  const over = ([r, g, b, a], under) => [r, g, b].map((x, i) => x * a + under[i] * (1 - a));
  const light = (rgb) => { const [r, g, b] = rgb.map(x => { x /= 255;
    return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(colour(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const found = [], walker = document.createTreeWalker(document.querySelector(selector), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || !element.getClientRects().length || style.visibility === 'hidden') continue;
    if (element.closest('[disabled], svg, style, option')) continue;  // a chart's letters have an edge of their own
    let seen = 1;
    for (let e = element; e; e = e.parentElement) seen *= Number(getComputedStyle(e).opacity);
    const under = ground(element), [r, g, b, a] = colour(style.color), ink = over([r, g, b, a * seen], under);
    const [high, low] = [light(ink), light(under)].sort((x, y) => y - x), ratio = (high + 0.05) / (low + 0.05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${element.className}: ${walker.currentNode.data}`);
  }
  return found;
}"""
