// What the pages do beyond showing: theme, copying, search, walking through a derivation, neighbours on the graph.
// A classic script, since pages opened from file:// may not load modules. Without it everything is still there to read.
"use strict";

(() => {
  const KEY = "nelbo-theme";
  const THEMES = ["system", "light", "dark"];
  const root = document.documentElement;
  let theme = "system";
  try { theme = localStorage.getItem(KEY) || "system"; } catch { /* no storage: the system's choice */ }
  if (theme !== "system") root.dataset.theme = theme; // before anything is painted

  document.addEventListener("DOMContentLoaded", () => {
    themes();
    copying();
    const search = document.querySelector("[data-search]");
    if (search) searching(search);
    const walk = document.querySelector("[data-walk]");
    if (walk) walking(walk);
    const graph = document.querySelector(".graph svg");
    if (graph) neighbours(graph);
    printing();
    shortcuts();
  });

  function themes() {
    const button = document.querySelector("[data-theme-button]");
    const show = () => {
      const word = theme[0].toUpperCase() + theme.slice(1);
      button.firstElementChild.textContent = { system: "◐", light: "☀", dark: "☾" }[theme];
      button.querySelector(".word").textContent = word;
      button.setAttribute("aria-label", `${word} colours; change`);
    };
    button.hidden = false;
    show();
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
      try { localStorage.setItem(KEY, theme); } catch { /* it holds for this page */ }
      show();
    });
  }

  // ---- copying

  function announce(text) {
    const place = document.querySelector("[data-announce]");
    place.textContent = "";
    requestAnimationFrame(() => { place.textContent = text; });
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { // not allowed, or not there on file://
      const area = document.createElement("textarea");
      area.value = text;
      area.readOnly = true;
      area.style.cssText = "position:fixed;top:0;left:0;opacity:0";
      document.body.append(area);
      const before = document.activeElement;
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (before) before.focus();
      return done;
    }
  }

  function copying() {
    for (const button of document.querySelectorAll("[data-copy]")) {
      const words = button.firstChild;
      let timer = 0;
      button.hidden = false;
      button.addEventListener("click", async () => {
        const done = await copy(document.getElementById(button.dataset.copy).textContent);
        words.textContent = done ? "Copied ✓" : "Select and copy by hand";
        announce(done ? "Copied" : "Copying is not allowed here");
        clearTimeout(timer);
        timer = setTimeout(() => { words.textContent = "Copy"; }, 1800);
      });
    }
  }

  // ---- search

  const GREEK = {
    α: "alpha", β: "beta", γ: "gamma", δ: "delta", ε: "epsilon", ϵ: "epsilon", η: "eta", θ: "theta", λ: "lambda", μ: "mu",
    π: "pi", σ: "sigma", τ: "tau", φ: "phi", ϕ: "phi", χ: "chi", ψ: "psi", ω: "omega", Σ: "Sigma", Θ: "Theta", Π: "prod", "∑": "sum",
    "∫": "int", "∏": "prod", "√": "sqrt", "≤": "le", "≥": "ge", "∞": "infty", "∼": "sim", "∇": "nabla",
  };

  // LaTeX without what does not change its meaning, so that \bar{\alpha}_{t} and \bar\alpha_t are found by each other.
  function tex(text) {
    return [...text.normalize("NFD")].map((c) => (GREEK[c] ? `\\${GREEK[c]}` : c)).join("")
      .replace(/(\\[A-Za-z]+|[A-Za-z])\u0304/g, "\\bar$1").replace(/(\\[A-Za-z]+|[A-Za-z])\u0302/g, "\\hat$1").replace(/(\\[A-Za-z]+|[A-Za-z])\u0303/g, "\\tilde$1")
      .replace(/\\(left|right|[bB]igg?[lrm]?|displaystyle|quad|qquad|mathbf|boldsymbol|bm|mathrm|mathcal|mathbb|text|operatorname)(?![A-Za-z])/g, "")
      .replace(/\\[,;:! ]|[{}\s&]|\\\\/g, "").replace(/\\(vert|mid)(?![A-Za-z])/g, "|").replace(/\\(parallel|Vert)(?![A-Za-z])/g, "\\|")
      .replace(/\\varepsilon/g, "\\epsilon").replace(/\\leq(?![A-Za-z])/g, "\\le").replace(/\\geq(?![A-Za-z])/g, "\\ge").toLowerCase();
  }

  function fold(text) {
    return text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
  }

  const WEIGHTS = [["title", 12], ["id", 8], ["tags", 6], ["symbols", 5], ["sources", 4], ["words", 3]];

  function score(record, query) {
    if (query.mathematical && record.tex.includes(query.tex)) return 20;
    if (query.mathematical && record.prints.includes(query.tex)) return 10;
    let total = 0;
    for (const token of query.tokens) {
      let best = 0;
      for (const [field, weight] of WEIGHTS) {
        const at = record[field].indexOf(token);
        if (at >= 0) best = Math.max(best, weight + (at === 0 || /[^a-z0-9]/.test(record[field][at - 1]) ? 2 : 0));
      }
      if (!best && token.length > 2 && record.tex.includes(token)) best = 1;
      if (!best) return 0;
      total += best;
    }
    return total + (record.id === query.text || record.title === query.text ? 50 : 0);
  }

  function parse(text) {
    const tokens = fold(text).split(/[\s,;]+/).filter(Boolean);
    return {
      text: fold(text).trim(),
      tokens,
      mathematical: /[\\^{}=|]|_./.test(text) || /[\u0370-\u03ff\u2200-\u22ff]/.test(text.normalize("NFD")),
      tex: tex(text),
    };
  }

  function searching(form) {
    const input = form.querySelector("#q");
    const selects = [...form.querySelectorAll("select")];
    const clear = form.querySelector("[data-clear]");
    const found = form.querySelector("#found");
    const results = document.querySelector("[data-results]");
    const list = results.querySelector("ul");
    const nothing = results.querySelector(".nothing");
    const shelves = document.querySelector("[data-shelves]");
    const records = JSON.parse(document.getElementById("records").textContent).map((record) => ({
      ...record,
      title: fold(record.title), tags: fold(record.tags.join(" ; ")), tagset: record.tags, symbols: fold(record.symbols),
      sources: fold(record.sources), words: fold(record.words), tex: tex(record.latex), prints: tex(record.printed),
    }));
    const equations = records.filter((record) => record.equation).length;
    const home = new Map();
    for (const card of document.querySelectorAll("[data-card]")) home.set(card.dataset.card, { card, shelf: card.parentElement });
    let atHome = true;

    function matches(record, wanted) {
      if (wanted.tag && !record.tagset.includes(wanted.tag)) return false;
      if (wanted.source === "none") return record.equation && record.rows.length === 0 && !wanted.status;
      if (wanted.source || wanted.status) {
        return record.rows.some(([document, status]) => (!wanted.source || wanted.source === document) && (!wanted.status || wanted.status === status));
      }
      return true;
    }

    function update() {
      const wanted = Object.fromEntries(selects.map((select) => [select.name, select.value]));
      const query = parse(input.value);
      const asked = query.tokens.length > 0 || selects.some((select) => select.value);
      const kept = asked ? records.filter((record) => matches(record, wanted)).map((record) => [record, query.tokens.length ? score(record, query) : 1]).filter(([, s]) => s > 0) : [];
      if (query.tokens.length) kept.sort((a, b) => b[1] - a[1]);
      list.replaceChildren(...kept.map(([record]) => home.get(record.id).card));
      if (!asked && !atHome) for (const { card, shelf } of home.values()) shelf.append(card); // in the map's order, the catalogue's
      if (asked && atHome) for (const { card } of home.values()) if (card.parentElement !== list) card.remove();
      atHome = !asked;
      results.hidden = !asked;
      shelves.hidden = asked;
      nothing.hidden = kept.length > 0;
      clear.hidden = !asked;
      const count = kept.filter(([record]) => record.equation).length;
      const walks = kept.length - count;
      found.textContent = asked ? `${count} of ${equations} equations${walks ? `, ${walks} derivation${walks > 1 ? "s" : ""}` : ""}` : `${equations} equations`;
      const state = new URLSearchParams(Object.entries({ q: input.value.trim(), ...wanted }).filter(([, value]) => value)).toString();
      try { history.replaceState(null, "", asked ? `#${state}` : location.hash.includes("=") ? location.pathname : location.hash || location.pathname); } catch { /* some browsers refuse on file:// */ }
    }

    function restore() {
      if (!location.hash.includes("=")) return;
      const state = new URLSearchParams(location.hash.slice(1));
      input.value = state.get("q") || "";
      for (const select of selects) select.value = state.get(select.name) || "";
    }

    form.hidden = false;
    form.addEventListener("submit", (event) => { event.preventDefault(); const first = list.querySelector("a"); if (first && !results.hidden) first.focus(); });
    input.addEventListener("input", update);
    for (const select of selects) select.addEventListener("change", update);
    clear.addEventListener("click", () => { input.value = ""; for (const select of selects) select.value = ""; update(); input.focus(); });
    window.addEventListener("hashchange", () => { if (location.hash.includes("=")) { restore(); update(); } });
    input.addEventListener("keydown", (event) => {
      const first = results.hidden ? null : list.querySelector("a");
      if (event.key === "ArrowDown" && first) { event.preventDefault(); first.focus(); }
    });
    list.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
      const links = [...list.querySelectorAll("a")];
      const next = links.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
      event.preventDefault();
      (links[next] || (next < 0 ? input : links.at(-1))).focus();
    });
    restore();
    update();
  }

  function shortcuts() {
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
      const input = document.getElementById("q");
      if (input) { event.preventDefault(); input.focus(); input.select(); }
    });
  }

  // ---- derivations

  function walking(walk) {
    const steps = [...walk.querySelectorAll(".steps details")];
    const bar = walk.querySelector("[data-walk-bar]");
    const all = bar.querySelector("[data-all]");
    const [back, on] = bar.querySelectorAll("[data-go]");
    let here = 0;

    function show() {
      back.disabled = here === 0;
      on.disabled = here === steps.length - 1;
      all.textContent = steps.every((step) => step.open) ? "Collapse all" : "Expand all";
    }

    function go(to) {
      here = Math.max(0, Math.min(steps.length - 1, to));
      steps[here].open = true;
      steps[here].closest("li").scrollIntoView({ block: "nearest" });
      announce(`Step ${here + 1} of ${steps.length}: ${steps[here].querySelector("summary").lastChild.textContent.trim()}`);
      show();
    }

    bar.hidden = false;
    back.addEventListener("click", () => { if (here > 0) steps[here].open = false; go(here - 1); });
    on.addEventListener("click", () => go(here + 1));
    all.addEventListener("click", () => { const open = !steps.every((step) => step.open); for (const step of steps) step.open = open; show(); });
    steps.forEach((step, index) => step.addEventListener("toggle", () => { if (step.open) here = Math.max(here, index); show(); }));
    const named = /^#step-(\d+)$/.exec(location.hash);
    if (named) go(Number(named[1]) - 1); else show();
  }

  // ---- the graph

  function neighbours(svg) {
    const nodes = new Map([...svg.querySelectorAll("a[data-node]")].map((a) => [a.dataset.node, a]));
    const edges = [...svg.querySelectorAll("path[data-ends]")].map((path) => [path, path.dataset.ends.split(" ")]);

    function light(name) {
      svg.classList.toggle("asked", Boolean(name));
      for (const a of nodes.values()) a.classList.toggle("lit", a.dataset.node === name);
      for (const [path, ends] of edges) {
        const touches = Boolean(name) && ends.includes(name);
        path.classList.toggle("lit", touches);
        if (touches) for (const end of ends) nodes.get(end).classList.add("lit");
      }
    }

    for (const [name, a] of nodes) {
      a.addEventListener("pointerenter", () => light(name));
      a.addEventListener("focus", () => light(name));
      a.addEventListener("pointerleave", () => light(null));
      a.addEventListener("blur", () => light(null));
    }
    const wanted = nodes.get(decodeURIComponent(location.hash.slice(1)));
    if (wanted) {
      const show = () => { wanted.focus({ preventScroll: true }); wanted.scrollIntoView({ block: "center", inline: "center", behavior: "instant" }); };
      if (document.readyState === "complete") show(); else window.addEventListener("load", () => setTimeout(show)); // after the browser's own jump
    }
  }

  // ---- on paper everything is unfolded

  function printing() {
    let closed = [];
    window.addEventListener("beforeprint", () => { closed = [...document.querySelectorAll("details:not([open])")]; for (const d of closed) d.open = true; });
    window.addEventListener("afterprint", () => { for (const d of closed) d.open = false; closed = []; });
  }
})();
